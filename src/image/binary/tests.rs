use std::collections::HashMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::*;
use crate::registry::{ByteStream, MediaType};

mod limits;
mod links;

const AMD64: u16 = 62;
const ARM64: u16 = 183;

/// The header of an ELF file, and a little of what comes after it.
fn elf(machine: u16, is_64: bool, big_endian: bool, flags: u32) -> Vec<u8> {
    let mut bytes = vec![0; 128];
    bytes[..4].copy_from_slice(b"\x7fELF");
    bytes[4] = if is_64 { 2 } else { 1 };
    bytes[5] = if big_endian { 2 } else { 1 };
    bytes[6] = 1;
    let (machine, flags) = match big_endian {
        true => (machine.to_be_bytes(), flags.to_be_bytes()),
        false => (machine.to_le_bytes(), flags.to_le_bytes()),
    };
    bytes[18..20].copy_from_slice(&machine);
    let at = if is_64 { 48 } else { 36 };
    bytes[at..at + 4].copy_from_slice(&flags);
    bytes
}

fn program(machine: u16) -> Vec<u8> {
    elf(machine, true, false, 0)
}

fn pe(machine: u16, is_64: bool, managed: bool) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[60] = 128;
    bytes[128..132].copy_from_slice(b"PE\0\0");
    bytes[132..134].copy_from_slice(&machine.to_le_bytes());
    let (magic, size, directories) = if is_64 { (0x20b_u16, 240_u16, 112) } else { (0x10b, 224, 96) };
    bytes[148..150].copy_from_slice(&size.to_le_bytes());
    bytes[152..154].copy_from_slice(&magic.to_le_bytes());
    let directories = 152 + directories;
    bytes[directories - 4] = 16;
    if managed {
        bytes[directories + 14 * 8] = 1;
    }
    bytes
}

