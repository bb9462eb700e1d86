//! What indexes and image configs say, read leniently: others wrote them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::platform::Platform;
use crate::registry::{Descriptor, DescriptorPlatform, Digest, check_values, null_as_default, readable};

/// The annotation that tells an attestation from an image: BuildKit, "Image attestation storage".
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// The annotation with the digest of the image that an attestation is about.
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

/// How many entries of an index are read.
const MOST_ENTRIES: usize = 1000;
/// How many of those that are listed are told one by one.
const MOST_TOLD: usize = 24;

/// An image index or a manifest list: OCI image spec, image-index.md.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Index {
    /// The entries, in their order.
    #[serde(default, deserialize_with = "null_as_default")]
    pub manifests: Vec<Descriptor>,
    /// Free metadata.
    #[serde(default, deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
}

/// What an index lists, as far as it can be read: an entry with a digest of an algorithm that we do not know makes no
/// other one unusable.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The entries that can be read, in their order.
    pub entries: Vec<Descriptor>,
    /// The others, each with the reason.
    pub unreadable: Vec<String>,
}

impl Listing {
    /// Reads an index or a manifest list.
    ///
    /// # Errors
    /// What is wrong with it, fit to be told.
    pub(super) fn read(index: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Listed {
            #[serde(default, deserialize_with = "entries")]
            manifests: Vec<Value>,
        }
        check_values(index)?;
        let listed: Listed = serde_json::from_slice(index).map_err(|error| readable(&error.to_string()))?;
        let mut listing = Self::default();
        for entry in listed.manifests {
            match Descriptor::deserialize(&entry) {
                Ok(descriptor) => listing.entries.push(descriptor),
                Err(error) => {
                    let digest = readable(entry.get("digest").and_then(Value::as_str).unwrap_or_default());
                    let error = readable(&error.to_string());
                    listing.unreadable.push(format!("the entry {digest:?} cannot be read: {error}"));
                }
            }
        }
        Ok(listing)
    }
}

/// The entries of an index, if there are not too many.
fn entries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Value>, D::Error> {
    struct Entries;
    impl<'de> Visitor<'de> for Entries {
        type Value = Vec<Value>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list of entries")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = list.next_element()? {
                if entries.len() == MOST_ENTRIES {
                    return Err(A::Error::custom(format!("it lists more than {MOST_ENTRIES} entries")));
                }
                entries.push(entry);
            }
            Ok(entries)
        }
    }
    deserializer.deserialize_any(Entries)
}

/// What an index has, in words: not more of it than people read.
pub(super) fn listed(available: &[String]) -> String {
    match available.len().checked_sub(MOST_TOLD) {
        _ if available.is_empty() => "no images".to_owned(),
        Some(more @ 1..) => format!("{} and {more} more", available[..MOST_TOLD].join(", ")),
        _ => available.join(", "),
    }
}

/// What we need of an image's manifest: OCI image spec, manifest.md.
#[derive(Debug, Clone, Deserialize)]
pub struct ImageManifest {
    /// The config blob.
    pub config: Descriptor,
    /// The layers, the lowest first.
    #[serde(default, deserialize_with = "null_as_default")]
    pub layers: Vec<Descriptor>,
}

/// What we need of an image's config: OCI image spec, config.md. Missing texts are empty.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ImageConfig {
    /// The operating system.
    #[serde(default, deserialize_with = "null_as_default")]
    pub os: String,
    /// The architecture.
    #[serde(default, deserialize_with = "null_as_default")]
    pub architecture: String,
    /// The variant of the architecture.
    #[serde(default, deserialize_with = "null_as_default")]
    pub variant: String,
    /// The version of the operating system, of Windows images.
    #[serde(default, rename = "os.version", deserialize_with = "null_as_default")]
    pub os_version: String,
    /// What the operating system must have, of Windows images.
    #[serde(default, rename = "os.features", deserialize_with = "null_as_default")]
    pub os_features: Vec<String>,
    /// What is started, and how. Empty if it makes no sense.
    #[serde(default, deserialize_with = "lenient")]
    pub config: ExecutionParameters,
}

/// What we need of the execution parameters in an image's config: OCI image spec, config.md, "config".
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExecutionParameters {
    /// The command that is started, with its first arguments.
    #[serde(default, deserialize_with = "lenient")]
    pub entrypoint: Vec<String>,
    /// Further arguments, or the command if there is no entrypoint.
    #[serde(default, deserialize_with = "lenient")]
    pub cmd: Vec<String>,
    /// The environment, each as `NAME=value`.
    #[serde(default, deserialize_with = "lenient")]
    pub env: Vec<String>,
    /// The working directory, of which relative commands are.
    #[serde(default, deserialize_with = "lenient")]
    pub working_dir: String,
}

/// Nothing, where it is of another kind than the specification says: an image is usable all the same.
fn lenient<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + serde::de::DeserializeOwned,
{
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).unwrap_or_default())
}

impl ImageConfig {
    /// Reads the config of an image.
    ///
    /// # Errors
    /// What is wrong with it, fit to be told.
    pub(super) fn read(config: &[u8]) -> Result<Self, String> {
        check_values(config)?;
        serde_json::from_slice(config).map_err(|error| readable(&error.to_string()))
    }

    /// The platform, or none if the config names no operating system or no architecture.
    pub fn platform(&self) -> Option<Platform> {
        let named = !self.os.is_empty() && !self.architecture.is_empty();
        named.then(|| Platform::normalised(&self.os, &self.architecture, Some(&self.variant)))
    }
}

impl Descriptor {
    /// Whether this entry of an index is an attestation and nothing to run.
    pub fn is_attestation(&self) -> bool {
        self.annotations.contains_key(REFERENCE_TYPE)
    }

