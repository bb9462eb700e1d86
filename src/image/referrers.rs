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
            let lists: Vec<(Digest, Vec<Descriptor>)> = stream::iter(&subjects)
                .map(async |subject| {
                    let list = self.session.referrers(self.source, subject, None).await?;
                    Ok::<_, Error>((subject.clone(), list))
                })
                .buffered(PARALLEL)
                .try_collect()
                .await?;
            let mut next = Vec::new();
            for (subject, list) in lists {
                for entry in list {
                    if seen.insert(entry.digest.clone()) {
                        next.push((subject.clone(), entry));
                    }
                }
            }
            if seen.len() > MOST_FOLLOWERS {
                let operation = Operation::new(self.source.with_digest(image), "copying the referrers");
                let cause = format!("more than {MOST_FOLLOWERS} manifests refer to the image");
                return Err(operation.error(Kind::TooLarge, cause));
            }
            let copied: Vec<Result<(Digest, Copied), String>> = stream::iter(next)
                .map(async |(subject, entry)| self.referrer(&subject, &entry).await)
                .buffered(PARALLEL)
                .try_collect()
                .await?;
            subjects.clear();
            for result in copied {
                match result {
                    Ok((digest, copied)) => {
                        followed.copied = sum(followed.copied, copied);
                        subjects.push(digest.clone());
                        followed.referrers.push(digest);
                    }
                    Err(warning) => followed.warnings.push(warning),
                }
            }
        }
        Ok(())
    }

    /// One referrer, if it is one; else the warning about it.
    async fn referrer(
        &self,
        subject: &Digest,
        entry: &Descriptor,
    ) -> Result<Result<(Digest, Copied), String>, Error> {
        let reference = self.source.with_digest(&entry.digest);
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
        Ok(Ok((entry.digest.clone(), copied)))
    }

    /// An image or an artifact; or an index of some, with all it lists.
    async fn manifest(&self, manifest: &Manifest) -> Result<Copied, Error> {
        let mut copied = Copied::default();
        if manifest.descriptor.media_type.is_index() {
            let reference = self.source.with_digest(&manifest.descriptor.digest);
            let operation = Operation::new(&reference, "copying the referrers");
            let index: Index = serde_json::from_slice(&manifest.bytes).map_err(|error| {
                operation.error(Kind::Malformed, format!("its index cannot be read: {error}"))
            })?;
            if index.manifests.len() > MOST_FOLLOWERS {
                let cause = format!("an index of more than {MOST_FOLLOWERS} manifests");
                return Err(operation.error(Kind::TooLarge, cause));
            }
            for entry in index.manifests {
                let child = self.session.get_manifest(&self.source.with_digest(&entry.digest)).await?;
                copied = sum(copied, self.session.copy(self.source, self.target, &child).await?);
            }
        } else {
            copied = self.session.copy(self.source, self.target, manifest).await?;
        }
        // Again, if it was there: only then is it certain to be listed as well.
        let reference = self.target.with_digest(&manifest.descriptor.digest);
        self.session.put_manifest(&reference, &manifest.descriptor.media_type, &manifest.bytes).await?;
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
                    followed.copied = sum(followed.copied, self.manifest(&found).await?);
                    self.session.put_manifest(&to, &found.descriptor.media_type, &found.bytes).await?;
                }
            }
            followed.tags.push(to);
        }
        Ok(())
    }

    async fn under(&self, tag: &Reference) -> Result<Option<Manifest>, Error> {
        match self.session.get_manifest(tag).await {
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

fn sum(one: Copied, other: Copied) -> Copied {
    Copied {
        bytes: one.bytes + other.bytes,
        mounted: one.mounted + other.mounted,
        uploaded: one.uploaded + other.uploaded,
        present: one.present + other.present,
    }
}
