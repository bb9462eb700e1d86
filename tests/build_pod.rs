//! How builds run: caches, attestations, remote builders, security profiles, and what is told of a build that fails.
//! Real BuildKit in Jobs on real nodes.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/certificates.rs"]
mod certificates;
mod support;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use certificates::{Authority, Folder};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use multiarch::api::{ANNOTATION_REBUILD, Build, MultiArchImage, Phase};
use multiarch::build::{self, BuildRequest, BuilderSettings, PinnedContext, Profile};
use serde_json::{Value, json};
use support::builds::{digest, log, pods, secret, spec};
use support::images::Push;
use support::nodes::needs_nodes;
use support::operator::{Operator, Start};
use support::{PATIENCE, World};

fn inline(world: &World, commands: &str) -> Value {
    json!({"context": {"inline": {"dockerfile": format!("FROM {}\n{commands}\n", world.rig.images["busybox"])}}})
}

fn with(mut build: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().expect("fields") {
        build[name] = value.clone();
    }
    build
}

/// Asks for another build of all, and waits for it.
async fn build_again(world: &World, name: &str) -> MultiArchImage {
    let first = pods(world, name, "linux/amd64").await.len();
    let request = json!({"metadata": {"annotations": {ANNOTATION_REBUILD: format!("after {first}")}}});
    let api = world.api::<MultiArchImage>();
    let before = api.get(name).await.expect("the image");
    let job =
        |image: &MultiArchImage| support::entry(image, "linux/amd64").and_then(|entry| entry.job.clone());
    api.patch(name, &PatchParams::default(), &Patch::Merge(request)).await.expect("it can be asked");
    let built = |image: &MultiArchImage| job(image) != job(&before) && support::is_ready(image);
    world.until(name, "built again", built).await
}

#[tokio::test]
async fn a_second_build_uses_the_cache_that_the_first_one_has_left_in_a_registry() {
    needs_nodes!("a_second_build_uses_the_cache_that_the_first_one_has_left_in_a_registry");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let cached = with(inline(&world, "RUN echo made > /made"), json!({"cache": {"type": "Registry"}}));
    world.apply("web", spec(&world, "web", &["linux/amd64"], cached)).await;
    world.until_ready("web").await;
    let first = log(&world, "web", "linux/amd64").await;
    assert!(first.contains("no cache is there yet") && !first.contains("ERROR"), "{first}");
    assert!(!first.contains("> importing cache manifest"), "{first}");
    let tag = format!("buildcache-{}.web-linux-amd64", world.namespace);
    assert!(Push::to(&world.repository("web")).read(&tag).await.is_some(), "{tag} is not there");
    build_again(&world, "web").await;
    let second = log(&world, "web", "linux/amd64").await;
    assert!(second.contains("CACHED"), "{second}");
}

#[tokio::test]
async fn a_second_build_uses_the_cache_in_the_image_that_was_published_before() {
    needs_nodes!("a_second_build_uses_the_cache_in_the_image_that_was_published_before");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let cached = with(inline(&world, "RUN echo made > /made"), json!({"cache": {"type": "Inline"}}));
    world.apply("web", spec(&world, "web", &["linux/amd64"], cached)).await;
    world.until_ready("web").await;
    build_again(&world, "web").await;
    let second = log(&world, "web", "linux/amd64").await;
    assert!(second.contains("CACHED"), "{second}");
}

