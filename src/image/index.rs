//! The index that is published: which format it has and what its bytes are. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use crate::api::IndexFormat;
use crate::registry::{Descriptor, Digest, LARGEST_MANIFEST, Manifest, MediaType};

/// The format of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An OCI image index.
    Oci,
    /// A Docker manifest list, schema 2.
    Docker,
}

impl From<IndexFormat> for Format {
    fn from(format: IndexFormat) -> Self {
        match format {
            IndexFormat::Oci => Self::Oci,
            IndexFormat::Docker => Self::Docker,
        }
    }
}

/// An index ready to be published. The same entries in the same order give the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssembledIndex {
    /// What it is: media type, digest and size.
    pub descriptor: Descriptor,
    /// Every byte of it.
    pub bytes: Bytes,
    /// What people should know, though the index is valid.
    pub warnings: Vec<String>,
}

/// What is there already, as it is; an image that is alone under its tag as well.
impl From<&Manifest> for AssembledIndex {
    fn from(Manifest { descriptor, bytes }: &Manifest) -> Self {
        Self { descriptor: descriptor.clone(), bytes: bytes.clone(), warnings: Vec::new() }
    }
}

/// Why there can be no such index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    /// An index of nothing.
    #[error("an index needs at least one image")]
    Empty,
    /// What is listed is no image.
    #[error("{digest} is {media_type}, which an index of images cannot list")]
    NotAnImage {
        /// The entry.
        digest: Digest,
        /// What it is.
        media_type: MediaType,
    },
    /// A Docker manifest list cannot have OCI images.
    #[error(
        "format Docker: the image for {platform} ({digest}) is {media_type}, which a manifest list cannot have; use format OCI or push the image with Docker media types"
    )]
    OciChild {
        /// The platform of the image.
        platform: String,
        /// The image.
        digest: Digest,
        /// What it is.
        media_type: MediaType,
    },
    /// A Docker manifest list cannot have annotations.
    #[error("format Docker: a manifest list cannot have annotations ({0}); use format OCI or leave them out")]
    Annotations(
        /// The first of them.
        String,
    ),
    /// Two images for the same platform.
    #[error("two images for {platform}: {first} and {second}")]
    Duplicate {
        /// The platform.
        platform: String,
        /// One image.
        first: Digest,
        /// The other one.
        second: Digest,
    },
    /// It cannot be written down.
    #[error("the index cannot be written as JSON: {0}")]
    Json(
        /// Why.
        String,
    ),
    /// No registry takes it.
    #[error("the index has {0} bytes; registries take no more than {LARGEST_MANIFEST}")]
    TooLarge(
        /// Its size in bytes.
        usize,
    ),
}

/// As published: the fields in the order of the OCI image spec, and no map that forgets its order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Published<'a> {
    schema_version: u32,
    media_type: &'a MediaType,
    manifests: &'a [Descriptor],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

impl AssembledIndex {
    /// Makes the index of `entries`, each image followed by its attestations, in this order.
    ///
    /// Without a `format` it is a Docker list only if every entry is Docker's own and nothing has annotations, which
    /// such a list cannot have; else an OCI index, in which Docker images stay as they are.
    ///
    /// # Errors
    /// See [`AssembleError`].
    pub fn assemble(
        format: Option<Format>,
        annotations: &BTreeMap<String, String>,
        entries: &[Descriptor],
    ) -> Result<Self, AssembleError> {
        check_entries(entries)?;
        let media_type = match format {
            Some(Format::Docker) => check_docker(annotations, entries).map(|()| MediaType::DOCKER_LIST)?,
            None if check_docker(annotations, entries).is_ok() => MediaType::DOCKER_LIST,
            _ => MediaType::OCI_INDEX,
        };
        let index = Published { schema_version: 2, media_type: &media_type, manifests: entries, annotations };
        let bytes = serde_json::to_vec(&index).map_err(|error| AssembleError::Json(error.to_string()))?;
        if bytes.len() as u64 > LARGEST_MANIFEST {
            return Err(AssembleError::TooLarge(bytes.len()));
        }
        let warnings = mixed(&media_type, entries).into_iter().collect();
        let descriptor = Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64);
        Ok(Self { descriptor, bytes: bytes.into(), warnings })
    }
}

