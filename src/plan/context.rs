//! The build context, pinned once for all platforms.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::Planner;
use super::fact::{Fact, Failure, Found};
use super::task::Task;
use crate::api::{BuildContext, MultiArchImageStatus, Reason};
use crate::build::PinnedContext;
use crate::registry::Reference;

/// What is known of the build context. By default there is none and none is needed.
#[derive(Default)]
pub(super) struct Context {
    /// `None` while it is being looked up, and where nothing is built.
    pub pinned: Option<Result<PinnedContext, Failure>>,
    /// What is being looked up, for people.
    pub looking_up: String,
    pub tasks: Vec<Task>,
    /// The Dockerfiles that looking it up has brought along.
    pub dockerfiles: BTreeMap<String, Bytes>,
    needed: bool,
}

impl Context {
    /// Whether it is known which builds are wanted.
    pub fn settled(&self) -> bool {
        !self.needed || matches!(self.pinned, Some(Ok(_)))
    }

    fn failed(planner: &Planner<'_>, reason: Reason, message: String) -> Self {
        let failure = Failure { reason, message, transient: false, retry_at: planner.now };
        Context { needed: true, pinned: Some(Err(failure)), ..Context::default() }
    }

    /// What the status says that every platform is built from.
    pub fn revision(&self) -> Option<String> {
        match self.pinned.as_ref()?.as_ref().ok()? {
            PinnedContext::Git { commit, .. } => Some(commit.clone()),
            PinnedContext::Oci { digest, .. } => Some(digest.clone()),
            _ => None,
        }
    }

    fn pinned(context: PinnedContext) -> Self {
        Context { needed: true, pinned: Some(Ok(context)), ..Context::default() }
    }
}

pub(super) fn pin(planner: &Planner<'_>, status: &MultiArchImageStatus) -> Context {
    match planner.image.spec.build_in_use() {
        Some(build) => pin_context(planner, status, &build.context, &build.dockerfile),
        None => Context::default(),
    }
}

fn pin_context(
    planner: &Planner<'_>,
    status: &MultiArchImageStatus,
    context: &BuildContext,
    dockerfile: &str,
) -> Context {
    if let Some(inline) = &context.inline {
        return Context::pinned(PinnedContext::Inline { dockerfile: inline.dockerfile.clone() });
    }
    if let Some(config_map) = &context.config_map {
        return pin_config_map(planner, &config_map.name, dockerfile);
    }
    if let Some(http) = &context.http {
        return Context::pinned(PinnedContext::Http { url: http.url.clone(), sha256: http.sha256.clone() });
    }
    if let Some(oci) = &context.oci {
        return pin_image(planner, status, &oci.image);
    }
    let Some(git) = &context.git else {
        return Context::default();
    };
    let secret = git.secret_ref.as_ref().map(|secret| secret.name.clone());
    let at = |commit: &str| PinnedContext::Git {
        url: git.url.clone(),
        commit: commit.to_owned(),
        sub_path: git.sub_path.clone(),
        secret: secret.clone(),
    };
    // A commit that this epoch has settled on stays, whatever the branch does and whoever restarts meanwhile.
    if let Some(commit) = git.commit.as_ref().or(status.source_revision.as_ref()) {
        return Context::pinned(at(commit));
    }
    let task = Task::ResolveCommit {
        epoch: planner.epoch.clone(),
        url: git.url.clone(),
        reference: git.r#ref.clone(),
        secret: secret.clone(),
    };
    let what = format!("{} at {}", git.r#ref.as_deref().unwrap_or("HEAD"), git.url);
    looked_up(planner, task, what, |found| match found {
        Found::Commit(commit) => Some(at(commit)),
        _ => None,
    })
}

fn pin_config_map(planner: &Planner<'_>, name: &str, dockerfile: &str) -> Context {
    let built = planner.image.spec.platforms.iter().filter(|entry| entry.image.is_none());
    let dockerfiles: BTreeSet<String> = built
        .map(|entry| entry.build.as_ref().and_then(|build| build.dockerfile.as_deref()).unwrap_or(dockerfile))
        .map(str::to_owned)
        .collect();
    let task = Task::ReadConfigMap { epoch: planner.epoch.clone(), name: name.to_owned(), dockerfiles };
    let texts = match planner.observed.facts.get(&task) {
        Some(Fact::Known(Found::Files { dockerfiles, .. })) => dockerfiles.clone(),
        _ => BTreeMap::new(),
    };
    let context = looked_up(planner, task, format!("configmap/{name}"), |found| match found {
        Found::Files { sums, .. } => {
            Some(PinnedContext::ConfigMap { name: name.to_owned(), files: sums.clone() })
        }
        _ => None,
    });
    Context { dockerfiles: texts, ..context }
}

/// A tag is looked up once an epoch, like a branch.
fn pin_image(planner: &Planner<'_>, status: &MultiArchImageStatus, image: &str) -> Context {
    let reference: Reference = match image.parse() {
        Ok(reference) => reference,
        Err(error) => {
            let message = format!("spec.build.context.oci.image: {image}: {error}");
            return Context::failed(planner, Reason::InvalidSpec, message);
        }
    };
    let settled = status.source_revision.as_deref().and_then(|digest| digest.parse().ok());
    let reference = settled.map_or(reference.clone(), |digest| reference.repository().with_digest(&digest));
    let task = Task::ResolveContextImage { epoch: planner.epoch.clone(), reference: reference.clone() };
    looked_up(planner, task, image.to_owned(), |found| match found {
        Found::ContextImage { digest, archive } => Some(PinnedContext::Oci {
            repository: reference.repository().to_string(),
            digest: digest.to_string(),
            archive: archive.as_ref().map(ToString::to_string),
        }),
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
    Context { needed: true, pinned, looking_up: what, tasks: vec![task], ..Context::default() }
}