#[tokio::test]
async fn statements_about_a_build_come_into_the_index() {
    needs_nodes!("statements_about_a_build_come_into_the_index");
    let world = World::new().await;
    // A scanner writes what it finds below the folder that BuildKit names.
    let scanner = r#"COPY --chmod=755 <<'END' /scan
#!/bin/sh
echo '{"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://spdx.dev/Document", "predicate": {}}' >"$BUILDKIT_SCAN_DESTINATION/x.spdx.json"
END
ENTRYPOINT ["/scan"]"#;
    let settings = format!("sbomScanner: {}:1.0\n", world.repository("scanner"));
    let _operator = Start::new(&world).builds(&settings).run();
    world.apply("scanner", spec(&world, "scanner", &["linux/amd64"], inline(&world, scanner))).await;
    world.until_ready("scanner").await;
    let wanted = json!({"attestations": {"provenance": "Max", "sbom": true}});
    let build = with(inline(&world, "RUN echo made > /made"), wanted);
    world.apply("web", spec(&world, "web", &["linux/amd64"], build)).await;
    let ready = world.until_ready("web").await;
    let index = Push::to(&world.repository("web")).read("1.0").await.expect("an index");
    let index: Value = serde_json::from_slice(&index).expect("JSON");
    let entries = index["manifests"].as_array().expect("entries");
    assert_eq!(entries.len(), 2, "{index}");
    assert_eq!(entries[0]["digest"], digest(&ready, "linux/amd64"));
    let annotations = &entries[1]["annotations"];
    assert_eq!(annotations["vnd.docker.reference.type"], "attestation-manifest");
    assert_eq!(annotations["vnd.docker.reference.digest"], entries[0]["digest"]);
    let statements = entries[1]["digest"].as_str().expect("a digest");
    let statements = Push::to(&world.repository("web")).read(statements).await.expect("statements");
    let statements = String::from_utf8(statements).expect("text");
    assert!(statements.contains("slsa.dev/provenance") && statements.contains("spdx.dev"), "{statements}");
}

/// A BuildKit daemon beside the cluster, which knows its clients by certificates; ends with the value.
struct RemoteBuilder {
    process: Child,
    endpoint: String,
    _folder: Folder,
}

