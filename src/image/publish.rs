//! An assembled index under its tags.

use std::collections::HashSet;

use futures::future::{join_all, try_join_all};

use super::index::AssembledIndex;
use super::manifest::Index;
use crate::api;
use crate::registry::{Digest, Error, Kind, Manifest, Operation, Reference, Repository, Session};

/// What is done about a tag that has other content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TagPolicy {
    /// It is moved.
    #[default]
    Overwrite,
    /// Nothing is published.
    IfAbsent,
}

impl From<api::TagPolicy> for TagPolicy {
    fn from(policy: api::TagPolicy) -> Self {
        match policy {
            api::TagPolicy::Overwrite => Self::Overwrite,
            api::TagPolicy::IfAbsent => Self::IfAbsent,
        }
    }
}

/// What publishing did to a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagChange {
    /// There was none, or none that we may see.
    Created,
    /// It had other content.
    Moved {
        /// What it had.
        from: Digest,
    },
    /// It had the index already, and was not written.
    Unchanged,
}

/// Why an index is not under all its tags.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// The registry failed, or said no.
    #[error(transparent)]
    Registry(#[from] Error),
    /// [`TagPolicy::IfAbsent`], and a tag has other content. Nothing was written.
    #[error("{tag}: the tag exists with other content ({found}, not {wanted}) and is not to be moved")]
    TagExists {
        /// The tag.
        tag: Box<Reference>,
        /// What it has.
        found: Digest,
        /// What was to be published.
        wanted: Digest,
    },
}

/// The tags of each repository, repositories in the order they were named.
pub fn by_repository(references: &[Reference]) -> Vec<(&Repository, Vec<&str>)> {
    let mut grouped: Vec<(&Repository, Vec<&str>)> = Vec::new();
    for reference in references {
        let tag = reference.tag();
        match grouped.iter_mut().find(|(repository, _)| *repository == reference.repository()) {
            Some((_, tags)) => tags.extend(tag),
            None => grouped.push((reference.repository(), tag.into_iter().collect())),
        }
    }
    grouped
}

/// Tags to publish under, and what they hold before anything is written.
#[derive(Debug, Clone)]
pub struct Tags {
    repository: Repository,
    tags: Vec<(Reference, Held)>,
    children: HashSet<Digest>,
}

/// What a tag holds, as far as we may know.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Held {
    Nothing,
    Content(Digest),
    /// The registry does not let us look: some deny what is not there, some let us write but not read.
    Unseen,
}

impl Held {
    fn content(&self) -> Option<&Digest> {
        match self {
            Self::Content(digest) => Some(digest),
            Self::Nothing | Self::Unseen => None,
        }
    }
}

impl Tags {
    /// Asks what the tags hold, all at once. Of the first the content is read: what it lists is in the repository.
    ///
    /// # Errors
    /// [`Kind::Rejected`] if a tag is none, before anything is asked; else whatever the registry says.
    pub async fn read(
        session: &Session,
        repository: &Repository,
        tags: &[impl AsRef<str>],
    ) -> Result<Self, Error> {
        let session = &session.writing_to([repository], []);
        let operation = Operation::new(repository, "publishing the index");
        let tag = |name: &str| {
            repository.with_tag(name).map_err(|error| operation.error(Kind::Rejected, error.to_string()))
        };
        let mut names = HashSet::new();
        let tags = tags.iter().map(AsRef::as_ref).filter(|name| names.insert(*name));
        let tags: Vec<Reference> = tags.map(tag).collect::<Result<_, _>>()?;
        let Some((first, others)) = tags.split_first() else {
            return Ok(Self { repository: repository.clone(), tags: Vec::new(), children: HashSet::new() });
        };
        let others_held = others.iter().map(|tag| held(session, tag));
        let ((first_held, children), others_held) =
            futures::try_join!(current(session, first), try_join_all(others_held))?;
        let held = std::iter::once(first_held).chain(others_held);
        let tags = tags.iter().cloned().zip(held).collect();
        Ok(Self { repository: repository.clone(), tags, children })
    }

