//! Performs the tasks: every call to a registry, a git server or the API server on behalf of one image.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::Api;
use kube::runtime::reflector::{ObjectRef, Store};

use super::budget::{Budget, Budgets};
use super::objects;
use super::secrets::{self, keyring};
use super::tasks::{Perform, Problem};
use crate::api::{ANNOTATION_REBUILD, MultiArchImage, Reason};
use crate::dockerfile::BaseImage;
use crate::image::{
    self, AssembledIndex, BaseImageError, ContextImageError, ProgramFinding, PublishError, ResolveError,
    ResolvedImage,
};
use crate::network::HostPolicy;
use crate::plan::Conflict;
use crate::plan::claims::Claims;
use crate::plan::fact::Found;
use crate::plan::task::Task;
use crate::registry::{Digest, Kind, Repository, Session};
use crate::{git, registry};

/// A build does not wait longer for what its builder reads anyway.
const READ_FILE_PATIENCE: Duration = Duration::from_secs(60);

/// Enough for the largest layers from a registry that is slow, and not on purpose.
const INSPECTION_PATIENCE: Duration = Duration::from_mins(15);

/// The operator's hands.
#[derive(Clone)]
pub struct Performer {
    /// The API server.
    pub cluster: kube::Client,
    /// Every registry.
    pub registry: registry::Client,
    /// Every git server.
    pub git: git::Client,
    /// Which of them namespaces may lead the operator to.
    pub hosts: Arc<HostPolicy>,
    /// What the API server last said of the images, to look once more before a tag is moved.
    pub images: Store<MultiArchImage>,
    /// Who publishes under which tag.
    pub claims: Arc<Mutex<Claims>>,
    /// What may be under way at registries and git servers at once.
    pub budgets: Arc<Budgets>,
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
            let namespace = object.namespace.as_deref().unwrap_or_default();
            let permit = match budget(&performer.budgets, &task) {
                Some(budget) => Some(budget.acquire(namespace).await),
                None => None,
            };
            let _permit = permit.transpose().map_err(|_| Problem::lasting(Reason::Pending, "stopping"))?;
            performer.dispatch(&object, task).await
        }
        .boxed()
    }
}

/// What a task takes its place from: what only asks the API server, as to stop an obsolete build, waits for nobody.
fn budget<'a>(budgets: &'a Budgets, task: &Task) -> Option<&'a Budget> {
    match task {
        Task::ResolveCommit { .. }
        | Task::ResolveContextImage { .. }
        | Task::ResolveImage { .. }
        | Task::CheckBaseImages { .. }
        | Task::InspectBuild { .. }
        | Task::Publish { .. }
        | Task::PutBack { .. }
        | Task::Check { .. } => Some(&budgets.requests),
        Task::CopyImage { .. } => Some(&budgets.copies),
        Task::InspectProgram { .. } => Some(&budgets.unpacking),
        Task::CheckSecrets { .. }
        | Task::ReadConfigMap { .. }
        // The git client limits itself, and a server that is slow there must keep nobody else waiting.
        | Task::ReadFile { .. }
        | Task::CheckBuildSecrets { .. }
        | Task::CreateJob { .. }
        | Task::AwaitTurn { .. }
        | Task::MergeSecrets { .. }
        | Task::FindPods { .. }
        | Task::DeleteJob { .. }
        | Task::SetFinalizer { .. }
        // Few requests, which keep a resource from going.
        | Task::DeleteTags { .. }
        | Task::CreatePod { .. }
        | Task::DeletePod { .. } => None,
    }
}

/// What an inspection has found out, if it ends in time: whoever serves layers slowly must not keep a place for ever.
async fn in_time(
    patience: Duration,
    inspection: impl Future<Output = Result<ProgramFinding, registry::Error>>,
) -> Result<ProgramFinding, registry::Error> {
    let minutes = patience.as_secs() / 60;
    tokio::time::timeout(patience, inspection).await.unwrap_or_else(|_| {
        let why = format!("the registry has not delivered its layers within {minutes} min");
        Ok(ProgramFinding::Unknown { why })
    })
}

