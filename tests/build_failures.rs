//! Builds that go wrong on the real nodes of the rig: killed, evicted, out of memory or disk, hanging, or for lack of
//! what they need. Each says why, and is tried again where that helps.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::PathBuf;

use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, EvictParams, ObjectMeta, Patch, PatchParams, PostParams};
use multiarch::api::{MultiArchImage, Phase, PlatformStatus};
use serde_json::json;
use support::builds::{inline, jobs_ever_created, open_gate, until_gate_opens, until_gone};
use support::nodes::needs_nodes;
use support::operator::Operator;
use support::{PATIENCE, World, entry, has_condition, message};

const PLATFORM: &str = "linux/amd64";

async fn failed(world: &World, name: &str, reason: &str) -> (String, PlatformStatus) {
    let failed = world.until_platform(name, PLATFORM, Phase::Failed, reason).await;
    (failed.message.clone().expect("a message"), failed)
}

/// The processes of this machine with these words in their command line, the nodes' included.
fn processes_with(words: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir("/proc").expect("the processes").flatten().map(|entry| entry.path());
    all.filter(|process| {
        std::fs::read(process.join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).replace('\0', " ").contains(words))
    })
    .collect()
}

async fn until_no_process_has(words: &str) {
    let gone = async {
        while !processes_with(words).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("nothing of the build is left on the node");
}

#[tokio::test]
async fn a_build_whose_pod_is_deleted_is_attempted_again() {
    needs_nodes!("a_build_whose_pod_is_deleted_is_attempted_again");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let mut spec = inline(&world, "web", &[PLATFORM], &until_gate_opens(&world));
    spec["build"]["retries"] = json!(1);
    world.apply("web", spec).await;
    let first = world.until_platform("web", PLATFORM, Phase::Building, "Building").await;
    let pod = first.pod.clone().expect("a pod");
    world.api::<Pod>().delete(&pod, &DeleteParams::default()).await.expect("deleted");
    let second = world
        .until("web", "building in another pod", |image| {
            entry_of(image).is_some_and(|entry| {
                entry.phase == Phase::Building && entry.pod != first.pod && entry.attempts == Some(2)
            })
        })
        .await;
    assert_eq!(entry_of(&second).and_then(|entry| entry.job.as_ref()), first.job.as_ref());
    open_gate(&world).await;
    world.until_ready("web").await;
    assert_eq!(jobs_ever_created(&world), 1);
}

#[tokio::test]
async fn an_evicted_build_says_so_and_is_built_again_though_nothing_may_be_retried() {
    needs_nodes!("an_evicted_build_says_so_and_is_built_again_though_nothing_may_be_retried");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let mut spec = inline(&world, "web", &[PLATFORM], &until_gate_opens(&world));
    spec["build"]["retries"] = json!(0);
    world.apply("web", spec).await;
    let first = world.until_platform("web", PLATFORM, Phase::Building, "Building").await;
    let pod = first.pod.expect("a pod");
    let pods = world.api::<Pod>();
    let eviction = EvictParams::default();
    let (evicted, told) = tokio::join!(
        pods.evict(&pod, &eviction),
        world.until_platform("web", PLATFORM, Phase::Waiting, "BuildEvicted")
    );
    evicted.expect("evicted");
    let told = told.message.expect("a message");
    // Whichever is seen first: that the pod is being taken away, or that it went.
    assert!(told.contains("Eviction API: evicting"), "{told}");
    open_gate(&world).await;
    world.until_ready("web").await;
    assert_eq!(jobs_ever_created(&world), 1);
}

#[tokio::test]
async fn a_step_that_takes_more_memory_than_the_limit_is_told_with_the_limit() {
    needs_nodes!("a_step_that_takes_more_memory_than_the_limit_is_told_with_the_limit");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let mut spec = inline(&world, "web", &[PLATFORM], "RUN tail /dev/zero");
    spec["build"]["pod"] = json!({"resources": {"limits": {"memory": "200Mi"}}});
    world.apply("web", spec).await;
    let (said, entry) = failed(&world, "web", "BuildOutOfMemory").await;
    assert!(said.contains("killed for want of memory"), "{said}");
    assert!(said.contains("spec.build.pod.resources.limits.memory, which is 200Mi"), "{said}");
    assert_eq!(entry.attempts, Some(1), "more memory is what it needs, not another attempt");
}

#[tokio::test]
async fn a_build_that_takes_more_disk_than_the_limit_is_told_with_the_kubelets_words() {
    needs_nodes!("a_build_that_takes_more_disk_than_the_limit_is_told_with_the_kubelets_words");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let mut spec =
        inline(&world, "web", &[PLATFORM], "RUN dd if=/dev/zero of=/large bs=1M count=300 && sleep 600");
    spec["build"]["retries"] = json!(0);
    spec["build"]["pod"] = json!({"resources": {"limits": {"ephemeral-storage": "100Mi"}}});
    world.apply("web", spec).await;
    let (said, _) = failed(&world, "web", "BuildEvicted").await;
    assert!(said.contains("exceeds the total limit of containers 100Mi"), "{said}");
}

#[tokio::test]
async fn what_a_step_leaves_running_ends_with_the_build() {
    needs_nodes!("what_a_step_leaves_running_ends_with_the_build");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let left = format!("sleep 77{}", world.namespace.trim_start_matches('t').replace('-', ""));
    // What runs in the background while its step does is left alone.
    let commands = format!(
        "RUN (setsid sh -c 'sleep 2; touch /done' >/dev/null 2>&1 &); sleep 3; test -f /done\n\
         RUN {left} & (trap '' TERM HUP INT; {left}) & setsid {left} </dev/null >/dev/null 2>&1 &\n\
         USER nobody\n\
         RUN {left} &\n"
    );
    world.apply("web", inline(&world, "web", &[PLATFORM], &commands)).await;
    world.until_ready("web").await;
    until_no_process_has(&left).await;
}

#[tokio::test]
async fn a_step_that_hangs_and_ignores_signals_ends_when_the_time_is_over() {
    needs_nodes!("a_step_that_hangs_and_ignores_signals_ends_when_the_time_is_over");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let left = format!("sleep 88{}", world.namespace.trim_start_matches('t').replace('-', ""));
    let commands = format!("RUN trap '' TERM HUP INT; {left} & while true; do {left}; done");
    let mut spec = inline(&world, "web", &[PLATFORM], &commands);
    spec["build"]["timeout"] = json!("5s");
    world.apply("web", spec).await;
    let (said, entry) = failed(&world, "web", "BuildTimeout").await;
    assert!(said.contains("did not end within 5 s"), "{said}");
    assert_eq!(entry.attempts, Some(1));
    until_no_process_has(&left).await;
}

#[tokio::test]
async fn base_images_are_looked_for_before_a_pod_is_made() {
    needs_nodes!("base_images_are_looked_for_before_a_pod_is_made");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let base = &world.rig.images["busybox"];
    world.apply("platform", inline(&world, "platform", &["linux/ppc64le"], "RUN true")).await;
    let entry =
        world.until_platform("platform", "linux/ppc64le", Phase::Failed, "BaseImagePlatformMissing").await;
    let said = entry.message.expect("a message");
    let has = format!(
        "Dockerfile line 1: {base} has no image for linux/ppc64le; it has linux/amd64, linux/arm64, linux/s390x;"
    );
    assert!(said.starts_with(&has), "{said}");

    let missing = format!("{}/no/base:1", world.rig.registry);
    let mut spec = inline(&world, "missing", &[PLATFORM], "RUN true");
    spec["build"]["context"]["inline"]["dockerfile"] = json!(format!("# nothing\nFROM {missing}\n"));
    world.apply("missing", spec.clone()).await;
    let (said, _) = failed(&world, "missing", "BaseImageNotFound").await;
    assert!(said.starts_with(&format!("Dockerfile line 2: there is no image {missing}; ")), "{said}");
    assert_eq!(jobs_ever_created(&world), 0);

    // Without the check the builder tells the same.
    spec["verify"] = json!({"baseImages": "Off"});
    world.apply("missing", spec).await;
    let told_by_pod = |image: &MultiArchImage| {
        entry_of(image).is_some_and(|entry| entry.phase == Phase::Failed && entry.pod.is_some())
    };
    let image = world.until("missing", "tried all the same", told_by_pod).await;
    let entry = entry_of(&image).expect("its entry");
    assert_eq!(entry.reason.map(|reason| reason.as_str()), Some("BaseImageNotFound"));
    assert_eq!(entry.attempts, Some(1));
    assert!(entry.message.as_deref().is_some_and(|said| said.contains(&missing)), "{:?}", entry.message);
}

fn entry_of(image: &MultiArchImage) -> Option<&PlatformStatus> {
    entry(image, PLATFORM)
}

#[tokio::test]
async fn a_build_waits_for_its_secret_and_goes_on_when_it_is_there() {
    needs_nodes!("a_build_waits_for_its_secret_and_goes_on_when_it_is_there");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let commands = "RUN --mount=type=secret,id=token test \"$(cat /run/secrets/token)\" = open-sesame";
    let mut spec = inline(&world, "web", &[PLATFORM], commands);
    spec["build"]["secrets"] = json!([{"id": "token", "secretRef": {"name": "tokens", "key": "build"}}]);
    world.apply("web", spec).await;
    let waiting = world.until_platform("web", PLATFORM, Phase::Waiting, "SecretNotFound").await;
    let said = waiting.message.expect("a message");
    assert!(said.contains("secret/tokens"), "{said}");
    assert_eq!(jobs_ever_created(&world), 0);
    let secret = Secret {
        metadata: ObjectMeta { name: Some("tokens".to_owned()), ..ObjectMeta::default() },
        data: Some([("build".to_owned(), ByteString(b"open-sesame".to_vec()))].into()),
        ..Secret::default()
    };
    world.api::<Secret>().create(&PostParams::default(), &secret).await.expect("a Secret");
    world.until_ready("web").await;
}

#[tokio::test]
async fn a_step_that_fails_is_told_with_its_line() {
    needs_nodes!("a_step_that_fails_is_told_with_its_line");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let commands = "# a comment\nRUN echo first && \\\n    echo 'error: not this' && exit 3";
    world.apply("web", inline(&world, "web", &[PLATFORM], commands)).await;
    let (said, _) = failed(&world, "web", "BuildFailed").await;
    let place = "Dockerfile:3: RUN echo first && \\: did not complete successfully: exit code: 3 (job/web-linux-amd64-";
    assert!(said.starts_with(place), "{said}");
    let image = world.until("web", "stalled", |image| has_condition(image, "Stalled", "True")).await;
    assert!(message(&image, "Ready").starts_with("linux/amd64: BuildFailed: Dockerfile:3: RUN "));
}

#[tokio::test]
async fn a_job_goes_when_its_result_is_recorded_and_is_made_again_only_on_request() {
    needs_nodes!("a_job_goes_when_its_result_is_recorded_and_is_made_again_only_on_request");
    let world = World::new().await;
    let mut operator = Operator::start(&world);
    let mut spec = inline(&world, "web", &[PLATFORM], "RUN date > /date");
    spec["build"]["ttlAfterFinished"] = json!("1s");
    world.apply("web", spec.clone()).await;
    let first = world.until_ready("web").await;
    let job = entry_of(&first).and_then(|entry| entry.job.clone()).expect("a Job");
    until_gone(world.api::<Job>(), &job).await;

    // The same again, an edit that builds nothing, and a restart.
    world.apply("web", spec.clone()).await;
    spec["target"]["tags"] = json!(["1.0", "latest"]);
    world.apply("web", spec).await;
    world.until_ready("web").await;
    operator.kill().await;
    let _operator = Operator::start(&world);
    let images = world.api::<MultiArchImage>();
    let request = |name: &str| json!({"metadata": {"annotations": {format!("multiarch.dev/{name}"): "now"}}});
    let reconcile = Patch::Merge(request("reconcile-requested-at"));
    images.patch("web", &PatchParams::default(), &reconcile).await.expect("a request");
    let image = world
        .until("web", "looked at by the second operator", |image| {
            let status = image.status.as_ref();
            has_condition(image, "Ready", "True")
                && status.is_some_and(|status| status.last_handled_reconcile_at.is_some())
        })
        .await;
    assert_eq!(jobs_ever_created(&world), 1);
    let digest = |image: &MultiArchImage| entry_of(image).and_then(|entry| entry.digest.clone());
    assert_eq!(digest(&image), digest(&first));

    let rebuild = Patch::Merge(request("rebuild-requested-at"));
    images.patch("web", &PatchParams::default(), &rebuild).await.expect("a request");
    let image = world
        .until("web", "built again", |image| {
            has_condition(image, "Ready", "True") && digest(image) != digest(&first)
        })
        .await;
    assert_ne!(entry_of(&image).and_then(|entry| entry.job.clone()), Some(job));
    assert_eq!(jobs_ever_created(&world), 2);
}
