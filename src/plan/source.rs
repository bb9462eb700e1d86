//! A platform that comes from an existing image: resolve it, verify it, bring it into the target repository.

use std::sync::Arc;

use super::task::{Fact, Found, Task};
use super::{Planner, Step};
use crate::api::{Phase, Reason};
use crate::platform::Platform;
use crate::registry::Reference;

pub(super) fn step(planner: &Planner<'_>, mut step: Step, platform: &Platform, image: &str) -> Step {
    let reference: Reference = match image.parse() {
        Ok(reference) => reference,
        Err(error) => return step.at(Phase::Failed, Reason::InvalidSpec, format!("{image}: {error}")),
    };
    let resolve = Task::ResolveImage {
        epoch: planner.epoch.clone(),
        reference: reference.clone(),
        platform: platform.clone(),
    };
    step.tasks.push(resolve.clone());
    let resolved = match planner.observed.facts.get(&resolve) {
        Some(Fact::Known(Found::Image(resolved))) => resolved,
        Some(Fact::Failed(failure)) => return step.failed(failure),
        _ => return step.at(Phase::Resolving, Reason::Resolving, format!("looking up {image}")),
    };
    if let Some(source) = &mut step.status.source {
        source.digest = Some(resolved.source.digest.to_string());
    }
    if *reference.repository() == planner.repository {
        return step.ready(Arc::clone(resolved));
    }
    let copy = Task::CopyImage {
        from: reference.repository().clone(),
        to: planner.repository.clone(),
        image: Arc::clone(resolved),
    };
    step.tasks.push(copy.clone());
    match planner.observed.facts.get(&copy) {
        Some(Fact::Known(_)) => step.ready(Arc::clone(resolved)),
        Some(Fact::Failed(failure)) => step.failed(failure),
        None => {
            let message = format!(
                "copying {}@{} to {}",
                reference.repository(),
                resolved.image.descriptor.digest,
                planner.repository
            );
            step.at(Phase::Verifying, Reason::Copying, message)
        }
    }
}
