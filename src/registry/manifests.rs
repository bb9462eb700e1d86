//! Manifests and indexes: read with their digest verified, written byte for byte.

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use super::descriptor::{Descriptor, MediaType};
use super::digest::Digest;
use super::error::{Error, Kind, Operation};
use super::memory::check_values;
use super::reference::{Reference, Repository};
use super::scope::Scopes;
use super::session::{Content, Request, Session};

/// The largest manifest or config that is read or written, in bytes.
pub const LARGEST_MANIFEST: u64 = 4 * 1024 * 1024;

/// All four, or registries convert or refuse what they would have to leave out.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// How many tags are written in one request: more make an address that servers refuse.
const MOST_TAGS: usize = 10;

const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A manifest or an index as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What it is; the digest and the size are of `bytes`.
    pub descriptor: Descriptor,
    /// Every byte of it.
    pub bytes: Bytes,
}

impl Session {
    /// Whether the manifest exists, and what the registry says it is. Costs one request and no content.
    ///
    /// A hint only: the registry's headers are not verified. `None` if there is no such manifest; registries
    /// that keep the digest to themselves are asked for the content.
    ///
    /// # Errors
    /// Any but [`Kind::NotFound`].
    pub async fn head_manifest(&self, reference: &Reference) -> Result<Option<Descriptor>, Error> {
        let found = self.reading(reference.repository(), |session, repository| async move {
            session.head_manifest_at(&reference.in_repository(&repository)).await
        });
        match found.await {
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            found => found.map(Some),
        }
    }

    async fn head_manifest_at(&self, reference: &Reference) -> Result<Descriptor, Error> {
        let request = self.manifest_request(reference, Method::HEAD, "looking for the manifest")?;
        let headers = self.send(&request).await?.headers().clone();
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let digest = text(DOCKER_CONTENT_DIGEST).and_then(|digest| digest.parse::<Digest>().ok());
        // What claims to be other than it was asked for has to show its bytes.
        let digest = digest.filter(|digest| reference.digest().is_none_or(|expected| expected == digest));
        let size = text(CONTENT_LENGTH).and_then(|size| size.parse().ok());
        match (text(CONTENT_TYPE), digest, size) {
            (Some(media_type), Some(digest), Some(size)) => {
                Ok(Descriptor::new(MediaType::new(media_type), digest, size))
            }
            _ => Ok(self.get_manifest_at(reference).await?.descriptor),
        }
    }

    /// Whether the repository has the manifest. `403` counts as no, as with blobs: writing will tell whether that is the
    /// reason.
    ///
    /// # Errors
    /// If the registry gives no usable answer.
    pub async fn has_manifest(&self, reference: &Reference) -> Result<bool, Error> {
        match self.head_manifest(reference).await {
            Ok(found) => Ok(found.is_some()),
            Err(error) if error.kind() == Kind::Denied => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The manifest with its bytes, of at most [`LARGEST_MANIFEST`]. The digest is computed from them.
    ///
    /// # Errors
    /// [`Kind::DigestMismatch`] if the reference has a digest and the bytes have another,
    /// [`Kind::Unsupported`] for schema 1, [`Kind::Malformed`] for what is neither an index nor an image.
    pub async fn get_manifest(&self, reference: &Reference) -> Result<Manifest, Error> {
        let read = |session: Session, repository| async move {
            session.get_manifest_at(&reference.in_repository(&repository)).await
        };
        self.reading(reference.repository(), read).await
    }

    async fn get_manifest_at(&self, reference: &Reference) -> Result<Manifest, Error> {
        let request = self.manifest_request(reference, Method::GET, "fetching the manifest")?;
        let (headers, bytes) = self.fetch(&request, LARGEST_MANIFEST).await?;
        let digest = match reference.digest() {
            Some(expected) => verified(&request.operation, expected, &bytes)?,
            None => Digest::sha256(&bytes),
        };
        let content_type =
            headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(MediaType::new);
        let media_type =
            media_type(&bytes, content_type).map_err(|(kind, cause)| request.operation.error(kind, cause))?;
        Ok(Manifest { descriptor: Descriptor::new(media_type, digest, bytes.len() as u64), bytes })
    }

    /// Writes these bytes under the reference's tag, or under their digest if it has no tag.
    /// Doing so again changes nothing.
    ///
    /// # Errors
    /// [`Kind::DigestMismatch`] if the reference has a digest that is not that of the bytes, before anything
    /// is sent; or if the registry says it keeps other bytes than it was given.
    pub async fn put_manifest(
        &self,
        reference: &Reference,
        media_type: &MediaType,
        bytes: &Bytes,
    ) -> Result<(), Error> {
        self.send_manifest(reference, media_type, bytes).await.map(drop)
    }

    /// As [`put_manifest`](Self::put_manifest), and what the registry has to say to it.
    pub(super) async fn send_manifest(
        &self,
        reference: &Reference,
        media_type: &MediaType,
        bytes: &Bytes,
    ) -> Result<HeaderMap, Error> {
        let request = self.put_request(reference, media_type, bytes)?;
        let response = self.send(&request).await?;
        let digest = reference.digest().cloned().unwrap_or_else(|| Digest::sha256(bytes));
        check_kept(&request.operation, &digest, response.headers())?;
        Ok(response.headers().clone())
    }

    fn put_request<'a>(
        &self,
        reference: &'a Reference,
        media_type: &MediaType,
        bytes: &Bytes,
    ) -> Result<Request<'a>, Error> {
        let operation = Operation::new(reference, "pushing the manifest");
        if bytes.len() as u64 > LARGEST_MANIFEST {
            let cause = format!("the manifest of {} bytes is larger than {LARGEST_MANIFEST}", bytes.len());
            return Err(operation.error(Kind::TooLarge, cause));
        }
        let digest = match reference.digest() {
            Some(expected) => verified(&operation, expected, bytes)?,
            None => Digest::sha256(bytes),
        };
        let name = reference.tag().unwrap_or(digest.as_str());
        let url = self.url(&operation, reference.repository(), &format!("manifests/{name}"))?;
        let content_type = HeaderValue::from_str(media_type.as_str())
            .map_err(|_| operation.error(Kind::Malformed, "the media type is no header value"))?;
        Ok(Request {
            operation,
            repository: reference.repository(),
            method: Method::PUT,
            url,
            headers: HeaderMap::from_iter([(CONTENT_TYPE, content_type)]),
            content: Content::Bytes(bytes.clone()),
            scopes: Scopes::push(reference.repository()),
        })
    }

