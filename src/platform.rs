//! Platforms: `os/architecture[/variant]`, parsed, normalised and compared.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The operating systems (`GOOS`) that containers are made for.
const OPERATING_SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "illumos",
    "ios",
    "js",
    "linux",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasi",
    "wasip1",
    "wasip2",
    "windows",
];

/// The architectures (`GOARCH`) that containers are made for.
const ARCHITECTURES: &[&str] = &[
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le",
    "riscv64", "s390x", "wasm",
];

/// Longest edit distance at which a known name is still offered as the one that was meant.
const NEAR: usize = 3;

/// An operating system, an architecture and, where it matters, a variant of it.
///
/// Always normalised as in the OCI image spec's and containerd's rules, so that equal platforms are
/// equal values: `linux/arm64/v8` is `linux/arm64`, `amd64/v1` is `amd64`, `arm` is `arm/v7`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{platform:?} is not a platform: {reason}")]
pub struct ParsePlatformError {
    platform: String,
    reason: String,
}

impl Platform {
    /// Normalises what an index or an image config says, without asking whether the names are known:
    /// others' images may name platforms that we have never heard of.
    pub fn normalised(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (architecture, implied) = normalise_architecture(&architecture.to_ascii_lowercase());
        let variant = variant.map(str::to_ascii_lowercase).filter(|variant| !variant.is_empty()).or(implied);
        let variant = normalise_variant(&architecture, variant);
        Self { os: normalise_os(&os.to_ascii_lowercase()), architecture, variant }
    }

    /// The operating system, as `GOOS` spells it: `linux`.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// The architecture, as `GOARCH` spells it: `arm64`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The variant of the architecture, if it is not the one that goes without saying: `v6`.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// `linux-arm-v7`: valid in a DNS label and in a tag.
    pub fn slug(&self) -> String {
        self.to_string().replace(['/', '.', '_'], "-")
    }

    /// The well-known labels of the nodes that run this platform. Nodes carry no label for the variant.
    pub fn node_selector(&self) -> [(&'static str, String); 2] {
        [("kubernetes.io/os", self.os.clone()), ("kubernetes.io/arch", self.architecture.clone())]
    }

    /// Whether `candidate` is this platform. Both are normalised, so `v8` in only one of two `arm64` is equal.
    pub fn matches(&self, candidate: &Platform) -> bool {
        self == candidate
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |reason: String| ParsePlatformError { platform: text.to_owned(), reason };
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] if !variant.is_empty() => (os, architecture, Some(variant)),
            _ => {
                return Err(fail(
                    "write os/architecture or os/architecture/variant, as in linux/amd64".into(),
                ));
            }
        };
        let platform = Self::normalised(os, architecture, variant);
        check_name("operating system", &platform.os, OPERATING_SYSTEMS).map_err(fail)?;
        check_name("architecture", &platform.architecture, ARCHITECTURES).map_err(fail)?;
        check_variant(&platform.architecture, platform.variant()).map_err(fail)?;
        Ok(platform)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(formatter, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Platform({self})")
    }
}

