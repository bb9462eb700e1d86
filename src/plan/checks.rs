//! What is checked before a Job is made: the build's secrets, and the base images of its Dockerfile.

use std::collections::BTreeMap;

use super::Planner;
use super::context::Context;
use super::fact::{Fact, Failure, Found};
use super::task::{SecretKeys, Task};
use crate::api::{Enforcement, Reason};
use crate::build::{BuildRequest, PinnedContext};
use crate::dockerfile::{self, BaseImage, BuildParameters};
use crate::registry::Reference;

/// What came of the checks so far.
pub(super) enum Checked {
    /// Nothing stands in the way; what is worth saying all the same.
    Passed(Option<Failure>),
    /// Something is being looked at; what.
    Looking(String),
    /// The build cannot work.
    Failed(Failure),
}

/// The checks of a build, and the tasks that they need.
pub(super) fn check(
    planner: &Planner<'_>,
    request: &BuildRequest<'_>,
    context: &Context,
) -> (Vec<Task>, Checked) {
    let mut tasks = Vec::new();
    let secrets = check_secrets(planner, request, &mut tasks);
    let images = match planner.enforcement() {
        Enforcement::Off => Checked::Passed(None),
        enforcement => match (check_base_images(planner, request, context, &mut tasks), enforcement) {
            (Checked::Failed(failure), Enforcement::Warn) if failure.reason != Reason::HostDenied => {
                Checked::Passed(Some(failure))
            }
            (checked, _) => checked,
        },
    };
    match secrets {
        Checked::Passed(_) => (tasks, images),
        checked => (tasks, checked),
    }
}

fn check_secrets(planner: &Planner<'_>, request: &BuildRequest<'_>, tasks: &mut Vec<Task>) -> Checked {
    let wanted = secret_keys(request);
    if wanted.is_empty() {
        return Checked::Passed(None);
    }
    let task = Task::CheckBuildSecrets { epoch: planner.epoch.clone(), wanted };
    let fact = planner.observed.facts.get(&task);
    tasks.push(task);
    match fact {
        Some(Fact::Known(_)) => Checked::Passed(None),
        Some(Fact::Failed(failure)) => Checked::Failed(failure.clone()),
        None => Checked::Looking("the build's secrets".to_owned()),
    }
}

/// Every Secret that the pod mounts: one that is missing would keep it from starting, without a word in its status.
fn secret_keys(request: &BuildRequest<'_>) -> Vec<SecretKeys> {
    let build = request.build;
    let of = |name: &str, keys: &[&[&str]]| SecretKeys {
        name: name.to_owned(),
        keys: keys.iter().map(|names| names.iter().map(|name| (*name).to_owned()).collect()).collect(),
    };
    let mut wanted: Vec<SecretKeys> = build
        .secrets
        .iter()
        .map(|secret| of(&secret.secret_ref.name, &[&[secret.secret_ref.key.as_str()]]))
        .collect();
    wanted.extend(build.ssh.iter().map(|ssh| of(&ssh.secret_ref.name, &[&["identity", "ssh-privatekey"]])));
    let tls = build.remote.iter().filter_map(|remote| remote.tls.as_ref());
    wanted.extend(tls.map(|tls| of(&tls.secret_ref.name, &[&["ca.crt"], &["tls.crt"], &["tls.key"]])));
    if let PinnedContext::Git { secret: Some(secret), .. } = request.context {
        wanted.push(of(secret, &[]));
    }
    wanted
}

fn check_base_images(
    planner: &Planner<'_>,
    request: &BuildRequest<'_>,
    context: &Context,
    tasks: &mut Vec<Task>,
) -> Checked {
    let text = match read_dockerfile(planner, request, context, tasks) {
        Dockerfile::Text(text) => text,
        Dockerfile::Unknown => return Checked::Passed(None),
        Dockerfile::Looking(what) => return Checked::Looking(what),
    };
    let images = match base_images(request, &text) {
        Ok(images) if images.is_empty() => return Checked::Passed(None),
        Ok(images) => images,
        Err(error) => {
            let (reason, message) = (Reason::BuildFailed, error.to_string());
            return Checked::Failed(Failure { reason, message, transient: false, retry_at: planner.now });
        }
    };
    if let Some(message) = images.iter().find_map(|image| denied(planner, image)) {
        let reason = Reason::HostDenied;
        return Checked::Failed(Failure { reason, message, transient: false, retry_at: planner.now });
    }
    let task = Task::CheckBaseImages { epoch: planner.epoch.clone(), images };
    let fact = planner.observed.facts.get(&task);
    tasks.push(task);
    match fact {
        Some(Fact::Known(_)) => Checked::Passed(None),
        Some(Fact::Failed(failure)) => Checked::Failed(failure.clone()),
        None => Checked::Looking(format!("the base images for {}", request.platform)),
    }
}

/// What the operator's rules say of the registry of a base image.
fn denied(planner: &Planner<'_>, image: &BaseImage) -> Option<String> {
    let reference: Reference = image.reference.parse().ok()?;
    let denied = planner.access.check_rules_of(reference.repository()).err()?;
    Some(format!("Dockerfile line {}: {}: {denied}", image.line, image.reference))
}

enum Dockerfile {
    Text(Vec<u8>),
    /// It cannot be read from here; the builder will tell.
    Unknown,
    Looking(String),
}

fn read_dockerfile(
    planner: &Planner<'_>,
    request: &BuildRequest<'_>,
    context: &Context,
    tasks: &mut Vec<Task>,
) -> Dockerfile {
    let name = &request.build.dockerfile;
    match request.context {
        PinnedContext::Inline { dockerfile } => Dockerfile::Text(dockerfile.clone().into_bytes()),
        PinnedContext::ConfigMap { .. } => match context.dockerfiles.get(name) {
            Some(text) => Dockerfile::Text(text.to_vec()),
            None => Dockerfile::Unknown,
        },
        PinnedContext::Git { url, commit, sub_path, secret } => {
            let path = sub_path
                .as_ref()
                .map_or(name.clone(), |folder| format!("{}/{name}", folder.trim_end_matches('/')));
            let task =
                Task::ReadFile { url: url.clone(), commit: commit.clone(), path, secret: secret.clone() };
            let fact = planner.observed.facts.get(&task);
            let looking = format!("{name} at {commit}");
            tasks.push(task);
            match fact {
                Some(Fact::Known(Found::File(Some(text)))) => Dockerfile::Text(text.to_vec()),
                Some(_) => Dockerfile::Unknown,
                None => Dockerfile::Looking(looking),
            }
        }
        PinnedContext::Http { .. } | PinnedContext::Oci { .. } => Dockerfile::Unknown,
    }
}

fn base_images(
    request: &BuildRequest<'_>,
    text: &[u8],
) -> Result<Vec<BaseImage>, dockerfile::DockerfileError> {
    let build = request.build;
    let arguments: BTreeMap<String, String> =
        build.args.iter().map(|(name, value)| (name.clone(), value.0.clone())).collect();
    let contexts: BTreeMap<String, String> =
        build.contexts.iter().map(|(name, address)| (name.clone(), address.0.clone())).collect();
    // Only a builder on a node of the platform is known to run on it.
    let native = !request.emulated && build.remote.is_none();
    dockerfile::base_images(
        text,
        &BuildParameters {
            arguments: &arguments,
            target: build.target.as_deref(),
            target_platform: request.platform,
            build_platform: native.then_some(request.platform),
            contexts: &contexts,
        },
    )
}
