//! What follows an image when it is copied: the manifests that refer to it, and the tags of cosign.

use std::collections::HashSet;

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::manifest::{ImageManifest, Index};
use crate::registry::{
    Copied, Descriptor, Digest, Error, Kind, Manifest, Operation, Reference, Repository, Session,
};

/// How far referrers of referrers are followed: the signature of an SBOM is the second.
const DEEPEST: usize = 4;
/// How many manifests follow one image at most.
const MOST_FOLLOWERS: usize = 256;
/// How many of them are on their way at once.
const PARALLEL: usize = 4;
/// How cosign's tags end: signatures, attestations, SBOMs.
const COSIGN_TAGS: [&str; 3] = ["sig", "att", "sbom"];

/// What is to follow an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Referrers {
    /// The manifests that name it as their subject, and those that name these.
    pub oci: bool,
    /// What is under the tags that cosign derives from its digest: `sha256-….sig`, `.att` and `.sbom`.
    pub cosign: bool,
}

/// What has followed an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Followed {
    /// Every manifest that refers to it, directly or not, and is in the target now.
    pub referrers: Vec<Digest>,
    /// Every tag of cosign's that is in the target now.
    pub tags: Vec<Reference>,
    /// What it took.
    pub copied: Copied,
    /// What was left behind, and why.
    pub warnings: Vec<String>,
}

/// An entry of the source's list.
struct Listed {
    subject: Digest,
    digest: Digest,
    /// Whether the target's list has it.
    in_target: bool,
}

/// Copies what refers to `child`, an image or an index, from `source` to `target`, byte for byte.
///
/// `child` itself need not be in the target yet. What is there already costs a look. A manifest that is listed as a
/// referrer and does not name the image is left behind with a warning, and so is a tag of cosign's under which the
/// target has signatures that the source has not: they would be lost. Referrers of referrers are followed four deep.
///
/// # Errors
/// [`Kind::TooLarge`] if more than 256 manifests follow one image; else whatever the registries say.
pub async fn copy_referrers(
    session: &Session,
    source: &Repository,
    target: &Repository,
    child: &Descriptor,
    what: Referrers,
) -> Result<Followed, Error> {
    let mut followed = Followed::default();
    if source == target {
        return Ok(followed);
    }
    let copy = Copy { session, source, target };
    if what.oci {
        copy.referrers(&child.digest, &mut followed).await?;
    }
    if what.cosign {
        copy.cosign_tags(&child.digest, &mut followed).await?;
    }
    Ok(followed)
}

/// From where to where.
struct Copy<'a> {
    session: &'a Session,
    source: &'a Repository,
    target: &'a Repository,
}