impl RemoteBuilder {
    /// With the Secret `remote` for who may build.
    async fn start(world: &World) -> Self {
        let (folder, authority, address) = (Folder::new(), Authority::new(), &world.rig.address);
        let server = authority.server(address);
        let listener = TcpListener::bind((address.as_str(), 0)).expect("a port");
        let endpoint = format!("tcp://{}", listener.local_addr().expect("an address"));
        drop(listener);
        let ca = folder.write("ca.crt", authority.pem());
        let (certificate, key) =
            (folder.write("tls.crt", &server.certificate), folder.write("tls.key", &server.key));
        let config =
            folder.write("buildkitd.toml", format!("[registry.\"{}\"]\nhttp = true\n", world.rig.registry));
        let path = std::env::var("PATH").unwrap_or_default();
        let process = Command::new(world.rig.bin_dir.join("buildkitd"))
            .args(["--addr", &endpoint, "--containerd-worker=false", "--oci-worker-snapshotter=native"])
            .args(["--oci-worker-net=host"])
            .args(
                [("--config", &config), ("--tlscacert", &ca)]
                    .iter()
                    .flat_map(|(name, file)| [(*name).into(), file.as_os_str().to_owned()])
                    .collect::<Vec<std::ffi::OsString>>(),
            )
            .arg("--tlscert")
            .arg(&certificate)
            .arg("--tlskey")
            .arg(&key)
            .arg("--root")
            .arg(folder.path().join("state"))
            .env("PATH", format!("{}:{path}", world.rig.bin_dir.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("buildkitd starts");
        let client = authority.client("operator");
        let data = [("ca.crt", authority.pem()), ("tls.crt", client.certificate), ("tls.key", client.key)];
        let data = data.each_ref().map(|(name, text)| (*name, text.as_str()));
        secret(world, "remote", &data).await;
        RemoteBuilder { process, endpoint, _folder: folder }
    }
}

impl Drop for RemoteBuilder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_platform_without_nodes_is_built_by_a_daemon_elsewhere() {
    needs_nodes!("a_platform_without_nodes_is_built_by_a_daemon_elsewhere");
    let world = World::new().await;
    let remote = RemoteBuilder::start(&world).await;
    let _operator = Operator::start(&world);
    let tls = json!({"secretRef": {"name": "remote"}});
    let fields = json!({"remote": {"endpoint": remote.endpoint, "tls": tls}, "retries": 0});
    let build = inline(&world, "COPY Dockerfile /Dockerfile");
    world.apply("web", spec(&world, "web", &["linux/s390x"], with(build.clone(), fields))).await;
    // Without certificates it is refused.
    let fields = json!({"remote": {"endpoint": remote.endpoint}, "retries": 0});
    world.apply("refused", spec(&world, "refused", &["linux/s390x"], with(build, fields))).await;
    world.until_ready("web").await;
    let pod = pods(&world, "web", "linux/s390x").await.pop().expect("a pod");
    let security = pod.spec.and_then(|spec| spec.containers[0].security_context.clone()).expect("a context");
    assert_eq!(security.allow_privilege_escalation, Some(false));
    let failed =
        world.until_platform("refused", "linux/s390x", Phase::Failed, "RemoteBuilderUnavailable").await;
    assert!(failed.message.expect("a message").contains("cannot be used"));
}

#[tokio::test]
async fn every_security_profile_builds() {
    needs_nodes!("every_security_profile_builds");
    for profile in ["Rootless", "UserNamespace", "Privileged"] {
        let world = World::new().await;
        let _operator = Start::new(&world).builds(&format!("profile: {profile}\n")).run();
        let build = inline(&world, "WORKDIR /w\nRUN id -u && ls -ld /w && cat /proc/self/uid_map");
        world.apply("web", spec(&world, "web", &["linux/amd64"], build)).await;
        world.until_ready("web").await;
        let said = log(&world, "web", "linux/amd64").await;
        assert!(said.contains("drwxr-xr-x"), "{said}");
        let pod = pods(&world, "web", "linux/amd64").await.pop().and_then(|pod| pod.spec).expect("a pod");
        let privileged = pod.containers[0].security_context.as_ref().and_then(|context| context.privileged);
        assert_eq!(privileged == Some(true), profile != "Rootless");
        assert_eq!(pod.host_users == Some(false), profile == "UserNamespace");
        assert_eq!(pod.automount_service_account_token, Some(false));
    }
}

#[tokio::test]
async fn a_build_that_fails_is_told_with_its_cause() {
    needs_nodes!("a_build_that_fails_is_told_with_its_cause");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let step = inline(&world, "\nRUN echo 'no space left on device'; exit 4");
    let memory = with(
        inline(&world, "RUN x=$(head -c 300000000 /dev/zero | tr '\\0' a); echo $?; exit 2"),
        json!({"pod": {"resources": {"limits": {"memory": "200Mi"}}}}),
    );
    // A program for a processor that nothing here emulates.
    let elf = r"RUN printf '\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\2\0\125\125\1\0\0\0%044d' 0 > /foreign && chmod +x /foreign";
    let foreign = with(inline(&world, &format!("{elf}\nRUN [\"/foreign\"]")), json!({"retries": 0}));
    for (name, build) in [("step", step), ("memory", memory)] {
        world.apply(name, spec(&world, name, &["linux/amd64"], build)).await;
    }
    let run = direct(&world, "linux/loong64", Profile::Rootless, foreign).await;
    let failed = world.until_platform("step", "linux/amd64", Phase::Failed, "BuildFailed").await;
    let said = failed.message.expect("a message");
    let place = "Dockerfile:3: RUN echo 'no space left on device'; exit 4: did not complete successfully: exit code: 4";
    assert!(said.starts_with(place), "{said}");
    assert_eq!(failed.attempts, Some(1));
    let failed = world.until_platform("memory", "linux/amd64", Phase::Failed, "BuildOutOfMemory").await;
    assert!(failed.message.expect("a message").contains("resources.limits.memory"));
    assert_eq!(run.0, build::ExitCause::Emulation as i32, "{}", run.1);
    assert!(run.1.contains("and not linux/loong64; install emulation on it"), "{}", run.1);
}

#[tokio::test]
async fn a_volume_keeps_the_cache_for_the_next_pod() {
    needs_nodes!("a_volume_keeps_the_cache_for_the_next_pod");
    let world = World::new().await;
    let claim = build::cache_claim_name("web", &"linux/amd64".parse().expect("a platform"));
    let volume: PersistentVolume = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": world.namespace},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
            "claimRef": {"namespace": world.namespace, "name": claim},
            "hostPath": {"path": format!("/var/lib/{}", world.namespace), "type": "DirectoryOrCreate"},
        },
    }))
    .expect("a volume");
    let volumes: Api<PersistentVolume> = Api::all(world.client.clone());
    volumes.create(&PostParams::default(), &volume).await.expect("a volume");
    // The rig's volumes belong to root: nothing there gives them to the group of a rootless builder.
    let _operator = Start::new(&world).builds("profile: Privileged\n").run();
    let cache = json!({"type": "Volume", "volume": {"size": "1Gi", "storageClassName": ""}});
    let build = with(inline(&world, "RUN echo made > /made"), json!({"cache": cache}));
    world.apply("web", spec(&world, "web", &["linux/amd64"], build)).await;
    world.until_ready("web").await;
    assert!(!log(&world, "web", "linux/amd64").await.contains("CACHED"));
    build_again(&world, "web").await;
    assert!(log(&world, "web", "linux/amd64").await.contains("CACHED"));
    let claims = world.api::<PersistentVolumeClaim>();
    let owners = claims.get(&claim).await.expect("the claim").metadata.owner_references.unwrap_or_default();
    assert_eq!(owners.first().map(|owner| owner.name.as_str()), Some("web"), "it goes with the resource");
}