    /// Writes these bytes by their digest and under all `tags` in one request where the registry is known to do so, and
    /// says under which it has done so: distribution spec, "Pushing manifests", `tag` and `OCI-Tag`.
    ///
    /// Whether the registry knows that is found out beside other requests, and only for who publishes more than once:
    /// a process that publishes once has no use of the answer.
    ///
    /// # Errors
    /// [`Kind::DigestMismatch`] if the registry says it keeps other bytes than it was given. What else it refuses is
    /// left to who writes the tags one by one.
    pub async fn put_manifest_under_tags(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        bytes: &Bytes,
        tags: &[&str],
    ) -> Result<Vec<String>, Error> {
        let host = self.client().host(repository.host());
        if tags.len() < 2 || !host.may_take_several_tags() {
            return Ok(Vec::new());
        }
        let reference = repository.with_digest(&descriptor.digest);
        let mut written = Vec::new();
        for tags in tags.chunks(MOST_TAGS) {
            let mut request = self.put_request(&reference, &descriptor.media_type, bytes)?;
            request.url.query_pairs_mut().extend_pairs(tags.iter().map(|tag| ("tag", tag)));
            let Ok(response) = self.send(&request).await else { break };
            check_kept(&request.operation, &descriptor.digest, response.headers())?;
            let confirmed =
                response.headers().get_all(OCI_TAG).iter().filter_map(|value| value.to_str().ok());
            written.extend(confirmed.flat_map(|names| names.split(',')).map(|name| name.trim().to_owned()));
        }
        host.takes_several_tags(!written.is_empty());
        Ok(written)
    }

    fn manifest_request<'a>(
        &self,
        reference: &'a Reference,
        method: Method,
        name: &'static str,
    ) -> Result<Request<'a>, Error> {
        let operation = Operation::new(reference, name);
        let rest = format!("manifests/{}", reference.identifier());
        let url = self.url(&operation, reference.repository(), &rest)?;
        Ok(Request {
            operation,
            repository: reference.repository(),
            method,
            url,
            headers: HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(ACCEPTED))]),
            content: Content::Empty,
            scopes: Scopes::pull(reference.repository()),
        })
    }
}

/// The manifest that `descriptor` names, from bytes that were somewhere else than in a registry.
///
/// # Errors
/// As [`Session::get_manifest`].
pub(crate) fn manifest_from_bytes(
    operation: &Operation,
    descriptor: &Descriptor,
    bytes: Bytes,
) -> Result<Manifest, Error> {
    let digest = verified(operation, &descriptor.digest, &bytes)?;
    let media_type = media_type(&bytes, Some(descriptor.media_type.clone()))
        .map_err(|(kind, cause)| operation.error(kind, cause))?;
    Ok(Manifest { descriptor: Descriptor::new(media_type, digest, bytes.len() as u64), bytes })
}