/// A layer in the making.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn with(mut self, path: &str, kind: EntryType, mode: u32, target: &str, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        if target.is_empty() {
            self.0.append_data(&mut header, path, content).unwrap();
        } else {
            self.0.append_link(&mut header, path, target).unwrap();
        }
        self
    }

    fn program(self, path: &str, content: &[u8]) -> Self {
        self.with(path, EntryType::Regular, 0o755, "", content)
    }

    fn script(self, path: &str, content: &str) -> Self {
        self.program(path, content.as_bytes())
    }

    fn plain(self, path: &str, content: &[u8]) -> Self {
        self.with(path, EntryType::Regular, 0o644, "", content)
    }

    fn directory(self, path: &str) -> Self {
        self.with(path, EntryType::Directory, 0o755, "", b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.with(path, EntryType::Symlink, 0o777, target, b"")
    }

    fn hard_link(self, path: &str, target: &str) -> Self {
        self.with(path, EntryType::Link, 0o755, target, b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    fn gzip(self) -> Vec<u8> {
        gzip(&self.bytes())
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// Blobs in memory, served in small pieces that are counted.
#[derive(Default)]
struct Store {
    blobs: HashMap<Digest, Bytes>,
    served: Arc<AtomicUsize>,
}

impl BlobStore for Store {
    fn place(&self, blob: &Descriptor) -> String {
        blob.digest.to_string()
    }

    fn open(&self, blob: &Descriptor, offset: u64) -> BoxFuture<'static, Result<ByteStream, Error>> {
        let (bytes, served) = (self.blobs[&blob.digest].slice(offset as usize..), self.served.clone());
        let pieces: Vec<Bytes> = bytes.chunks(4096).map(|piece| bytes.slice_ref(piece)).collect();
        let count = move |piece: &Bytes| {
            served.fetch_add(piece.len(), Ordering::Relaxed);
        };
        async move { Ok(stream::iter(pieces).inspect(count).map(Ok).boxed()) }.boxed()
    }
}

/// An image with these layers, the lowest first.
struct Image {
    store: Store,
    manifest: ImageManifest,
    config: ImageConfig,
}

impl Image {
    fn new(config: Value, layers: Vec<Vec<u8>>) -> Self {
        let layers = layers.into_iter().map(|layer| (MediaType::new(TAR_GZIP), layer)).collect();
        Self::of_types(config, layers)
    }

    fn of_types(config: Value, layers: Vec<(MediaType, Vec<u8>)>) -> Self {
        let mut store = Store::default();
        let layers = layers.into_iter().map(|(media_type, layer)| {
            let descriptor = Descriptor::new(media_type, Digest::sha256(&layer), layer.len() as u64);
            store.blobs.insert(descriptor.digest.clone(), layer.into());
            descriptor
        });
        let layers = layers.collect();
        let config_blob = Descriptor::new(MediaType::OCI_CONFIG, Digest::sha256(b""), 0);
        let manifest = ImageManifest { config: config_blob, layers };
        let config = serde_json::from_value(json!({ "config": config })).unwrap();
        Self { store, manifest, config }
    }

    async fn inspect(self, platform: &str) -> ProgramFinding {
        let platform = platform.parse().unwrap();
        inspect_program(Arc::new(self.store), &self.manifest, &self.config, &platform).await.unwrap()
    }

    /// The way to the program of an image that is right.
    async fn steps(self) -> Vec<String> {
        match self.inspect("linux/amd64").await {
            ProgramFinding::Matches { program, .. } => program.steps,
            other => panic!("{other}"),
        }
    }

    async fn why_unknown(self) -> String {
        match self.inspect("linux/amd64").await {
            ProgramFinding::Unknown { why } => why,
            other => panic!("{other}"),
        }
    }
}

const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn entrypoint(words: &[&str]) -> Value {
    json!({ "Entrypoint": words })
}

#[tokio::test]
async fn a_program_for_another_architecture_is_found_out() {
    let image =
        || Image::new(entrypoint(&["/app"]), vec![Layer::new().program("app", &program(AMD64)).gzip()]);
    let layer = image().manifest.layers[0].digest.clone();
    let finding = image().inspect("linux/arm64").await;
    assert_eq!(
        finding.to_string(),
        format!("/app is for x86-64 (ELF), the platform is linux/arm64 (in layer {layer})")
    );
    assert!(matches!(finding, ProgramFinding::Mismatch { .. }));
    assert!(matches!(image().inspect("linux/amd64").await, ProgramFinding::Matches { .. }));
    let json = serde_json::to_value(&finding).unwrap();
    assert_eq!(json["result"], "mismatch");
    assert_eq!(json["program"]["machine"], "x86-64 (ELF)");
}

/// A program, the platforms it is for, those it runs on by compatibility, and those it does not run on.
type Case = (Vec<u8>, &'static [&'static str], &'static [&'static str], &'static [&'static str]);

