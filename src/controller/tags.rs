//! Published tags after their publication: looked at, and removed with their resource.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::reflector::ObjectRef;
use serde_json::json;

use super::perform::Performer;
use super::secrets;
use super::tasks::Problem;
use crate::api::{FINALIZER, MultiArchImage, Reason};
use crate::plan;
use crate::plan::fact::{Checked, Found};
use crate::plan::task::GitReference;
use crate::registry::{self, Digest, Kind, Reference, Repository, Session};

/// Tags that are asked, before a manifest is deleted, whether they need it.
const OTHER_TAGS: usize = 1000;

impl Performer {
    /// One HEAD a reference. What cannot be seen is left out of the answer; only when nothing can be is that an error.
    pub(super) async fn check(
        &self,
        object: &ObjectRef<MultiArchImage>,
        (sources, published): (&[Reference], &[Reference]),
        git: Option<&GitReference>,
    ) -> Result<Found, Problem> {
        let session = self.session(object).await?;
        // A mirror may be behind, and is not what we publish to.
        let at_home = session.without_mirrors();
        // What changes while it is being looked at is found the next time.
        let at = Timestamp::now();
        let head = async |session: &Session, reference: &Reference| {
            let found = session.head_manifest(reference).await;
            (reference.clone(), found.map(|found| found.map(|descriptor| descriptor.digest)))
        };
        let sources = join_all(sources.iter().map(|reference| head(&session, reference)));
        let published = join_all(published.iter().map(|reference| head(&at_home, reference)));
        let (sources, published, commit) = futures::join!(sources, published, self.commit(object, git));
        let mut held = BTreeMap::new();
        let mut problems: Vec<Problem> = Vec::new();
        for (reference, found) in sources.into_iter().chain(published) {
            match found {
                Ok(digest) => drop(held.insert(reference, digest)),
                Err(error) => problems.push(Problem::of_registry(&error, Reason::AuthenticationFailed)),
            }
        }
        let commit = commit.unwrap_or_else(|problem| {
            problems.push(problem);
            None
        });
        for problem in &problems {
            tracing::debug!("not everything can be looked at: {}", problem.message);
        }
        let told = |problem: &Problem| (problem.reason, problem.message.clone());
        let is_lasting = |problem: &&Problem| !problem.transient || problem.reason.is_about_a_secret();
        let refused = problems.iter().find(is_lasting).map(told);
        let unseen = problems.first().map(told);
        match problems.into_iter().next() {
            Some(problem) if held.is_empty() && commit.is_none() => Err(problem),
            _ => Ok(Found::Checked(Arc::new(Checked { at, held, commit, refused, unseen }))),
        }
    }

    async fn commit(
        &self,
        object: &ObjectRef<MultiArchImage>,
        git: Option<&GitReference>,
    ) -> Result<Option<String>, Problem> {
        let Some(GitReference { url, reference, secret }) = git else { return Ok(None) };
        let namespace = object.namespace.as_deref().unwrap_or_default();
        let credentials = secrets::git(&self.cluster, namespace, secret.as_deref()).await?;
        Ok(Some(self.git(namespace).resolve(url, reference.as_deref(), credentials.as_ref()).await?))
    }