/// The digest, if `bytes` have it.
pub(crate) fn verified(operation: &Operation, expected: &Digest, bytes: &[u8]) -> Result<Digest, Error> {
    let found = Digest::of(expected.algorithm(), bytes);
    if found == *expected {
        return Ok(found);
    }
    Err(operation.error(Kind::DigestMismatch, format!("the content has digest {found}, not {expected}")))
}

/// The header proves nothing, but when it names another digest the registry has changed what it was given.
fn check_kept(operation: &Operation, digest: &Digest, headers: &HeaderMap) -> Result<(), Error> {
    let kept =
        headers.get(DOCKER_CONTENT_DIGEST).and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
    match kept {
        Some(kept) if kept.algorithm() == digest.algorithm() && kept != *digest => Err(operation
            .error(Kind::DigestMismatch, format!("the registry keeps {kept} where it was given {digest}"))),
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    schema_version: Option<serde_json::Value>,
    media_type: Option<MediaType>,
    manifests: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

/// What the bytes are. The body knows best, then the header, then the shape; they may not disagree on whether it
/// is an index, since one that is read both ways lets two programs run two images (CVE-2021-41190).
pub(crate) fn media_type(bytes: &[u8], content_type: Option<MediaType>) -> Result<MediaType, (Kind, String)> {
    let malformed = |cause: &str| (Kind::Malformed, cause.to_owned());
    check_values(bytes).map_err(|cause| (Kind::TooLarge, format!("the manifest is too large: {cause}")))?;
    let outline: Outline =
        serde_json::from_slice(bytes).map_err(|_| malformed("the manifest is not a JSON object"))?;
    if outline.schema_version.as_ref().is_some_and(|version| version == 1) {
        let cause = "the image has the old schema 1; push it again with a current tool";
        return Err((Kind::Unsupported, cause.to_owned()));
    }
    let index = outline.manifests.is_some();
    let image = outline.config.is_some() || outline.layers.is_some();
    if index == image {
        return Err(malformed("the manifest is neither clearly an index nor clearly an image"));
    }
    let known = |media_type: &MediaType| media_type.is_index() || media_type.is_manifest();
    let content_type = content_type.filter(known);
    let written = outline.media_type.filter(|media_type| !media_type.as_str().is_empty());
    for media_type in written.iter().chain(&content_type) {
        if !known(media_type) {
            return Err((
                Kind::Unsupported,
                format!("{media_type} is not the media type of an image or an index"),
            ));
        }
        if media_type.is_index() != index {
            return Err(malformed(
                "the manifest's media type and its content disagree on whether it is an index",
            ));
        }
    }
    let by_shape = if index { MediaType::OCI_INDEX } else { MediaType::OCI_MANIFEST };
    Ok(written.or(content_type).unwrap_or(by_shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(body: &str, content_type: Option<&str>) -> Result<MediaType, Kind> {
        media_type(body.as_bytes(), content_type.map(MediaType::new)).map_err(|(kind, _)| kind)
    }

    #[test]
    fn the_body_knows_best_what_it_is() {
        let list = MediaType::DOCKER_LIST;
        let body = format!(r#"{{"mediaType":"{list}","manifests":[]}}"#);
        assert_eq!(kind_of(&body, Some("application/json")), Ok(list.clone()));
        assert_eq!(kind_of(&body, Some(MediaType::OCI_INDEX.as_str())), Ok(list.clone()));
        assert_eq!(kind_of(r#"{"manifests":[]}"#, Some(list.as_str())), Ok(list));
        assert_eq!(kind_of(r#"{"manifests":[]}"#, None), Ok(MediaType::OCI_INDEX));
        assert_eq!(kind_of(r#"{"config":{},"layers":[]}"#, Some("text/plain")), Ok(MediaType::OCI_MANIFEST));
    }

    #[test]
    fn what_can_be_read_two_ways_is_refused() {
        let index = MediaType::OCI_INDEX;
        assert_eq!(kind_of(r#"{"manifests":[],"layers":[]}"#, None), Err(Kind::Malformed));
        assert_eq!(kind_of(r#"{"config":{},"layers":[]}"#, Some(index.as_str())), Err(Kind::Malformed));
        let body = format!(r#"{{"mediaType":"{index}","config":{{}},"layers":[]}}"#);
        assert_eq!(kind_of(&body, None), Err(Kind::Malformed));
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert_eq!(kind_of(r#"{"schemaVersion":1,"fsLayers":[]}"#, None), Err(Kind::Unsupported));
        assert_eq!(kind_of(r#"{"mediaType":"x/y","layers":[]}"#, None), Err(Kind::Unsupported));
        for body in ["", "[]", "{}", "<html>", "null"] {
            assert_eq!(kind_of(body, None), Err(Kind::Malformed), "{body}");
        }
    }
}
