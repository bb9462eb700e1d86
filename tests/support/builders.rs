//! Programs that make images: buildah and BuildKit.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::support::{Registry, devcluster_program};
use super::tools::run;

/// Whether images can be made here. A test that must make some and cannot says so by name.
pub fn can_build(test: &str) -> bool {
    // Layers are put together in mounts, which only root makes, and not in every container.
    let can = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
    let can = can.is_ok_and(|status| status.success());
    if !can {
        // Past the test harness, which swallows what tests that pass print.
        let told = writeln!(std::io::stderr(), "SKIPPED {test}: builders need root that may mount");
        told.expect("standard error");
    }
    can
}

/// buildah, with a store of its own.
pub struct Buildah {
    directory: PathBuf,
}

impl Buildah {
    pub fn new() -> Self {
        let directory = Registry::directory();
        std::fs::write(directory.join("content"), "made by buildah").unwrap();
        Self { directory }
    }

    pub fn run(&self, arguments: &[&str]) -> String {
        let (root, state) = (self.path("root"), self.path("run"));
        let store = ["--root", &root, "--runroot", &state, "--storage-driver", "vfs"];
        run("buildah".as_ref(), &[&store, arguments].concat()).trim().to_owned()
    }

    /// Pushes an image of one layer in `format`, `oci` or `docker`, made with these options of `buildah config`.
    pub fn push(&self, format: &str, options: &[&str], reference: &str) {
        let container = self.run(&["from", "scratch"]);
        self.run(&["copy", "--quiet", &container, &self.path("content"), "/content"]);
        self.run(&[&["config", "--cmd", "/content"], options, &[container.as_str()]].concat());
        let image = self.run(&["commit", "--quiet", "--format", format, &container]);
        self.run(&["push", "--quiet", "--tls-verify=false", &image, &format!("docker://{reference}")]);
    }

    /// Pushes an index of these images in `format`, `oci` or `v2s2`, with them.
    pub fn push_list(&self, format: &str, images: &[&str], reference: &str) {
        let list = format!("list-{}", reference.replace([':', '/', '.'], "-"));
        self.run(&["manifest", "create", &list]);
        for image in images {
            self.run(&["manifest", "add", "--tls-verify=false", &list, &format!("docker://{image}")]);
        }
        let options = ["--quiet", "--tls-verify=false", "--all", "--format", format];
        let reference = format!("docker://{reference}");
        self.run(&[&["manifest", "push"], &options[..], &[&list, &reference]].concat());
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Buildah {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A BuildKit daemon, with a state of its own; ends with the value.
pub struct BuildKit {
    process: Child,
    directory: PathBuf,
}

impl BuildKit {
    /// One that may push to `registry`.
    pub fn start(registry: &Registry) -> Self {
        let directory = Registry::directory();
        let context = directory.join("context");
        std::fs::create_dir(&context).unwrap();
        std::fs::write(context.join("content"), "made by BuildKit").unwrap();
        std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY content /\nCMD [\"/content\"]\n")
            .unwrap();
        let config = directory.join("buildkitd.toml");
        std::fs::write(&config, format!("[registry.\"{}\"]\nhttp = true\n", registry.host)).unwrap();
        let log = std::fs::File::create(directory.join("log")).unwrap();
        let program = devcluster_program("buildkitd");
        // It looks for runc there.
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", program.parent().unwrap().display());
        let process = Command::new(program)
            .arg("--config")
            .arg(&config)
            .arg("--root")
            .arg(directory.join("state"))
            .arg("--addr")
            .arg(address(&directory))
            .args(["--containerd-worker=false", "--oci-worker-snapshotter=native", "--oci-worker-net=host"])
            .env("PATH", path)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("buildkitd starts");
        Self { process, directory }
    }

    /// Builds for these platforms, with provenance in full, and pushes; `output` are further options of the exporter.
    pub fn push(&self, platforms: &str, output: &str, reference: &str) {
        let context = self.directory.join("context");
        let context = context.to_str().unwrap();
        let mut command = Command::new(devcluster_program("buildctl"));
        // It waits for the daemon by itself.
        command.args(["--addr", &address(&self.directory), "--wait", "build", "--progress", "plain"]);
        command.args(["--frontend", "dockerfile.v0", "--opt", "attest:provenance=mode=max"]);
        command.args(["--opt", &format!("platform={platforms}")]);
        command.args(["--local", &format!("context={context}"), "--local", &format!("dockerfile={context}")]);
        command.args(["--output", &format!("type=image,name={reference},push=true{output}")]);
        let built = command.output().expect("buildctl starts");
        let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        assert!(built.status.success(), "{}{log}", String::from_utf8_lossy(&built.stderr));
    }
}

fn address(directory: &std::path::Path) -> String {
    format!("unix://{}/socket", directory.display())
}

impl Drop for BuildKit {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
