//! The plan, with no I/O and a clock of the tests' own.

mod build_pods;
mod builds;
mod checks;
mod claims;
mod deletion;
mod drift;
mod events;
mod gates;
mod lifecycle;
mod looks;
mod nodes;
mod outcomes;
mod policy;
mod publication;
mod queue;
mod queue_laws;
mod retry;
mod scene;
mod tags;
mod tracking;
mod upgrade;

use serde_json::json;

use super::Plan;
use super::task::Task;
use scene::Scene;

fn sources() -> Scene {
    Scene::new(json!({"platforms": [
        {"platform": "linux/amd64", "image": "other.test/web:amd64"},
        {"platform": "linux/arm64", "image": "other.test/web:arm64"},
    ]}))
}

fn builds() -> Scene {
    Scene::new(json!({
        "platforms": [{"platform": "linux/amd64"}, {"platform": "linux/arm64"}],
        "build": {"context": {"git": {"url": "https://git.test/web.git", "ref": "main"}}},
    }))
}

/// Builds whose Jobs have been created.
fn building() -> Scene {
    let mut scene = builds();
    scene.run();
    scene
}

/// Both builds done and published.
fn published() -> Scene {
    let mut scene = building();
    scene.finish("linux-amd64");
    scene.finish("linux-arm64");
    scene.run();
    scene.plan();
    assert_eq!(scene.ready(), ("True", "Published"));
    scene
}

fn created(plan: &Plan) -> Vec<&str> {
    plan.tasks
        .iter()
        .filter_map(|task| match task {
            Task::CreateJob { job, .. } => job.metadata.name.as_deref(),
            _ => None,
        })
        .collect()
}

fn deleted(plan: &Plan) -> Vec<&str> {
    plan.tasks
        .iter()
        .filter_map(|task| match task {
            Task::DeleteJob { name, .. } => Some(name.as_str()),
            _ => None,
        })
        .collect()
}

fn publishes(plan: &Plan) -> bool {
    plan.tasks.iter().any(|task| matches!(task, Task::Publish { .. }))
}