    /// Whether this is an attestation about `image`.
    pub fn attests(&self, image: &Digest) -> bool {
        self.is_attestation()
            && self.annotations.get(REFERENCE_DIGEST).is_some_and(|digest| digest == image.as_str())
    }

    /// The platform of an entry that can be run; none for `unknown/unknown` and for entries without one.
    pub fn runnable_platform(&self) -> Option<Platform> {
        let DescriptorPlatform { os, architecture, variant, .. } = self.platform.as_ref()?;
        let named = |name: &str| !name.is_empty() && name != "unknown";
        (named(os) && named(architecture)).then(|| Platform::normalised(os, architecture, variant.as_deref()))
    }

    /// What tells this image from the others of an index: the platform, normalised, with the version and the
    /// features of the operating system. Equal for two that runtimes cannot tell apart, however they are spelt.
    pub(crate) fn runs_on(&self) -> (Option<Platform>, Option<&str>, BTreeSet<&str>) {
        let written = self.platform.as_ref();
        let version = written.and_then(|platform| platform.os_version.as_deref());
        let features = written.map(|platform| platform.os_features.as_slice()).unwrap_or_default();
        let features = features.iter().map(String::as_str).collect();
        (self.runnable_platform(), version.filter(|version| !version.is_empty()), features)
    }

    /// The platform in words for people, with what else tells two entries apart; not all of it, if it is long.
    pub(crate) fn platform_in_words(&self) -> String {
        let Some(platform) = self.runnable_platform() else { return "unknown".to_owned() };
        let details = self.platform.iter().flat_map(|p| p.os_version.iter().chain(&p.os_features));
        // Servers write what they like there.
        readable(
            &details.take(MOST_TOLD).fold(platform.to_string(), |words, detail| format!("{words} {detail}")),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::MediaType;

    fn entry(platform: &str) -> Descriptor {
        let digest = Digest::sha256(b"");
        let media_type = MediaType::OCI_MANIFEST;
        let json = format!(
            r#"{{"mediaType":"{media_type}","digest":"{digest}","size":0,"platform":{platform},
                "annotations":{{"{REFERENCE_TYPE}":"attestation-manifest","{REFERENCE_DIGEST}":"{digest}"}}}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn an_index_of_too_many_entries_is_refused_before_they_are_read() {
        let of = |count: usize| format!(r#"{{"manifests":[{}]}}"#, vec!["{}"; count].join(","));
        assert_eq!(Listing::read(of(MOST_ENTRIES).as_bytes()).unwrap().unreadable.len(), MOST_ENTRIES);
        let error = Listing::read(of(MOST_ENTRIES + 1).as_bytes()).unwrap_err();
        assert!(error.starts_with("it lists more than 1000 entries"), "{error}");
        let flood = of(1_400_000);
        assert_eq!(Listing::read(flood.as_bytes()).unwrap_err(), "it has 2800002 values; 65536 is the most");
        let deep = format!(r#"{{"manifests":[{{"platform":{{"x":[{}0]}}}}]}}"#, "0,".repeat(2_000_000));
        assert!(Listing::read(deep.as_bytes()).is_err());
        assert!(Listing::read(br#"{"manifests":null}"#).unwrap().entries.is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_told_shortly_and_on_one_line() {
        let long = "x\\n\\u001b".repeat(100_000);
        let index = format!(r#"{{"manifests":[{{"digest":"{long}","size":"{long}"}}]}}"#);
        let told = Listing::read(index.as_bytes()).unwrap().unreadable.remove(0);
        assert!(told.len() < 600 && !told.contains(char::is_control), "{told}");
        assert!(ImageConfig::read(br#"{"os":["x"]}"#).unwrap_err().contains("invalid type"));
        assert!(
            ImageConfig::read(format!(r#"{{"config":[{}0]}}"#, "0,".repeat(100_000)).as_bytes()).is_err()
        );
    }

    #[test]
    fn a_long_list_of_platforms_is_cut() {
        let platforms: Vec<String> = (0..30).map(|number| format!("linux/x{number}")).collect();
        assert!(listed(&platforms).ends_with("linux/x23 and 6 more"), "{}", listed(&platforms));
        assert!(listed(&platforms[..24]).ends_with(", linux/x23"));
        assert_eq!(listed(&[]), "no images");
    }

    #[test]
    fn a_config_with_nulls_is_read() {
        let config: ImageConfig = serde_json::from_str(
            r#"{"os":"linux","architecture":"arm64","variant":null,"os.features":null}"#,
        )
        .unwrap();
        assert_eq!(config.platform().unwrap().to_string(), "linux/arm64");
        assert!(serde_json::from_str::<ImageConfig>("{}").unwrap().platform().is_none());
    }

    #[test]
    fn an_attestation_names_its_image_and_is_not_runnable() {
        let attestation = entry(r#"{"os":"unknown","architecture":"unknown"}"#);
        assert!(attestation.attests(&Digest::sha256(b"")));
        assert!(!attestation.attests(&Digest::sha256(b"other")));
        assert_eq!(attestation.runnable_platform(), None);
    }

    #[test]
    fn a_platform_is_told_with_its_version() {
        let entry = entry(
            r#"{"os":"windows","architecture":"amd64","os.version":"10.0.17763.1","os.features":["win32k"]}"#,
        );
        assert_eq!(entry.platform_in_words(), "windows/amd64 10.0.17763.1 win32k");
        let long =
            format!(r#"{{"os":"linux","architecture":"amd64","os.version":"{}\\n"}}"#, "9".repeat(100_000));
        assert_eq!(self::entry(&long).platform_in_words().len(), 200);
    }
}