    /// Keeps the resource until its tags are removed, or keeps it no more.
    pub(super) async fn set_finalizer(
        &self,
        object: &ObjectRef<MultiArchImage>,
        present: bool,
    ) -> Result<Found, Problem> {
        let namespace = object.namespace.as_deref().unwrap_or_default();
        let api: Api<MultiArchImage> = Api::namespaced(self.cluster.clone(), namespace);
        let found = api.get_metadata_opt(&object.name).await.map_err(|error| Problem::cluster(&error))?;
        let Some(found) = found else { return Ok(Found::Done) };
        let mut finalizers: BTreeSet<String> = found.metadata.finalizers.into_iter().flatten().collect();
        let changed = match present {
            true => finalizers.insert(FINALIZER.to_owned()),
            false => finalizers.remove(FINALIZER),
        };
        if !changed {
            return Ok(Found::Done);
        }
        // The version makes sure that nobody else's finalizer is lost.
        let version = found.metadata.resource_version;
        let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": version}});
        match api.patch_metadata(&object.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(Found::Done),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                Err(Problem::transient(Reason::ClusterError, status.message.clone()))
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Found::Done),
            Err(error) => Err(Problem::cluster(&error)),
        }
    }

    /// Removes the tags that still point at what was published and that no other resource names.
    pub(super) async fn delete_tags(
        &self,
        object: &ObjectRef<MultiArchImage>,
        tags: &[(Reference, Digest)],
    ) -> Result<Found, Problem> {
        let session = self.session(object).await?.without_mirrors();
        let mut kept = Vec::new();
        let is_free = |(tag, _): &&(Reference, Digest)| !self.claims().is_named_by_another(object, tag);
        let free: Vec<(Reference, Digest)> = tags.iter().filter(is_free).cloned().collect();
        for (tag, digest) in &free {
            let written = |error: registry::Error| Problem::of_registry(&error, Reason::PushDenied);
            let held = session.head_manifest(tag).await.map_err(written)?;
            if held.is_none_or(|held| held.digest != *digest) {
                continue;
            }
            let is_removed = match session.delete_tag(tag).await {
                Ok(true) => true,
                // It was there a moment ago: some registries that remove no tags say that there is none.
                Ok(false) => session
                    .head_manifest(tag)
                    .await
                    .map_err(written)?
                    .is_none_or(|held| held.digest != *digest),
                Err(error) if error.kind() == Kind::Unsupported => false,
                Err(error) if error.is_transient() => return Err(written(error)),
                Err(error) => {
                    kept.push(format!("{tag} ({error})"));
                    continue;
                }
            };
            if !is_removed {
                let needed_by = || self.needed_by(object, tag.repository(), digest);
                let reason = delete_if_unused(&session, tag, digest, &free, needed_by).await;
                kept.extend(reason.map_err(written)?.map(|reason| format!("{tag} ({reason})")));
            }
        }
        Ok(Found::Kept(kept))
    }

    /// Another resource that names the manifest by its digest.
    fn needed_by(
        &self,
        object: &ObjectRef<MultiArchImage>,
        repository: &Repository,
        digest: &Digest,
    ) -> Option<String> {
        let images = self.images.state();
        let mut others = images.iter().filter(|image| ObjectRef::from_obj(&***image) != *object);
        let found = others.find(|image| plan::needs(image, repository, digest))?;
        Some(format!("{}/{}", found.namespace().unwrap_or_default(), found.name_any()))
    }
}

/// Where tags cannot be removed, the index itself is, with all its tags, if all of those are to go. An image of a platform
/// is not: indexes that nobody knows of may list it. Nor is what another resource names by its digest. The result is why it stays.
async fn delete_if_unused(
    session: &Session,
    tag: &Reference,
    digest: &Digest,
    going: &[(Reference, Digest)],
    needed_by: impl Fn() -> Option<String>,
) -> Result<Option<String>, registry::Error> {
    let repository = tag.repository();
    let is_index = session.get_manifest(tag).await?.descriptor.media_type.is_index();
    if !is_index {
        return Ok(Some(
            "the registry removes no tags, and an index elsewhere may list the image".to_owned(),
        ));
    }
    let all = session.list_tags(repository, OTHER_TAGS + 1).await?;
    if all.len() > OTHER_TAGS {
        return Ok(Some(format!(
            "the registry removes no tags, and more than {OTHER_TAGS} others may need the index"
        )));
    }
    let others = all.iter().filter_map(|name| repository.with_tag(name).ok());
    for other in others.filter(|other| !going.iter().any(|(going, _)| going == other)) {
        if session.head_manifest(&other).await?.is_some_and(|held| held.digest == *digest) {
            return Ok(Some(format!("the registry removes no tags, and {other} needs the index")));
        }
    }
    if let Some(other) = needed_by() {
        return Ok(Some(format!("the registry removes no tags, and {other} names the index by its digest")));
    }
    match session.delete_manifest(repository, digest).await {
        Ok(_) => Ok(None),
        Err(error) if error.is_transient() => Err(error),
        Err(error) => Ok(Some(error.to_string())),
    }
}
