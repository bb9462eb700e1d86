//! What a release consists of: one version everywhere, and the files that `scripts/release.sh` makes.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use multiarch::registry::Digest;
use serde_json::{Value, json};
use support::{devcluster, root};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every version that stands behind this text in a file.
fn versions<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
    let is_of_version = |letter: char| letter.is_ascii_alphanumeric() || letter == '.' || letter == '-';
    text.split(before).skip(1).map(move |rest| {
        let rest = rest.trim_start_matches(['"', ' ']);
        let version = rest.split(|letter| !is_of_version(letter)).next().unwrap_or_default();
        version.split(".tar.gz").next().unwrap_or_default()
    })
}

#[test]
fn every_file_that_names_the_version_names_this_one() {
    for (path, before) in [
        ("Dockerfile", "ARG VERSION="),
        ("config/krew/multiarch.yaml", "version: v"),
        ("config/krew/multiarch.yaml", "multiarch-operator/v"),
        ("config/operator/operator.yaml", "multiarch-operator/multiarch-operator:"),
        ("config/samples/self.yaml", "tags: ["),
        ("config/samples/self.yaml", "ref: v"),
        ("config/samples/self.yaml", "image.version:"),
        ("charts/multiarch-operator/Chart.yaml", "\nversion:"),
        ("charts/multiarch-operator/Chart.yaml", "\nappVersion:"),
        ("charts/multiarch-operator/Chart.yaml", "multiarch-operator/multiarch-operator:"),
        ("docs/releasing.md", "multiarch-operator/multiarch-operator:"),
        ("docs/releasing.md", "registry.example.com/multiarch-operator:"),
        ("docs/install.md", "platform/multiarch-operator:"),
        ("README.md", "platform/multiarch-operator:"),
        ("config/default/kustomization.yaml", "registry.example.com/…:"),
        ("examples/gitops/argocd/applications/multiarch-operator.yaml", "platform/multiarch-operator:"),
        ("examples/gitops/flux/clusters/production/multiarch-operator.yaml", "newTag: "),
    ] {
        let text = read(path);
        let found: BTreeSet<&str> = versions(&text, before).collect();
        assert_eq!(found, [VERSION].into(), "{path}: {before}");
    }
}

#[test]
fn the_changelog_tells_of_this_version_and_links_to_every_one() {
    let changelog = read("CHANGELOG.md");
    let headings: Vec<&str> = changelog.lines().filter_map(|line| line.strip_prefix("## [")).collect();
    assert_eq!(headings.first(), Some(&"Unreleased]"), "what comes next is written there");
    // What is not released has no date and no tag to link to.
    match headings[1].split_once("] - ").expect("a version and a date") {
        (latest, "Unreleased") => {
            assert_eq!(latest, VERSION);
            for page in ["README.md", "docs/install.md", "docs/releasing.md"] {
                assert!(read(page).contains("No release is published yet"), "{page}");
            }
            assert!(!changelog.contains(&format!("releases/tag/v{VERSION}")), "there is no such tag");
        }
        (latest, date) => {
            assert_eq!(latest, VERSION);
            let date: jiff::civil::Date = date.parse().expect("a date");
            assert!(date.year() >= 2026, "{date}");
            for page in ["README.md", "docs/install.md", "docs/releasing.md"] {
                assert!(!read(page).contains("No release is published yet"), "{page}");
            }
        }
    }
    for heading in headings {
        let version = heading.split(']').next().expect("a version");
        assert!(changelog.contains(&format!("\n[{version}]: https://")), "{version} leads nowhere");
    }
}

/// An image as the Dockerfile makes it, for one platform.
struct Platform {
    architecture: &'static str,
    version: &'static str,
    program: Vec<u8>,
}

/// A program with the list of its crates, as cargo auditable writes it.
fn auditable_program(folder: &Path) -> Vec<u8> {
    let crates = json!({"packages": [
        {"name": "kube", "version": "5.0.0", "source": "crates.io"},
        {"name": "multiarch-operator", "version": VERSION, "source": "local", "dependencies": [0], "root": true},
    ]});
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(crates.to_string().as_bytes()).expect("memory");
    let (list, program) = (folder.join("crates"), folder.join("program"));
    std::fs::write(&list, packed.finish().expect("memory")).expect("a file");
    let added = Command::new("objcopy")
        .arg(format!("--add-section=.dep-v0={}", list.display()))
        .args(["/bin/true".as_ref(), program.as_os_str()])
        .status();
    assert!(added.expect("objcopy, of binutils").success());
    std::fs::read(program).expect("the program")
}

