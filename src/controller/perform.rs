//! Performs the tasks: every call to a registry, a git server or the API server on behalf of one image.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{FutureExt as _, TryFutureExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::sync::Semaphore;

use super::tasks::{Perform, Problem};
use super::{jobs, secrets::keyring};
use crate::api::{ANNOTATION_REBUILD, MultiArchImage, Reason};
use crate::image::{self, PlatformCheck, PublishError, ResolveError};
use crate::plan::task::{Found, Task};
use crate::registry::{Digest, Kind, Session};
use crate::{git, registry};

/// The operator's hands.
#[derive(Clone)]
pub struct Performer {
    /// The API server.
    pub cluster: kube::Client,
    /// Every registry.
    pub registry: registry::Client,
    /// Every git server.
    pub git: git::Client,
    /// What the API server last said of the images, to look once more before a tag is moved.
    pub images: Store<MultiArchImage>,
    /// Bounds the tasks that talk to registries and git servers at once.
    pub permits: Arc<Semaphore>,
}

impl Perform for Performer {
    fn perform(
        &self,
        object: &ObjectRef<MultiArchImage>,
        task: Task,
    ) -> impl Future<Output = Result<Found, Problem>> + Send + 'static {
        let performer = self.clone();
        let object = object.clone();
        async move {
            let permit =
                performer.permits.acquire().map_err(|_| Problem::lasting(Reason::Pending, "stopping"));
            let _permit = if leaves_the_cluster(&task) { Some(permit.await?) } else { None };
            performer.dispatch(&object, task).await
        }
        .boxed()
    }
}

/// Copies may take every permit for minutes; stopping an obsolete build does not wait for them.
fn leaves_the_cluster(task: &Task) -> bool {
    match task {
        Task::ResolveCommit { .. }
        | Task::ResolveImage { .. }
        | Task::InspectBuild { .. }
        | Task::CopyImage { .. }
        | Task::Publish { .. } => true,
        Task::CheckSecrets { .. }
        | Task::ReadConfigMap { .. }
        | Task::CreateJob { .. }
        | Task::MergeSecrets { .. }
        | Task::DeleteJob { .. } => false,
    }
}

impl Performer {
    async fn dispatch(&self, object: &ObjectRef<MultiArchImage>, task: Task) -> Result<Found, Problem> {
        let namespace = object.namespace.as_deref().unwrap_or_default();
        match task {
            Task::CheckSecrets { .. } => self.session(object).await.map(|_| Found::Done),
            Task::ResolveCommit { url, reference, .. } => {
                Ok(Found::Commit(self.git.resolve(&url, reference.as_deref()).await?))
            }
            Task::ReadConfigMap { name, dockerfile, .. } => {
                self.read_config_map(namespace, &name, &dockerfile).await.map(Found::Files)
            }
            Task::ResolveImage { reference, platform, .. } => {
                let session = self.session(object).await?;
                let resolved =
                    image::resolve(&session, &reference, &platform, PlatformCheck::Enforce).await?;
                Ok(Found::Image(Arc::new(resolved)))
            }
            Task::InspectBuild { repository, digest, platform } => {
                let session = self.session(object).await?;
                let reference = repository.with_digest(&digest);
                let resolved = image::resolve(&session, &reference, &platform, PlatformCheck::Enforce).await;
                let resolved = resolved.map_err(built)?;
                Ok(Found::Image(Arc::new(resolved)))
            }
            Task::CopyImage { from, to, image } => {
                let session = self.session(object).await?;
                for manifest in image.manifests() {
                    session.copy(&from, &to, manifest).await.map_err(|error| written(&error))?;
                }
                Ok(Found::Done)
            }
            Task::CreateJob { job } => {
                jobs::create(&self.cluster, namespace, *job).await?;
                Ok(Found::Done)
            }
            Task::MergeSecrets { job, uid, secrets, .. } => {
                let target = self.current(object)?.spec.target.repository.parse();
                let target = target.map_err(|error: registry::ParseReferenceError| {
                    Problem::lasting(Reason::InvalidSpec, error.to_string())
                })?;
                jobs::merge_secrets(&self.cluster, namespace, (&job, &uid), &secrets, &target).await?;
                Ok(Found::Done)
            }
            Task::DeleteJob { name, uid } => {
                jobs::delete(&self.cluster, namespace, &name, &uid).await?;
                Ok(Found::Done)
            }
            Task::Publish { generation, repository, tags, index, policy } => {
                let session = self.session(object).await?;
                // Whoever edited the spec meanwhile wants another index under these tags.
                if self.current(object)?.metadata.generation != Some(generation) {
                    return Err(Problem::transient(Reason::Publishing, "the spec was edited meanwhile"));
                }
                image::publish(&session, &repository, &index, &tags, policy).await?;
                Ok(Found::Done)
            }
        }
    }

    fn current(&self, object: &ObjectRef<MultiArchImage>) -> Result<Arc<MultiArchImage>, Problem> {
        self.images.get(object).ok_or_else(|| Problem::transient(Reason::Pending, "the image is gone"))
    }