impl Copy<'_> {
    /// One depth after the other, so that what others refer to is there before them.
    async fn referrers(&self, image: &Digest, followed: &mut Followed) -> Result<(), Error> {
        let mut seen = HashSet::from([image.clone()]);
        let mut subjects = vec![image.clone()];
        for _ in 0..DEEPEST {
            let lists = stream::iter(&subjects).map(|subject| self.lists(subject)).buffered(PARALLEL);
            let lists: Vec<Vec<Listed>> = lists.try_collect().await?;
            let next: Vec<Listed> =
                lists.into_iter().flatten().filter(|listed| seen.insert(listed.digest.clone())).collect();
            if seen.len() > MOST_FOLLOWERS {
                let operation = Operation::new(self.source.with_digest(image), "copying the referrers");
                let cause = format!("more than {MOST_FOLLOWERS} manifests refer to the image");
                return Err(operation.error(Kind::TooLarge, cause));
            }
            let copies = stream::iter(&next).map(|listed| self.referrer(listed)).buffered(PARALLEL);
            let copies: Vec<Result<Copied, String>> = copies.try_collect().await?;
            subjects.clear();
            for (listed, result) in next.into_iter().zip(copies) {
                match result {
                    Ok(copied) => {
                        followed.copied = followed.copied.plus(copied);
                        followed.referrers.push(listed.digest.clone());
                        subjects.push(listed.digest);
                    }
                    Err(warning) => followed.warnings.push(warning),
                }
            }
        }
        Ok(())
    }

    /// What the source lists about `subject`, and whether the target does so too.
    async fn lists(&self, subject: &Digest) -> Result<Vec<Listed>, Error> {
        let (here, there) = futures::try_join!(
            self.session.referrers(self.source, subject, None),
            self.session.referrers(self.target, subject, None)
        )?;
        let listed = here.into_iter().map(|entry| Listed {
            subject: subject.clone(),
            in_target: there.iter().any(|known| known.digest == entry.digest),
            digest: entry.digest,
        });
        Ok(listed.collect())
    }

    /// Copies one referrer, if it is one; else gives the warning about it.
    async fn referrer(&self, listed: &Listed) -> Result<Result<Copied, String>, Error> {
        let Listed { subject, digest, in_target } = listed;
        let reference = self.source.with_digest(digest);
        let manifest = match self.session.get_manifest(&reference).await {
            Ok(manifest) => manifest,
            // Lists under tags outlive what they list, and what is no manifest to us cannot be copied.
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Unsupported) => {
                return Ok(Err(format!("listed as a referrer of {subject} and left behind: {error}")));
            }
            Err(error) => return Err(error),
        };
        if manifest.subject().as_ref() != Some(subject) {
            return Ok(Err(format!("{reference}: left behind, as it does not refer to {subject}")));
        }
        let copied = self.manifest(&manifest).await?;
        if !in_target || manifest.descriptor.media_type.is_index() {
            self.session.put_referrer(self.target, &manifest).await?;
        }
        Ok(Ok(copied))
    }

    /// An image or an artifact; or all that an index lists, but not yet the index.
    async fn manifest(&self, manifest: &Manifest) -> Result<Copied, Error> {
        let Manifest { descriptor, bytes } = manifest;
        if !descriptor.media_type.is_index() {
            return self.session.copy(self.source, self.target, manifest).await;
        }
        let operation = Operation::new(self.source.with_digest(&descriptor.digest), "copying the referrers");
        let index: Index = serde_json::from_slice(bytes).map_err(|error| {
            operation.error(Kind::Malformed, format!("its index cannot be read: {error}"))
        })?;
        if index.manifests.len() > MOST_FOLLOWERS {
            let cause = format!("an index of more than {MOST_FOLLOWERS} manifests");
            return Err(operation.error(Kind::TooLarge, cause));
        }
        let mut copied = Copied::default();
        for entry in index.manifests {
            let child = self.session.get_manifest(&self.source.with_digest(&entry.digest)).await?;
            copied = copied.plus(self.session.copy(self.source, self.target, &child).await?);
        }
        Ok(copied)
    }

    async fn cosign_tags(&self, image: &Digest, followed: &mut Followed) -> Result<(), Error> {
        for suffix in COSIGN_TAGS {
            let tag = format!("{}.{suffix}", image.as_str().replacen(':', "-", 1));
            // A digest too long for a tag has no such tags.
            let (Ok(from), Ok(to)) = (self.source.with_tag(&tag), self.target.with_tag(&tag)) else {
                continue;
            };
            let (found, there) = futures::try_join!(self.under(&from), self.under(&to))?;
            let Some(found) = found else { continue };
            match there {
                Some(there) if there.bytes == found.bytes => {}
                Some(there) if !holds(&found, &there) => {
                    followed.warnings.push(format!(
                        "{to}: left as it is, since it has signatures or attestations that {from} has not"
                    ));
                    continue;
                }
                _ => {
                    followed.copied = followed.copied.plus(self.manifest(&found).await?);
                    self.session.put_manifest(&to, &found.descriptor.media_type, &found.bytes).await?;
                }
            }
            followed.tags.push(to);
        }
        Ok(())
    }

    async fn under(&self, tag: &Reference) -> Result<Option<Manifest>, Error> {
        match self.session.without_mirrors().get_manifest(tag).await {
            Ok(manifest) => Ok(Some(manifest)),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether every layer of `old` is in `new` too; each of cosign's is a signature or an attestation.
fn holds(new: &Manifest, old: &Manifest) -> bool {
    let layers = |manifest: &Manifest| {
        let manifest: Option<ImageManifest> = serde_json::from_slice(&manifest.bytes).ok();
        let layers = manifest.map(|manifest| manifest.layers)?;
        Some(layers.into_iter().map(|layer| (layer.digest, layer.annotations)).collect::<Vec<_>>())
    };
    match (layers(new), layers(old)) {
        (Some(new), Some(old)) => old.iter().all(|layer| new.contains(layer)),
        _ => false,
    }
}