    /// Asks once more what the tags hold, all at once.
    ///
    /// # Errors
    /// Whatever the registry says.
    pub(super) async fn read_again(&self, session: &Session) -> Result<Self, Error> {
        let asked = self
            .tags
            .iter()
            .map(|(tag, _)| async move { Ok::<_, Error>((tag.clone(), held(session, tag).await?)) });
        Ok(Self { tags: try_join_all(asked).await?, ..self.clone() })
    }

    /// Where the tags are.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// What `tag` held when it was read; none also if that was not to be seen.
    pub fn held_by(&self, tag: &Reference) -> Option<&Digest> {
        self.tags.iter().find(|(reference, _)| reference == tag).and_then(|(_, held)| held.content())
    }

    /// Whether the first tag listed the image, which is then in the repository if all is well.
    pub fn has_child(&self, digest: &Digest) -> bool {
        self.children.contains(digest)
    }

    /// Whether publishing would change nothing.
    pub fn all_hold(&self, digest: &Digest) -> bool {
        !self.tags.is_empty() && self.tags.iter().all(|(_, held)| held.content() == Some(digest))
    }

    /// Refuses to move a tag that is not to be moved.
    ///
    /// # Errors
    /// [`PublishError::TagExists`]; [`Kind::Denied`] if we may not know whether there is one.
    pub fn check(&self, policy: TagPolicy, wanted: &Digest) -> Result<(), PublishError> {
        if policy == TagPolicy::Overwrite {
            return Ok(());
        }
        for (tag, held) in &self.tags {
            match held {
                Held::Content(found) if found != wanted => {
                    let (tag, found, wanted) = (Box::new(tag.clone()), found.clone(), wanted.clone());
                    return Err(PublishError::TagExists { tag, found, wanted });
                }
                Held::Unseen => {
                    let cause = "the registry does not let us see the tag, so it may exist and is not to be moved; \
                                 allow the credential to pull from the repository, or let tags be overwritten (tag policy Overwrite)";
                    let operation = Operation::new(tag, "publishing the index");
                    return Err(operation.error(Kind::Denied, cause).into());
                }
                Held::Content(_) | Held::Nothing => {}
            }
        }
        Ok(())
    }

    /// Writes the index under every tag that does not hold it, all at once, so that the number of tags costs no time.
    /// Without tags the index is written by its digest, unless it is there.
    ///
    /// Everything that the index lists must be in the repository already. All tags are tried; the first failure is
    /// returned.
    ///
    /// # Errors
    /// [`Kind::Rejected`] if an immutable tag has other content; else whatever the registry says.
    pub async fn write(
        self,
        session: &Session,
        index: &AssembledIndex,
    ) -> Result<Vec<(Reference, TagChange)>, Error> {
        let digest = &index.descriptor.digest;
        if self.tags.is_empty() {
            let reference = self.repository.with_digest(digest);
            if session.head_manifest(&reference).await?.is_some() {
                return Ok(vec![(reference, TagChange::Unchanged)]);
            }
            put(session, &reference, index).await?;
            return Ok(vec![(reference, TagChange::Created)]);
        }
        let outdated = self.tags.iter().filter(|(_, held)| held.content() != Some(digest));
        let outdated: Vec<&Reference> = outdated.map(|(tag, _)| tag).collect();
        write_tags(session, &self.repository, index, &outdated).await?;
        let change = |held: Held| match held {
            Held::Nothing | Held::Unseen => TagChange::Created,
            Held::Content(held) if held == *digest => TagChange::Unchanged,
            Held::Content(from) => TagChange::Moved { from },
        };
        Ok(self.tags.into_iter().map(|(tag, held)| (tag, change(held))).collect())
    }
}

/// Publishes the index under all tags: asks what they hold, then writes those that hold something else. Two round
/// trips, whatever the number of tags, and no write where nothing changes.
///
/// # Errors
/// See [`PublishError`].
pub async fn publish(
    session: &Session,
    repository: &Repository,
    index: &AssembledIndex,
    tags: &[impl AsRef<str>],
    policy: TagPolicy,
) -> Result<Vec<(Reference, TagChange)>, PublishError> {
    publish_with_images(session, repository, index, tags, &[], policy).await
}

