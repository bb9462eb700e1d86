//! `multiarch why` of every reason: each is made to happen for real, and the command must name the reason, the platform,
//! what to look at and what to type next.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/command.rs"]
mod command;
#[path = "support/fault_server.rs"]
mod fault_server;
mod support;

use command::Ran;
use fault_server::{Answer, FaultServer};
use kube::api::DeleteParams;
use multiarch::api::{MultiArchImage, Reason};
use multiarch::registry::Digest;
use serde_json::{Value, json};
use support::builds::{inline, secret, until_gone};
use support::images::{OCI_MANIFEST, Push};
use support::nodes::needs_nodes;
use support::operator::{Operator, Start};
use support::{World, has_condition};
use tokio::process::Command;

const PLATFORM: &str = "linux/amd64";

/// The reasons that need no build.
const OF_REGISTRIES: [&str; 14] = [
    "SourceNotFound",
    "HostDenied",
    "AuthenticationFailed",
    "RateLimited",
    "RegistryUnavailable",
    "PlatformMismatch",
    "ContextNotFound",
    "SecretNotFound",
    "PushDenied",
    "DigestMismatch",
    "TagExists",
    "Suspended",
    "Published",
    "TagConflict",
];

/// Those that do.
const OF_BUILDS: [&str; 7] = [
    "NoNodeForPlatform",
    "Unschedulable",
    "BuildFailed",
    "BuildOutOfMemory",
    "BuildEvicted",
    "BuildTimeout",
    "VerifyRunFailed",
];

/// That of a builder which cannot be pulled.
const OF_BUILDERS: &str = "ImagePullFailed";

/// What is promised by name to whoever writes scripts.
const PROMISED: [&str; 21] = [
    "SourceNotFound",
    "AuthenticationFailed",
    "RateLimited",
    "RegistryUnavailable",
    "PlatformMismatch",
    "NoNodeForPlatform",
    "Unschedulable",
    "BuildFailed",
    "BuildOutOfMemory",
    "BuildEvicted",
    "BuildTimeout",
    "ImagePullFailed",
    "ContextNotFound",
    "SecretNotFound",
    "VerifyRunFailed",
    "PushDenied",
    "DigestMismatch",
    "TagConflict",
    "TagExists",
    "Suspended",
    "Published",
];

/// What is made to happen elsewhere, or passes too soon to be asked for.
const ELSEWHERE: [Reason; 30] = [
    Reason::Resolving,
    Reason::Verifying,
    Reason::Building,
    Reason::Copying,
    Reason::Publishing,
    Reason::Verified,
    Reason::SourceInvalid,
    Reason::Queued,
    Reason::BaseImagePlatformMissing,
    Reason::BaseImageNotFound,
    Reason::EmulationUnavailable,
    Reason::RemoteBuilderUnavailable,
    Reason::BuildDiskFull,
    Reason::PodNotCreated,
    Reason::ContainerStarting,
    Reason::BuildResultLost,
    Reason::ContextChanged,
    Reason::ContextUnavailable,
    Reason::SecretInvalid,
    Reason::TagMoved,
    Reason::DriftCorrected,
    Reason::TagsKept,
    Reason::BinaryMismatch,
    Reason::VerifyRunning,
    Reason::PolicyDenied,
    Reason::InvalidSpec,
    Reason::JobConflict,
    Reason::ClusterError,
    Reason::InternalError,
    Reason::Pending,
];

/// How a reason is made to happen, and what must be said of it then.
struct Case {
    spec: Value,
    /// The platform that is named; none where it is about the image as a whole.
    platform: Option<&'static str>,
    /// How one of the objects to look at begins.
    object: String,
    /// How one of the commands begins.
    next: String,
}

fn case(spec: Value, object: impl Into<String>, next: impl Into<String>) -> Case {
    Case { spec, platform: Some(PLATFORM), object: object.into(), next: next.into() }
}

/// An image of one existing image.
fn source(world: &World, name: &str, image: &str) -> Value {
    json!({
        "target": {"repository": world.repository(name), "tags": ["1.0"]},
        "platforms": [{"platform": PLATFORM, "image": image}],
    })
}

/// Looks at the image.
fn inspect(image: &str) -> String {
    format!("multiarch index inspect {image}")
}

/// Registries that misbehave. They live as long as the test.
struct Registries {
    limited: FaultServer,
    lying: FaultServer,
    down: String,
}

impl Registries {
    async fn start() -> Self {
        // A port that was free a moment ago, on which nobody listens.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let down = listener.local_addr().expect("an address").to_string();
        drop(listener);
        Registries {
            limited: FaultServer::start(|_| Answer::status(429).header("Retry-After", "3600")).await,
            lying: FaultServer::start(|_| {
                let manifest =
                    json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": []}).to_string();
                Answer::status(200).header("Content-Type", OCI_MANIFEST).body(manifest)
            })
            .await,
            down,
        }
    }
}

