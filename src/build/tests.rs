use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::*;
use crate::api::{BuildArgument, BuildPod};

fn build() -> Build {
    serde_json::from_value(serde_json::json!({
        "context": {"inline": {"dockerfile": "FROM scratch"}},
        "args": {"VERSION": "1.4.2"},
    }))
    .expect("a build")
}

fn inline() -> PinnedContext {
    PinnedContext::Inline { dockerfile: "FROM scratch".to_owned() }
}

fn settings() -> BuilderSettings {
    BuilderSettings { image: "builder:1".to_owned(), plain_http: vec!["registry.test:5000".to_owned()] }
}

struct Case {
    name: String,
    platform: Platform,
    build: Build,
    context: PinnedContext,
    rebuild: Option<String>,
}

impl Case {
    fn new() -> Self {
        Case {
            name: "web".to_owned(),
            platform: "linux/arm64".parse().expect("a platform"),
            build: build(),
            context: inline(),
            rebuild: None,
        }
    }

    fn request(&self) -> BuildRequest<'_> {
        BuildRequest {
            namespace: "team-a",
            image_name: &self.name,
            image_uid: "uid-1",
            platform: &self.platform,
            build: &self.build,
            context: &self.context,
            repository: "registry.test:5000/team-a/web",
            registry_secrets: &[],
            rebuild: self.rebuild.as_deref(),
        }
    }

    fn job(&self) -> serde_json::Value {
        serde_json::to_value(job(&self.request(), &settings(), Some("regcred"), OwnerReference::default()))
            .expect("a Job")
    }

    fn container(&self) -> serde_json::Value {
        self.job()["spec"]["template"]["spec"]["containers"][0].clone()
    }
}

#[test]
fn everything_that_changes_the_output_changes_the_hash() {
    let original = Case::new().request().hash();
    type Edit = fn(&mut Case);
    let edits: [(&str, Edit); 8] = [
        ("platform", |case| case.platform = "linux/arm/v7".parse().expect("a platform")),
        ("argument", |case| {
            case.build.args.insert("VERSION".to_owned(), BuildArgument("1.4.3".to_owned()));
        }),
        ("further argument", |case| {
            case.build.args.insert("DEBUG".to_owned(), BuildArgument("1".to_owned()));
        }),
        ("target", |case| case.build.target = Some("runtime".to_owned())),
        ("dockerfile", |case| case.build.dockerfile = "other/Dockerfile".to_owned()),
        ("context", |case| case.context = PinnedContext::Inline { dockerfile: "FROM busybox".to_owned() }),
        ("commit", |case| {
            case.context = PinnedContext::Git {
                url: "https://git.test/web.git".to_owned(),
                commit: "a".repeat(40),
                sub_path: None,
            };
        }),
        ("rebuild", |case| case.rebuild = Some("now".to_owned())),
    ];
    let mut hashes = vec![original];
    for (what, edit) in edits {
        let mut case = Case::new();
        edit(&mut case);
        let hash = case.request().hash();
        assert!(!hashes.contains(&hash), "{what} does not change the hash");
        hashes.push(hash);
    }
}

#[test]
fn what_the_pod_needs_does_not_change_the_hash() {
    let mut case = Case::new();
    let original = case.request().hash();
    case.build.retries = 5;
    case.build.timeout = kube::core::Duration::from(std::time::Duration::from_secs(7));
    case.build.pod = Some(BuildPod {
        node_selector: BTreeMap::from([("disk".to_owned(), "fast".to_owned())]),
        ..BuildPod::default()
    });
    assert_eq!(case.request().hash(), original);
}

#[test]
fn a_long_name_with_dots_still_makes_a_valid_job_name() {
    let mut case = Case::new();
    case.name = format!("{}.example.com", "web-".repeat(14));
    case.platform = "linux/mips64le".parse().expect("a platform");
    let name = case.request().job_name();
    assert!(name.len() <= NAME_LIMIT, "{name} has {} characters", name.len());
    assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
    assert!(name.contains("-linux-mips64le-"), "{name}");
}

#[test]
fn a_job_is_pinned_to_the_platform_and_keeps_the_users_selectors() {
    let mut case = Case::new();
    case.build.pod = Some(BuildPod {
        node_selector: BTreeMap::from([("disk".to_owned(), "fast".to_owned())]),
        ..BuildPod::default()
    });
    let pod = &case.job()["spec"]["template"]["spec"];
    assert_eq!(
        pod["nodeSelector"],
        serde_json::json!({"kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64", "disk": "fast"})
    );
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["restartPolicy"], "Never");
}

#[test]
fn a_dollar_in_an_argument_reaches_the_builder_as_it_is() {
    let mut case = Case::new();
    case.build.args.insert("CMD".to_owned(), BuildArgument("$(HOME) $$ $X".to_owned()));
    let arguments = case.container()["args"].to_string();
    assert!(arguments.contains("--opt=build-arg:CMD=$$(HOME) $$$$ $$X"), "{arguments}");
}