#[tokio::test]
async fn every_architecture_is_known_by_its_header() {
    use ProgramFinding::{Compatible, Matches, Mismatch};
    const N32: u32 = 32;
    let cases: [Case; 22] = [
        (
            program(AMD64),
            &["linux/amd64", "linux/amd64/v3", "freebsd/amd64"],
            &[],
            &["linux/386", "windows/amd64"],
        ),
        (
            program(ARM64),
            &["linux/arm64", "linux/arm64/v9"],
            &[],
            &["linux/arm", "linux/amd64", "darwin/arm64"],
        ),
        (elf(3, false, false, 0), &["linux/386"], &["linux/amd64"], &["linux/arm64"]),
        (elf(62, false, false, 0), &[], &["linux/amd64"], &["linux/386"]),
        (
            elf(40, false, false, 0x5000400),
            &["linux/arm/v6", "linux/arm/v7", "linux/arm/v5"],
            &["linux/arm64"],
            &["linux/386"],
        ),
        (elf(21, true, false, 2), &["linux/ppc64le"], &[], &["linux/ppc64"]),
        (elf(21, true, true, 1), &["linux/ppc64"], &[], &["linux/ppc64le"]),
        (elf(243, true, false, 5), &["linux/riscv64"], &[], &["linux/amd64"]),
        (elf(22, true, true, 0), &["linux/s390x"], &[], &["linux/ppc64"]),
        (elf(22, false, true, 0), &[], &["linux/s390x"], &[]),
        (elf(258, true, false, 0), &["linux/loong64"], &[], &["linux/riscv64"]),
        (elf(8, true, false, 0), &["linux/mips64le"], &[], &["linux/mips64", "linux/mipsle"]),
        (elf(8, true, true, 0), &["linux/mips64"], &[], &["linux/mips64le"]),
        (elf(8, false, false, 0), &["linux/mipsle"], &["linux/mips64le"], &["linux/mips"]),
        (elf(8, false, true, N32), &["linux/mips64"], &[], &["linux/mips"]),
        (elf(0xbeef, true, false, 0), &[], &[], &["linux/amd64"]),
        (pe(0x8664, true, false), &["windows/amd64"], &[], &["linux/amd64", "windows/arm64"]),
        (pe(0xaa64, true, false), &["windows/arm64"], &[], &["windows/amd64"]),
        (pe(0x14c, false, false), &["windows/386"], &["windows/amd64", "windows/arm64"], &["linux/386"]),
        (pe(0x14c, false, true), &["windows/amd64", "windows/arm64"], &[], &["linux/amd64"]),
        (
            b"\xcf\xfa\xed\xfe\x0c\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
            &["darwin/arm64"],
            &[],
            &["darwin/amd64", "linux/arm64"],
        ),
        (b"\0asm\x01\0\0\0".to_vec(), &["wasip1/wasm", "linux/wasm"], &[], &["linux/amd64"]),
    ];
    for (content, native, compatible, foreign) in cases {
        // Layers of Windows images have their files elsewhere, and no permissions.
        let layer = || Layer::new().program("app.exe", &content).plain("Files/app.exe", &content).gzip();
        let check = async |platforms: &[&str], right: fn(&ProgramFinding) -> bool| {
            for platform in platforms {
                let finding = Image::new(entrypoint(&["/app.exe"]), vec![layer()]).inspect(platform).await;
                assert!(right(&finding), "{platform}: {finding}");
            }
        };
        check(native, |finding| matches!(finding, Matches { .. })).await;
        check(compatible, |finding| matches!(finding, Compatible { .. })).await;
        check(foreign, |finding| matches!(finding, Mismatch { .. })).await;
    }
}

#[tokio::test]
async fn a_program_for_another_system_is_found_out() {
    let mut freebsd = program(AMD64);
    freebsd[7] = 9;
    let image = || Image::new(entrypoint(&["/app"]), vec![Layer::new().program("app", &freebsd).gzip()]);
    let finding = image().inspect("linux/amd64").await;
    assert!(matches!(finding, ProgramFinding::Mismatch { .. }), "{finding}");
    assert!(
        finding.to_string().starts_with("/app is for FreeBSD on x86-64 (ELF), the platform is"),
        "{finding}"
    );
    assert!(matches!(image().inspect("freebsd/amd64").await, ProgramFinding::Matches { .. }));
}

#[tokio::test]
async fn a_program_that_runs_by_compatibility_is_told_apart() {
    let layer = Layer::new().program("app", &elf(3, false, false, 0)).gzip();
    let finding = Image::new(entrypoint(&["/app"]), vec![layer]).inspect("linux/amd64").await;
    assert!(matches!(finding, ProgramFinding::Compatible { .. }));
    assert!(
        finding
            .to_string()
            .starts_with("/app is for x86 (ELF), which runs on some machines of linux/amd64 only"),
        "{finding}"
    );
}