/// Makes a reason happen that needs no build.
async fn of_registries(world: &World, registries: &Registries, reason: &str, name: &str) -> Case {
    let from = world.repository("from");
    match reason {
        "SourceNotFound" => {
            let missing = format!("{from}:missing");
            case(source(world, name, &missing), &missing, inspect(&missing))
        }
        "HostDenied" => {
            let spec = source(world, name, "169.254.169.254/latest/meta-data:1.0");
            Case { platform: None, ..case(spec, format!("multiarchimage/{name}"), "kubectl edit") }
        }
        "AuthenticationFailed" => {
            let host = &world.rig.private_registry.host;
            let auths = json!({"auths": {host: {"username": "somebody", "password": "hunter2secret"}}});
            secret(world, "wrong", &[(".dockerconfigjson", &auths.to_string())]).await;
            let image = format!("{host}/web:1.0");
            let mut spec = source(world, name, &image);
            spec["registrySecrets"] = json!([{"name": "wrong"}]);
            case(spec, &image, inspect(&image))
        }
        "RateLimited" => {
            let image = format!("{}/team/web:1.0", registries.limited.host);
            case(source(world, name, &image), &image, inspect(&image))
        }
        "RegistryUnavailable" => {
            let image = format!("{}/team/web:1.0", registries.down);
            case(source(world, name, &image), &image, inspect(&image))
        }
        "PlatformMismatch" => {
            Push::to(&from).image("lie", "linux/arm64", "an image for another platform").await;
            let image = format!("{from}:lie");
            case(source(world, name, &image), &image, inspect(&image))
        }
        "DigestMismatch" => {
            let digest = Digest::sha256(b"something else");
            let image = format!("{}/team/web@{digest}", registries.lying.host);
            case(source(world, name, &image), &image, inspect(&image))
        }
        "ContextNotFound" => {
            let mut spec = inline(world, name, &[PLATFORM], "");
            spec["build"]["context"] = json!({"git": {"url": format!("{}/nothing.git", world.rig.git.url)}});
            case(spec, &world.rig.git.url, "multiarch reconcile")
        }
        "SecretNotFound" => {
            let mut spec = source(world, name, &format!("{from}:v1"));
            spec["registrySecrets"] = json!([{"name": "missing"}]);
            case(spec, "secret/missing", "kubectl get secret/missing")
        }
        "PushDenied" => {
            let mut spec = source(world, name, &format!("{from}:v1"));
            let target = format!("{}/{}/web", world.rig.read_only_registry.host, world.namespace);
            spec["target"]["repository"] = json!(target);
            case(spec, &target, inspect(&target))
        }
        "TagExists" => {
            let mut spec = source(world, name, &format!("{from}:v1"));
            let target = world.repository(name);
            Push::to(&target).image("1.0", PLATFORM, "it was here before").await;
            spec["target"]["tagPolicy"] = json!("IfAbsent");
            let tag = format!("{target}:1.0");
            Case { platform: None, ..case(spec, &tag, inspect(&tag)) }
        }
        "Suspended" => {
            let mut spec = source(world, name, &format!("{from}:v1"));
            spec["suspend"] = json!(true);
            Case { platform: None, ..case(spec, format!("multiarchimage/{name}"), "multiarch resume") }
        }
        "TagConflict" => {
            // The older one is the one that is published.
            let older = world.api::<MultiArchImage>().get("published").await.expect("the older one");
            let mut spec = source(world, name, &format!("{from}:v1"));
            spec["target"]["repository"] = json!(older.spec.target.repository);
            let tag = format!("{}:1.0", older.spec.target.repository);
            Case { platform: None, ..case(spec, &tag, inspect(&tag)) }
        }
        "Published" => Case { platform: None, ..case(source(world, name, &format!("{from}:v1")), "", "") },
        other => panic!("nothing makes {other} happen"),
    }
}