    /// A session with the credentials as they are in the Secrets right now.
    async fn session(&self, object: &ObjectRef<MultiArchImage>) -> Result<Session, Problem> {
        let image = self.current(object)?;
        let namespace = object.namespace.as_deref().unwrap_or_default();
        let names: Vec<String> =
            image.spec.registry_secrets.iter().map(|secret| secret.name.clone()).collect();
        let keyring = keyring(&self.cluster, namespace, &names).await?;
        Ok(self.registry.session(Arc::new(keyring)))
    }

    /// The SHA-256 of every file of a ConfigMap.
    async fn read_config_map(
        &self,
        namespace: &str,
        name: &str,
        dockerfile: &str,
    ) -> Result<BTreeMap<String, String>, Problem> {
        let api: Api<ConfigMap> = Api::namespaced(self.cluster.clone(), namespace);
        let found = api.get_opt(name).await.map_err(|error| Problem::cluster(&error))?;
        let Some(config_map) = found else {
            let message = format!("configmap/{name} does not exist in namespace {namespace}; create it");
            return Err(Problem::transient(Reason::ContextNotFound, message));
        };
        let data = config_map.data.unwrap_or_default();
        let binary = config_map.binary_data.unwrap_or_default();
        let keys: Vec<&str> = data.keys().chain(binary.keys()).map(String::as_str).collect();
        if !keys.contains(&dockerfile) {
            let message = format!("configmap/{name} has no key {dockerfile:?}; it has: {}", list(&keys));
            return Err(Problem::lasting(Reason::ContextNotFound, message));
        }
        let texts = data.iter().map(|(key, value)| (key, value.as_bytes()));
        let files = texts.chain(binary.iter().map(|(key, value)| (key, value.0.as_slice())));
        Ok(files.map(|(key, content)| (key.clone(), Digest::sha256(content).hex().to_owned())).collect())
    }
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl Problem {
    /// It may pass by itself.
    pub fn transient(reason: Reason, message: impl Into<String>) -> Self {
        Problem { reason, message: message.into(), transient: true, retry_after: None }
    }

    /// Somebody has to change something.
    pub fn lasting(reason: Reason, message: impl Into<String>) -> Self {
        Problem { reason, message: message.into(), transient: false, retry_after: None }
    }

    /// The API server's own words. What it refuses as invalid or forbidden stays so until somebody acts.
    pub fn cluster(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Problem {
                reason: Reason::ClusterError,
                message: status.message.clone(),
                transient: !matches!(status.code, 400 | 403 | 404 | 409 | 422),
                retry_after: None,
            },
            other => Problem::transient(Reason::ClusterError, other.to_string()),
        }
    }
}

impl From<git::Error> for Problem {
    fn from(error: git::Error) -> Self {
        let message = error.to_string();
        match error {
            git::Error::Unavailable { .. } => Problem::transient(Reason::ContextUnavailable, message),
            git::Error::Denied { .. } => Problem::lasting(Reason::AuthenticationFailed, message),
            git::Error::NoRepository { .. } | git::Error::NoReference { .. } => {
                Problem::lasting(Reason::ContextNotFound, message)
            }
        }
    }
}

impl From<ResolveError> for Problem {
    fn from(error: ResolveError) -> Self {
        match &error {
            ResolveError::Registry(cause) => Problem::of_registry(cause, Reason::AuthenticationFailed),
            ResolveError::PlatformMismatch { .. } => {
                Problem::lasting(Reason::PlatformMismatch, error.to_string())
            }
            _ => Problem::lasting(Reason::SourceNotFound, error.to_string()),
        }
    }
}

/// What a build pushed and is not there has been lost after the build.
fn built(error: ResolveError) -> Problem {
    let problem = Problem::from(error);
    match problem.reason {
        Reason::SourceNotFound => Problem {
            reason: Reason::BuildResultLost,
            message: format!(
                "{}; change the annotation {ANNOTATION_REBUILD} to build it again",
                problem.message
            ),
            ..problem
        },
        _ => problem,
    }
}

/// A refusal while something was written.
fn written(error: &registry::Error) -> Problem {
    Problem::of_registry(error, Reason::PushDenied)
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        match &error {
            PublishError::Registry(cause) => written(cause),
            PublishError::TagExists { .. } => Problem::lasting(Reason::TagExists, error.to_string()),
        }
    }
}

impl Problem {
    fn of_registry(error: &registry::Error, denied: Reason) -> Self {
        let reason = match error.kind() {
            Kind::NotFound => Reason::SourceNotFound,
            Kind::Unauthorized => Reason::AuthenticationFailed,
            Kind::Denied | Kind::Rejected => denied,
            Kind::RateLimited => Reason::RateLimited,
            Kind::Unavailable => Reason::RegistryUnavailable,
            Kind::DigestMismatch => Reason::DigestMismatch,
            Kind::TooLarge | Kind::Malformed | Kind::Unsupported => Reason::SourceInvalid,
        };
        Problem {
            reason,
            message: error.to_string(),
            transient: error.is_transient(),
            retry_after: error.retry_after().and_then(|wait| wait.try_into().ok()),
        }
    }
}
