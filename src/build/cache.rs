//! What a build keeps for the next one, and under which name: only its owner writes it.

use super::{BuildRequest, NAME_LIMIT, hexadecimal};
use crate::api::{Cache, CacheMode, CacheType};
use crate::platform::Platform;
use sha2::{Digest as _, Sha256};

/// The longest tag (OCI distribution specification).
const TAG_LIMIT: usize = 128;

/// The PersistentVolumeClaim of a platform's cache: `<name>-buildcache-<os>-<arch>[-variant]`, at most 63 characters.
pub fn cache_claim_name(image_name: &str, platform: &Platform) -> String {
    shortened(
        &image_name.replace('.', "-"),
        image_name,
        &format!("-buildcache-{}", platform.slug()),
        NAME_LIMIT,
    )
}

/// How much of a volume of this size (as Kubernetes writes amounts) the cache takes, in bytes: the rest is for the
/// build that runs.
pub(super) fn volume_limit(size: &str) -> u64 {
    bytes(size) / 10 * 8
}

/// `buildcache-<namespace>.<name>-<os>-<arch>[-variant]`, at most 128 characters. A namespace has no dots.
fn tag(request: &BuildRequest<'_>) -> String {
    let owner = format!("{}.{}", request.namespace, request.image_name);
    let suffix = format!("-{}", request.platform.slug());
    shortened(&format!("buildcache-{owner}"), &owner, &suffix, TAG_LIMIT)
}

/// `stem` and `suffix`, within `limit`; where that takes something off, a hash of `whole` tells it from its like.
fn shortened(stem: &str, whole: &str, suffix: &str, limit: usize) -> String {
    // Names with dots and with dashes instead would become the same.
    let is_whole = !whole.contains('.') || stem.contains('.');
    if is_whole && stem.len() + suffix.len() <= limit {
        return format!("{stem}{suffix}");
    }
    let suffix = format!("-{}{suffix}", &hexadecimal(&Sha256::digest(whole))[..8]);
    let room = limit.saturating_sub(suffix.len());
    let stem: String = stem.chars().take(room).collect();
    format!("{}{suffix}", stem.trim_end_matches(['-', '.', '_']))
}

/// buildctl's arguments for the caches that are read and the one that is written.
pub(super) fn arguments(request: &BuildRequest<'_>) -> Vec<String> {
    let Some(cache) = &request.build.cache else { return vec![] };
    let mut arguments = own(request, cache);
    arguments.extend(cache.from.iter().map(|reference| import(reference)));
    arguments
}

fn own(request: &BuildRequest<'_>, cache: &Cache) -> Vec<String> {
    match cache.r#type {
        CacheType::Registry => {
            let repository = cache.repository.as_deref().unwrap_or(request.repository);
            let reference = format!("{repository}:{}", tag(request));
            let mode = match cache.mode {
                CacheMode::Min => "min",
                CacheMode::Max => "max",
            };
            // A build is not lost for a cache that cannot be written.
            let export = format!(
                "--export-cache=type=registry,ref={reference},mode={mode},image-manifest=true,oci-mediatypes=true,\
                 ignore-error=true"
            );
            vec![import(&reference), export]
        }
        CacheType::Inline => {
            let published =
                request.previous.map(|digest| import(&format!("{}@{digest}", request.repository)));
            published.into_iter().chain(["--export-cache=type=inline".to_owned()]).collect()
        }
        CacheType::Volume | CacheType::None => vec![],
    }
}

fn import(reference: &str) -> String {
    format!("--import-cache=type=registry,ref={reference}")
}

/// The bytes of an amount as Kubernetes writes it; 0 for what is none, which the schema refuses.
fn bytes(amount: &str) -> u64 {
    let at = amount.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(amount.len());
    let (number, unit) = amount.split_at(at);
    let factor: f64 = match unit {
        "Ki" => 1024.0,
        "Mi" => 1024.0_f64.powi(2),
        "Gi" => 1024.0_f64.powi(3),
        "Ti" => 1024.0_f64.powi(4),
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        _ => 1.0,
    };
    // Casts of floats saturate; a fraction of a byte is none.
    number.parse().map_or(0, |number: f64| (number * factor) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_has_a_name_of_its_own_however_long_the_names_are() {
        let platform: Platform = "linux/arm/v7".parse().expect("a platform");
        assert_eq!(cache_claim_name("web", &platform), "web-buildcache-linux-arm-v7");
        let long = "w".repeat(62);
        let names = [format!("{long}a"), format!("{long}b")].map(|name| cache_claim_name(&name, &platform));
        assert!(
            names.iter().all(|name| name.len() <= NAME_LIMIT && name.ends_with("-buildcache-linux-arm-v7"))
        );
        assert_ne!(names[0], names[1]);
    }

    #[test]
    fn amounts_are_read_as_kubernetes_writes_them() {
        assert_eq!(bytes("20Gi"), 20 << 30);
        assert_eq!(bytes("1.5G"), 1_500_000_000);
        assert_eq!(bytes("4096"), 4096);
        assert_eq!(volume_limit("10Gi"), (10 << 30) / 10 * 8);
    }
}
