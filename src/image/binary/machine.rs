//! What a program was made for, read from the header of its file.

use std::fmt;

use object::read::elf::FileHeader;
use object::read::macho::MachHeader;
use object::read::pe::ImageNtHeaders;
use object::{Endianness, FileKind, elf, macho, pe};
use serde::{Serialize, Serializer};

use crate::platform::Platform;

/// How many bytes of a file are read to know what it is. The header of a PE file comes after a DOS program
/// of some hundred bytes; all others are at the beginning.
pub(super) const HEAD: u64 = 4096;
/// The longest `#!` line that Linux reads, in bytes.
const LONGEST_LINE: usize = 256;

/// Architectures by the name that `GOARCH` has for them, and the names that people know.
const ARCHITECTURES: [(&str, &str); 17] = [
    ("386", "x86"),
    ("amd64", "x86-64"),
    ("arm", "ARM"),
    ("arm64", "ARM64"),
    ("loong64", "LoongArch64"),
    ("mips", "MIPS"),
    ("mips64", "MIPS64"),
    ("mips64le", "MIPS64 little-endian"),
    ("mipsle", "MIPS little-endian"),
    ("ppc64", "PowerPC64"),
    ("ppc64le", "PowerPC64 little-endian"),
    ("riscv32", "RISC-V 32"),
    ("riscv64", "RISC-V 64"),
    ("s390", "S/390"),
    ("s390x", "S/390x"),
    ("wasm", "WebAssembly"),
    ("x32", "x86-64 with 32-bit pointers (x32)"),
];

/// The format of a program's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Elf,
    Pe,
    MachO,
    Wasm,
}

/// What kind of processor a program is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Architecture {
    /// One of [`ARCHITECTURES`].
    Named(&'static str),
    /// A .NET program without instructions of any processor.
    Any,
    /// By the number that its format has for it.
    Other(u32),
}

/// What a program was made for: format of the file, operating system as far as it says so, and architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    format: Format,
    /// As `GOOS` spells it, where the header tells.
    os: Option<&'static str>,
    architecture: Architecture,
}

/// How well a program goes with a platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// Made for it.
    Native,
    /// Made for the smaller sibling, whose programs many processors run as well.
    Compatible,
    /// Made for something else.
    Foreign,
    /// Nobody here knows the platform's architecture.
    Unclear,
}

/// What is in a file that may be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// A program.
    Program(Machine),
    /// A script, with its first line without `#!`.
    Script(Box<str>),
    /// Nothing that a kernel starts.
    Other,
}

impl Content {
    /// What a file is that begins with `head`.
    pub(super) fn of(head: &[u8]) -> Self {
        if let Some(rest) = head.strip_prefix(b"#!") {
            let line = rest.split(|&byte| byte == b'\n').next().unwrap_or_default();
            let line = line.get(..LONGEST_LINE).unwrap_or(line);
            return Self::Script(String::from_utf8_lossy(line).into());
        }
        Machine::of(head).map_or(Self::Other, Self::Program)
    }
}

impl Machine {
    fn of(head: &[u8]) -> Option<Self> {
        if head.starts_with(b"\0asm") {
            let architecture = Architecture::Named("wasm");
            return Some(Self { format: Format::Wasm, os: None, architecture });
        }
        match FileKind::parse(head).ok()? {
            FileKind::Elf32 => Self::of_elf::<elf::FileHeader32<Endianness>>(head),
            FileKind::Elf64 => Self::of_elf::<elf::FileHeader64<Endianness>>(head),
            FileKind::Pe32 => Self::of_pe::<pe::ImageNtHeaders32>(head),
            FileKind::Pe64 => Self::of_pe::<pe::ImageNtHeaders64>(head),
            FileKind::MachO32 => Self::of_mach_o::<macho::MachHeader32<Endianness>>(head),
            FileKind::MachO64 => Self::of_mach_o::<macho::MachHeader64<Endianness>>(head),
            _ => None,
        }
    }

    fn of_elf<H: FileHeader<Endian = Endianness>>(head: &[u8]) -> Option<Self> {
        let header = H::parse(head).ok()?;
        let endian = header.endian().ok()?;
        // Most systems leave the field empty; these two do not.
        let os = match header.e_ident().os_abi {
            elf::ELFOSABI_FREEBSD => Some("freebsd"),
            elf::ELFOSABI_SOLARIS => Some("solaris"),
            _ => None,
        };
        let machine = header.e_machine(endian);
        let named = elf_architecture(
            machine,
            header.is_type_64(),
            header.is_big_endian(),
            header.e_flags(endian) & elf::EF_MIPS_ABI2 != 0,
        );
        let architecture = named.map_or(Architecture::Other(machine.into()), Architecture::Named);
        Some(Self { format: Format::Elf, os, architecture })
    }

