//! Other people's tools: what they make of what we made, and what we make of what they made.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Whether the program is installed. A test that needs it and has it not says so by name.
pub fn has(program: &str, test: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !found {
        skipped(test, &format!("it needs {program}"));
    }
    found
}

/// Tells past the test harness, which swallows what tests that pass print.
fn skipped(test: &str, reason: &str) {
    writeln!(std::io::stderr(), "SKIPPED {test}: {reason}").expect("standard error");
}

/// What others make of what we made: skopeo.
pub fn skopeo(arguments: &[&str]) -> String {
    run("skopeo".as_ref(), arguments)
}

/// What others make of what we made: crane, of the version that is pinned here.
pub fn crane(arguments: &[&str]) -> String {
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    let crane = BUILT.get_or_init(|| {
        let folder = root().join("target/tools");
        let crane = folder.join("crane");
        if !crane.is_file() {
            let module = "github.com/google/go-containerregistry/cmd/crane@v0.22.0";
            let built = Command::new("go").args(["install", module]).env("GOBIN", &folder).status();
            assert!(built.is_ok_and(|status| status.success()), "crane does not build");
        }
        crane
    });
    run(crane, arguments)
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

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The rig's BuildKit, run for a test; ends with the value.
pub struct BuildKit {
    process: Child,
    address: String,
    programs: PathBuf,
    _state: tempfile::TempDir,
}

impl BuildKit {
    /// None without root, which its builds of several platforms need; the test says so by name.
    pub fn start(test: &str) -> Option<Self> {
        if run("id".as_ref(), &["-u"]).trim() != "0" {
            skipped(test, "it runs BuildKit, which needs root here");
            return None;
        }
        let programs = root().join("target/devcluster/bin");
        if !programs.join("buildkitd").is_file() {
            skipped(test, "it runs the rig's BuildKit, which `make test` builds");
            return None;
        }
        let state = tempfile::tempdir().expect("a directory");
        let address = format!("unix://{}", state.path().join("socket").display());
        let path = std::env::join_paths(
            [programs.clone()]
                .into_iter()
                .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        );
        let process = Command::new(programs.join("buildkitd"))
            .args(["--addr", &address, "--containerd-worker=false", "--oci-worker-snapshotter=native"])
            .arg("--root")
            .arg(state.path().join("root"))
            .env("PATH", path.expect("a path"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("buildkitd");
        let mut this = Self { process, address, programs, _state: state };
        this.wait();
        Some(this)
    }

    /// Asks until it answers.
    fn wait(&mut self) {
        loop {
            let asked = self.buildctl().args(["debug", "workers"]).output().expect("buildctl");
            if asked.status.success() {
                return;
            }
            let ended = self.process.try_wait().expect("a process");
            assert!(ended.is_none(), "buildkitd ended: {ended:?}");
        }
    }

    fn buildctl(&self) -> Command {
        let mut command = Command::new(self.programs.join("buildctl"));
        command.args(["--addr", &self.address]);
        command
    }

    /// Builds a Dockerfile for two platforms, with provenance, into what `output` says.
    pub fn build(&self, context: &Path, output: &str) {
        let built = self
            .buildctl()
            .args(["build", "--frontend", "dockerfile.v0", "--opt", "platform=linux/amd64,linux/arm64"])
            .args(["--opt", "attest:provenance=mode=max", "--output", output])
            .args(["--local", &format!("context={}", context.display())])
            .args(["--local", &format!("dockerfile={}", context.display())])
            .output()
            .expect("buildctl");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    }
}

impl Drop for BuildKit {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