/// Runs a build's Job without an operator, on a node of this machine's architecture, and gives the exit code and what
/// was printed.
async fn direct(world: &World, platform: &str, profile: Profile, build: Value) -> (i32, String) {
    let owner = ConfigMap::default();
    let parameters = PostParams::default();
    let owner = ConfigMap {
        metadata: kube::api::ObjectMeta { generate_name: Some("owner-".to_owned()), ..Default::default() },
        ..owner
    };
    let owner = world.api::<ConfigMap>().create(&parameters, &owner).await.expect("an owner");
    let build: Build = serde_json::from_value(build).expect("a build");
    let inline = build.context.inline.as_ref().expect("an inline context");
    let context = PinnedContext::Inline { dockerfile: inline.dockerfile.clone() };
    let uid = owner.uid().expect("a UID");
    let request = BuildRequest {
        namespace: &world.namespace,
        image_name: "direct",
        image_uid: &uid,
        platform: &platform.parse().expect("a platform"),
        build: &build,
        emulated: true,
        context: &context,
        repository: &world.repository("direct"),
        registry_secrets: &[],
        rebuild: None,
        reconcile: None,
        previous: None,
    };
    let settings =
        BuilderSettings { image: world.rig.builder_image.clone(), profile, ..BuilderSettings::default() };
    let reference = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        name: owner.name_any(),
        uid: uid.clone(),
        ..OwnerReference::default()
    };
    let mut job = build::job(&request, &settings, None, reference);
    let pod = job.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()).expect("a pod");
    pod.node_selector = Some([("kubernetes.io/arch".to_owned(), "amd64".to_owned())].into());
    for container in &mut pod.containers {
        let plain = format!("[registry.\"{}\"]\nhttp = true\n", world.rig.registry);
        for variable in
            container.env.iter_mut().flatten().filter(|variable| variable.name == "BUILDKITD_CONFIG")
        {
            variable.value = variable.value.take().map(|config| format!("{plain}{config}"));
        }
        // Of the base image there is nothing for a platform that nobody has.
        for argument in container.args.iter_mut().flatten() {
            *argument = argument.replace("--opt=platform=linux/loong64", "--opt=platform=linux/amd64");
        }
    }
    let job = world.api::<Job>().create(&parameters, &job).await.expect("a Job");
    let name = job.name_any();
    let selector = format!("batch.kubernetes.io/job-name={name}");
    let ended = await_condition(world.api::<Job>(), &name, |job: Option<&Job>| {
        let status = job.and_then(|job| job.status.as_ref());
        status.is_some_and(|status| {
            status
                .conditions
                .iter()
                .flatten()
                .any(|condition| matches!(&*condition.type_, "Complete" | "Failed"))
        })
    });
    tokio::time::timeout(PATIENCE, ended).await.expect("in time").expect("the Job ends");
    let api = world.api::<Pod>();
    let pods = api.list(&kube::api::ListParams::default().labels(&selector)).await.expect("pods").items;
    let pod = pods.last().expect("a pod");
    let log = api.logs(&pod.name_any(), &Default::default()).await.expect("its log");
    let containers =
        pod.status.as_ref().and_then(|status| status.container_statuses.as_ref()).expect("a status");
    let end = containers[0].state.as_ref().and_then(|state| state.terminated.as_ref()).expect("an end");
    (end.exit_code, log)
}
