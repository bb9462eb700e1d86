//! Images behind a reference: the one for a platform, or all of them. Found is not yet verified.

use std::collections::HashSet;

use futures::future::try_join_all;

use super::manifest::Index;
use super::resolve::{ResolveError, not_an_image};
use crate::platform::Platform;
use crate::registry::{Descriptor, Digest, Manifest, Reference, Repository, Session};

/// How many indexes within an index are looked into.
const MOST_NESTED: usize = 16;
/// How many images of an index are taken.
const MOST_IMAGES: usize = 256;
/// How many attestations of one image are carried.
const MOST_ATTESTATIONS: usize = 64;

/// An image with the bytes of its manifest verified, its config not yet read.
pub(super) struct Found {
    /// Where it was looked for.
    pub reference: Reference,
    /// The platform that it is meant for, if anybody says so.
    pub declared: Option<Platform>,
    /// What the reference named: the index, or the image itself.
    pub source: Descriptor,
    pub image: Manifest,
    pub attestations: Vec<Manifest>,
}

/// The image for `platform`: of an index the one entry, or what is alone under its reference.
pub(super) async fn find(
    session: &Session,
    reference: &Reference,
    platform: &Platform,
) -> Result<Found, ResolveError> {
    let named = session.get_manifest(reference).await?;
    if !named.descriptor.media_type.is_index() {
        return Ok(Found::alone(reference, Some(platform.clone()), named));
    }
    let mut entries = parse_index(reference, &named)?;
    if pick(reference, platform, &entries).is_err() {
        entries.extend(nested(session, reference, &entries).await?);
    }
    let entry = pick(reference, platform, &entries)?;
    Found::fetch(session, reference, Some(platform.clone()), &named, &entries, entry).await
}

/// Every image there is, in the order of the index. What is no image (an artifact, an attestation of something
/// else) is left out.
pub(super) async fn find_all(session: &Session, reference: &Reference) -> Result<Vec<Found>, ResolveError> {
    let named = session.get_manifest(reference).await?;
    if !named.descriptor.media_type.is_index() {
        return Ok(vec![Found::alone(reference, None, named)]);
    }
    let mut entries = parse_index(reference, &named)?;
    entries.extend(nested(session, reference, &entries).await?);
    let mut seen = HashSet::new();
    let images: Vec<&Descriptor> = images(&entries)
        .filter(|entry| entry.runnable_platform().is_some() || says_nothing(entry))
        .filter(|entry| seen.insert((&entry.digest, &entry.platform)))
        .collect();
    if images.len() > MOST_IMAGES {
        let reason = format!("its index lists {} images; {MOST_IMAGES} is the most", images.len());
        return Err(not_an_image(reference, reason));
    }
    if images.is_empty() {
        return Err(not_an_image(reference, "its index lists no images".to_owned()));
    }
    let found = images.into_iter().map(|entry| {
        let declared = entry.runnable_platform();
        Found::fetch(session, reference, declared, &named, &entries, entry.clone())
    });
    try_join_all(found).await
}

impl Found {
    /// Everything that must be in the repository of an index with this image, and where it is.
    pub(super) fn manifests(&self) -> impl Iterator<Item = (Repository, Manifest)> {
        let repository = self.reference.repository();
        std::iter::once(&self.image)
            .chain(&self.attestations)
            .map(|manifest| (repository.clone(), manifest.clone()))
    }

    fn alone(reference: &Reference, declared: Option<Platform>, image: Manifest) -> Self {
        let (reference, source) = (reference.clone(), image.descriptor.clone());
        Self { reference, declared, source, image, attestations: Vec::new() }
    }

    async fn fetch(
        session: &Session,
        reference: &Reference,
        declared: Option<Platform>,
        index: &Manifest,
        entries: &[Descriptor],
        entry: Descriptor,
    ) -> Result<Self, ResolveError> {
        let about = attestations(entries, &entry.digest);
        if about.len() > MOST_ATTESTATIONS {
            let reason = format!("{} attestations; {MOST_ATTESTATIONS} is the most", about.len());
            return Err(not_an_image(reference, format!("{} has {reason}", entry.digest)));
        }
        let (image, attestations) =
            futures::try_join!(fetch(session, reference, entry), fetch_all(session, reference, about))?;
        let (reference, source) = (reference.clone(), index.descriptor.clone());
        Ok(Self { reference, declared, source, image, attestations })
    }
}

