//! Images behind a reference: the one for a platform, or all of them. Found is not yet verified.

use std::collections::{HashMap, HashSet};

use futures::future::try_join_all;

use super::manifest::{ImageManifest, Listing};
use super::resolve::{ResolveError, not_an_image};
use crate::platform::Platform;
use crate::registry::{Descriptor, Digest, Manifest, MediaType, Reference, Repository, Session, readable};

/// How many indexes within an index are looked into.
const MOST_NESTED: usize = 16;
/// How many images of an index are taken.
const MOST_IMAGES: usize = 256;
/// How many attestations of one image are carried.
const MOST_ATTESTATIONS: usize = 64;

/// How many bytes all manifests of an index have that are held at once.
const LARGEST_MANIFESTS: u64 = 64 * 1024 * 1024;
/// How many bytes an index has, and all indexes within it, where one image is looked for in them: their entries are held
/// until all are known.
const LARGEST_NESTED: u64 = 128 * 1024;
/// How many bytes an index says of one image and its attestations: 1 MiB where there are 32 platforms.
pub(super) const LARGEST_ENTRIES: usize = 32 * 1024;
/// How many entries that are left out are told one by one.
const MOST_TOLD: usize = 16;

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

/// The image that is to be taken. Nothing else of the index is held: servers may be slow, and indexes large.
pub(super) struct Choice {
    /// What the reference named: the index, or the image itself.
    pub source: Descriptor,
    pub image: Chosen,
    /// The entries of its attestations.
    pub about: Vec<Descriptor>,
    /// What else there is that cannot be read, in words.
    pub left_out: Vec<String>,
}

pub(super) enum Chosen {
    Alone(Manifest),
    Entry(Descriptor),
}

/// The image for `platform`: of an index the one entry, or what is alone under its reference.
pub(super) async fn choose(
    session: &Session,
    reference: &Reference,
    platform: &Platform,
) -> Result<Choice, ResolveError> {
    let named = session.get_manifest(reference).await?;
    let source = named.descriptor.clone();
    if !source.media_type.is_index() {
        return Ok(Choice { source, image: Chosen::Alone(named), about: Vec::new(), left_out: Vec::new() });
    }
    let listing = parse_index(reference, named)?;
    let looked_into = match pick(reference, platform, &listing.entries) {
        Err(_) if listing.entries.iter().any(|entry| entry.media_type.is_index()) => {
            let most = most_nested(reference, source.size)?;
            let nested = nested(session, reference, &listing.entries, most).await?;
            listing.and(nested)
        }
        _ => listing,
    };
    looked_into.choice(reference, platform, source)
}

/// How many bytes the indexes within an index of `size` bytes may have.
fn most_nested(reference: &Reference, size: u64) -> Result<u64, ResolveError> {
    LARGEST_NESTED.checked_sub(size).ok_or_else(|| {
        let reason = format!("its index lists indexes and has {size} bytes; {LARGEST_NESTED} is the most");
        not_an_image(reference, reason)
    })
}

/// The same with its manifests.
pub(super) async fn find(
    session: &Session,
    reference: &Reference,
    platform: &Platform,
) -> Result<(Found, Vec<String>), ResolveError> {
    let Choice { source, image, about, left_out } = choose(session, reference, platform).await?;
    let declared = Some(platform.clone());
    let found = match image {
        Chosen::Alone(image) => Found::alone(reference, declared, image),
        Chosen::Entry(entry) => Found::fetch(session, reference, declared, source, entry, about).await?,
    };
    Ok((found, left_out))
}

