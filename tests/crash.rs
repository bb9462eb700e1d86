//! The operator is killed after each single write, to the API server and to the registry, and started again.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::ListParams;
use multiarch::registry::Digest;
use serde_json::json;
use support::images::Push;
use support::operator::{Operator, Start};
use support::proxy::{Counts, Proxy};
use support::{Rig, World, is_ready};

/// More writes than one image takes from its creation to Ready.
const MORE_THAN_ENOUGH: u64 = 100;

/// Kills the operator right after its nth write and starts another one; tells whether there was an nth write.
async fn killed_after(writes: u64, with_build: bool) -> bool {
    let world = World::new().await;
    let counts = Arc::new(Counts::default());
    let api = Proxy::of_api_server(world.rig, &counts).await;
    let registry = Proxy::of_registry(world.rig, &counts).await;
    let host = registry.address.to_string();
    let from = world.repository("from");
    let source = Push::to(&from).image("v1", "linux/s390x", "content").await;
    let target = format!("{host}/{}/web", world.namespace);
    let mut platforms = vec![json!({"platform": "linux/s390x", "image": format!("{from}:v1")})];
    if with_build {
        platforms.push(json!({"platform": "linux/amd64"}));
    }
    let dockerfile = format!("FROM {}\nRUN uname -m > /machine\n", world.rig.images["busybox"]);
    let spec = json!({
        "target": {"repository": target, "tags": ["1.0", "latest"]},
        "platforms": platforms,
        "build": {"context": {"inline": {"dockerfile": dockerfile}}},
    });

    counts.cut_after(writes);
    let start = Start::new(&world)
        .plain_http(&host)
        .kubeconfig(&api.kubeconfig(&support::root().join("target/test-logs")));
    let mut operator = start.run();
    world.apply("web", spec).await;
    let was_cut = tokio::select! {
        () = counts.until_cut() => true,
        _ = world.until("web", "ready", is_ready) => false,
    };
    operator.kill().await;
    counts.open();
    let first: Vec<String> = jobs(&world).await.iter().filter_map(|job| job.uid()).collect();
    let _operator: Operator = start.run();
    let image = world.until_ready("web").await;

    let status = image.status.expect("a status");
    assert!(status.platforms.iter().any(|entry| entry.digest.as_ref() == Some(&source.digest)));
    for tag in ["1.0", "latest"] {
        let bytes = Push::to(&target).read(tag).await.expect("the tag");
        assert_eq!(Some(Digest::sha256(&bytes).to_string()), status.digest, "after write {writes}");
    }
    let last: Vec<String> = jobs(&world).await.iter().filter_map(|job| job.uid()).collect();
    assert_eq!(last.len(), usize::from(with_build), "after write {writes}: one Job and no second");
    assert!(first.iter().all(|uid| last.contains(uid)), "after write {writes}: the Job was made again");
    let pods = world.api::<Pod>().list(&ListParams::default()).await.expect("pods").items;
    assert_eq!(pods.len(), usize::from(with_build), "after write {writes}: built once");
    was_cut
}

async fn jobs(world: &World) -> Vec<Job> {
    world.api::<Job>().list(&ListParams::default()).await.expect("Jobs").items
}

/// Every n until one at which there is no nth write any more.
async fn killed_after_every_write(with_build: bool) {
    let mut runs = futures::stream::iter(1..MORE_THAN_ENOUGH)
        .map(|writes| async move { (writes, killed_after(writes, with_build).await) })
        .buffered(3);
    while let Some((writes, was_cut)) = runs.next().await {
        if !was_cut {
            eprintln!("killed after each of {} writes", writes - 1);
            assert!(writes > 5, "only {writes} writes were seen; is the proxy in use?");
            return;
        }
    }
    panic!("one image takes {MORE_THAN_ENOUGH} writes?");
}

#[tokio::test]
async fn killed_after_any_write_a_publication_of_sources_loses_nothing() {
    killed_after_every_write(false).await;
}

#[tokio::test]
async fn killed_after_any_write_a_build_is_made_once_and_its_result_is_not_lost() {
    if !Rig::get().has_nodes("killed_after_any_write_a_build_is_made_once_and_its_result_is_not_lost") {
        return;
    }
    killed_after_every_write(true).await;
}
