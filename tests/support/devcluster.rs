//! The program that runs the development cluster, built from this checkout.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Runs the devcluster program of this checkout and gives what it prints on standard output.
pub fn run(arguments: &[&str]) -> String {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let program = BUILT.get_or_init(|| {
        let program = root().join("target/devcluster/bin/devcluster");
        let built = Command::new("go")
            .args(["build", "-C"])
            .arg(root().join("tests/devcluster"))
            .arg("-o")
            .arg(&program)
            .arg(".")
            .status()
            .expect("go, which builds the devcluster, is not installed");
        assert!(built.success(), "the devcluster does not build");
        program
    });
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .expect("the devcluster runs");
    assert!(output.status.success(), "devcluster {arguments:?} failed");
    String::from_utf8(output.stdout).expect("UTF-8")
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