fn check_entries(entries: &[Descriptor]) -> Result<(), AssembleError> {
    let mut seen = Vec::new();
    for entry in entries {
        if !entry.media_type.is_manifest() {
            let (digest, media_type) = (entry.digest.clone(), entry.media_type.clone());
            return Err(AssembleError::NotAnImage { digest, media_type });
        }
        if !entry.is_attestation() {
            if let Some(first) = seen.iter().find(|other: &&&Descriptor| other.runs_on() == entry.runs_on()) {
                return Err(AssembleError::Duplicate {
                    platform: entry.platform_in_words(),
                    first: first.digest.clone(),
                    second: entry.digest.clone(),
                });
            }
            seen.push(entry);
        }
    }
    if seen.is_empty() { Err(AssembleError::Empty) } else { Ok(()) }
}

fn check_docker(annotations: &BTreeMap<String, String>, entries: &[Descriptor]) -> Result<(), AssembleError> {
    if let Some(entry) = entries.iter().find(|entry| !entry.media_type.is_docker()) {
        return Err(AssembleError::OciChild {
            platform: entry.platform_in_words(),
            digest: entry.digest.clone(),
            media_type: entry.media_type.clone(),
        });
    }
    match annotations.keys().chain(entries.iter().flat_map(|entry| entry.annotations.keys())).next() {
        Some(key) => Err(AssembleError::Annotations(key.clone())),
        None => Ok(()),
    }
}

