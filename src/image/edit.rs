//! Changes to an index that exists. Pure. What we do not know in it stays, and so do the images it lists.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::platform::Platform;
use crate::registry::{Descriptor, Digest, LARGEST_MANIFEST, Manifest, MediaType, null_as_default};

/// An index that can be changed and written again, its fields in the order of the OCI image spec.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EditableIndex {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<MediaType>,
    #[serde(default, deserialize_with = "null_as_default")]
    manifests: Vec<Entry>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_as_default")]
    annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    descriptor: Descriptor,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// What is changed; of entries, those of `platform`, and without one the index itself.
#[derive(Debug, Clone, Default)]
pub struct Edits {
    /// Annotations that are set.
    pub annotations: BTreeMap<String, String>,
    /// The keys of annotations that are removed.
    pub removed_annotations: Vec<String>,
    /// The variant of the platform.
    pub variant: Option<String>,
    /// The version of the operating system.
    pub os_version: Option<String>,
    /// What the operating system must have.
    pub os_features: Option<Vec<String>>,
}

impl Edits {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.annotations.is_empty()
            && self.removed_annotations.is_empty()
            && self.variant.is_none()
            && self.os_version.is_none()
            && self.os_features.is_none()
    }
}

/// Why an index cannot be changed so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// It cannot be read or written.
    #[error("the index cannot be changed: {0}")]
    Json(
        /// Why.
        String,
    ),
    /// It lists nothing for the platform.
    #[error("the index has no image for {platform}; it has {}", available.join(", "))]
    NoSuchPlatform {
        /// The platform.
        platform: Platform,
        /// Those that it has.
        available: Vec<String>,
    },
    /// Two entries could not be told apart.
    #[error("two images for {0}")]
    Duplicate(
        /// The platform of both.
        String,
    ),
    /// A Docker manifest list cannot have annotations.
    #[error(
        "{0} is a Docker manifest list, which cannot have annotations; create an OCI index of it with `multiarch index create --format oci`"
    )]
    Annotations(
        /// What the index is called.
        String,
    ),
    /// No registry takes it.
    #[error("the index has {0} bytes; registries take no more than {LARGEST_MANIFEST}")]
    TooLarge(
        /// Its size in bytes.
        usize,
    ),
}

impl EditableIndex {
    /// Reads an index.
    ///
    /// # Errors
    /// [`EditError::Json`] if it is none.
    pub fn read(bytes: &[u8]) -> Result<Self, EditError> {
        serde_json::from_slice(bytes).map_err(|error| EditError::Json(error.to_string()))
    }

    /// Keeps the images for these platforms with their attestations.
    ///
    /// # Errors
    /// [`EditError::NoSuchPlatform`] if there is none for one of them.
    pub fn keep(&mut self, platforms: &[Platform]) -> Result<(), EditError> {
        for platform in platforms {
            self.positions(platform)?;
        }
        let chosen = |entry: &Entry| {
            entry.descriptor.runnable_platform().is_some_and(|found| platforms.contains(&found))
        };
        let images: Vec<Digest> = self
            .manifests
            .iter()
            .filter(|entry| chosen(entry))
            .map(|e| e.descriptor.digest.clone())
            .collect();
        self.manifests
            .retain(|entry| chosen(entry) || images.iter().any(|image| entry.descriptor.attests(image)));
        Ok(())
    }

    /// Changes the entries for a platform, or the index itself.
    ///
    /// # Errors
    /// See [`EditError`].
    pub fn apply(&mut self, platform: Option<&Platform>, edits: &Edits) -> Result<(), EditError> {
        let Some(platform) = platform else {
            annotate(&mut self.annotations, edits);
            return Ok(());
        };
        for position in self.positions(platform)? {
            let Some(Entry { descriptor, .. }) = self.manifests.get_mut(position) else { continue };
            annotate(&mut descriptor.annotations, edits);
            let written = descriptor.platform.get_or_insert_default();
            if let Some(variant) = &edits.variant {
                written.variant = Some(variant.clone()).filter(|variant| !variant.is_empty());
            }
            if let Some(version) = &edits.os_version {
                written.os_version = Some(version.clone()).filter(|version| !version.is_empty());
            }
            if let Some(features) = &edits.os_features {
                written.os_features.clone_from(features);
            }
        }
        self.check_unique()
    }

    /// The index as it is now, under the name that errors call it by.
    ///
    /// # Errors
    /// If no registry would take it.
    pub fn write(&self, name: &str, media_type: &MediaType) -> Result<Manifest, EditError> {
        let annotated = !self.annotations.is_empty()
            || self.manifests.iter().any(|e| !e.descriptor.annotations.is_empty());
        if *media_type == MediaType::DOCKER_LIST && annotated {
            return Err(EditError::Annotations(name.to_owned()));
        }
        let bytes = serde_json::to_vec(self).map_err(|error| EditError::Json(error.to_string()))?;
        if bytes.len() as u64 > LARGEST_MANIFEST {
            return Err(EditError::TooLarge(bytes.len()));
        }
        let descriptor = Descriptor::new(media_type.clone(), Digest::sha256(&bytes), bytes.len() as u64);
        Ok(Manifest { descriptor, bytes: Bytes::from(bytes) })
    }

    fn images(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifests.iter().map(|entry| &entry.descriptor).filter(|entry| !entry.is_attestation())
    }