/// Makes a reason happen that needs a node.
fn of_builds(world: &World, reason: &str, name: &str) -> Case {
    let build = |commands: &str| inline(world, name, &[PLATFORM], commands);
    let logs = format!("multiarch logs {name} --platform {PLATFORM}");
    let describe = "kubectl describe pod/";
    match reason {
        "NoNodeForPlatform" => {
            let mut spec = build("");
            spec["platforms"] = json!([{"platform": "linux/mips64le"}]);
            spec["build"]["context"] = json!({"inline": {"dockerfile": "FROM scratch\nCOPY Dockerfile /\n"}});
            Case { platform: Some("linux/mips64le"), ..case(spec, "pod/", "kubectl get nodes") }
        }
        "Unschedulable" => {
            let mut spec = build("RUN true");
            spec["build"]["pod"] = json!({"nodeSelector": {"multiarch-test/nowhere": world.namespace}});
            case(spec, "pod/", describe)
        }
        "BuildFailed" => case(build("RUN echo told-by-the-step && exit 3"), "pod/", logs),
        "BuildOutOfMemory" => {
            let mut spec = build("RUN tail /dev/zero");
            spec["build"]["pod"] = json!({"resources": {"limits": {"memory": "200Mi"}}});
            case(spec, "pod/", describe)
        }
        "BuildEvicted" => {
            let mut spec = build("RUN dd if=/dev/zero of=/large bs=1M count=300 && sleep 600");
            spec["build"]["retries"] = json!(0);
            spec["build"]["pod"] = json!({"resources": {"limits": {"ephemeral-storage": "100Mi"}}});
            case(spec, "node/", describe)
        }
        "BuildTimeout" => {
            let mut spec = build("RUN sleep 600");
            spec["build"]["timeout"] = json!("5s");
            case(spec, "pod/", logs)
        }
        "VerifyRunFailed" => {
            let mut spec = source(world, name, &world.rig.images["busybox"]);
            spec["verify"] = json!({"run": {"command": ["/bin/sh", "-c", "echo told-by-the-run; exit 3"]}});
            case(spec, "", logs)
        }
        other => panic!("nothing makes {other} happen"),
    }
}

/// The name of the image by which a reason happens.
fn name_of(reason: &str) -> String {
    reason.to_lowercase()
}

/// Waits until an image has a reason, of its own or of a platform, and checks what is said of it.
async fn check(world: &World, reason: &str, case: &Case) {
    let name = name_of(reason);
    let has_reason = |image: &MultiArchImage| {
        let status = image.status.as_ref();
        let of_platform = |status: &multiarch::api::MultiArchImageStatus| {
            status
                .platforms
                .iter()
                .any(|platform| platform.reason.is_some_and(|found| found.as_str() == reason))
        };
        let of_image = |status: &multiarch::api::MultiArchImageStatus| {
            status.condition("Ready").is_some_and(|ready| ready.reason == reason)
        };
        status.is_some_and(|status| of_image(status) || case.platform.is_some() && of_platform(status))
    };
    world.until(&name, reason, has_reason).await;
    let told = why(world, &[&name, "-o", "json"]).await.json();
    let text = why(world, &[&name]).await.ok();
    if reason == "Published" {
        assert_eq!(told["state"], "Ready");
        assert_eq!(text.lines().len(), 1, "{}", text.stdout);
        return;
    }
    let cause = &told["causes"][0];
    assert_eq!(cause["reason"], reason, "{told:#}");
    assert_eq!(cause["platform"].as_str(), case.platform, "{told:#}");
    let begins = |field: &str, wanted: &str| {
        let all = cause[field].as_array().into_iter().flatten().filter_map(Value::as_str);
        all.into_iter().any(|found| found.starts_with(wanted))
    };
    assert!(begins("objects", &case.object), "{} is not among {:#}", case.object, cause["objects"]);
    assert!(begins("next", &case.next), "{} is not among {:#}", case.next, cause["next"]);
    let platform = case.platform.map(|platform| format!("{platform}: ")).unwrap_or_default();
    let heading = text.stdout.lines().find(|line| line.starts_with(&platform) && line.contains(reason));
    assert!(heading.is_some(), "{}", text.stdout);
    assert!(!text.stdout.contains("hunter2secret"), "{}", text.stdout);
    for command in cause["next"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        must_work(world, command).await;
    }
}

/// The commands that look at what is there do so as they are printed.
async fn must_work(world: &World, line: &str) {
    let words = shlex::split(line).expect("a command line");
    let program = match words[0].as_str() {
        "kubectl" if matches!(words[1].as_str(), "describe" | "get") && !line.contains("secret/missing") => {
            world.rig.kubectl.clone()
        }
        "multiarch" if words[1] == "logs" => env!("CARGO_BIN_EXE_multiarch").into(),
        _ => return,
    };
    let mut command = Command::new(program);
    command.args(&words[1..]).env_clear().env("HOME", "/nonexistent");
    command::run(command).await.ok();
}

async fn why(world: &World, arguments: &[&str]) -> Ran {
    let kubeconfig = world.rig.kubeconfig.to_string_lossy();
    let cluster = ["-n", &world.namespace, "--kubeconfig", &kubeconfig];
    command::multiarch(&[&["why"], arguments, &cluster].concat()).await
}

