//! Manifests that are about another one, such as signatures: found, and kept findable.
//!
//! Registries list them by the referrers API. Where there is none, those who push keep the list themselves, as an
//! index under a tag named after the digest: distribution spec, "Referrers tag schema".

use std::collections::BTreeMap;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::descriptor::{Descriptor, MediaType, null_as_default};
use super::digest::Digest;
use super::error::{Error, Kind, Operation};
use super::manifests::Manifest;
use super::pages::Pages;
use super::reference::{Reference, Repository};
use super::scope::Scopes;
use super::session::{Content, Request, Session};

/// How many manifests may be about one.
const MOST_REFERRERS: usize = 1000;
/// How often the list under a tag is written until an entry is seen to be in it.
const MOST_WRITES: u32 = 5;

/// The answer of a registry that lists the manifest by its own means.
const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// The filters that a registry has applied; the others are left to us.
const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// An index, as lists of referrers are.
#[derive(Deserialize)]
struct Listed {
    #[serde(default, deserialize_with = "null_as_default")]
    manifests: Vec<Descriptor>,
}

/// What of a manifest counts for its entry in a list: OCI image spec, manifest.md.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Referrer {
    subject: Option<Subject>,
    artifact_type: Option<String>,
    config: Option<Config>,
    #[serde(default, deserialize_with = "null_as_default")]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Subject {
    digest: Digest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    media_type: String,
}

impl Manifest {
    /// The digest of the manifest that this one is about, if it is about any.
    pub fn subject(&self) -> Option<Digest> {
        entry(&self.descriptor.media_type, &self.bytes).map(|(subject, _)| subject)
    }
}

impl Session {
    /// The manifests in `repository` that are about the one with `digest`; of `artifact_type` only, if one is named.
    ///
    /// By the referrers API, or from the tag that stands in for it: distribution spec, "Listing referrers". A manifest
    /// that nobody refers to, or that does not exist, has none. What they say about themselves is not verified.
    ///
    /// # Errors
    /// [`Kind::Malformed`] if the list is none or does not end, [`Kind::TooLarge`] if it has more than 1000 entries.
    pub async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, Error> {
        let mut found = match self.referrers_by_api(repository, digest, artifact_type).await? {
            Some(found) => found,
            None => self.referrers_by_tag(repository, digest).await?,
        };
        found.retain(|entry| {
            artifact_type.is_none_or(|wanted| entry.artifact_type.as_deref() == Some(wanted))
        });
        Ok(found)
    }

