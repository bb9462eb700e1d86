//! Events, as the API server has them: one for each change, however often the operator tries again.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/fault_server.rs"]
mod fault_server;
mod support;

use fault_server::{Answer, FaultServer};
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, Patch, PatchParams};
use multiarch::api::{ANNOTATION_RECONCILE, MultiArchImage, Phase};
use serde_json::json;
use support::images::Push;
use support::operator::Start;
use support::{PATIENCE, World};
use tokio::sync::watch;

/// Reason and text of every event about images in the test's namespace, the oldest first.
async fn events(world: &World) -> Vec<(String, String)> {
    let listed = world.api::<Event>().list(&ListParams::default()).await.expect("events");
    let about_images = |event: &Event| {
        event.regarding.as_ref().is_some_and(|regarding| regarding.kind.as_deref() == Some("MultiArchImage"))
    };
    let mut events: Vec<Event> = listed.items.into_iter().filter(about_images).collect();
    events.sort_by_key(|event| event.event_time.clone());
    for event in &events {
        assert!(event.series.is_none(), "told more than once: {event:?}");
        assert!(event.note.as_ref().is_some_and(|note| note.len() <= 1024), "{event:?}");
    }
    events
        .into_iter()
        .map(|event| (event.reason.unwrap_or_default(), event.note.unwrap_or_default()))
        .collect()
}

#[tokio::test]
async fn a_registry_that_is_down_for_long_is_one_event_though_the_operator_restarts_meanwhile() {
    let world = World::new().await;
    let (count, mut counted) = watch::channel(0);
    let down = FaultServer::start(move |_| {
        count.send_modify(|count| *count += 1);
        Answer::status(503).body(format!("request {} is one too many", *count.borrow()))
    })
    .await;
    let start = Start::new(&world).plain_http(&down.host);
    let mut operator = start.run();
    let platforms =
        |image: &str| {
            let names = ["linux/amd64", "linux/arm64", "linux/s390x", "linux/riscv64"];
            json!(names.map(
                |name| json!({"platform": name, "image": image.replace("ARCH", &name.replace('/', "-"))})
            ))
        };
    let spec = |image: &str| json!({"target": {"repository": world.repository("web"), "tags": ["1.0"]}, "platforms": platforms(image)});
    world.apply("web", spec(&format!("{}/team/web:ARCH", down.host))).await;
    for operators in 1..=3 {
        let (so_far, retries) = (*counted.borrow(), 40);
        let tried = counted.wait_for(|count| *count >= so_far + retries);
        tokio::time::timeout(PATIENCE, tried).await.expect("in time").expect("the server runs");
        world.until_platform("web", "linux/amd64", Phase::Waiting, "RegistryUnavailable").await;
        let told = events(&world).await;
        assert_eq!(told.len(), 1, "with the operator number {operators}: {told:?}");
        let (reason, note) = &told[0];
        assert!(reason == "RegistryUnavailable" && note.contains("503"), "{reason}: {note}");
        operator.kill().await;
        operator = start.run();
    }

    let from = world.repository("from");
    for name in ["linux/amd64", "linux/arm64", "linux/s390x", "linux/riscv64"] {
        Push::to(&from).image(&name.replace('/', "-"), name, name).await;
    }
    world.apply("web", spec(&format!("{from}:ARCH"))).await;
    world.until_ready("web").await;
    for request in ["1", "2"] {
        let patch = json!({"metadata": {"annotations": {ANNOTATION_RECONCILE: request}}});
        let images = world.api::<MultiArchImage>();
        images.patch("web", &PatchParams::default(), &Patch::Merge(patch)).await.expect("a request");
        let is_answered = |image: &MultiArchImage| {
            image.status.as_ref().is_some_and(|status| {
                status.last_handled_reconcile_at.as_deref() == Some(request)
                    && status.platforms.iter().all(|platform| platform.phase == Phase::Ready)
            })
        };
        world.until("web", "looked at again", is_answered).await;
    }
    let told: Vec<String> = events(&world).await.into_iter().map(|(reason, _)| reason).collect();
    let count = |reason: &str| told.iter().filter(|told| *told == reason).count();
    assert_eq!((count("RegistryUnavailable"), count("Verified"), count("Published")), (1, 4, 1), "{told:?}");
    assert_eq!(told.len(), 6, "{told:?}");
}