/// Every image there is, in the order of the index. What is no image (an artifact, an attestation of something
/// else) is left out, and told in words.
pub(super) async fn find_all(
    session: &Session,
    reference: &Reference,
) -> Result<(Vec<Found>, Vec<String>), ResolveError> {
    let named = session.get_manifest(reference).await?;
    let source = named.descriptor.clone();
    if !source.media_type.is_index() {
        return Ok((vec![Found::alone(reference, None, named)], Vec::new()));
    }
    let listing = parse_index(reference, named)?;
    let nested = nested(session, reference, &listing.entries, LARGEST_MANIFESTS).await?;
    let Listing { entries, unreadable: mut others } = listing.and(nested);
    let mut seen = HashSet::new();
    let images: Vec<&Descriptor> = images(&entries)
        .filter(|entry| entry.runnable_platform().is_some() || says_nothing(entry))
        .filter(|entry| seen.insert((&entry.digest, entry.runs_on())))
        .collect();
    if images.len() > MOST_IMAGES {
        let reason = format!("its index lists {} images; {MOST_IMAGES} is the most", images.len());
        return Err(not_an_image(reference, reason));
    }
    let about = images.iter().flat_map(|image| attestations(&entries, &image.digest));
    check_size(reference, about.chain(images.iter().copied()), LARGEST_MANIFESTS)?;
    let found = images.into_iter().map(|entry| {
        let (declared, source) = (entry.runnable_platform(), source.clone());
        let about = attestations(&entries, &entry.digest).cloned().collect();
        Found::fetch(session, reference, declared, source, entry.clone(), about)
    });
    let (found, foreign): (Vec<Found>, Vec<Found>) =
        try_join_all(found).await?.into_iter().partition(|found| found.foreign_config().is_none());
    let carried: HashSet<&Digest> = found.iter().flat_map(Found::digests).collect();
    let configs: HashMap<&Digest, MediaType> =
        foreign.iter().filter_map(|f| Some((&f.image.descriptor.digest, f.foreign_config()?))).collect();
    let missed = |entry: &&Descriptor| !entry.media_type.is_index() && !carried.contains(&entry.digest);
    others.extend(entries.iter().filter(missed).map(|entry| no_image(entry, configs.get(&entry.digest))));
    let left_out = left_out(reference, others);
    if found.is_empty() {
        let instead = left_out.iter().map(|warning| format!("; {warning}"));
        let reason =
            instead.take(1).fold("its index lists no images".to_owned(), |reason, more| reason + &more);
        return Err(not_an_image(reference, reason));
    }
    Ok((found, left_out))
}

impl Found {
    /// Everything that must be in the repository of an index with this image, and where it is.
    pub(super) fn manifests(&self) -> impl Iterator<Item = (Repository, Manifest)> {
        let repository = self.reference.repository();
        std::iter::once(&self.image)
            .chain(&self.attestations)
            .map(|manifest| (repository.clone(), manifest.clone()))
    }

    fn digests(&self) -> impl Iterator<Item = &Digest> {
        std::iter::once(&self.image).chain(&self.attestations).map(|manifest| &manifest.descriptor.digest)
    }

    /// The type of the config, if nobody says that this is an image for a platform and its config is of none.
    fn foreign_config(&self) -> Option<MediaType> {
        if self.declared.is_some() {
            return None;
        }
        let manifest: ImageManifest = serde_json::from_slice(&self.image.bytes).ok()?;
        Some(manifest.config.media_type).filter(|config| !config.is_image_config())
    }

    fn alone(reference: &Reference, declared: Option<Platform>, image: Manifest) -> Self {
        let (reference, source) = (reference.clone(), image.descriptor.clone());
        Self { reference, declared, source, image, attestations: Vec::new() }
    }

    async fn fetch(
        session: &Session,
        reference: &Reference,
        declared: Option<Platform>,
        source: Descriptor,
        entry: Descriptor,
        about: Vec<Descriptor>,
    ) -> Result<Self, ResolveError> {
        check_attestations(reference, &entry, &about)?;
        let (image, attestations) =
            futures::try_join!(fetch(session, reference, entry), fetch_all(session, reference, about))?;
        Ok(Self { reference: reference.clone(), declared, source, image, attestations })
    }
}

fn check_attestations(
    reference: &Reference,
    image: &Descriptor,
    about: &[Descriptor],
) -> Result<(), ResolveError> {
    if about.len() > MOST_ATTESTATIONS {
        let reason = format!("{} attestations; {MOST_ATTESTATIONS} is the most", about.len());
        return Err(not_an_image(reference, format!("{} has {reason}", image.digest)));
    }
    Ok(())
}

/// The entries of the indexes within an index, which have no more than `most` bytes.
async fn nested(
    session: &Session,
    reference: &Reference,
    entries: &[Descriptor],
    most: u64,
) -> Result<Listing, ResolveError> {
    let indexes: Vec<Descriptor> =
        entries.iter().filter(|entry| entry.media_type.is_index()).cloned().collect();
    if indexes.len() > MOST_NESTED {
        let reason = format!("its index lists {} indexes; {MOST_NESTED} is the most", indexes.len());
        return Err(not_an_image(reference, reason));
    }
    check_size(reference, &indexes, most)?;
    let mut inner = Listing::default();
    for index in fetch_all(session, reference, indexes).await? {
        inner = inner.and(parse_index(reference, index)?);
    }
    let (deeper, entries): (Vec<Descriptor>, Vec<Descriptor>) =
        inner.entries.into_iter().partition(|entry| entry.media_type.is_index());
    inner.entries = entries;
    inner
        .unreadable
        .extend(deeper.iter().map(|index| format!("{} is an index nested too deep", index.digest)));
    Ok(inner)
}