    fn positions(&self, platform: &Platform) -> Result<Vec<usize>, EditError> {
        let matches = |entry: &Entry| {
            !entry.descriptor.is_attestation()
                && entry.descriptor.runnable_platform().is_some_and(|found| platform.matches(&found))
        };
        let positions: Vec<usize> =
            self.manifests.iter().enumerate().filter(|(_, entry)| matches(entry)).map(|(at, _)| at).collect();
        if positions.is_empty() {
            let available = self.images().map(Descriptor::platform_in_words).collect();
            return Err(EditError::NoSuchPlatform { platform: platform.clone(), available });
        }
        Ok(positions)
    }

    fn check_unique(&self) -> Result<(), EditError> {
        let mut seen = Vec::new();
        for image in self.images().filter(|image| image.runnable_platform().is_some()) {
            let runs_on = image.runs_on();
            if seen.contains(&runs_on) {
                return Err(EditError::Duplicate(image.platform_in_words()));
            }
            seen.push(runs_on);
        }
        Ok(())
    }
}

fn annotate(annotations: &mut BTreeMap<String, String>, edits: &Edits) {
    annotations.retain(|key, _| !edits.removed_annotations.contains(key));
    annotations.extend(edits.annotations.clone());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn index() -> Value {
        let entry = |name: &str, platform: Value| {
            json!({
                "mediaType": MediaType::OCI_MANIFEST, "digest": Digest::sha256(name.as_bytes()), "size": 7,
                "data": "e30=", "platform": platform,
            })
        };
        let mut attestation = entry("sbom", json!({"os": "unknown", "architecture": "unknown"}));
        attestation["annotations"] = json!({
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": Digest::sha256(b"arm64"),
        });
        json!({
            "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "artifactType": "a/b",
            "manifests": [
                entry("amd64", json!({"os": "linux", "architecture": "amd64", "features": ["sse4"]})),
                entry("arm64", json!({"os": "linux", "architecture": "arm64", "variant": "v8"})),
                attestation,
            ],
            "annotations": {"a": "1", "b": "2"},
        })
    }

    fn edited(edit: impl FnOnce(&mut EditableIndex)) -> Value {
        let mut editable = EditableIndex::read(index().to_string().as_bytes()).unwrap();
        edit(&mut editable);
        serde_json::from_slice(&editable.write("web:1", &MediaType::OCI_INDEX).unwrap().bytes).unwrap()
    }

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_not_changed_stays_unknown_fields_too() {
        assert_eq!(edited(|_| ()), index());
    }

    #[test]
    fn annotations_of_the_index_are_set_and_removed() {
        let edits = Edits {
            annotations: BTreeMap::from([("c".to_owned(), "3".to_owned())]),
            removed_annotations: vec!["a".to_owned()],
            ..Edits::default()
        };
        let edited = edited(|index| index.apply(None, &edits).unwrap());
        assert_eq!(edited["annotations"], json!({"b": "2", "c": "3"}));
        assert_eq!(edited["manifests"], index()["manifests"]);
    }

    #[test]
    fn only_the_entry_of_the_platform_is_changed() {
        let edits = Edits {
            annotations: BTreeMap::from([("c".to_owned(), "3".to_owned())]),
            variant: Some("v9".to_owned()),
            os_version: Some("6.1".to_owned()),
            os_features: Some(vec!["x".to_owned()]),
            ..Edits::default()
        };
        let edited = edited(|index| index.apply(Some(&platform("linux/arm64")), &edits).unwrap());
        let entry = &edited["manifests"][1];
        assert_eq!(entry["annotations"], json!({"c": "3"}));
        let expected = json!({
            "os": "linux", "architecture": "arm64", "variant": "v9", "os.version": "6.1", "os.features": ["x"],
        });
        assert_eq!(entry["platform"], expected);
        assert_eq!(entry["data"], "e30=");
        assert_eq!(edited["manifests"][0], index()["manifests"][0]);
    }

    #[test]
    fn a_platform_is_kept_with_its_attestations() {
        let kept = edited(|index| index.keep(&[platform("linux/arm64")]).unwrap());
        assert_eq!(kept["manifests"].as_array().unwrap().len(), 2);
        assert_eq!(kept["manifests"][0], index()["manifests"][1]);
        assert_eq!(kept["annotations"], index()["annotations"]);
    }

    #[test]
    fn a_platform_that_is_not_there_is_refused_with_those_that_are() {
        let mut editable = EditableIndex::read(index().to_string().as_bytes()).unwrap();
        let error = editable.keep(&[platform("linux/s390x")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the index has no image for linux/s390x; it has linux/amd64, linux/arm64"
        );
    }

    #[test]
    fn an_edit_that_makes_two_images_for_one_platform_is_refused() {
        let mut index = index();
        index["manifests"][0]["platform"] = json!({"os": "linux", "architecture": "arm64", "variant": "v9"});
        let mut editable = EditableIndex::read(index.to_string().as_bytes()).unwrap();
        let edits = Edits { variant: Some(String::new()), ..Edits::default() };
        let error = editable.apply(Some(&platform("linux/arm64/v9")), &edits).unwrap_err();
        assert_eq!(error, EditError::Duplicate("linux/arm64".to_owned()));
    }

    #[test]
    fn a_docker_list_with_annotations_is_refused() {
        let editable = EditableIndex::read(index().to_string().as_bytes()).unwrap();
        let error = editable.write("web:1", &MediaType::DOCKER_LIST).unwrap_err();
        assert!(matches!(error, EditError::Annotations(_)));
    }
}
