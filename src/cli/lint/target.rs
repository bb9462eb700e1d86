//! Advice about where an image goes.

use super::finding::{Advice, Rule};
use crate::api::{IndexFormat, MultiArchImageSpec, TagPolicy};

/// The branches that most repositories have.
const BRANCHES: [&str; 6] = ["main", "master", "develop", "development", "trunk", "nightly"];

pub(super) fn advise(spec: &MultiArchImageSpec) -> Vec<Advice> {
    let mut advice = tags(spec);
    advice.extend(localhost(&spec.target.repository, "spec.target.repository"));
    for (number, mirror) in spec.target.mirrors.iter().enumerate() {
        advice.extend(localhost(&mirror.repository, &format!("spec.target.mirrors[{number}].repository")));
    }
    advice.extend(docker_format(spec));
    advice.extend(version_from_branch(spec));
    advice
}

fn tags(spec: &MultiArchImageSpec) -> Vec<Advice> {
    let target = &spec.target;
    let mut advice = Vec::new();
    if target.tags == ["latest"] {
        advice.push(Advice::new(
            Rule::LatestOnly,
            "spec.target.tags",
            "nobody can name an earlier image, or go back to it; add a tag for each version, as in tags: [\"1.4.2\", latest]",
        ));
    }
    for (number, tag) in target.tags.iter().enumerate() {
        let path = format!("spec.target.tags[{number}]");
        if tag == "latest" && target.tag_policy == TagPolicy::IfAbsent {
            advice.push(Advice::new(
                Rule::ImmutableLatest,
                &path,
                "tagPolicy: IfAbsent never moves a tag, so nothing is published any more once latest is there; leave latest \
                 out, or write tagPolicy: Overwrite",
            ));
        }
        if tag.starts_with("buildcache-") || is_digest_tag(tag) {
            advice.push(Advice::new(
                Rule::ReservedTag,
                path,
                format!(
                    "{tag} has the form of tags that build caches (buildcache-…) and signatures (sha256-…) have, and may be \
                     overwritten or removed with them; choose another"
                ),
            ));
        }
    }
    advice
}

/// The tags under which cosign and registries without the referrers API keep what belongs to a digest.
fn is_digest_tag(tag: &str) -> bool {
    tag.strip_prefix("sha256-").is_some_and(|rest| {
        let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        digits == 64 && (rest.len() == 64 || rest[64..].starts_with('.'))
    })
}

/// What a registry on the machine of whoever asks is called.
pub(super) fn localhost(image: &str, path: &str) -> Option<Advice> {
    let host = image.split('/').next().filter(|_| image.contains('/'))?;
    let name = if host.starts_with("[::1]") { host } else { host.split(':').next()? };
    (name == "localhost" || name.starts_with("127.") || name.starts_with("[::1]")).then(|| {
        Advice::new(
            Rule::Localhost,
            path,
            format!(
                "{host} is the operator's own pod for the operator, and the build's for a build; write a name that both reach"
            ),
        )
    })
}

fn docker_format(spec: &MultiArchImageSpec) -> Option<Advice> {
    let is_built = spec.platforms.iter().any(|entry| entry.image.is_none());
    (is_built && spec.target.format == Some(IndexFormat::Docker)).then(|| {
        Advice::new(
            Rule::DockerFormat,
            "spec.target.format",
            "builds make OCI images, which a Docker manifest list cannot have; write format: OCI, or leave it out",
        )
    })
}

fn version_from_branch(spec: &MultiArchImageSpec) -> Option<Advice> {
    let git = spec.build_in_use()?.context.git.as_ref().filter(|git| git.commit.is_none())?;
    let branch = git.r#ref.as_deref().filter(|name| is_branch(name))?;
    let version = spec.target.tags.iter().find(|tag| is_version(tag))?;
    (spec.target.tag_policy == TagPolicy::Overwrite).then(|| {
        Advice::new(
            Rule::VersionFromBranch,
            "spec.build.context.git.ref",
            format!(
                "{branch} is a branch, so the next look at it may put other content under the tag {version}, which names one \
                 version; write the version's git tag as ref, a commit, or tagPolicy: IfAbsent"
            ),
        )
    })
}

fn is_branch(name: &str) -> bool {
    name.starts_with("refs/heads/") || BRANCHES.contains(&name)
}

/// `1.4.2`, `v1.4.2-rc.1`: one release and no other.
fn is_version(tag: &str) -> bool {
    let tag = tag.strip_prefix('v').unwrap_or(tag);
    let numbers = tag.split(['-', '+', '_']).next().unwrap_or_default();
    let parts: Vec<&str> = numbers.split('.').collect();
    parts.len() == 3
        && parts.iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_names_one_release() {
        assert!(["1.4.2", "v1.4.2", "1.4.2-rc.1"].iter().all(|tag| is_version(tag)));
        assert!(!["1.4", "latest", "2026-11", "1.4.x", "v1", ""].iter().any(|tag| is_version(tag)));
    }

    #[test]
    fn tags_of_signatures_are_told_from_others() {
        let digest = "0".repeat(64);
        assert!(is_digest_tag(&format!("sha256-{digest}")) && is_digest_tag(&format!("sha256-{digest}.sig")));
        assert!(!is_digest_tag("sha256-abc") && !is_digest_tag(&format!("sha256-{digest}x")));
    }
}