impl Performer {
    async fn dispatch(&self, object: &ObjectRef<MultiArchImage>, task: Task) -> Result<Found, Problem> {
        let namespace = object.namespace.as_deref().unwrap_or_default();
        match task {
            Task::CheckSecrets { .. } => self.session(object).await.map(|_| Found::Done),
            Task::ResolveCommit { url, reference, secret, .. } => {
                let credentials = secrets::git(&self.cluster, namespace, secret.as_deref()).await?;
                let commit =
                    self.git(namespace).resolve(&url, reference.as_deref(), credentials.as_ref()).await?;
                Ok(Found::Commit(commit))
            }
            Task::ResolveContextImage { reference, .. } => {
                let session = self.session(object).await?;
                let found = image::context_image(&session, &reference).await?;
                Ok(Found::ContextImage { digest: found.digest, archive: found.archive })
            }
            Task::ReadConfigMap { name, dockerfiles, .. } => {
                self.read_config_map(namespace, &name, &dockerfiles).await
            }
            Task::ReadFile { url, commit, path, secret } => {
                let credentials = secrets::git(&self.cluster, namespace, secret.as_deref()).await?;
                let git = self.git(namespace);
                let file = git.read_file(&url, &commit, &path, credentials.as_ref());
                match tokio::time::timeout(READ_FILE_PATIENCE, file).await {
                    Ok(file) => Ok(Found::File(file?)),
                    Err(_) => Ok(Found::File(None)),
                }
            }
            Task::CheckBuildSecrets { wanted, .. } => {
                secrets::check(&self.cluster, namespace, &wanted).await.map(|()| Found::Done)
            }
            Task::CheckBaseImages { images, .. } => self.check_base_images(object, &images).await,
            Task::ResolveImage { reference, platform, check, .. } => {
                let session = self.session(object).await?;
                let resolved = image::resolve(&session, &reference, &platform, check).await?;
                Ok(Found::Image(Arc::new(resolved)))
            }
            Task::InspectBuild { repository, digest, platform, check, .. } => {
                let session = self.session(object).await?;
                let reference = repository.with_digest(&digest);
                let resolved = image::resolve(&session, &reference, &platform, check).await;
                let resolved = resolved.map_err(built)?;
                Ok(Found::Image(Arc::new(resolved)))
            }
            Task::CopyImage { from, to, image, .. } => {
                let session = self.session(object).await?;
                image::copy_image(&session, &from, &to, &image).await.map_err(|error| written(&error))?;
                Ok(Found::Done)
            }
            Task::CreateJob { job, claim } => {
                if let Some(claim) = claim {
                    objects::create(&self.cluster, namespace, *claim).await?;
                }
                objects::create(&self.cluster, namespace, *job).await?;
                Ok(Found::Done)
            }
            Task::AwaitTurn { job, .. } => {
                Err(Problem::transient(Reason::Queued, format!("job/{job} waits for its turn")))
            }
            Task::MergeSecrets { job, uid, secrets, .. } => {
                let target = self.current(object)?.spec.target.repository.parse();
                let target = target.map_err(|error: registry::ParseReferenceError| {
                    Problem::lasting(Reason::InvalidSpec, error.to_string())
                })?;
                secrets::merge(&self.cluster, namespace, (&job, &uid), &secrets, &target).await?;
                Ok(Found::Done)
            }
            Task::FindPods { uid } => {
                let pods = objects::pods_of(&self.cluster, namespace, (&object.name, &uid)).await?;
                Ok(Found::Pods(pods))
            }
            Task::DeleteJob { name, uid } => {
                objects::delete::<Job>(&self.cluster, namespace, (&name, &uid), false).await?;
                Ok(Found::Done)
            }
            Task::Publish { generation, repository, tags, index, platform_tags, policy, .. } => {
                let session = self.session(object).await?;
                self.check_still_wanted(object, generation)?;
                let images = by_image(&platform_tags);
                image::publish_with_images(&session, &repository, &index, &tags, &images, policy).await?;
                Ok(Found::Done)
            }
            Task::PutBack { generation, repository, tags, .. } => {
                let session = self.session(object).await?.without_mirrors();
                self.check_still_wanted(object, generation)?;
                put_back(&session, &repository, &tags).await.map_err(|error| written(&error))?;
                Ok(Found::Done)
            }
            Task::Check { sources, published, git, .. } => {
                self.check(object, (&sources, &published), git.as_ref()).await
            }
            Task::SetFinalizer { present } => self.set_finalizer(object, present).await,
            Task::DeleteTags { tags } => self.delete_tags(object, &tags).await,
            Task::InspectProgram { repository, image, platform } => {
                let session = self.session(object).await?;
                let inspection = image::inspect_program_of(&session, &repository, &image, &platform);
                let finding = in_time(INSPECTION_PATIENCE, inspection).await;
                let denied = Reason::AuthenticationFailed;
                Ok(Found::Program(finding.map_err(|error| Problem::of_registry(&error, denied))?))
            }
            Task::CreatePod { pod } => {
                objects::create(&self.cluster, namespace, *pod).await?;
                Ok(Found::Done)
            }
            Task::DeletePod { name, uid, at_once } => {
                objects::delete::<Pod>(&self.cluster, namespace, (&name, &uid), at_once).await?;
                Ok(Found::Done)
            }
        }
    }

