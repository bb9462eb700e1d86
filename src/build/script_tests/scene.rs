//! A container of a build's pod, but for the programs that are not the script's own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::build::pod::BUILD_SCRIPT;

/// What `buildctl debug workers` prints.
const WORKERS: &str = "ID\\t\\tPLATFORMS\\nabc\\t\\tlinux/amd64,linux/386\\n";

/// A folder that has what the script finds in the pod's container.
pub(super) struct Scene {
    pub(super) folder: PathBuf,
    /// What `buildctl build` prints before it fails.
    log: String,
    secrets: String,
    /// What `buildctl` does before, by its arguments: branches of a `case`.
    buildctl: String,
    variables: Vec<(&'static str, String)>,
}

impl Scene {
    pub(super) fn new(log: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("build-script-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(folder.join("bin")).expect("a directory");
        let (secrets, buildctl) = (String::new(), String::new());
        Scene { folder, log: log.to_owned(), secrets, buildctl, variables: vec![] }
    }

    pub(super) fn variable(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    pub(super) fn buildctl(mut self, branch: &str) -> Self {
        self.buildctl = format!("{} {branch} ;;", self.buildctl);
        self
    }

    /// A program in the place of this machine's. It finds the scene's folder in $TMPDIR.
    pub(super) fn program(self, name: &str, script: &str) -> Self {
        let path = self.folder.join("bin").join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a program");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a program");
        self
    }

    /// A file in the place of one of the container's.
    pub(super) fn file(self, path: &str, content: &str) -> Self {
        let path = self.folder.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, content).expect("a file");
        self
    }

    /// A volume of the cache, of which df tells this size and what is left, in KiB.
    pub(super) fn with_cache(self, size: u64, left: u64) -> Self {
        let mount = "printf 'Filesystem Blocks Used Available Capacity Mounted on\\n'";
        self.program("df", &format!("{mount}; printf '/dev/x {size} 1 {left} 1%% /cache\\n'"))
            .variable("CACHE_MEGABYTES", "40000")
            .buildctl("*prune*) echo \"$*\" >\"$TMPDIR/pruned\"")
    }

    pub(super) fn read(&self, path: impl AsRef<Path>) -> String {
        std::fs::read_to_string(self.folder.join(&path))
            .unwrap_or_else(|error| panic!("{:?}: {error}", path.as_ref()))
    }

    /// A file in the script's own folder.
    pub(super) fn path_left_behind(&self, name: &str) -> PathBuf {
        let folders = std::fs::read_dir(&self.folder).expect("a folder").flatten();
        let folders = folders.filter(|entry| entry.file_name().to_string_lossy().starts_with("tmp."));
        let found = folders.map(|entry| entry.path().join(name)).find(|path| path.exists());
        found.unwrap_or_else(|| panic!("no {name} was left"))
    }

    pub(super) fn left_behind(&self, name: &str) -> String {
        self.read(self.path_left_behind(name))
    }

    pub(super) fn secret(mut self, name: &str, content: &str) -> Self {
        let path = self.folder.join(name);
        std::fs::write(&path, content).expect("a file");
        self.secrets = format!("{} {}", self.secrets, path.display());
        self
    }

    pub(super) fn run(self) -> Ended {
        let buildctl = format!(
            "case \" $* \" in {} *debug*) printf '{WORKERS}' ;; *' build '*) printf '%s\\n' \"$LOG\"; exit 1 ;; esac",
            self.buildctl
        );
        self.program("rootlesskit", "exec sleep 2").program("buildctl", &buildctl).run_script(BUILD_SCRIPT)
    }

    pub(super) fn run_script(self, script: &str) -> Ended {
        let folder = self.folder.display().to_string();
        let in_scene =
            ["/configmap/", "/context/files", "/context/folder", "/context/epoch", "/git/", "/sys/fs/cgroup"];
        let script = in_scene
            .iter()
            .fold(script.to_owned(), |script, path| script.replace(path, &format!("{folder}{path}")));
        let path = format!("{folder}/bin:{}", std::env::var("PATH").expect("a PATH"));
        let output = std::process::Command::new("bash")
            .args(["-c", &script, "build"])
            .envs([("PATH", path.as_str()), ("LOG", &self.log), ("HOME", "/tmp"), ("STATE", "/tmp")])
            .envs([("TMPDIR", folder.as_str()), ("SECRET_FILES", &self.secrets)])
            .envs([("BUILDKITD_CONFIG", ""), ("CONTEXT_KIND", "git"), ("BUILD_TIMEOUT", "60")])
            .envs([("BUILDER", "rootless"), ("PLATFORM", "linux/arm64")])
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .output()
            .expect("bash");
        Ended { scene: self, code: output.status.code(), said: said(&output) }
    }
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// How the script has ended.
pub(super) struct Ended {
    pub(super) scene: Scene,
    pub(super) code: Option<i32>,
    pub(super) said: String,
}

impl Ended {
    pub(super) fn last_line(&self) -> &str {
        self.said.lines().last().unwrap_or_default()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