    fn of_pe<H: ImageNtHeaders>(head: &[u8]) -> Option<Self> {
        let mut offset = pe::ImageDosHeader::parse(head).ok()?.nt_headers_offset().into();
        let (headers, directories) = H::parse(head, &mut offset).ok()?;
        let managed = directories.get(pe::IMAGE_DIRECTORY_ENTRY_COM_DESCRIPTOR).is_some();
        let machine = headers.file_header().machine.get(object::LittleEndian);
        let architecture = match machine {
            // The compiler writes 386 into a .NET program that runs everywhere.
            pe::IMAGE_FILE_MACHINE_I386 if managed => Architecture::Any,
            pe::IMAGE_FILE_MACHINE_I386 => Architecture::Named("386"),
            pe::IMAGE_FILE_MACHINE_AMD64 => Architecture::Named("amd64"),
            pe::IMAGE_FILE_MACHINE_ARM | pe::IMAGE_FILE_MACHINE_ARMNT => Architecture::Named("arm"),
            pe::IMAGE_FILE_MACHINE_ARM64 => Architecture::Named("arm64"),
            other => Architecture::Other(other.into()),
        };
        Some(Self { format: Format::Pe, os: Some("windows"), architecture })
    }

    fn of_mach_o<H: MachHeader<Endian = Endianness>>(head: &[u8]) -> Option<Self> {
        let header = H::parse(head, 0).ok()?;
        let architecture = match header.cputype(header.endian().ok()?) {
            macho::CPU_TYPE_X86 => Architecture::Named("386"),
            macho::CPU_TYPE_X86_64 => Architecture::Named("amd64"),
            macho::CPU_TYPE_ARM => Architecture::Named("arm"),
            macho::CPU_TYPE_ARM64 => Architecture::Named("arm64"),
            other => Architecture::Other(other),
        };
        Some(Self { format: Format::MachO, os: Some("darwin"), architecture })
    }

    /// Whether the program runs on `platform`. Variants are not compared, as headers do not tell them:
    /// a program for `arm/v7` looks like one for `arm/v6`, and one for `amd64/v3` like any for `amd64`.
    pub(super) fn fit(&self, platform: &Platform) -> Fit {
        let os = platform.os();
        let system = match self.format {
            Format::Elf => self.os.is_none_or(|own| own == os) && !matches!(os, "windows" | "darwin" | "ios"),
            Format::Pe => os == "windows",
            Format::MachO => matches!(os, "darwin" | "ios"),
            Format::Wasm => platform.architecture() == "wasm",
        };
        if !system {
            return Fit::Foreign;
        }
        match (self.architecture, platform.architecture()) {
            (Architecture::Any, _) => Fit::Native,
            (Architecture::Named(own), declared) if own == declared => Fit::Native,
            (_, declared) if !ARCHITECTURES.iter().any(|(name, _)| *name == declared) => Fit::Unclear,
            (Architecture::Named(own), declared)
                if is_compatible(own, declared)
                    || (os == "windows" && (own, declared) == ("386", "arm64")) =>
            {
                Fit::Compatible
            }
            _ => Fit::Foreign,
        }
    }
}

/// Whether many processors of the second architecture run programs of the first.
fn is_compatible(own: &str, declared: &str) -> bool {
    matches!(
        (own, declared),
        ("386" | "x32", "amd64")
            | ("arm", "arm64")
            | ("mips", "mips64")
            | ("mipsle", "mips64le")
            | ("s390", "s390x")
    )
}

/// `mips_n32`: a program for 64-bit MIPS processors, with short pointers.
fn elf_architecture(machine: u16, is_64: bool, big_endian: bool, mips_n32: bool) -> Option<&'static str> {
    Some(match (machine, is_64, big_endian) {
        (elf::EM_386, false, false) => "386",
        (elf::EM_X86_64, true, false) => "amd64",
        (elf::EM_X86_64, false, false) => "x32",
        (elf::EM_ARM, false, false) => "arm",
        (elf::EM_AARCH64, true, false) => "arm64",
        (elf::EM_LOONGARCH, true, false) => "loong64",
        (elf::EM_MIPS, is_64, true) if is_64 || mips_n32 => "mips64",
        (elf::EM_MIPS, is_64, false) if is_64 || mips_n32 => "mips64le",
        (elf::EM_MIPS, _, true) => "mips",
        (elf::EM_MIPS, _, false) => "mipsle",
        (elf::EM_PPC64, true, true) => "ppc64",
        (elf::EM_PPC64, true, false) => "ppc64le",
        (elf::EM_RISCV, true, false) => "riscv64",
        (elf::EM_RISCV, false, false) => "riscv32",
        (elf::EM_S390, true, true) => "s390x",
        (elf::EM_S390, false, true) => "s390",
        _ => return None,
    })
}

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.os {
            Some("freebsd") => formatter.write_str("FreeBSD on ")?,
            Some("solaris") => formatter.write_str("Solaris on ")?,
            _ => {}
        }
        match self.architecture {
            Architecture::Named(own) => {
                let known = ARCHITECTURES.iter().find(|(name, _)| *name == own);
                formatter.write_str(known.map_or(own, |(_, name)| name))?;
            }
            Architecture::Any => formatter.write_str(".NET on any processor")?,
            Architecture::Other(number) => write!(formatter, "machine {number:#x}")?,
        }
        formatter.write_str(match self.format {
            Format::Elf => " (ELF)",
            Format::Pe => " (PE)",
            Format::MachO => " (Mach-O)",
            Format::Wasm => " (Wasm)",
        })
    }
}

impl Serialize for Machine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