    pub(super) fn claims(&self) -> MutexGuard<'_, Claims> {
        // No code panics while it holds the lock in a half-changed state.
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self, object: &ObjectRef<MultiArchImage>) -> Result<Arc<MultiArchImage>, Problem> {
        self.images.get(object).ok_or_else(|| Problem::transient(Reason::Pending, "the image is gone"))
    }

    /// Looks once more before a tag is written: whoever edited the spec meanwhile wants something else under it.
    fn check_still_wanted(&self, object: &ObjectRef<MultiArchImage>, generation: i64) -> Result<(), Problem> {
        if self.current(object)?.metadata.generation != Some(generation) {
            return Err(Problem::transient(Reason::Publishing, "the spec was edited meanwhile"));
        }
        match self.claims().conflict(object) {
            Some(Conflict { tag, holder }) => {
                let message = format!("{tag} is published by {holder}");
                Err(Problem::transient(Reason::TagConflict, message))
            }
            None => Ok(()),
        }
    }

    /// A session with the credentials as they are in the Secrets right now.
    pub(super) async fn session(&self, object: &ObjectRef<MultiArchImage>) -> Result<Session, Problem> {
        let image = self.current(object)?;
        let namespace = object.namespace.as_deref().unwrap_or_default();
        let names: Vec<String> =
            image.spec.registry_secrets.iter().map(|secret| secret.name.clone()).collect();
        let keyring = keyring(&self.cluster, namespace, &names).await?;
        let registry = self.registry.limited_to(self.hosts.access(namespace));
        Ok(registry.session(Arc::new(keyring)))
    }

    /// The git servers that a namespace may lead us to.
    pub(super) fn git(&self, namespace: &str) -> git::Client {
        self.git.limited_to(self.hosts.access(namespace))
    }

    /// Only what is certain keeps a build from being tried: the builder may reach what we do not.
    async fn check_base_images(
        &self,
        object: &ObjectRef<MultiArchImage>,
        images: &[BaseImage],
    ) -> Result<Found, Problem> {
        let session = self.session(object).await?;
        match image::check_base_images(&session, images).await {
            Ok(_) => Ok(Found::Done),
            Err(error @ BaseImageError::PlatformMissing { .. }) => {
                Err(Problem::lasting(Reason::BaseImagePlatformMissing, error.to_string()))
            }
            Err(error @ BaseImageError::NotFound { .. }) => {
                Err(Problem::lasting(Reason::BaseImageNotFound, error.to_string()))
            }
            Err(error @ BaseImageError::Registry { .. }) => {
                tracing::info!("base images are not checked: {error}");
                Ok(Found::Done)
            }
        }
    }

    /// The SHA-256 of every file of a ConfigMap.
    async fn read_config_map(
        &self,
        namespace: &str,
        name: &str,
        dockerfiles: &BTreeSet<String>,
    ) -> Result<Found, Problem> {
        let api: Api<ConfigMap> = Api::namespaced(self.cluster.clone(), namespace);
        let found = api.get_opt(name).await.map_err(|error| Problem::cluster(&error))?;
        let Some(config_map) = found else {
            let message = format!("configmap/{name} does not exist in namespace {namespace}; create it");
            return Err(Problem::transient(Reason::ContextNotFound, message));
        };
        let data = config_map.data.unwrap_or_default();
        let binary = config_map.binary_data.unwrap_or_default();
        let keys: Vec<&str> = data.keys().chain(binary.keys()).map(String::as_str).collect();
        if let Some(dockerfile) = dockerfiles.iter().find(|name| !keys.contains(&name.as_str())) {
            let message = format!("configmap/{name} has no key {dockerfile:?}; it has: {}", list(&keys));
            return Err(Problem::lasting(Reason::ContextNotFound, message));
        }
        let texts = data.iter().map(|(key, value)| (key, value.as_bytes()));
        let files = texts.chain(binary.iter().map(|(key, value)| (key, value.0.as_slice())));
        let mut found = (BTreeMap::new(), BTreeMap::new());
        for (key, content) in files {
            found.0.insert(key.clone(), Digest::sha256(content).hex().to_owned());
            if dockerfiles.contains(key) {
                found.1.insert(key.clone(), Bytes::copy_from_slice(content));
            }
        }
        Ok(Found::Files { sums: found.0, dockerfiles: found.1 })
    }
}