/// The same, with tags for images of the index too, which are written before its own: one round trip more. No tag is
/// written before all are known to be free.
///
/// # Errors
/// See [`PublishError`].
pub async fn publish_with_images(
    session: &Session,
    repository: &Repository,
    index: &AssembledIndex,
    tags: &[impl AsRef<str>],
    images: &[(AssembledIndex, Vec<String>)],
    policy: TagPolicy,
) -> Result<Vec<(Reference, TagChange)>, PublishError> {
    let of_images = images.iter().map(|(_, tags)| Tags::read(session, repository, tags));
    let (of_index, of_images) =
        futures::try_join!(Tags::read(session, repository, tags), try_join_all(of_images))?;
    let held = of_images.into_iter().zip(images.iter().map(|(image, _)| image));
    let held: Vec<(Tags, &AssembledIndex)> = held.collect();
    of_index.check(policy, &index.descriptor.digest)?;
    for (tags, image) in &held {
        tags.check(policy, &image.descriptor.digest)?;
    }
    let mut changes: Vec<_> = try_join_all(held.into_iter().map(|(tags, image)| tags.write(session, image)))
        .await?
        .into_iter()
        .flatten()
        .collect();
    changes.extend(of_index.write(session, index).await?);
    Ok(changes)
}

/// What the tag holds, and what that lists.
async fn current(session: &Session, tag: &Reference) -> Result<(Held, HashSet<Digest>), Error> {
    match session.get_manifest(tag).await {
        Ok(manifest) => Ok((Held::Content(manifest.descriptor.digest.clone()), children(&manifest))),
        Err(error) => match error.kind() {
            Kind::NotFound => Ok((Held::Nothing, HashSet::new())),
            Kind::Denied => Ok((Held::Unseen, HashSet::new())),
            // Something is there that we do not understand.
            Kind::Malformed | Kind::Unsupported | Kind::TooLarge => {
                Ok((held(session, tag).await?, HashSet::new()))
            }
            _ => Err(error),
        },
    }
}

async fn held(session: &Session, tag: &Reference) -> Result<Held, Error> {
    match session.head_manifest(tag).await {
        Ok(found) => Ok(found.map_or(Held::Nothing, |descriptor| Held::Content(descriptor.digest))),
        Err(error) if error.kind() == Kind::Denied => Ok(Held::Unseen),
        Err(error) => Err(error),
    }
}

fn children(manifest: &Manifest) -> HashSet<Digest> {
    if !manifest.descriptor.media_type.is_index() {
        return HashSet::from([manifest.descriptor.digest.clone()]);
    }
    let index: Index = serde_json::from_slice(&manifest.bytes).unwrap_or_default();
    index.manifests.into_iter().map(|entry| entry.digest).collect()
}

/// One request for all tags where the registry is known to take them so, else one each.
async fn write_tags(
    session: &Session,
    repository: &Repository,
    index: &AssembledIndex,
    tags: &[&Reference],
) -> Result<(), Error> {
    let names: Vec<&str> = tags.iter().filter_map(|tag| tag.tag()).collect();
    let written =
        session.put_manifest_under_tags(repository, &index.descriptor, &index.bytes, &names).await?;
    let left = tags.iter().filter(|tag| tag.tag().is_none_or(|name| !written.iter().any(|w| w == name)));
    // None is cut short by the failure of another.
    join_all(left.map(|tag| put(session, tag, index))).await.into_iter().collect()
}

async fn put(session: &Session, reference: &Reference, index: &AssembledIndex) -> Result<(), Error> {
    let refused = match session.put_manifest(reference, &index.descriptor.media_type, &index.bytes).await {
        Err(error) if matches!(error.kind(), Kind::Rejected | Kind::Denied) => error,
        other => return other,
    };
    // Registries with immutable tags refuse to write what is there already.
    match session.get_manifest(reference).await {
        Ok(found) if found.bytes == index.bytes => Ok(()),
        _ => Err(refused),
    }
}