#[tokio::test]
async fn a_name_is_looked_for_where_the_config_says() {
    let layer = || Layer::new().program("./opt/app/bin/server", &program(AMD64)).gzip();
    for (config, first) in [
        (json!({"Entrypoint": ["/opt/app/bin/server"]}), "/opt/app/bin/server"),
        (json!({"Entrypoint": "/opt/app/bin/server"}), "/opt/app/bin/server"),
        (
            json!({"Entrypoint": null, "Cmd": ["/opt/app/./bin/../bin/server"]}),
            "/opt/app/./bin/../bin/server",
        ),
        (json!({"Cmd": ["bin/server"], "WorkingDir": "/opt/app"}), "bin/server"),
        (json!({"Cmd": ["./server"], "WorkingDir": "/opt/app/bin/"}), "./server"),
        (json!({"Cmd": ["server"], "Env": ["HOME=/", "PATH=/bin:/opt/app/bin"]}), "server"),
        (json!({"Cmd": ["server"], "Env": ["PATH=bin"], "WorkingDir": "/opt/app"}), "server"),
    ] {
        let shown = config.to_string();
        let image = match config["Entrypoint"].as_str() {
            // What is of another kind than the specification says counts as missing.
            Some(text) => Image::new(json!({"Entrypoint": text, "Cmd": [text]}), vec![layer()]),
            None => Image::new(config, vec![layer()]),
        };
        let steps = image.steps().await;
        assert_eq!(
            (steps.first().unwrap().as_str(), steps.last().unwrap().as_str()),
            (first, "/opt/app/bin/server"),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn the_first_directory_of_the_path_wins_though_another_layer_has_it() {
    let lower = Layer::new().program("usr/local/bin/python3", &program(AMD64)).gzip();
    let upper = Layer::new().program("usr/bin/python3", &program(ARM64)).gzip();
    let steps = Image::new(entrypoint(&["python3", "app.py"]), vec![lower, upper]).steps().await;
    assert_eq!(steps, ["python3", "/usr/local/bin/python3"]);
}

#[tokio::test]
async fn what_may_not_be_executed_is_not_what_a_name_means() {
    let layer =
        || Layer::new().plain("usr/local/bin/app", b"").program("usr/bin/app", &program(AMD64)).gzip();
    assert_eq!(Image::new(entrypoint(&["app"]), vec![layer()]).steps().await, ["app", "/usr/bin/app"]);
    let why = Image::new(entrypoint(&["/usr/local/bin/app"]), vec![layer()]).why_unknown().await;
    assert_eq!(why, r#""/usr/local/bin/app" has no permission to be executed"#);
    let hidden = Layer::new().plain("usr/bin/app", b"").gzip();
    let why = Image::new(entrypoint(&["/usr/bin/app"]), vec![layer(), hidden]).why_unknown().await;
    assert_eq!(why, r#""/usr/bin/app" has no permission to be executed"#);
}

#[tokio::test]
async fn the_shell_of_a_command_in_shell_form_is_looked_at_and_told() {
    let layer = || Layer::new().program("bin/sh", &program(AMD64)).gzip();
    let finding = Image::new(json!({"Cmd": ["/bin/sh", "-c", "app --fast"]}), vec![layer()])
        .inspect("linux/amd64")
        .await;
    assert!(
        finding
            .to_string()
            .ends_with("; it is the shell of a command in shell form, which was not looked at"),
        "{finding}"
    );
    let finding = Image::new(json!({"Entrypoint": ["/bin/sh"], "Cmd": ["app.sh"]}), vec![layer()])
        .inspect("linux/amd64")
        .await;
    assert!(!finding.to_string().contains("shell form"), "{finding}");
}

#[tokio::test]
async fn windows_programs_are_found_by_their_own_rules() {
    let layer = || {
        Layer::new()
            .directory("Files")
            .plain("Files/Windows/System32/cmd.exe", &pe(0x8664, true, false))
            .plain("Hives/app.exe", b"")
            .symlink(r"Files/app", r"C:\Program Files\App")
            .plain("Files/Program Files/App/Server.EXE", &pe(0x8664, true, false))
            .gzip()
    };
    for (config, last) in [
        (json!({"Entrypoint": ["cmd", "/S", "/C", "dir"]}), "/windows/system32/cmd.exe"),
        (json!({"Entrypoint": [r"C:\app\server.exe"]}), "/program files/app/server.exe"),
        (
            json!({"Cmd": ["server"], "Env": [r"Path=C:\Windows;C:\Program Files\App"]}),
            "/program files/app/server.exe",
        ),
        (json!({"Cmd": [r".\server"], "WorkingDir": r"C:\app"}), "/program files/app/server.exe"),
    ] {
        match Image::new(config, vec![layer()]).inspect("windows/amd64").await {
            ProgramFinding::Matches { program, .. } => assert_eq!(program.steps.last().unwrap(), last),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn every_compression_of_layers_is_read() {
    let archive = Layer::new().program("app", &program(AMD64)).bytes();
    let (first, second) = archive.split_at(600);
    let mut members = gzip(first);
    members.extend(gzip(second));
    let mut frames = b"\x5a\x2a\x4d\x18\x03\0\0\0abc".to_vec();
    frames.extend(zstd(first));
    frames.extend(zstd(second));
    for (media_type, layer) in [
        ("application/vnd.oci.image.layer.v1.tar", archive.clone()),
        (TAR_GZIP, gzip(&archive)),
        (TAR_GZIP, members),
        (TAR_GZIP, archive.clone()),
        ("application/vnd.oci.image.layer.v1.tar+zstd", zstd(&archive)),
        ("application/vnd.oci.image.layer.v1.tar+zstd", frames),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", gzip(&archive)),
        ("application/vnd.docker.image.rootfs.diff.tar", archive.clone()),
    ] {
        Image::of_types(entrypoint(&["/app"]), vec![(MediaType::new(media_type), layer)]).steps().await;
    }
}

#[tokio::test]
async fn a_layer_that_nobody_can_read_is_told() {
    for (media_type, reason) in [
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "is foreign and in no registry"),
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "is encrypted"),
        ("application/vnd.in-toto+json", r#"has the media type "application/vnd.in-toto+json", which"#),
        (TAR_GZIP, "could not be read: "),
    ] {
        let layer = (MediaType::new(media_type), b"no archive".to_vec());
        let image = Image::of_types(entrypoint(&["/app"]), vec![layer]);
        let prefix = format!("layer {} {reason}", image.manifest.layers[0].digest);
        let why = image.why_unknown().await;
        assert!(why.starts_with(&prefix), "{why}");
    }
}

#[tokio::test]
async fn an_image_that_starts_nothing_is_told() {
    for config in
        [json!({}), json!(null), json!({"Entrypoint": [], "Cmd": null}), json!("x"), json!({"Cmd": 1})]
    {
        let why = Image::new(config, Vec::new()).why_unknown().await;
        assert_eq!(why, "the config has neither Entrypoint nor Cmd");
    }
    let why = Image::new(entrypoint(&["/app"]), Vec::new()).why_unknown().await;
    assert_eq!(why, r#""/app" is in no layer"#);
    let layer = Layer::new().directory("app").gzip();
    let why = Image::new(entrypoint(&["/app"]), vec![layer]).why_unknown().await;
    assert_eq!(why, r#""/app" is a directory"#);
}

#[tokio::test]
async fn what_an_image_says_does_not_reach_the_terminal_as_it_is() {
    let layer = || Layer::new().program("\u{1b}[31mapp", &program(AMD64)).gzip();
    let finding = Image::new(entrypoint(&["/\u{1b}[31mapp"]), vec![layer()]).inspect("linux/arm64").await;
    assert!(finding.to_string().starts_with("/\u{fffd}[31mapp is for x86-64"), "{finding}");
    let why = Image::new(entrypoint(&["/none\n\u{7}"]), vec![layer()]).why_unknown().await;
    assert!(!why.contains(char::is_control), "{why:?}");
}
