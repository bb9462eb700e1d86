//! The build context, pinned once for all platforms.

use super::Planner;
use super::task::{Fact, Failure, Found, Task};
use crate::api::{BuildContext, MultiArchImageStatus};
use crate::build::PinnedContext;

/// What is known of the build context.
pub(super) struct Context {
    /// `None` while it is being looked up, and where nothing is built.
    pub pinned: Option<Result<PinnedContext, Failure>>,
    /// What is being looked up, for people.
    pub looking_up: String,
    pub tasks: Vec<Task>,
    needed: bool,
}

impl Context {
    /// Whether it is known which builds are wanted.
    pub fn settled(&self) -> bool {
        !self.needed || matches!(self.pinned, Some(Ok(_)))
    }

    fn pinned(context: PinnedContext) -> Self {
        Context { pinned: Some(Ok(context)), looking_up: String::new(), tasks: vec![], needed: true }
    }
}

pub(super) fn pin(planner: &Planner<'_>, status: &MultiArchImageStatus) -> Context {
    let builds = planner.image.spec.platforms.iter().any(|entry| entry.image.is_none());
    match &planner.image.spec.build {
        Some(build) if builds => pin_context(planner, status, &build.context, &build.dockerfile),
        _ => Context { pinned: None, looking_up: String::new(), tasks: vec![], needed: false },
    }
}

fn pin_context(
    planner: &Planner<'_>,
    status: &MultiArchImageStatus,
    context: &BuildContext,
    dockerfile: &str,
) -> Context {
    let epoch = planner.epoch.clone();
    if let Some(inline) = &context.inline {
        return Context::pinned(PinnedContext::Inline { dockerfile: inline.dockerfile.clone() });
    }
    if let Some(config_map) = &context.config_map {
        let task =
            Task::ReadConfigMap { epoch, name: config_map.name.clone(), dockerfile: dockerfile.to_owned() };
        return looked_up(planner, task, format!("configmap/{}", config_map.name), |found| match found {
            Found::Files(files) => {
                Some(PinnedContext::ConfigMap { name: config_map.name.clone(), files: files.clone() })
            }
            _ => None,
        });
    }
    let Some(git) = &context.git else {
        return Context { pinned: None, looking_up: String::new(), tasks: vec![], needed: false };
    };
    let at = |commit: &str| PinnedContext::Git {
        url: git.url.clone(),
        commit: commit.to_owned(),
        sub_path: git.sub_path.clone(),
    };
    // A commit that this epoch has settled on stays, whatever the branch does and whoever restarts meanwhile.
    if let Some(commit) = git.commit.as_ref().or(status.source_revision.as_ref()) {
        return Context::pinned(at(commit));
    }
    let task = Task::ResolveCommit { epoch, url: git.url.clone(), reference: git.r#ref.clone() };
    let what = format!("{} at {}", git.r#ref.as_deref().unwrap_or("HEAD"), git.url);
    looked_up(planner, task, what, |found| match found {
        Found::Commit(commit) => Some(at(commit)),
        _ => None,
    })
}

fn looked_up(
    planner: &Planner<'_>,
    task: Task,
    what: String,
    pinned: impl Fn(&Found) -> Option<PinnedContext>,
) -> Context {
    let pinned = match planner.observed.facts.get(&task) {
        Some(Fact::Known(found)) => pinned(found).map(Ok),
        Some(Fact::Failed(failure)) => Some(Err(failure.clone())),
        None => None,
    };
    Context { pinned, looking_up: what, tasks: vec![task], needed: true }
}
