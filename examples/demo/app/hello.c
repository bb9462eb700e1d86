/* hello: says what it was compiled for and what it finds itself running on, and proves that its arithmetic works. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#if defined(__x86_64__)
#define COMPILED_FOR "amd64"
#define MACHINE "x86_64"
#elif defined(__aarch64__)
#define COMPILED_FOR "arm64"
#define MACHINE "aarch64"
#elif defined(__s390x__)
#define COMPILED_FOR "s390x"
#define MACHINE "s390x"
#elif defined(__powerpc64__) && defined(__LITTLE_ENDIAN__)
#define COMPILED_FOR "ppc64le"
#define MACHINE "ppc64le"
#elif defined(__riscv) && __riscv_xlen == 64
#define COMPILED_FOR "riscv64"
#define MACHINE "riscv64"
#else
#error "teach hello.c this architecture"
#endif

#ifndef VERSION
#define VERSION "development"
#endif

/* CRC-32 as in zip and PNG. */
static uint32_t crc32(const char *text)
{
    uint32_t crc = 0xffffffff;
    for (; *text; text++) {
        crc ^= (unsigned char)*text;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? crc >> 1 ^ 0xedb88320 : crc >> 1;
    }
    return ~crc;
}

int main(void)
{
    struct utsname host;
    if (uname(&host) != 0) {
        perror("uname");
        return 1;
    }
    const uint16_t one = 1;
    unsigned char first;
    memcpy(&first, &one, 1);

    /* The check value of the CRC catalogue: any wrong shift, width or sign would miss it. */
    const uint32_t found = crc32("123456789"), wanted = 0xcbf43926;
    const int right_machine = strcmp(host.machine, MACHINE) == 0;

    printf("hello " VERSION ", compiled for " COMPILED_FOR "\n");
    printf("  uname -m   %s%s\n", host.machine, right_machine ? "" : "   (expected " MACHINE ")");
    printf("  pointers   %zu bits, %s-endian\n", 8 * sizeof(void *), first ? "little" : "big");
    printf("  crc32      %08x %s\n", found, found == wanted ? "as it must be" : "WRONG");
    return found == wanted && right_machine ? 0 : 1;
}