/// Points tags at manifests that the repository has.
async fn put_back(
    session: &Session,
    repository: &Repository,
    tags: &[(String, Digest)],
) -> Result<(), registry::Error> {
    let session = session.writing_to([repository], []);
    for (tag, digest) in tags {
        let manifest = session.get_manifest(&repository.with_digest(digest)).await?;
        if let Ok(tag) = repository.with_tag(tag) {
            session.put_manifest(&tag, &manifest.descriptor.media_type, &manifest.bytes).await?;
        }
    }
    Ok(())
}

/// Every image once, with all its tags.
fn by_image(platform_tags: &[(String, Arc<ResolvedImage>)]) -> Vec<(AssembledIndex, Vec<String>)> {
    let mut images: Vec<(AssembledIndex, Vec<String>)> = Vec::new();
    for (tag, child) in platform_tags {
        let digest = &child.image.descriptor.digest;
        match images.iter_mut().find(|(image, _)| image.descriptor.digest == *digest) {
            Some((_, tags)) => tags.push(tag.clone()),
            None => images.push(((&child.image).into(), vec![tag.clone()])),
        }
    }
    images
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
            git::Error::HostDenied { .. } => Problem::lasting(Reason::HostDenied, message),
            git::Error::NotInspectable { .. } => Problem::lasting(Reason::ContextUnavailable, message),
            git::Error::Denied { .. } | git::Error::HostKey { .. } | git::Error::Credentials { .. } => {
                Problem::lasting(Reason::AuthenticationFailed, message)
            }
            git::Error::NoRepository { .. }
            | git::Error::NoReference { .. }
            | git::Error::NoCommit { .. } => Problem::lasting(Reason::ContextNotFound, message),
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

impl From<ContextImageError> for Problem {
    fn from(error: ContextImageError) -> Self {
        match &error {
            ContextImageError::Registry(cause) if cause.kind() == Kind::NotFound => {
                Problem::lasting(Reason::ContextNotFound, error.to_string())
            }
            ContextImageError::Registry(cause) => Problem::of_registry(cause, Reason::AuthenticationFailed),
            ContextImageError::Unusable { .. } => {
                Problem::lasting(Reason::ContextNotFound, error.to_string())
            }
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
    pub(super) fn of_registry(error: &registry::Error, denied: Reason) -> Self {
        let reason = match error.kind() {
            Kind::NotFound => Reason::SourceNotFound,
            Kind::Unauthorized => Reason::AuthenticationFailed,
            Kind::Denied | Kind::Rejected => denied,
            Kind::HostDenied => Reason::HostDenied,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_inspection_that_does_not_end_gives_its_place_back_and_leaves_the_program_unknown() {
        let found = in_time(Duration::ZERO, std::future::pending()).await;
        assert!(matches!(found, Ok(ProgramFinding::Unknown { why }) if why.contains("within 0 min")));
        let known = ProgramFinding::Unknown { why: "the image starts nothing".to_owned() };
        assert_eq!(in_time(INSPECTION_PATIENCE, async { Ok(known.clone()) }).await.ok(), Some(known));
    }
}