    /// None if the registry does not have the API.
    async fn referrers_by_api(
        &self,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Option<Vec<Descriptor>>, Error> {
        let operation = Operation::new(repository.with_digest(digest), "listing the referrers");
        let mut url = self.url(&operation, repository, &format!("referrers/{digest}"))?;
        if let Some(wanted) = artifact_type {
            url.query_pairs_mut().append_pair("artifactType", wanted);
        }
        let accept = HeaderValue::from_static("application/vnd.oci.image.index.v1+json");
        let request = Request {
            operation: operation.clone(),
            repository,
            method: Method::GET,
            url,
            headers: HeaderMap::from_iter([(ACCEPT, accept)]),
            content: Content::Empty,
            scopes: Scopes::pull(repository),
        };
        let mut pages = Pages::new(self, request);
        let mut found = Vec::new();
        loop {
            let (headers, page) = match pages.next().await {
                Ok(Some(page)) => page,
                Ok(None) => return Ok(Some(found)),
                Err(error) if found.is_empty() && is_unknown(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
            // A web page is what some registries have under every address that they do not know.
            if !is_index(&headers) {
                return Ok(None);
            }
            let Listed { mut manifests } = parse(&operation, &page)?;
            if let Some(wanted) = artifact_type.filter(|_| !is_filtered(&headers)) {
                manifests.retain(|entry| entry.artifact_type.as_deref() == Some(wanted));
            }
            add(&operation, &mut found, manifests)?;
        }
    }

    async fn referrers_by_tag(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Descriptor>, Error> {
        let operation = Operation::new(repository.with_digest(digest), "listing the referrers");
        let tag = fallback(&operation, repository, digest)?;
        let mut found = Vec::new();
        if let Some(list) = self.list_under(&tag).await? {
            add(&operation, &mut found, parse::<Listed>(&operation, &list)?.manifests)?;
        }
        Ok(found)
    }

    /// The bytes of the list under a tag, if there is one.
    async fn list_under(&self, tag: &Reference) -> Result<Option<Bytes>, Error> {
        match self.without_mirrors().get_manifest(tag).await {
            Ok(list) if list.descriptor.media_type.is_index() => Ok(Some(list.bytes)),
            Ok(list) => {
                let cause = format!(
                    "this tag should lead to a list of referrers, not to {}",
                    list.descriptor.media_type
                );
                Err(Operation::new(tag, "listing the referrers").error(Kind::Malformed, cause))
            }
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a manifest under its digest and sees to it that it is found by what it is about: distribution spec,
    /// "Pushing manifests with subject". A registry that does not confirm the subject gets the tag that stands in for
    /// the API. A manifest without a subject is only written.
    ///
    /// [`put_manifest`](Self::put_manifest) alone is enough for what an index lists beside its image, such as
    /// BuildKit's attestations, which have a subject as well.
    ///
    /// # Errors
    /// Those of [`put_manifest`](Self::put_manifest); and [`Kind::Rejected`] if other writers keep it out of the list.
    pub async fn put_referrer(&self, repository: &Repository, manifest: &Manifest) -> Result<(), Error> {
        let Manifest { descriptor: Descriptor { media_type, digest, .. }, bytes } = manifest;
        let answer = self.send_manifest(&repository.with_digest(digest), media_type, bytes).await?;
        match entry(media_type, bytes) {
            Some((subject, entry)) if !answer.contains_key(OCI_SUBJECT) => {
                self.list_by_tag(repository, &subject, &entry).await
            }
            _ => Ok(()),
        }
    }

    /// Adds an entry to the list under the tag. Nothing locks a tag, so the list is read again after it was written:
    /// whoever finds that another writer has come between adds his entry once more.
    async fn list_by_tag(
        &self,
        repository: &Repository,
        subject: &Digest,
        entry: &Descriptor,
    ) -> Result<(), Error> {
        let operation = Operation::new(repository.with_digest(&entry.digest), "listing the referrer");
        let tag = fallback(&operation, repository, subject)?;
        let _guard = self.client().uploads().enter(repository, subject).await;
        for _ in 0..=MOST_WRITES {
            // Whatever else others wrote into the list stays in it.
            let mut list: Value = match self.list_under(&tag).await? {
                Some(list) => parse(&operation, &list)?,
                None => json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": []}),
            };
            let Some(entries) = list.get_mut("manifests").and_then(Value::as_array_mut) else {
                return Err(operation.error(Kind::Malformed, format!("{tag} is no list of referrers")));
            };
            if entries.iter().any(|known| known["digest"] == entry.digest.as_str()) {
                return Ok(());
            }
            entries.push(json!(entry));
            let bytes = Bytes::from(list.to_string());
            self.put_manifest(&tag, &MediaType::OCI_INDEX, &bytes).await?;
        }
        let cause = format!("pushed, but others keep it out of the list under {tag}");
        Err(operation.error(Kind::Rejected, cause))
    }
}

/// Whether the registry does not know the address. Which of the two is unknown, API or repository, cannot be told.
fn is_unknown(error: &Error) -> bool {
    matches!(error.kind(), Kind::NotFound | Kind::Unsupported)
}

fn is_index(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(MediaType::new);
    media_type == Some(MediaType::OCI_INDEX)
}

fn is_filtered(headers: &HeaderMap) -> bool {
    let applied = headers.get_all(OCI_FILTERS_APPLIED).iter().filter_map(|value| value.to_str().ok());
    applied.flat_map(|filters| filters.split(',')).any(|filter| filter.trim() == "artifactType")
}

fn parse<T: DeserializeOwned>(operation: &Operation, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| operation.error(Kind::Malformed, format!("this is no list of referrers: {error}")))
}

/// Adds what is not there yet.
fn add(operation: &Operation, found: &mut Vec<Descriptor>, more: Vec<Descriptor>) -> Result<(), Error> {
    for entry in more {
        if found.iter().any(|known| known.digest == entry.digest) {
            continue;
        }
        if found.len() >= MOST_REFERRERS {
            let cause = format!("more than {MOST_REFERRERS} manifests refer to this one");
            return Err(operation.error(Kind::TooLarge, cause));
        }
        found.push(entry);
    }
    Ok(())
}

/// Where the list is that stands in for the API.
fn fallback(operation: &Operation, repository: &Repository, subject: &Digest) -> Result<Reference, Error> {
    let tag: String = subject.as_str().replacen(':', "-", 1);
    // Distribution spec, "Referrers tag schema": no more than 64 digits, so that it stays a tag.
    let length = tag.len() - subject.hex().len().saturating_sub(64);
    repository.with_tag(&tag[..length]).map_err(|error| operation.error(Kind::Malformed, error.to_string()))
}

/// What a manifest is about, and its entry in a list: distribution spec, "Listing referrers".
fn entry(media_type: &MediaType, bytes: &[u8]) -> Option<(Digest, Descriptor)> {
    let referrer: Referrer = serde_json::from_slice(bytes).ok()?;
    let subject = referrer.subject?.digest;
    let named = referrer.artifact_type.filter(|name| !name.is_empty());
    let entry = Descriptor {
        artifact_type: named.or(referrer.config.map(|config| config.media_type)),
        annotations: referrer.annotations,
        ..Descriptor::new(media_type.clone(), Digest::sha256(bytes), bytes.len() as u64)
    };
    Some((subject, entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry_of(manifest: &Value) -> Option<(Digest, Descriptor)> {
        entry(&MediaType::OCI_MANIFEST, manifest.to_string().as_bytes())
    }

    #[test]
    fn an_entry_says_what_the_manifest_says_of_itself() {
        let subject = Digest::sha256(b"image");
        let config = json!({"mediaType": "application/vnd.example.config"});
        let mut manifest = json!({"config": config, "subject": {"digest": subject}});
        let (about, entry) = entry_of(&manifest).unwrap();
        assert_eq!(
            (about, entry.artifact_type.as_deref()),
            (subject, Some("application/vnd.example.config"))
        );
        manifest["artifactType"] = json!("application/vnd.example.sbom");
        manifest["annotations"] = json!({"made.by": "hand"});
        let (_, entry) = entry_of(&manifest).unwrap();
        assert_eq!(entry.artifact_type.as_deref(), Some("application/vnd.example.sbom"));
        assert_eq!(entry.annotations["made.by"], "hand");
        assert_eq!(entry.digest, Digest::sha256(manifest.to_string().as_bytes()));
    }

    #[test]
    fn an_image_is_about_nothing() {
        for manifest in [json!({"config": {"mediaType": "x/y"}}), json!({"subject": null}), json!([])] {
            assert_eq!(entry_of(&manifest), None, "{manifest}");
        }
    }

    #[test]
    fn the_list_is_under_a_tag_of_at_most_64_digits() {
        let (operation, repository) = (Operation::new("x", "testing"), "a.io/web".parse().unwrap());
        let tag =
            |digest: &Digest| fallback(&operation, &repository, digest).unwrap().tag().unwrap().to_owned();
        let digest = Digest::sha256(b"");
        assert_eq!(tag(&digest), format!("sha256-{}", digest.hex()));
        let long = Digest::of(super::super::digest::Algorithm::Sha512, b"");
        assert_eq!(tag(&long), format!("sha512-{}", &long.hex()[..64]));
    }

    #[test]
    fn applied_filters_are_read_from_the_header() {
        let filtered =
            |value: &str| is_filtered(&HeaderMap::from_iter([(OCI_FILTERS_APPLIED, value.parse().unwrap())]));
        assert!(filtered("artifactType") && filtered("x, artifactType"));
        assert!(!filtered("x"));
    }
}
