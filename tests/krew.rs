//! The manifest of the kubectl plugin: what krew's own validation wants of it, and that it is of this version.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

fn manifest() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/krew/multiarch.yaml");
    serde_saphyr::from_str(&std::fs::read_to_string(path).expect("the manifest")).expect("YAML")
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("{pointer} is missing in {value:#}"))
}

#[test]
fn the_plugin_is_of_this_version_and_named_as_its_file() {
    let manifest = manifest();
    // kubernetes-sigs/krew, internal/index/validation.
    assert_eq!(text(&manifest, "/apiVersion"), "krew.googlecontainertools.github.com/v1alpha2");
    assert_eq!(text(&manifest, "/kind"), "Plugin");
    assert_eq!(text(&manifest, "/metadata/name"), "multiarch");
    assert_eq!(text(&manifest, "/spec/version"), concat!("v", env!("CARGO_PKG_VERSION")));
    let short = text(&manifest, "/spec/shortDescription");
    // The index of plugins wants it this short.
    assert!(!short.is_empty() && !short.contains('\n') && short.len() <= 50, "{short}");
}

#[test]
fn every_platform_says_what_is_fetched_and_which_program_it_is() {
    let manifest = manifest();
    let platforms = manifest["spec"]["platforms"].as_array().expect("platforms");
    let mut found = BTreeSet::new();
    for platform in platforms {
        let (os, arch) =
            (text(platform, "/selector/matchLabels/os"), text(platform, "/selector/matchLabels/arch"));
        found.insert(format!("{os}/{arch}"));
        let uri = text(platform, "/uri");
        let archive = format!("multiarch_v{}_{os}_{arch}.tar.gz", env!("CARGO_PKG_VERSION"));
        assert!(uri.starts_with("https://") && uri.ends_with(&archive), "{uri}");
        let sum = text(platform, "/sha256");
        assert!(
            sum.len() == 64 && sum.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
            "{sum}"
        );
        // kubectl finds `kubectl multiarch` by this name, and so does the program itself.
        assert_eq!(text(platform, "/bin"), "kubectl-multiarch");
        let files = platform["files"].as_array().expect("files");
        for file in files {
            assert!(!text(file, "/from").is_empty() && !text(file, "/to").is_empty());
        }
        assert!(files.iter().any(|file| file["to"] == "kubectl-multiarch" && file["from"] == "multiarch"));
        assert!(
            files.iter().any(|file| file["from"] == "LICENSE"),
            "krew's index wants the licence installed"
        );
    }
    assert_eq!(
        found,
        ["darwin/amd64", "darwin/arm64", "linux/amd64", "linux/arm64"].map(str::to_owned).into()
    );
}
