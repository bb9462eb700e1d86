//! What the operator's policies deny.

use std::sync::Arc;

use serde_json::json;

use super::scene::{REPOSITORY, Scene};
use super::{building, created, deleted, published, sources};
use crate::api::{Phase, Reason};
use crate::network::{HostPolicy, HostRule};
use crate::plan::notes;
use crate::policy::{Policies, PublishRule};

fn only(repository: &str) -> Policies {
    let rule = PublishRule {
        namespaces: vec!["team-a".to_owned()],
        repositories: vec![repository.parse().expect("a prefix")],
    };
    Policies { publish: Some(vec![rule]), ..Policies::default() }
}

#[test]
fn what_is_denied_is_not_even_looked_up() {
    let mut scene = sources();
    scene.policies = only("registry.test/team-b");
    let plan = scene.plan();
    assert!(plan.tasks.is_empty() && plan.wake_after.is_none(), "{plan:?}");
    assert_eq!(scene.ready(), ("False", "PolicyDenied"));
    assert!(scene.has("Stalled") && !scene.has("Reconciling"));
    assert!(scene.message().contains(REPOSITORY) && scene.message().contains("registry.test/team-b"));
    assert!(scene.observed.status.platforms.is_empty());
    let before = scene.observed.status.clone();
    assert_eq!(scene.plan().status, before, "and it is said once");
}

#[test]
fn what_is_allowed_is_published() {
    let mut scene = sources();
    scene.policies = only("registry.test/team-a");
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
}

#[test]
fn a_build_that_new_policies_deny_is_stopped() {
    let mut scene = building();
    let jobs = [scene.job_name("linux-amd64"), scene.job_name("linux-arm64")];
    scene.policies = only("registry.test/team-b");
    let plan = scene.plan();
    assert_eq!(deleted(&plan), jobs);
    assert!(plan.tasks.len() == 2 && scene.has("Stalled"));
}

#[test]
fn what_is_published_already_is_denied_as_well_and_told_in_one_event() {
    let mut scene = published();
    scene.policies = only("registry.test/team-b");
    let before = scene.observed.status.clone();
    let plan = scene.plan();
    assert!(plan.tasks.is_empty(), "{:?}", plan.tasks);
    assert_eq!(scene.ready(), ("False", "PolicyDenied"));
    assert_eq!(scene.platform("linux/amd64").phase, Phase::Ready);
    let told = notes(&before, &scene.observed.status);
    assert!(told.len() == 1 && told[0].warning && told[0].reason == "PolicyDenied", "{told:?}");
    scene.policies = only("registry.test");
    scene.run();
    assert_eq!(scene.ready(), ("True", "Published"));
}

#[test]
fn what_is_suspended_writes_nothing_and_is_not_denied() {
    let mut scene = sources();
    scene.policies = only("registry.test/team-b");
    scene.edit(|image| image.spec.suspend = true);
    assert!(scene.plan().tasks.is_empty());
    assert_eq!(scene.ready().1, "Suspended");
}

fn without(host: &str) -> Policies {
    let deny = vec![host.parse().expect("a selector")];
    let rule = HostRule { namespaces: vec!["team-?".to_owned()], allow: vec![], deny };
    let hosts = HostPolicy { rules: vec![rule], ..HostPolicy::default() };
    Policies { hosts: Arc::new(hosts), ..Policies::default() }
}

#[test]
fn a_host_that_is_denied_is_not_even_asked() {
    for (mut scene, host, field) in [
        (sources(), "other.test", "spec.platforms[0].image"),
        (sources(), "registry.test:443", "spec.target.repository"),
        (building(), "git.test", "spec.build.context.git.url"),
    ] {
        let running = scene.observed.jobs.len();
        scene.policies = without(host);
        let plan = scene.plan();
        assert_eq!(plan.tasks.len(), running, "what runs is stopped: {:?}", plan.tasks);
        assert_eq!(deleted(&plan).len(), running);
        assert!(plan.wake_after.is_none(), "only an edit or other policies change it");
        assert_eq!(scene.ready(), ("False", "HostDenied"));
        assert!(scene.has("Stalled") && scene.message().starts_with(field), "{}", scene.message());
        scene.policies = without("elsewhere.test");
        scene.run();
        assert!(scene.ready().1 != "HostDenied");
    }
}

#[test]
fn an_address_of_metadata_is_not_even_asked() {
    let mut scene = Scene::new(json!({"platforms": [
        {"platform": "linux/amd64", "image": "[::ffff:169.254.169.254]/latest:1"},
    ]}));
    assert!(scene.plan().tasks.is_empty());
    assert_eq!(scene.ready(), ("False", "HostDenied"));
}

#[test]
fn a_base_image_from_a_host_that_is_denied_is_not_built_upon_even_where_it_is_only_to_be_warned_of() {
    for verify in ["Enforce", "Warn"] {
        let mut scene = Scene::new(json!({
            "platforms": [{"platform": "linux/amd64"}],
            "build": {"context": {"inline": {"dockerfile": "FROM base.test/os\nRUN true"}}},
            "verify": {"baseImages": verify},
        }));
        scene.policies = without("base.test");
        scene.run();
        assert!(created(&scene.plan()).is_empty());
        let platform = scene.platform("linux/amd64");
        assert_eq!((platform.phase, platform.reason), (Phase::Failed, Some(Reason::HostDenied)));
        assert!(
            platform
                .message
                .as_ref()
                .is_some_and(|told| told.starts_with("Dockerfile line 1: base.test/os: "))
        );
    }
}
