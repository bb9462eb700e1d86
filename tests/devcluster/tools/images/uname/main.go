// Command uname prints the platform it was compiled for and the machine the kernel claims to be.
package main

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
)

func main() {
	var name syscall.Utsname
	if err := syscall.Uname(&name); err != nil {
		fmt.Fprintln(os.Stderr, "uname:", err)
		os.Exit(1)
	}
	var machine []byte
	for _, c := range name.Machine {
		if c == 0 {
			break
		}
		machine = append(machine, byte(c))
	}
	fmt.Printf("hello from %s/%s (%s)\n", runtime.GOOS, runtime.GOARCH, machine)
}