/// An OCI layout of these images and of statements about them, as an archive.
fn layout(path: &Path, platforms: &[Platform]) {
    let mut blobs: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut add = |media_type: &str, bytes: Vec<u8>| {
        let digest = Digest::sha256(&bytes).to_string();
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        blobs.insert(format!("blobs/{}", digest.replace(':', "/")), bytes);
        descriptor
    };
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let mut children = vec![];
    for platform in platforms {
        let mut layer = tar::Builder::new(flate2::write::GzEncoder::new(vec![], flate2::Compression::fast()));
        append(&mut layer, "licenses/LICENSE", 0o644, b"a licence");
        append(&mut layer, "multiarch", 0o755, &platform.program);
        let layer = layer.into_inner().and_then(|gzip| gzip.finish()).expect("memory");
        let layer = add("application/vnd.oci.image.layer.v1.tar+gzip", layer);
        let labels = json!({"org.opencontainers.image.version": platform.version});
        let config =
            json!({"os": "linux", "architecture": platform.architecture, "config": {"Labels": labels}});
        let config = add("application/vnd.oci.image.config.v1+json", config.to_string().into_bytes());
        let mut child = add(
            manifest,
            json!({"schemaVersion": 2, "mediaType": manifest, "config": config, "layers": [layer]})
                .to_string()
                .into_bytes(),
        );
        child["platform"] = json!({"os": "linux", "architecture": platform.architecture});
        children.push(child);
    }
    let mut statements = add(manifest, b"{}".to_vec());
    statements["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    children.push(statements);
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": children});
    let index = add(media_type, index.to_string().into_bytes());
    let mut archive = tar::Builder::new(std::fs::File::create(path).expect("a file"));
    append(&mut archive, "oci-layout", 0o644, br#"{"imageLayoutVersion": "1.0.0"}"#);
    let top = json!({"schemaVersion": 2, "manifests": [index]}).to_string();
    append(&mut archive, "index.json", 0o644, top.as_bytes());
    for (name, bytes) in &blobs {
        append(&mut archive, name, 0o644, bytes);
    }
    archive.finish().expect("a file");
}

fn append(archive: &mut tar::Builder<impl std::io::Write>, name: &str, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(u64::try_from(content.len()).expect("a size"));
    header.set_mode(mode);
    archive.append_data(&mut header, name, content).expect("memory");
}

/// Runs the script on an image and gives what it said, and the folder of the release.
fn release(folder: &Path, platforms: &[Platform]) -> (Output, PathBuf) {
    let made = Command::new("make")
        .args(["--silent", "target/tools/bin/auditable2cdx"])
        .current_dir(root())
        .status();
    assert!(made.expect("make").success(), "auditable2cdx is not to be had");
    let (image, out) = (folder.join("image.oci.tar"), folder.join("out"));
    layout(&image, platforms);
    let output = Command::new(root().join("scripts/release.sh"))
        .args([&image, &out])
        .env("MULTIARCH", env!("CARGO_BIN_EXE_multiarch"))
        .env("HELM", devcluster::run(&["tool", "helm"]).trim())
        .env("HELM_CACHE_HOME", folder)
        .env("AUDITABLE2CDX", root().join("target/tools/bin/auditable2cdx"))
        .env("RELEASE_URL", "https://downloads.example.com/v1")
        .output();
    (output.expect("bash"), out)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

fn sha256(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Digest::sha256(&bytes).to_string().trim_start_matches("sha256:").to_owned()
}

#[test]
fn a_release_is_made_of_an_image_and_every_sum_in_it_is_right() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = auditable_program(folder.path());
    let platforms = ["amd64", "arm64"].map(|architecture| {
        let program = [program.as_slice(), architecture.as_bytes()].concat();
        Platform { architecture, version: VERSION, program }
    });
    let (output, out) = release(folder.path(), &platforms);
    assert!(output.status.success(), "{}", said(&output));

    let files: BTreeSet<String> = std::fs::read_dir(&out)
        .expect("the release")
        .map(|file| file.expect("a file").file_name().to_string_lossy().into_owned())
        .collect();
    let expected = [
        "SHA256SUMS".to_owned(),
        "multiarch.yaml".to_owned(),
        "notes.md".to_owned(),
        format!("multiarch-operator-{VERSION}.tgz"),
        format!("multiarch-operator_v{VERSION}.crds.yaml"),
        format!("multiarch-operator_v{VERSION}.oci.tar"),
        format!("multiarch_v{VERSION}_linux_amd64.cdx.json"),
        format!("multiarch_v{VERSION}_linux_amd64.tar.gz"),
        format!("multiarch_v{VERSION}_linux_arm64.cdx.json"),
        format!("multiarch_v{VERSION}_linux_arm64.tar.gz"),
    ];
    assert_eq!(files, expected.into());
    let sums = std::fs::read_to_string(out.join("SHA256SUMS")).expect("the sums");
    let sums: BTreeMap<&str, &str> = sums
        .lines()
        .map(|line| line.split_once("  ").expect("sum and name"))
        .map(|(sum, name)| (name, sum))
        .collect();
    assert_eq!(sums.len(), files.len() - 1);
    for (name, sum) in sums {
        assert_eq!(sum, sha256(&out.join(name)), "{name}");
    }

    assert_eq!(
        sha256(&out.join(format!("multiarch-operator_v{VERSION}.oci.tar"))),
        sha256(&folder.path().join("image.oci.tar"))
    );
    let crds = std::fs::read_to_string(out.join(format!("multiarch-operator_v{VERSION}.crds.yaml")));
    assert_eq!(crds.expect("the CRD"), read("crds/multiarch.dev_multiarchimages.yaml"));
    assert!(std::fs::read_to_string(out.join("notes.md")).expect("the notes").contains("### Added"));
    krew_finds_the_programs(&out, &platforms);
    let list =
        std::fs::read(out.join(format!("multiarch_v{VERSION}_linux_arm64.cdx.json"))).expect("the SBOM");
    let list: Value = serde_json::from_slice(&list).expect("JSON");
    assert_eq!(list["bomFormat"], "CycloneDX");
    assert!(
        list["components"].as_array().is_some_and(|all| all.iter().any(|it| it["name"] == "kube")),
        "{list}"
    );
}

/// The manifest names the archives of the platforms that there are, and they hold the programs of the image.
fn krew_finds_the_programs(out: &Path, platforms: &[Platform]) {
    let manifest = std::fs::read_to_string(out.join("multiarch.yaml")).expect("krew's manifest");
    let manifest: Value = serde_saphyr::from_str(&manifest).expect("YAML");
    assert_eq!(manifest["spec"]["version"], format!("v{VERSION}"));
    let entries = manifest["spec"]["platforms"].as_array().expect("platforms");
    assert_eq!(entries.len(), platforms.len(), "{manifest:#}");
    for (entry, platform) in entries.iter().zip(platforms) {
        assert_eq!(entry["selector"]["matchLabels"], json!({"os": "linux", "arch": platform.architecture}));
        let name = format!("multiarch_v{VERSION}_linux_{}.tar.gz", platform.architecture);
        assert_eq!(entry["uri"], format!("https://downloads.example.com/v1/{name}"));
        assert_eq!(entry["sha256"], sha256(&out.join(&name)));
        let archive = std::fs::File::open(out.join(&name)).expect("the archive");
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(archive));
        let mut files = BTreeMap::new();
        for file in archive.entries().expect("an archive") {
            let mut file = file.expect("a file");
            if file.header().entry_type().is_file() {
                let name = file.path().expect("a name").to_string_lossy().trim_start_matches("./").to_owned();
                let mode = file.header().mode().expect("a mode");
                let mut content = vec![];
                file.read_to_end(&mut content).expect("its content");
                files.insert(name, (mode & 0o777, content));
            }
        }
        assert_eq!(files.remove("multiarch"), Some((0o755, platform.program.clone())));
        assert_eq!(files.into_keys().collect::<Vec<_>>(), ["LICENSE"]);
    }
}

#[test]
fn no_release_is_made_of_an_image_of_another_version_or_without_a_platform() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = auditable_program(folder.path());
    let of = |architecture, version| Platform { architecture, version, program: program.clone() };
    let (output, _) = release(folder.path(), &[of("amd64", VERSION), of("arm64", "0.0.1")]);
    let expected = format!("release: the image for linux/arm64 is labelled 0.0.1, and this is {VERSION}");
    assert!(!output.status.success() && said(&output).contains(&expected), "{}", said(&output));
    let (output, _) = release(folder.path(), &[of("amd64", VERSION)]);
    assert!(
        !output.status.success() && said(&output).contains("has no image for linux/arm64"),
        "{}",
        said(&output)
    );
}

#[test]
fn an_image_that_lies_where_the_release_goes_is_refused_and_not_deleted() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("image.oci.tar");
    std::fs::write(&image, "an image").expect("a file");
    let output = Command::new(root().join("scripts/release.sh"))
        .args([image.as_path(), folder.path()])
        .envs(["MULTIARCH", "HELM", "AUDITABLE2CDX"].map(|tool| (tool, "true")))
        .output()
        .expect("bash");
    assert!(!output.status.success() && said(&output).contains("write another folder"), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(&image).expect("it is still there"), "an image");
}

#[test]
fn no_release_is_made_of_a_program_that_does_not_say_what_it_is_made_of() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = std::fs::read("/bin/true").expect("a program");
    let of = |architecture| Platform { architecture, version: VERSION, program: program.clone() };
    let (output, _) = release(folder.path(), &[of("amd64"), of("arm64")]);
    let expected = "release: the program for linux/amd64 does not say what it is made of";
    assert!(!output.status.success() && said(&output).contains(expected), "{}", said(&output));
}
