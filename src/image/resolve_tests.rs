//! What an index offers, and what a config may say.

use super::super::find::pick;
use super::*;
use crate::registry::{Digest, MediaType};

fn reference() -> Reference {
    "registry.example.com/team/web:1".parse().unwrap()
}

fn platform(text: &str) -> Platform {
    text.parse().unwrap()
}

fn entry(name: &str, platform: Option<(&str, &str, Option<&str>)>) -> Descriptor {
    let platform = platform.map(|(os, architecture, variant)| DescriptorPlatform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        variant: variant.map(str::to_owned),
        ..DescriptorPlatform::default()
    });
    Descriptor { platform, ..Descriptor::new(MediaType::OCI_MANIFEST, Digest::sha256(name.as_bytes()), 1) }
}

fn attestation(name: &str) -> Descriptor {
    let mut entry = entry(name, Some(("unknown", "unknown", None)));
    entry.annotations.insert("vnd.docker.reference.type".to_owned(), "attestation-manifest".to_owned());
    entry
}

fn picked(declared: &str, entries: &[Descriptor]) -> Result<Descriptor, String> {
    pick(&reference(), &platform(declared), entries).map_err(|error| error.to_string())
}

#[test]
fn the_one_entry_for_the_platform_is_chosen() {
    let arm64 = entry("arm64", Some(("linux", "arm64", Some("v8"))));
    let entries = [entry("amd64", Some(("linux", "amd64", None))), arm64.clone(), attestation("sbom")];
    assert_eq!(picked("linux/arm64", &entries), Ok(arm64));
}

#[test]
fn what_the_index_has_instead_is_told() {
    let entries = [
        entry("amd64", Some(("linux", "amd64", None))),
        entry("arm", Some(("linux", "arm", Some("v6")))),
        attestation("sbom"),
    ];
    assert_eq!(
        picked("linux/s390x", &entries).unwrap_err(),
        "registry.example.com/team/web:1: no image for linux/s390x; the index has linux/amd64, linux/arm/v6"
    );
    assert!(picked("linux/arm", &entries).is_err(), "v6 is not v7");
    assert!(picked("linux/amd64", &[]).unwrap_err().ends_with("the index has no images"));
}

#[test]
fn two_that_differ_only_in_version_are_both_told() {
    let version = |version: &str| {
        let mut entry = entry(version, Some(("windows", "amd64", None)));
        entry.platform.as_mut().unwrap().os_version = Some(version.to_owned());
        entry
    };
    let error = picked("windows/amd64", &[version("10.0.17763"), version("10.0.20348")]).unwrap_err();
    assert!(error.contains("2 images for windows/amd64"), "{error}");
    assert!(error.contains("(windows/amd64 10.0.20348)"), "{error}");
}

#[test]
fn an_entry_that_is_there_twice_is_one() {
    let amd64 = entry("amd64", Some(("linux", "amd64", None)));
    assert_eq!(picked("linux/amd64", &[amd64.clone(), amd64.clone()]), Ok(amd64));
}

#[test]
fn an_only_entry_without_a_platform_is_left_to_its_config() {
    let silent = entry("silent", None);
    assert_eq!(picked("linux/amd64", std::slice::from_ref(&silent)), Ok(silent.clone()));
    assert!(picked("linux/amd64", &[silent, entry("second", None)]).is_err());
}

fn checked(declared: &str, config: &str, check: PlatformCheck) -> Result<usize, String> {
    let config = (serde_json::from_str(config).unwrap(), "sha256:c0ff".to_owned());
    check_platform(&reference(), &platform(declared), &config, check)
        .map(|warnings| warnings.len())
        .map_err(|error| error.to_string())
}

#[test]
fn a_config_for_another_platform_is_refused_with_both_named() {
    assert_eq!(
        checked("linux/arm64", r#"{"os":"linux","architecture":"amd64"}"#, PlatformCheck::Enforce)
            .unwrap_err(),
        "registry.example.com/team/web:1: the image is for linux/amd64, not for linux/arm64 (its config sha256:c0ff says so)"
    );
    assert_eq!(
        checked("linux/arm64", r#"{"os":"linux","architecture":"amd64"}"#, PlatformCheck::Warn),
        Ok(1)
    );
    assert_eq!(checked("linux/arm64", r#"{"os":"linux","architecture":"amd64"}"#, PlatformCheck::Off), Ok(0));
}

#[test]
fn a_missing_variant_is_no_contradiction_but_another_one_is() {
    let arm = |variant: &str| format!(r#"{{"os":"linux","architecture":"arm","variant":"{variant}"}}"#);
    assert_eq!(checked("linux/arm/v7", &arm(""), PlatformCheck::Enforce), Ok(0));
    assert_eq!(checked("linux/arm/v6", &arm(""), PlatformCheck::Enforce), Ok(1));
    assert!(checked("linux/arm/v6", &arm("v7"), PlatformCheck::Enforce).is_err());
    let arm64 = |variant: &str| format!(r#"{{"os":"linux","architecture":"arm64","variant":"{variant}"}}"#);
    assert_eq!(checked("linux/arm64/v8", &arm64(""), PlatformCheck::Enforce), Ok(0));
    assert_eq!(checked("linux/arm64", &arm64("v8"), PlatformCheck::Enforce), Ok(0));
}

#[test]
fn a_config_without_a_platform_is_no_image() {
    let error = checked("linux/amd64", "{}", PlatformCheck::Enforce).unwrap_err();
    assert!(error.ends_with("its config names no os and architecture"), "{error}");
    assert_eq!(checked("linux/amd64", "{}", PlatformCheck::Warn), Ok(1));
    assert_eq!(checked("linux/amd64", "{}", PlatformCheck::Off), Ok(0));
}

#[test]
fn the_published_platform_is_the_declared_one_with_the_versions_of_the_source() {
    let mut windows = entry("windows", Some(("windows", "amd64", None)));
    windows.platform.as_mut().unwrap().os_version = Some("10.0.17763".to_owned());
    let config = serde_json::from_str(r#"{"os.version":"10.0.1","os.features":["win32k"]}"#).unwrap();
    let published = published_platform(&platform("windows/amd64"), &windows, &config);
    assert_eq!(published.os_version.as_deref(), Some("10.0.17763"));
    assert_eq!(published.os_features, ["win32k"]);

    let spelt = entry("arm64", Some(("linux", "arm64", Some("v8"))));
    let published = published_platform(&platform("linux/arm64"), &spelt, &ImageConfig::default());
    assert_eq!(published.variant, None);

    let v8: ImageConfig =
        serde_json::from_str(r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#).unwrap();
    let published = published_platform(&platform("linux/arm64"), &spelt, &v8);
    assert_eq!(published.variant.as_deref(), Some("v8"), "as the config spells it");
}
