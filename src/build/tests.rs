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
    BuilderSettings {
        image: "builder:1".to_owned(),
        buildkit_registries: vec![BuildkitRegistry {
            host: "registry.test:5000".to_owned(),
            plain_http: true,
            ..BuildkitRegistry::default()
        }],
        sbom_scanner: "scanner:1".to_owned(),
        ..BuilderSettings::default()
    }
}

pub(super) struct Case {
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

    pub(super) fn of(context: PinnedContext) -> Self {
        Case { context, ..Case::new() }
    }

    fn request(&self) -> BuildRequest<'_> {
        BuildRequest {
            namespace: "team-a",
            image_name: &self.name,
            image_uid: "uid-1",
            platform: &self.platform,
            build: &self.build,
            emulated: false,
            context: &self.context,
            repository: "registry.test:5000/team-a/web",
            registry_secrets: &[],
            rebuild: self.rebuild.as_deref(),
            reconcile: None,
            previous: None,
        }
    }

    fn job(&self) -> serde_json::Value {
        serde_json::to_value(job(&self.request(), &settings(), Some("regcred"), OwnerReference::default()))
            .expect("a Job")
    }

    fn container(&self) -> serde_json::Value {
        self.job()["spec"]["template"]["spec"]["containers"][0].clone()
    }

    /// A variable of the container that builds, as its programs see it; empty if there is none.
    pub(super) fn variable(&self, name: &str) -> String {
        let container = self.container();
        let variables = container["env"].as_array().expect("variables");
        let found = variables.iter().find(|variable| variable["name"] == name);
        let value = found.map(|variable| variable["value"].as_str().expect("a value"));
        value.unwrap_or_default().replace("$$", "$")
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
                secret: None,
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
fn a_newer_operator_finds_the_builds_of_an_older_one_to_be_the_same() {
    let known = "2b7cdab897d400a8e2b4d4bf7cbe22a1b61309fbc4f5a0c1859b938fcd9dc155";
    assert_eq!(Case::new().request().hash(), known, "whatever is built now would be built again");
}

#[test]
fn an_outline_has_everything_but_what_the_context_turns_out_to_be() {
    let outline = |git: serde_json::Value, edit: fn(&mut Case)| {
        let mut case = Case::new();
        case.build.context = serde_json::from_value(serde_json::json!({"git": git})).expect("a context");
        edit(&mut case);
        case.request().outline().hash()
    };
    let of = |reference: &str| serde_json::json!({"url": "https://git.test/web.git", "ref": reference});
    let main = outline(of("main"), |_| ());
    assert_eq!(outline(of("main"), |case| case.context = git()), main, "a commit");
    let with_secret =
        serde_json::json!({"url": "https://git.test/web.git", "ref": "main", "secretRef": {"name": "a"}});
    assert_eq!(outline(with_secret, |_| ()), main, "credentials");
    assert_ne!(outline(of("other"), |_| ()), main, "a branch");
    assert_ne!(outline(of("main"), |case| case.build.target = Some("runtime".to_owned())), main, "a target");
    assert_ne!(outline(of("main"), |case| case.rebuild = Some("now".to_owned())), main, "a request");
}

#[test]
fn the_variant_of_a_platform_reaches_the_builder() {
    let mut case = Case::new();
    for (platform, told) in [("linux/arm", "linux/arm/v7"), ("linux/arm/v6", "linux/arm/v6")] {
        case.platform = platform.parse().expect("a platform");
        let arguments = case.container()["args"].to_string();
        assert!(arguments.contains(&format!("\"--opt=platform={told}\"")), "{arguments}");
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

fn git() -> PinnedContext {
    PinnedContext::Git {
        url: "https://git.test/web".to_owned(),
        commit: "0123456789".repeat(4),
        sub_path: Some("cmd/web".to_owned()),
        secret: Some("deploy-key".to_owned()),
    }
}

#[test]
fn only_the_container_that_fetches_a_repository_has_gits_credentials() {
    let mut case = Case::new();
    case.context = git();
    let pod = case.job()["spec"]["template"]["spec"].clone();
    let fetching = &pod["initContainers"][0];
    let environment = fetching["env"].to_string();
    for expected in ["https://git.test/web\"", "0123456789012345678901234567890123456789", "cmd/web"] {
        assert!(environment.contains(expected), "{environment}");
    }
    assert!(fetching["volumeMounts"].to_string().contains("\"/git\""));
    assert!(!pod["containers"][0]["volumeMounts"].to_string().contains("\"/git\""));
    assert_eq!(fetching["securityContext"]["allowPrivilegeEscalation"], false);
    assert!(Case::new().job()["spec"]["template"]["spec"]["initContainers"].is_null());
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
    assert_eq!(
        rules[1]["onExitCodes"]["values"],
        serde_json::json!([65, 66, 67, 68, 69, 71, 74, 77, 78, 79, 80, 81, 82])
    );
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

fn with(fields: serde_json::Value) -> Case {
    let mut build = serde_json::to_value(build()).expect("JSON");
    for (name, value) in fields.as_object().expect("fields") {
        build[name] = value.clone();
    }
    Case { build: serde_json::from_value(build).expect("a build"), ..Case::new() }
}

fn arguments(case: &Case) -> Vec<String> {
    serde_json::from_value(case.container()["args"].clone()).expect("arguments")
}

#[test]
fn every_input_of_buildx_reaches_the_builder() {
    let case = with(serde_json::json!({
        "labels": {"a": "b=c"}, "annotations": {"org.example.note": "one, \"two\""},
        "contexts": {"docker.io/library/alpine:latest": "docker-image://r.test/alpine", "tools": "https://h.test/t.tgz"},
        "secrets": [{"id": "npmrc", "secretRef": {"name": "npm", "key": ".npmrc"}}],
        "ssh": {"secretRef": {"name": "key"}},
        "attestations": {"provenance": "Max", "sbom": true},
        "args": {"SOURCE_DATE_EPOCH": "0"},
    }));
    let arguments = arguments(&case);
    for expected in [
        "--opt=label:a=b=c",
        "--opt=context:alpine=docker-image://r.test/alpine",
        "--opt=context:tools=https://h.test/t.tgz",
        "--opt=attest:provenance=mode=max",
        "--opt=attest:sbom=generator=scanner:1",
        "--opt=build-arg:SOURCE_DATE_EPOCH=0",
        "--secret=id=npmrc,src=/secrets/0/value",
    ] {
        assert!(arguments.iter().any(|argument| argument == expected), "{expected} is not in {arguments:?}");
    }
    let output = arguments.last().expect("an output");
    assert!(output.contains(",rewrite-timestamp=true,"), "{output}");
    assert!(output.contains(r#""annotation.org.example.note=one, ""two""""#), "{output}");
    let pod = case.job()["spec"]["template"]["spec"].clone();
    let secret = serde_json::json!({
        "name": "secrets-0",
        "secret": {"secretName": "npm", "defaultMode": 0o400, "items": [{"key": ".npmrc", "path": "value"}]},
    });
    assert!(pod["volumes"].as_array().expect("volumes").contains(&secret), "{}", pod["volumes"]);
}

#[test]
fn a_cache_in_a_registry_has_a_tag_that_only_its_owner_writes() {
    let case = with(
        serde_json::json!({"cache": {"type": "Registry", "mode": "Min", "from": ["r.test/shared:main"]}}),
    );
    let reference = "registry.test:5000/team-a/web:buildcache-team-a.web-linux-arm64";
    let arguments = arguments(&case);
    let has = |expected: &str| arguments.iter().any(|argument| argument.starts_with(expected));
    assert!(has(&format!("--import-cache=type=registry,ref={reference}")), "{arguments:?}");
    assert!(has(&format!("--export-cache=type=registry,ref={reference},mode=min,")), "{arguments:?}");
    assert!(has("--import-cache=type=registry,ref=r.test/shared:main"), "{arguments:?}");
    let mut long = Case { name: "w".repeat(63), ..case };
    long.build.cache.as_mut().expect("a cache").repository = Some(format!("r.test/{}", "c".repeat(200)));
    let tag = arguments_of_cache(&long);
    assert!(tag.len() <= 128 && tag.ends_with("-linux-arm64"), "{tag}");
}

fn arguments_of_cache(case: &Case) -> String {
    let arguments = arguments(case);
    let export = arguments.iter().find(|argument| argument.starts_with("--export-cache")).expect("an export");
    export.split(',').nth(1).and_then(|reference| reference.rsplit_once(':')).expect("a tag").1.to_owned()
}

#[test]
fn a_cache_on_a_volume_is_the_builders_state() {
    let case = with(serde_json::json!({"cache": {"type": "Volume", "volume": {"size": "10Gi"}}}));
    let pod = case.job()["spec"]["template"]["spec"].clone();
    let claim = serde_json::json!({
        "name": "state", "persistentVolumeClaim": {"claimName": "web-buildcache-linux-arm64"},
    });
    assert!(pod["volumes"].as_array().expect("volumes").contains(&claim), "{}", pod["volumes"]);
    assert_eq!(pod["securityContext"]["fsGroupChangePolicy"], "OnRootMismatch");
    assert_eq!(case.variable("CACHE_MEGABYTES"), "8589");
}

#[test]
fn a_remote_builder_needs_no_node_of_the_platform_and_no_privileges() {
    let case = with(serde_json::json!({
        "remote": {"endpoint": "tcp://builder.test:1234", "tls": {"secretRef": {"name": "builder"}}},
    }));
    let pod = case.job()["spec"]["template"]["spec"].clone();
    assert_eq!(pod["nodeSelector"], serde_json::json!({"kubernetes.io/os": "linux"}));
    let security = &pod["containers"][0]["securityContext"];
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    assert!(!pod["volumes"].to_string().contains("\"state\""));
}

#[test]
fn an_emulated_build_may_run_anywhere_and_rather_where_nothing_is_emulated() {
    let case = Case { platform: "linux/arm/v7".parse().expect("a platform"), ..Case::new() };
    let request = BuildRequest { emulated: true, ..case.request() };
    assert_eq!(request.timeout(), std::time::Duration::from_secs(3 * 3600));
    let job =
        serde_json::to_value(job(&request, &settings(), None, OwnerReference::default())).expect("JSON");
    assert_eq!(job["metadata"]["annotations"]["multiarch.dev/emulated"], "true");
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["nodeSelector"], serde_json::json!({"kubernetes.io/os": "linux"}));
    let wish = &pod["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0];
    assert_eq!(wish["preference"]["matchExpressions"][0]["values"], serde_json::json!(["arm", "arm64"]));
}

#[test]
fn what_the_user_says_of_the_pod_stands_and_ours_stays_ours() {
    let anti =
        serde_json::json!({"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]});
    let case = with(serde_json::json!({"pod": {
        "labels": {"kueue.x-k8s.io/queue-name": "builds"}, "annotations": {"note": "mine"},
        "priorityClassName": "low", "runtimeClassName": "kata", "affinity": {"podAntiAffinity": anti},
    }}));
    let job = case.job();
    for metadata in [&job["metadata"], &job["spec"]["template"]["metadata"]] {
        assert_eq!(metadata["labels"]["kueue.x-k8s.io/queue-name"], "builds");
        assert_eq!(metadata["labels"]["multiarch.dev/image"], "web");
        assert_eq!(metadata["annotations"]["note"], "mine");
    }
    assert!(job["spec"]["suspend"].is_null(), "Kueue's to say");
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["priorityClassName"], "low");
    assert_eq!(pod["runtimeClassName"], "kata");
    assert_eq!(pod["affinity"]["podAntiAffinity"], anti);
    let apart = Case::new().job()["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"].to_string();
    assert!(apart.contains("kubernetes.io/hostname"), "{apart}");
}

#[test]
fn every_profile_gives_the_builder_what_it_needs_and_no_more() {
    let pod = |profile| {
        let settings = BuilderSettings { profile, ..settings() };
        let job = job(&Case::new().request(), &settings, None, OwnerReference::default());
        serde_json::to_value(job.spec.and_then(|spec| spec.template.spec)).expect("JSON")
    };
    let rootless = pod(Profile::Rootless);
    assert_eq!(rootless["securityContext"]["runAsUser"], 1000);
    assert!(rootless["containers"][0]["securityContext"]["privileged"].is_null());
    let confined = pod(Profile::UserNamespace);
    assert_eq!(confined["hostUsers"], false);
    assert_eq!(confined["containers"][0]["securityContext"]["privileged"], true);
    let privileged = pod(Profile::Privileged);
    assert!(privileged["hostUsers"].is_null());
    for pod in [rootless, confined, privileged] {
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["enableServiceLinks"], false);
    }
}
