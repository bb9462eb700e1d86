//! The programs of others that look at what we made.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

/// What others make of what we made: skopeo.
pub fn skopeo(arguments: &[&str]) -> String {
    run("skopeo".as_ref(), arguments)
}

/// What others make of what we made: crane, of the version that is pinned here.
pub fn crane(arguments: &[&str]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools");
    let crane = folder.join("crane");
    if !crane.is_file() {
        let module = "github.com/google/go-containerregistry/cmd/crane@v0.22.0";
        let built = Command::new("go").args(["install", module]).env("GOBIN", &folder).status();
        assert!(built.is_ok_and(|status| status.success()), "crane does not build");
    }
    run(&crane, arguments)
}

/// Standard output of a program; standard error where there is none.
pub fn run(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output =
        output.unwrap_or_else(|error| panic!("{} is needed by this test: {error}", program.display()));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{} {arguments:?}: {said}", program.display());
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if printed.is_empty() { said } else { printed }
}