impl Listing {
    fn and(mut self, other: Self) -> Self {
        self.entries.extend(other.entries);
        self.unreadable.extend(other.unreadable);
        self
    }

    /// What is taken of it for `platform`.
    fn choice(
        self,
        reference: &Reference,
        platform: &Platform,
        source: Descriptor,
    ) -> Result<Choice, ResolveError> {
        let Self { entries, unreadable } = self;
        let entry = pick(reference, platform, &entries).map_err(|mut error| {
            // What cannot be read may be what was looked for.
            if let ResolveError::NoSuchPlatform { available, .. } = &mut error {
                available.extend(unreadable.iter().take(MOST_TOLD).cloned());
            }
            error
        })?;
        let about: Vec<Descriptor> = attestations(&entries, &entry.digest).cloned().collect();
        check_attestations(reference, &entry, &about)?;
        check_size(reference, about.iter().chain([&entry]), LARGEST_MANIFESTS)?;
        check_entries(reference, about.iter().chain([&entry]))?;
        let left_out = left_out(reference, unreadable);
        Ok(Choice { source, image: Chosen::Entry(entry), about, left_out })
    }
}

/// What an index says of one image is held for as long as it is worked on.
pub(super) fn check_entries<'a>(
    reference: &Reference,
    entries: impl IntoIterator<Item = &'a Descriptor>,
) -> Result<(), ResolveError> {
    let bytes = entries.into_iter().filter_map(|entry| serde_json::to_vec(entry).ok());
    let bytes: usize = bytes.map(|entry| entry.len()).sum();
    if bytes > LARGEST_ENTRIES {
        let reason =
            format!("{bytes} bytes are said of it and its attestations; {LARGEST_ENTRIES} is the most");
        return Err(not_an_image(reference, reason));
    }
    Ok(())
}

fn attestations<'a>(entries: &'a [Descriptor], image: &Digest) -> impl Iterator<Item = &'a Descriptor> {
    let about = move |candidate: &&Descriptor| candidate.media_type.is_manifest() && candidate.attests(image);
    entries.iter().filter(about)
}

/// What is held in memory at once is bounded before anything is fetched; every size is verified then.
fn check_size<'a>(
    reference: &Reference,
    entries: impl IntoIterator<Item = &'a Descriptor>,
    most: u64,
) -> Result<(), ResolveError> {
    let bytes = entries.into_iter().fold(0_u64, |bytes, entry| bytes.saturating_add(entry.size));
    if bytes > most {
        let reason = format!("its index lists manifests of {bytes} bytes; {most} is the most");
        return Err(not_an_image(reference, reason));
    }
    Ok(())
}

/// Why an entry is no image, in words.
fn no_image(entry: &Descriptor, config: Option<&MediaType>) -> String {
    let Descriptor { digest, media_type, artifact_type, .. } = entry;
    let [media_type, artifact_type, config] =
        [Some(media_type.as_str()), artifact_type.as_deref(), config.map(MediaType::as_str)]
            .map(|text| text.map(readable));
    let media_type = media_type.unwrap_or_default();
    match (config, artifact_type) {
        (Some(config), _) => format!("{digest} ({media_type}) is no image, its config is {config}"),
        (None, Some(artifact)) => format!("{digest} ({media_type}) is no image but {artifact}"),
        (None, None) if entry.is_attestation() => {
            format!("{digest} ({media_type}) is an attestation of something that is not in the index")
        }
        (None, None) => format!("{digest} ({media_type}) is no image for a platform"),
    }
}

/// The warnings about what is left out, and why.
fn left_out(reference: &Reference, reasons: Vec<String>) -> Vec<String> {
    let more = reasons.len().saturating_sub(MOST_TOLD);
    let told = reasons.iter().take(MOST_TOLD).map(|reason| format!("{reference}: left out: {reason}"));
    let rest = (more > 0).then(|| format!("{reference}: left out: {more} more entries of the index"));
    told.chain(rest).collect()
}

fn images(entries: &[Descriptor]) -> impl Iterator<Item = &Descriptor> {
    entries.iter().filter(|entry| entry.media_type.is_manifest() && !entry.is_attestation())
}

/// Whether the config has to tell what the entry is for.
fn says_nothing(entry: &Descriptor) -> bool {
    entry.platform.is_none() && entry.artifact_type.is_none()
}

fn parse_index(reference: &Reference, index: Manifest) -> Result<Listing, ResolveError> {
    Listing::read(&index.bytes)
        .map_err(|error| not_an_image(reference, format!("its index cannot be read: {error}")))
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
pub(super) async fn fetch(
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
