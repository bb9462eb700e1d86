//! This very operator as an image of the rig, for tests that run it in a pod.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

use super::{World, tools};

/// The tag of the image.
pub const TAG: &str = env!("CARGO_PKG_VERSION");

/// Pushes the program, the libraries that it is linked with, and certificates; gives the repository.
pub fn push(world: &World) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_multiarch"));
    let folder = tempfile::tempdir().expect("a folder");
    let linked = tools::run("ldd".as_ref(), &[&program.to_string_lossy()]);
    let libraries = linked.split_whitespace().filter(|word| word.starts_with('/'));
    let files =
        libraries.chain(["/etc/ssl/certs/ca-certificates.crt"]).map(|path| path.trim_start_matches('/'));
    let archive = folder.path().join("layer.tar");
    let archived = Command::new("tar")
        .args(["--create", "--dereference", "--file"])
        .arg(&archive)
        .args(["--directory", "/"])
        .args(files)
        .arg("--directory")
        .arg(program.parent().expect("a folder"))
        .arg("multiarch")
        .status();
    assert!(archived.is_ok_and(|status| status.success()), "tar fails");
    let repository = world.repository("operator");
    let image = format!("{repository}:{TAG}");
    tools::crane(&["append", "--insecure", "--new_layer", &archive.to_string_lossy(), "--new_tag", &image]);
    tools::crane(&["mutate", "--insecure", "--entrypoint", "/multiarch", "--tag", &image, &image]);
    repository
}