/// The entries of the indexes within an index.
async fn nested(
    session: &Session,
    reference: &Reference,
    entries: &[Descriptor],
) -> Result<Vec<Descriptor>, ResolveError> {
    let indexes: Vec<Descriptor> =
        entries.iter().filter(|entry| entry.media_type.is_index()).cloned().collect();
    if indexes.len() > MOST_NESTED {
        let reason = format!("its index lists {} indexes; {MOST_NESTED} is the most", indexes.len());
        return Err(not_an_image(reference, reason));
    }
    let mut inner = Vec::new();
    for index in fetch_all(session, reference, indexes).await? {
        inner
            .extend(parse_index(reference, &index)?.into_iter().filter(|entry| !entry.media_type.is_index()));
    }
    Ok(inner)
}

fn attestations(entries: &[Descriptor], image: &Digest) -> Vec<Descriptor> {
    let about = |candidate: &&Descriptor| candidate.media_type.is_manifest() && candidate.attests(image);
    entries.iter().filter(about).cloned().collect()
}

fn images(entries: &[Descriptor]) -> impl Iterator<Item = &Descriptor> {
    entries.iter().filter(|entry| entry.media_type.is_manifest() && !entry.is_attestation())
}

/// Whether the config has to tell what the entry is for.
fn says_nothing(entry: &Descriptor) -> bool {
    entry.platform.is_none() && entry.artifact_type.is_none()
}

fn parse_index(reference: &Reference, index: &Manifest) -> Result<Vec<Descriptor>, ResolveError> {
    let index: Index = serde_json::from_slice(&index.bytes)
        .map_err(|error| not_an_image(reference, format!("its index cannot be read: {error}")))?;
    Ok(index.manifests)
}

/// The one entry that can run on the platform. Of two that differ only in the version of the operating system,
/// neither is better.
pub(super) fn pick(
    reference: &Reference,
    platform: &Platform,
    entries: &[Descriptor],
) -> Result<Descriptor, ResolveError> {
    let images = || images(entries);
    let mut matching: Vec<&Descriptor> = images()
        .filter(|entry| entry.runnable_platform().is_some_and(|found| platform.matches(&found)))
        .collect();
    if matching.is_empty() {
        // One that says nothing may be it; its config will tell.
        matching = images().filter(|entry| says_nothing(entry)).collect();
        matching.truncate(if matching.len() == 1 { 1 } else { 0 });
    }
    let mut seen = HashSet::new();
    matching.retain(|entry| seen.insert(&entry.digest));
    match matching[..] {
        [entry] => Ok(entry.clone()),
        [] => Err(ResolveError::NoSuchPlatform {
            reference: Box::new(reference.clone()),
            platform: platform.clone(),
            available: images().map(Descriptor::platform_in_words).collect(),
        }),
        _ => Err(ResolveError::Ambiguous {
            reference: Box::new(reference.clone()),
            platform: platform.clone(),
            candidates: matching
                .iter()
                .map(|e| format!("{} ({})", e.digest, e.platform_in_words()))
                .collect(),
        }),
    }
}

/// The manifest of an entry, described as the entry describes it.
async fn fetch(
    session: &Session,
    reference: &Reference,
    entry: Descriptor,
) -> Result<Manifest, ResolveError> {
    let child = reference.repository().with_digest(&entry.digest);
    let Manifest { descriptor, bytes } = session.get_manifest(&child).await?;
    if descriptor.size != entry.size || descriptor.media_type.is_index() != entry.media_type.is_index() {
        let reason = format!("its index describes {} with another size or type than it has", entry.digest);
        return Err(not_an_image(reference, reason));
    }
    Ok(Manifest { descriptor: Descriptor { media_type: descriptor.media_type, ..entry }, bytes })
}

async fn fetch_all(
    session: &Session,
    reference: &Reference,
    entries: Vec<Descriptor>,
) -> Result<Vec<Manifest>, ResolveError> {
    try_join_all(entries.into_iter().map(|entry| fetch(session, reference, entry))).await
}