fn mixed(media_type: &MediaType, entries: &[Descriptor]) -> Option<String> {
    let docker: Vec<String> = entries
        .iter()
        .filter(|entry| entry.media_type.is_docker())
        .map(Descriptor::platform_in_words)
        .collect();
    (*media_type == MediaType::OCI_INDEX && !docker.is_empty())
        .then(|| format!("Docker images in an OCI index, carried unchanged: {}", docker.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::DescriptorPlatform;

    fn entry(architecture: &str, media_type: MediaType) -> Descriptor {
        let platform = DescriptorPlatform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            ..DescriptorPlatform::default()
        };
        let digest = Digest::sha256(architecture.as_bytes());
        Descriptor { platform: Some(platform), ..Descriptor::new(media_type, digest, 7) }
    }

    fn attestation(of: &Descriptor) -> Descriptor {
        let mut attestation = entry("unknown", MediaType::OCI_MANIFEST);
        attestation.platform = Some(DescriptorPlatform {
            os: "unknown".into(),
            architecture: "unknown".into(),
            ..Default::default()
        });
        attestation.annotations = BTreeMap::from([
            ("vnd.docker.reference.type".to_owned(), "attestation-manifest".to_owned()),
            ("vnd.docker.reference.digest".to_owned(), of.digest.to_string()),
        ]);
        attestation
    }

    fn annotations() -> BTreeMap<String, String> {
        BTreeMap::from([("org.opencontainers.image.source".to_owned(), "https://example.com".to_owned())])
    }

    fn assemble(format: Option<Format>, entries: &[Descriptor]) -> Result<AssembledIndex, AssembleError> {
        AssembledIndex::assemble(format, &BTreeMap::new(), entries)
    }

    #[test]
    fn the_bytes_are_these_and_no_others() {
        let amd64 = entry("amd64", MediaType::OCI_MANIFEST);
        let mut arm = entry("arm", MediaType::OCI_MANIFEST);
        arm.platform.as_mut().unwrap().variant = Some("v7".to_owned());
        let sbom = attestation(&amd64);
        let index = AssembledIndex::assemble(None, &annotations(), &[amd64, sbom, arm]).unwrap();
        let expected = concat!(
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":["#,
            r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","#,
            r#""digest":"sha256:5861314d7fccb39c2192173240eab44fa35ca66426201ca2acd0630a6258dd51","size":7,"#,
            r#""platform":{"architecture":"amd64","os":"linux"}},"#,
            r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","#,
            r#""digest":"sha256:b23a6a8439c0dde5515893e7c90c1e3233b8616e634470f20dc4928bcf3609bc","size":7,"#,
            r#""annotations":{"vnd.docker.reference.digest":"sha256:5861314d7fccb39c2192173240eab44fa35ca66426201ca2acd0630a6258dd51","#,
            r#""vnd.docker.reference.type":"attestation-manifest"},"#,
            r#""platform":{"architecture":"unknown","os":"unknown"}},"#,
            r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","#,
            r#""digest":"sha256:ddf7ff5ebd9d66ce161466c1c0262430fa04de32b0e420ee3f489e2e2112e386","size":7,"#,
            r#""platform":{"architecture":"arm","os":"linux","variant":"v7"}}],"#,
            r#""annotations":{"org.opencontainers.image.source":"https://example.com"}}"#,
        );
        assert_eq!(std::str::from_utf8(&index.bytes).unwrap(), expected);
        assert_eq!(
            index.descriptor.digest.as_str(),
            "sha256:7f7d254578f76cb9904a933426a4ddebded7c1126802e2ef7870e3ce80057895"
        );
        assert_eq!(index.descriptor.size, index.bytes.len() as u64);
    }

    #[test]
    fn the_order_of_the_entries_is_the_order_in_the_index() {
        let [one, two] = ["amd64", "arm64"].map(|name| entry(name, MediaType::OCI_MANIFEST));
        let forth = assemble(None, &[one.clone(), two.clone()]).unwrap();
        let back = assemble(None, &[two, one]).unwrap();
        assert_ne!(forth.descriptor.digest, back.descriptor.digest);
    }

    #[test]
    fn only_docker_images_without_annotations_make_a_docker_list() {
        let docker = [entry("amd64", MediaType::DOCKER_MANIFEST), entry("arm64", MediaType::DOCKER_MANIFEST)];
        assert_eq!(assemble(None, &docker).unwrap().descriptor.media_type, MediaType::DOCKER_LIST);
        let annotated = AssembledIndex::assemble(None, &annotations(), &docker).unwrap();
        assert_eq!(annotated.descriptor.media_type, MediaType::OCI_INDEX);
        let asked = assemble(Some(Format::Oci), &docker).unwrap();
        assert_eq!(asked.descriptor.media_type, MediaType::OCI_INDEX);
    }

    #[test]
    fn a_docker_image_among_oci_images_is_carried_and_told() {
        let mixed = [entry("amd64", MediaType::DOCKER_MANIFEST), entry("arm64", MediaType::OCI_MANIFEST)];
        let index = assemble(None, &mixed).unwrap();
        assert_eq!(index.descriptor.media_type, MediaType::OCI_INDEX);
        assert_eq!(index.warnings, ["Docker images in an OCI index, carried unchanged: linux/amd64"]);
    }

    #[test]
    fn a_docker_list_refuses_what_it_cannot_have() {
        let oci = [entry("amd64", MediaType::OCI_MANIFEST)];
        let error = assemble(Some(Format::Docker), &oci).unwrap_err();
        assert!(
            error.to_string().starts_with("format Docker: the image for linux/amd64 (sha256:"),
            "{error}"
        );
        let docker = [entry("amd64", MediaType::DOCKER_MANIFEST)];
        let error = AssembledIndex::assemble(Some(Format::Docker), &annotations(), &docker).unwrap_err();
        assert!(matches!(error, AssembleError::Annotations(_)));
    }

    #[test]
    fn an_index_lists_images_and_each_platform_once() {
        let amd64 = entry("amd64", MediaType::OCI_MANIFEST);
        assert_eq!(assemble(None, &[]).unwrap_err(), AssembleError::Empty);
        assert_eq!(assemble(None, &[attestation(&amd64)]).unwrap_err(), AssembleError::Empty);
        assert_eq!(
            assemble(None, &[amd64.clone(), amd64.clone()]).unwrap_err(),
            AssembleError::Duplicate {
                platform: "linux/amd64".to_owned(),
                first: amd64.digest.clone(),
                second: amd64.digest.clone()
            }
        );
        let plain = entry("arm64", MediaType::OCI_MANIFEST);
        let mut spelt = Descriptor { digest: Digest::sha256(b"v8"), ..plain.clone() };
        spelt.platform.as_mut().unwrap().variant = Some("v8".to_owned());
        assert!(matches!(assemble(None, &[plain, spelt]), Err(AssembleError::Duplicate { .. })));
        assert!(matches!(
            assemble(None, &[entry("amd64", MediaType::OCI_INDEX)]),
            Err(AssembleError::NotAnImage { .. })
        ));
    }
}
