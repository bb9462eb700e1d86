//! Descriptors and the media types in them: OCI image spec, descriptor.md.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use oci_client::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE, IMAGE_DOCKER_CONFIG_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::digest::Digest;

/// The kind of content that a descriptor points at.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MediaType(Cow<'static, str>);

impl MediaType {
    /// An OCI image index.
    pub const OCI_INDEX: Self = Self(Cow::Borrowed(OCI_IMAGE_INDEX_MEDIA_TYPE));
    /// An OCI image manifest.
    pub const OCI_MANIFEST: Self = Self(Cow::Borrowed(OCI_IMAGE_MEDIA_TYPE));
    /// An OCI image config.
    pub const OCI_CONFIG: Self = Self(Cow::Borrowed(IMAGE_CONFIG_MEDIA_TYPE));
    /// A Docker manifest list, schema 2.
    pub const DOCKER_LIST: Self = Self(Cow::Borrowed(IMAGE_MANIFEST_LIST_MEDIA_TYPE));
    /// A Docker image manifest, schema 2.
    pub const DOCKER_MANIFEST: Self = Self(Cow::Borrowed(IMAGE_MANIFEST_MEDIA_TYPE));
    /// A Docker image config.
    pub const DOCKER_CONFIG: Self = Self(Cow::Borrowed(IMAGE_DOCKER_CONFIG_MEDIA_TYPE));

    /// A media type by its name; parameters (`; charset=utf-8`) are dropped, as the name alone counts.
    pub fn new(name: &str) -> Self {
        Self(Cow::Owned(name.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is an image index or a manifest list.
    pub fn is_index(&self) -> bool {
        *self == Self::OCI_INDEX || *self == Self::DOCKER_LIST
    }

    /// Whether this is the manifest of one image.
    pub fn is_manifest(&self) -> bool {
        *self == Self::OCI_MANIFEST || *self == Self::DOCKER_MANIFEST
    }

    /// Whether this is one of Docker's own manifests or lists.
    pub fn is_docker(&self) -> bool {
        *self == Self::DOCKER_MANIFEST || *self == Self::DOCKER_LIST
    }

    /// Whether this is the config of a runnable image, with `os` and `architecture`.
    pub fn is_image_config(&self) -> bool {
        *self == Self::OCI_CONFIG || *self == Self::DOCKER_CONFIG
    }

    /// Whether a layer of this type stays where its `urls` say and is in no registry.
    pub fn is_foreign_layer(&self) -> bool {
        self.0.contains(".nondistributable.") || self.0.contains(".rootfs.foreign.")
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What a manifest or a blob is, and how it is verified.
///
/// Serialised in the order of the fields, which is the order of the OCI image spec's own structs:
/// the bytes of an index depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The kind of content.
    pub media_type: MediaType,
    /// The digest of the content.
    pub digest: Digest,
    /// The size of the content in bytes.
    pub size: u64,
    /// Where foreign layers are.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub urls: Vec<String>,
    /// Free metadata; attestations are found by it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
    /// The platform, of an entry in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<DescriptorPlatform>,
    /// The type of an artifact that is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

/// The platform of an entry in an index, as written there: OCI image spec, image-index.md.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DescriptorPlatform {
    /// The architecture, as `GOARCH` spells it.
    #[serde(default)]
    pub architecture: String,
    /// The operating system, as `GOOS` spells it.
    #[serde(default)]
    pub os: String,
    /// The version of the operating system; Windows images differ only by it.
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features that the operating system must have, such as `win32k`.
    #[serde(
        default,
        rename = "os.features",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub os_features: Vec<String>,
    /// The variant of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// What else is written there, such as the `features` of Docker manifest lists; kept where an index is edited.
    #[serde(flatten)]
    pub others: BTreeMap<String, Value>,
}

impl Descriptor {
    /// A descriptor with nothing but the three required fields.
    pub fn new(media_type: MediaType, digest: Digest, size: u64) -> Self {
        Self {
            media_type,
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }
    }
}

/// Go programs write an empty list or map as `null`.
pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_told_apart() {
        assert!(MediaType::new("application/vnd.oci.image.index.v1+json; charset=utf-8").is_index());
        assert!(MediaType::DOCKER_LIST.is_index() && MediaType::DOCKER_LIST.is_docker());
        assert!(MediaType::OCI_MANIFEST.is_manifest() && !MediaType::OCI_MANIFEST.is_docker());
        for layer in [
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        ] {
            assert!(MediaType::new(layer).is_foreign_layer());
        }
        assert!(!MediaType::new("application/vnd.oci.image.layer.v1.tar+gzip").is_foreign_layer());
    }

    #[test]
    fn a_descriptor_with_nulls_and_unknown_fields_is_read() {
        let digest = Digest::sha256(b"");
        let json = format!(
            r#"{{"mediaType":"x/y","digest":"{digest}","size":3,"annotations":null,"urls":null,"new":1}}"#
        );
        let descriptor: Descriptor = serde_json::from_str(&json).unwrap();
        assert_eq!(descriptor, Descriptor::new(MediaType::new("x/y"), digest, 3));
    }

    #[test]
    fn a_negative_size_is_no_descriptor() {
        let json = format!(r#"{{"mediaType":"x/y","digest":"{}","size":-1}}"#, Digest::sha256(b""));
        assert!(serde_json::from_str::<Descriptor>(&json).is_err());
    }
}