impl Serialize for Platform {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Platform {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn normalise_os(os: &str) -> String {
    match os {
        "macos" => "darwin",
        other => other,
    }
    .to_owned()
}

/// The `GOARCH` name, and the variant that the other name implied.
fn normalise_architecture(architecture: &str) -> (String, Option<String>) {
    let (name, variant) = match architecture {
        "x86_64" | "x86-64" => ("amd64", None),
        "aarch64" => ("arm64", None),
        "armhf" => ("arm", Some("v7")),
        "armel" => ("arm", Some("v6")),
        "i386" | "i486" | "i586" | "i686" | "x86" => ("386", None),
        "loongarch64" => ("loong64", None),
        other => (other, None),
    };
    (name.to_owned(), variant.map(str::to_owned))
}

fn normalise_variant(architecture: &str, variant: Option<String>) -> Option<String> {
    let variant = variant.map(|variant| match variant.starts_with(|c: char| c.is_ascii_digit()) {
        true => format!("v{variant}"),
        false => variant,
    });
    match (architecture, variant.as_deref()) {
        ("amd64", Some("v1")) | ("arm64", Some("v8" | "v8.0")) => None,
        ("arm", None) => Some("v7".to_owned()),
        _ => variant,
    }
}

pub(crate) fn check_name(what: &str, name: &str, known: &[&str]) -> Result<(), String> {
    if known.contains(&name) {
        return Ok(());
    }
    let nearest = known.iter().min_by_key(|candidate| strsim::damerau_levenshtein(name, candidate));
    match nearest {
        Some(nearest) if strsim::damerau_levenshtein(name, nearest) <= NEAR.min(name.len() / 2 + 1) => {
            Err(format!("unknown {what} {name:?}; did you mean {nearest}?"))
        }
        _ => Err(format!("unknown {what} {name:?}; known are {}", known.join(", "))),
    }
}

fn check_variant(architecture: &str, variant: Option<&str>) -> Result<(), String> {
    let Some(variant) = variant else { return Ok(()) };
    let known = match architecture {
        "amd64" => "v1, v2, v3, v4",
        "arm" => "v5, v6, v7, v8",
        "arm64" => "v8, v9 and their minor versions, as in v8.2",
        _ => "short lower-case names",
    };
    let valid = match architecture {
        "amd64" => matches!(variant, "v2" | "v3" | "v4"),
        "arm" => matches!(variant, "v5" | "v6" | "v7" | "v8"),
        "arm64" => is_arm64_variant(variant),
        _ => variant.len() <= 16 && variant.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()),
    };
    if valid {
        Ok(())
    } else {
        Err(format!("unknown variant {variant:?} of {architecture}; known are {known}"))
    }
}

fn is_arm64_variant(variant: &str) -> bool {
    let (major, minor) = variant.split_once('.').unwrap_or((variant, "0"));
    matches!(major, "v8" | "v9") && matches!(minor.len(), 1..=2) && minor.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    fn refusal(text: &str) -> String {
        text.parse::<Platform>().unwrap_err().to_string()
    }

    #[test]
    fn other_spellings_are_normalised() {
        for (text, normalised) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/X86-64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v2", "linux/amd64/v2"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/8", "linux/arm64"),
            ("linux/arm64/v9", "linux/arm64/v9"),
            ("linux/arm64/v8.2", "linux/arm64/v8.2"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("linux/i386", "linux/386"),
            ("macos/arm64", "darwin/arm64"),
            ("windows/amd64", "windows/amd64"),
            ("wasi/wasm", "wasi/wasm"),
            ("linux/loongarch64", "linux/loong64"),
        ] {
            assert_eq!(platform(text).to_string(), normalised, "{text}");
        }
    }

    #[test]
    fn a_misspelt_name_is_refused_with_the_nearest_one() {
        assert_eq!(
            refusal("linux/amd46"),
            r#""linux/amd46" is not a platform: unknown architecture "amd46"; did you mean amd64?"#
        );
        assert!(refusal("linus/amd64").ends_with("did you mean linux?"));
        assert!(refusal("linux/arm46").ends_with("did you mean arm64?"));
        assert!(refusal("linux/riscv").ends_with("did you mean riscv64?"));
    }

    #[test]
    fn a_name_far_from_any_is_refused_with_all_that_are_known() {
        assert!(refusal("linux/pentium").contains("known are 386, amd64"));
    }

    #[test]
    fn a_text_of_another_shape_is_refused() {
        for text in ["", "amd64", "linux/", "/amd64", "linux/arm/v7/x", "linux/arm/", "linux//v7"] {
            refusal(text);
        }
    }

    #[test]
    fn a_variant_that_does_not_exist_is_refused() {
        for text in
            ["linux/amd64/v9", "linux/arm/v3", "linux/arm64/v7", "linux/s390x/Z_15", "linux/arm64/v8.x"]
        {
            assert!(refusal(text).contains("unknown variant"), "{text}");
        }
    }

    #[test]
    fn a_slug_is_valid_in_names_and_tags() {
        assert_eq!(platform("linux/arm").slug(), "linux-arm-v7");
        assert_eq!(platform("linux/arm64/v8.2").slug(), "linux-arm64-v8-2");
        assert_eq!(platform("linux/amd64").slug(), "linux-amd64");
    }

    #[test]
    fn nodes_are_selected_by_os_and_architecture() {
        assert_eq!(
            platform("linux/arm/v7").node_selector(),
            [("kubernetes.io/os", "linux".to_owned()), ("kubernetes.io/arch", "arm".to_owned())]
        );
    }

    #[test]
    fn a_variant_that_goes_without_saying_does_not_tell_platforms_apart() {
        let arm64 = platform("linux/arm64");
        assert!(arm64.matches(&Platform::normalised("linux", "arm64", Some("v8"))));
        assert!(arm64.matches(&Platform::normalised("linux", "arm64", None)));
        assert!(!arm64.matches(&Platform::normalised("linux", "arm64", Some("v9"))));
        assert!(!platform("linux/amd64").matches(&platform("linux/amd64/v2")));
        assert!(platform("linux/arm/v7").matches(&Platform::normalised("linux", "arm", Some(""))));
    }

    #[test]
    fn platforms_are_text_in_json() {
        assert_eq!(serde_json::to_string(&platform("linux/arm")).unwrap(), r#""linux/arm/v7""#);
        assert_eq!(serde_json::from_str::<Platform>(r#""linux/x86_64""#).unwrap(), platform("linux/amd64"));
        assert!(serde_json::from_str::<Platform>(r#""linux""#).is_err());
    }
}