/// Ages are whole seconds, and chance decides between two of one age.
async fn is_as_old_as_published(world: &World) -> bool {
    let created = async |name: &str| {
        let image = world.api::<MultiArchImage>().get(name).await.expect("the image");
        image.metadata.creation_timestamp
    };
    created("published").await == created("tagconflict").await
}

#[test]
fn every_reason_has_a_case_or_is_said_to_have_none() {
    let cases: Vec<&str> = OF_REGISTRIES.into_iter().chain(OF_BUILDS).chain([OF_BUILDERS]).collect();
    let without: Vec<&str> = PROMISED.into_iter().filter(|reason| !cases.contains(reason)).collect();
    assert_eq!(without, Vec::<&str>::new(), "promised, and never made to happen");
    for reason in Reason::ALL {
        let (has_case, is_elsewhere) = (cases.contains(&reason.as_str()), ELSEWHERE.contains(reason));
        assert!(has_case != is_elsewhere, "{reason}: has a case: {has_case}, elsewhere: {is_elsewhere}");
    }
    let unknown = cases.iter().find(|case| !Reason::ALL.iter().any(|reason| reason.as_str() == **case));
    assert_eq!(unknown, None);
}

#[tokio::test]
async fn every_reason_that_needs_no_node_is_named_with_what_to_do() {
    let world = World::new().await;
    let registries = Registries::start().await;
    Push::to(&world.repository("from")).image("v1", PLATFORM, "content").await;
    let Registries { limited, lying, down } = &registries;
    let start = Start::new(&world).plain_http(&limited.host).plain_http(&lying.host).plain_http(down);
    let _operator = start.run();
    let mut cases = vec![];
    for reason in OF_REGISTRIES {
        let case = of_registries(&world, &registries, reason, &name_of(reason)).await;
        world.apply(&name_of(reason), case.spec.clone()).await;
        while reason == "TagConflict" && is_as_old_as_published(&world).await {
            let images = world.api::<MultiArchImage>();
            images.delete("tagconflict", &DeleteParams::default()).await.expect("it is deleted");
            until_gone(images, "tagconflict").await;
            world.apply("tagconflict", case.spec.clone()).await;
        }
        cases.push((reason, case));
    }
    for (reason, case) in cases {
        check(&world, reason, &case).await;
    }
}

#[tokio::test]
async fn every_reason_that_a_build_meets_on_a_node_is_named_with_what_to_do() {
    needs_nodes!("every_reason_that_a_build_meets_on_a_node_is_named_with_what_to_do");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let cases = OF_BUILDS.map(|reason| (reason, of_builds(&world, reason, &name_of(reason))));
    for (reason, case) in &cases {
        world.apply(&name_of(reason), case.spec.clone()).await;
    }
    for (reason, case) in &cases {
        check(&world, reason, case).await;
    }
}

#[tokio::test]
async fn a_builder_image_that_no_node_can_pull_is_named_with_its_pod() {
    needs_nodes!("a_builder_image_that_no_node_can_pull_is_named_with_its_pod");
    let world = World::new().await;
    let _operator = Start::new(&world).builder_image(&format!("{}/no/builder:1", world.rig.registry)).run();
    let reason = OF_BUILDERS;
    let case =
        case(inline(&world, &name_of(reason), &[PLATFORM], "RUN true"), "pod/", "kubectl describe pod/");
    world.apply(&name_of(reason), case.spec.clone()).await;
    check(&world, reason, &case).await;
}

#[tokio::test]
async fn several_platforms_that_fail_are_all_told() {
    let world = World::new().await;
    let from = world.repository("from");
    Push::to(&from).image("v1", "linux/amd64", "content").await;
    let _operator = Operator::start(&world);
    let mut spec = source(&world, "web", &format!("{from}:v1"));
    let other = json!([
        {"platform": "linux/arm64", "image": format!("{from}:v1")},
        {"platform": "linux/s390x", "image": format!("{from}:missing")},
    ]);
    spec["platforms"].as_array_mut().expect("platforms").extend(other.as_array().expect("two").clone());
    world.apply("web", spec).await;
    let all_told = |image: &MultiArchImage| {
        let failed = image.status.iter().flat_map(|status| &status.platforms);
        has_condition(image, "Stalled", "True")
            && failed.filter(|entry| entry.digest.is_none()).count() == 2
            && image.status.as_ref().is_some_and(|status| {
                status.platforms.iter().filter(|entry| entry.phase == multiarch::api::Phase::Failed).count()
                    == 2
            })
    };
    world.until("web", "stalled by two platforms", all_told).await;
    let told = why(&world, &["web", "-o", "json"]).await.json();
    let causes: Vec<_> =
        told["causes"].as_array().expect("causes").iter().map(|cause| &cause["reason"]).collect();
    assert_eq!(causes, ["PlatformMismatch", "SourceNotFound"], "{told:#}");
}
