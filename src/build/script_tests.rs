//! The build script, run with programs of our own in the place of BuildKit's.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};

/// What `buildctl debug workers` prints.
const WORKERS: &str = "ID\\t\\tPLATFORMS\\nabc\\t\\tlinux/amd64,linux/386\\n";

struct Scene {
    folder: PathBuf,
    /// What `buildctl build` prints before it fails.
    log: String,
    secrets: String,
}

impl Scene {
    fn new(log: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("build-script-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a directory");
        Scene { folder, log: log.to_owned(), secrets: String::new() }
    }

    fn secret(mut self, name: &str, content: &str) -> Self {
        let path = self.folder.join(name);
        std::fs::write(&path, content).expect("a file");
        self.secrets = format!("{} {}", self.secrets, path.display());
        self
    }

    fn run(&self) -> Output {
        let buildctl =
            format!("case $* in *debug*) printf '{WORKERS}' ;; *) printf '%s\\n' \"$LOG\"; exit 1 ;; esac");
        for (program, script) in [("rootlesskit", "exec sleep 2"), ("buildctl", &buildctl)] {
            let path = self.folder.join(program);
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a program");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a program");
        }
        let path = format!("{}:{}", self.folder.display(), std::env::var("PATH").expect("a PATH"));
        std::process::Command::new("bash")
            .args(["-c", super::pod::BUILD_SCRIPT, "build"])
            .envs([("PATH", path.as_str()), ("LOG", &self.log), ("HOME", "/tmp"), ("STATE", "/tmp")])
            .envs([("TMPDIR", &*self.folder.to_string_lossy()), ("SECRET_FILES", &self.secrets)])
            .envs([("BUILDKITD_CONFIG", ""), ("CONTEXT_KIND", "git"), ("BUILD_TIMEOUT", "60")])
            .envs([("BUILDER", "rootless"), ("PLATFORM", "linux/arm64")])
            .output()
            .expect("bash")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// How the script ends after a buildctl that prints this, and its last line.
fn ends(log: &str) -> (Option<i32>, String) {
    let output = Scene::new(log).run();
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    (output.status.code(), said.lines().last().unwrap_or_default().to_owned())
}

fn exit_code_after(log: &str) -> Option<i32> {
    ends(log).0
}

/// How buildctl tells that a step failed.
fn failed_step(output: &str, error: &str) -> String {
    format!(
        "#6 [2/2] RUN make\n#6 0.1 {output}\n#6 ERROR: {error}\n------\n > [2/2] RUN make:\n0.1 {output}\n------\n\
         docker/Dockerfile:5\n--------------------\n   4 |     \n   5 | >>> RUN make\n   6 |     \n\
         --------------------\nerror: failed to solve: {error}"
    )
}

#[test]
fn a_push_that_broke_off_is_tried_again_though_a_digest_has_the_digits_of_a_refusal() {
    let push = |answer: &str| {
        format!(
            "error: failed to solve: failed to push r.test/web: unexpected status from HEAD request to http://r.test/v2/web/blobs/sha256:e4403b7401: {answer}"
        )
    };
    assert_eq!(exit_code_after(&push("503 Service Unavailable")), Some(83));
    assert_eq!(exit_code_after(&push("429 Too Many Requests")), Some(84));
    assert_eq!(exit_code_after(&push("403 Forbidden")), Some(66));
    assert_eq!(exit_code_after(&push("401 Unauthorized")), Some(66));
}

#[test]
fn a_failed_step_is_told_with_its_place_in_the_dockerfile() {
    let log =
        failed_step("no rule", "process \"/bin/sh -c make\" did not complete successfully: exit code: 2");
    let line = "error: docker/Dockerfile:5: RUN make: did not complete successfully: exit code: 2";
    assert_eq!(ends(&log), (Some(65), line.to_owned()));
    let log = "Dockerfile:3\n--------------------\n   3 | >>> RUM true\n--------------------\n\
               error: failed to solve: dockerfile parse error on line 3: unknown instruction: RUM";
    assert_eq!(ends(log), (Some(65), "error: Dockerfile:3: RUM true: unknown instruction: RUM".to_owned()));
}

#[test]
fn what_a_step_prints_is_not_taken_for_the_cause() {
    for lie in [
        "error: failed to push r.test: denied",
        "no space left on device",
        "no match for platform in manifest",
    ] {
        let error = format!("process \"/bin/sh -c echo {lie}\" did not complete successfully: exit code: 1");
        assert_eq!(exit_code_after(&failed_step(lie, &error)), Some(65), "{lie}");
    }
}

#[test]
fn every_cause_has_a_code_of_its_own() {
    let base = "error: failed to solve: r.test/base:1: failed to resolve source metadata for r.test/base:1";
    for (log, code) in [
        (format!("{base}: no match for platform in manifest sha256:403401: not found"), 77),
        (format!("{base}: r.test/base:1: not found"), 78),
        (format!("{base}: unexpected status from HEAD request to r.test: 401 Unauthorized"), 74),
        (format!("{base}: dial tcp: connection refused"), 83),
        ("error: failed to solve: write /x: no space left on device".to_owned(), 72),
        (
            "error: failed to solve: failed to read dockerfile: open Dockerfile: no such file or directory"
                .to_owned(),
            68,
        ),
    ] {
        assert_eq!(exit_code_after(&log), Some(code), "{log}");
    }
}

#[test]
fn a_node_that_cannot_run_the_platform_is_told_from_a_step_that_failed() {
    let error = "process \"/bin/sh -c make\" did not complete successfully: exit code: 255";
    let (code, line) = ends(&failed_step("exec /bin/sh: exec format error", error));
    assert_eq!(code, Some(76));
    assert!(line.contains("runs linux/amd64,linux/386 and not linux/arm64; install emulation"), "{line}");
}

#[test]
fn a_secret_is_not_printed_in_any_form() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let password = "pa$$w0rd/of+me";
    let document =
        format!(r#"{{"auths":{{"r.test":{{"auth":"{}"}}}}}}"#, STANDARD.encode(format!("me:{password}")));
    let log = format!(
        "{password} {} {} pa%24%24w0rd%2Fof%2Bme token-in-a-line",
        STANDARD.encode(password),
        STANDARD.encode(format!("{password}\n")),
    );
    let scene = Scene::new(&log)
        .secret("value", "first-line-of-it\n//r.test/:_authToken=token-in-a-line")
        .secret("config.json", &document);
    let output = scene.run();
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(said.lines().next(), Some("*** *** *** *** ***"), "{said}");
    assert_eq!(output.status.code(), Some(1));
}
