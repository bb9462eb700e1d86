//! A platform that comes from an existing image: resolve it, verify it, bring it into the target repository.

use std::sync::Arc;

use super::fact::{Fact, Failure, Found};
use super::task::Task;
use super::{Planner, Step, gates};
use crate::api::{Phase, Reason};
use crate::platform::Platform;
use crate::registry::{Digest, Reference};

pub(super) fn step(planner: &Planner<'_>, mut step: Step, platform: &Platform, image: &str) -> Step {
    let reference: Reference = match image.parse() {
        Ok(reference) => reference,
        Err(error) => return step.at(Phase::Failed, Reason::InvalidSpec, format!("{image}: {error}")),
    };
    let resolve = lookup(planner, &step, platform, &reference);
    step.tasks.push(resolve.clone());
    let resolved = match planner.observed.facts.get(&resolve) {
        Some(Fact::Known(Found::Image(resolved))) => resolved,
        Some(Fact::Failed(failure)) => return as_published(planner, step, platform, failure),
        _ => return step.at(Phase::Resolving, Reason::Resolving, format!("looking up {image}")),
    };
    if let Some(source) = &mut step.status.source {
        source.digest = Some(resolved.source.digest.to_string());
    }
    if *reference.repository() == planner.repository {
        return gates::pass(planner, step, platform, resolved);
    }
    let copy = Task::CopyImage {
        from: reference.repository().clone(),
        to: planner.repository.clone(),
        image: Arc::clone(resolved),
        look: planner.tracking.lost(&planner.repository, resolved.image.descriptor.digest.as_str()),
    };
    step.tasks.push(copy.clone());
    match planner.observed.facts.get(&copy) {
        Some(Fact::Known(_)) => gates::pass(planner, step, platform, resolved),
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

/// The look-up of a source. One that is known to be somewhere else by now is another look-up, and stays that one until it
/// moves again: a look that fails takes nothing back.
fn lookup(planner: &Planner<'_>, step: &Step, platform: &Platform, reference: &Reference) -> Task {
    let of = |moved_to| resolve(planner, platform, reference, moved_to);
    let known = || step.status.source.as_ref()?.digest.as_ref()?.parse().ok();
    let Some(wanted) = planner.tracking.source(reference).cloned().or_else(known) else { return of(None) };
    let first = of(None);
    match planner.observed.facts.get(&first) {
        Some(Fact::Known(Found::Image(resolved))) if resolved.source.digest == wanted => first,
        _ => of(Some(wanted)),
    }
}

fn resolve(
    planner: &Planner<'_>,
    platform: &Platform,
    reference: &Reference,
    moved_to: Option<Digest>,
) -> Task {
    Task::ResolveImage {
        epoch: planner.epoch.clone(),
        reference: reference.clone(),
        platform: platform.clone(),
        moved_to,
        check: gates::platform_check(planner.image.spec.verify.as_ref()),
    }
}

/// A source that cannot be looked up any more takes nothing from what was made of it: the platform's image is taken from
/// the published index. Many pipelines remove the tags of single platforms once there is an index.
fn as_published(planner: &Planner<'_>, mut step: Step, platform: &Platform, failure: &Failure) -> Step {
    let Some(published) = published_index(planner, &step) else { return step.failed(failure) };
    let resolve = resolve(planner, platform, &published, None);
    step.tasks.push(resolve.clone());
    match planner.observed.facts.get(&resolve) {
        Some(Fact::Known(Found::Image(child)))
            if step.status.digest.as_deref() == Some(child.image.descriptor.digest.as_str()) =>
        {
            let mut step = gates::pass(planner, step, platform, child);
            if step.status.phase == Phase::Ready {
                let digest = step.status.digest.clone().unwrap_or_default();
                step.status.reason = Some(failure.reason);
                step.status.message =
                    Some(format!("verified {digest}, as it was published; {}", failure.message));
            }
            step
        }
        Some(Fact::Known(_) | Fact::Failed(_)) => step.failed(failure),
        None => step.at(Phase::Resolving, Reason::Resolving, "looking up what is published".to_owned()),
    }
}

/// The index that was published last, if the platform was in it.
fn published_index(planner: &Planner<'_>, step: &Step) -> Option<Reference> {
    step.status.source.as_ref()?.digest.as_ref()?;
    step.status.digest.as_ref()?;
    let index: Digest = planner.observed.status.digest.as_ref()?.parse().ok()?;
    Some(planner.repository.with_digest(&index))
}