#[test]
fn a_git_context_is_given_to_the_builder_with_commit_and_folder() {
    let mut case = Case::new();
    case.context = PinnedContext::Git {
        url: "https://git.test/web".to_owned(),
        commit: "0123456789".repeat(4),
        sub_path: Some("cmd/web".to_owned()),
    };
    let arguments = case.container()["args"].to_string();
    assert!(
        arguments.contains(
            "--opt=context=https://git.test/web.git#0123456789012345678901234567890123456789:cmd/web"
        ),
        "{arguments}"
    );
}

#[test]
fn the_result_is_pushed_by_digest_and_never_by_tag() {
    let arguments = Case::new().container()["args"].to_string();
    assert!(
        arguments.contains("name=registry.test:5000/team-a/web,push=true,push-by-digest=true"),
        "{arguments}"
    );
}

#[test]
fn credentials_are_mounted_as_a_file_and_stand_in_no_argument() {
    let job = Case::new().job();
    let volumes = job["spec"]["template"]["spec"]["volumes"].to_string();
    assert!(volumes.contains(r#""secretName":"regcred""#), "{volumes}");
}

#[test]
fn lasting_causes_fail_the_job_at_once() {
    let rules = Case::new().job()["spec"]["podFailurePolicy"]["rules"].clone();
    assert_eq!(rules[1]["action"], "FailJob");
    assert_eq!(rules[1]["onExitCodes"]["values"], serde_json::json!([65, 66, 67, 68, 69]));
    assert_eq!(rules[0]["action"], "Ignore");
}

#[test]
fn a_limit_without_a_request_is_its_own_request() {
    let mut case = Case::new();
    case.build.pod = serde_json::from_value(serde_json::json!({
        "resources": {"limits": {"memory": "64Mi", "cpu": 2}}
    }))
    .expect("a pod");
    let resources = case.container()["resources"].clone();
    assert_eq!(resources["requests"]["memory"], "64Mi");
    assert_eq!(resources["limits"]["cpu"], "2");
    assert_eq!(resources["requests"]["ephemeral-storage"], "1Gi");
}

#[test]
fn memory_in_bytes_may_be_more_than_two_gigabytes() {
    let mut case = Case::new();
    case.build.pod = serde_json::from_value(serde_json::json!({
        "resources": {"limits": {"memory": 4_294_967_296_i64}}
    }))
    .expect("a pod");
    assert_eq!(case.container()["resources"]["limits"]["memory"], "4294967296");
}

#[test]
fn a_report_that_is_not_ours_is_no_report() {
    assert_eq!(BuildReport::parse("panic: oh no"), None);
    assert_eq!(
        BuildReport::parse("{\"digest\":\"sha256:00\"}\n"),
        Some(BuildReport { digest: "sha256:00".to_owned() })
    );
}

/// Runs the script with a buildctl that prints `log` and fails, and returns how it ends.
fn exit_code_after(name: &str, log: &str) -> Option<i32> {
    use std::os::unix::fs::PermissionsExt as _;
    let bin = std::env::temp_dir().join(format!("multiarch-build-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&bin).expect("a directory");
    let programs = [
        ("rootlesskit", "exec sleep 2"),
        ("buildctl", "case $* in *debug*) ;; *) printf '%s\\n' \"$LOG\"; exit 1 ;; esac"),
    ];
    for (program, script) in programs {
        let path = bin.join(program);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a program");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a program");
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("a PATH"));
    let output = std::process::Command::new("bash")
        .args(["-c", include_str!("build.sh"), "build"])
        .envs([("PATH", path.as_str()), ("LOG", log), ("HOME", "/tmp"), ("TMPDIR", &bin.to_string_lossy())])
        .envs([("BUILDKITD_CONFIG", ""), ("CONTEXT_KIND", "git"), ("BUILD_TIMEOUT", "60")])
        .output()
        .expect("bash");
    std::fs::remove_dir_all(&bin).expect("the directory");
    output.status.code()
}

#[test]
fn a_push_that_broke_off_is_tried_again_though_a_digest_has_the_digits_of_a_refusal() {
    let push = |answer: &str| {
        format!(
            "error: failed to solve: failed to push r.test/web: unexpected status from HEAD request to http://r.test/v2/web/blobs/sha256:e4403b7401: {answer}"
        )
    };
    assert_eq!(exit_code_after("push", &push("503 Service Unavailable")), Some(1));
    assert_eq!(exit_code_after("push", &push("403 Forbidden")), Some(66));
    assert_eq!(exit_code_after("push", &push("401 Unauthorized")), Some(66));
}

#[test]
fn a_git_server_that_is_down_is_tried_again_and_a_commit_that_is_not_there_is_not() {
    let git = |words: &str| {
        format!(
            "error: failed to solve: failed to read dockerfile: failed to fetch remote https://git.test/web.git: git stderr:\n{words}\n: exit status 128"
        )
    };
    let down = git("fatal: unable to access 'https://git.test/web.git/': Could not resolve host: git.test");
    assert_eq!(exit_code_after("git", &down), Some(1));
    let gone = git("fatal: remote error: upload-pack: not our ref 0123\nerror: fetch failed.");
    assert_eq!(exit_code_after("git", &gone), Some(68));
    let no_file =
        "error: failed to solve: failed to read dockerfile: open Dockerfile: no such file or directory";
    assert_eq!(exit_code_after("git", no_file), Some(68));
}
