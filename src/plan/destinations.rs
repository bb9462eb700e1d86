//! Where an image is published: the repositories, and every tag in them.

use std::collections::BTreeMap;

use crate::api::{MultiArchImageSpec, PublishedTag, Target};
use crate::platform::Platform;
use crate::registry::{Reference, Repository};

/// A repository and everything that is published in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The repository as the spec writes it.
    pub name: String,
    /// The same, parsed.
    pub repository: Repository,
    /// The tags of the index.
    pub tags: Vec<String>,
    /// The tags of the platforms' own images, each with its platform as the spec writes it.
    pub platform_tags: Vec<(String, String)>,
}

impl Destination {
    /// What the status says when the index is there. `child` is the digest of a platform that is in it.
    pub fn published(&self, child: impl Fn(&str) -> Option<String>) -> Vec<PublishedTag> {
        let of_index = self.tags.iter().map(|name| (name, None, None));
        let of_platforms = self.platform_tags.iter().filter_map(|(platform, name)| {
            let digest = child(platform)?;
            Some((name, Some(platform.clone()), Some(digest)))
        });
        let tag = |(name, platform, digest): (&String, _, _)| PublishedTag {
            name: name.clone(),
            repository: self.name.clone(),
            platform,
            digest,
        };
        of_index.chain(of_platforms).map(tag).collect()
    }

    /// Whether a tag may be written here, whichever platforms there will be.
    pub fn has(&self, tag: &str) -> bool {
        self.tags.iter().chain(self.platform_tags.iter().map(|(_, name)| name)).any(|name| name == tag)
    }

    /// Every tag that may be written here, whichever platforms there will be.
    pub fn references(&self) -> impl Iterator<Item = Reference> {
        let names = self.tags.iter().chain(self.platform_tags.iter().map(|(_, name)| name));
        names.filter_map(|name| self.repository.with_tag(name).ok())
    }
}

/// The target, then its mirrors.
///
/// # Errors
/// What is wrong with the spec, for people: a name that is none, a repository named twice, two images for one tag.
pub fn destinations(spec: &MultiArchImageSpec) -> Result<Vec<Destination>, String> {
    let target = &spec.target;
    let platforms = spec.platforms.iter().map(|entry| entry.platform.as_str());
    let platform_tags = match &target.platform_tag {
        Some(template) => platform_tags(target, template, platforms)?,
        None => Vec::new(),
    };
    let mut destinations: Vec<Destination> = Vec::new();
    let mirrors = target.mirrors.iter().map(|mirror| ("spec.target.mirrors", &mirror.repository));
    for (field, name) in std::iter::once(("spec.target.repository", &target.repository)).chain(mirrors) {
        let repository: Repository = name.parse().map_err(|error| format!("{field}: {error}"))?;
        if destinations.iter().any(|other| other.repository.is_same(&repository)) {
            return Err(format!("{field}: {name} is named twice; remove it from the mirrors"));
        }
        let (tags, platform_tags) = (target.tags.clone(), platform_tags.clone());
        destinations.push(Destination { name: name.clone(), repository, tags, platform_tags });
    }
    Ok(destinations)
}

/// `target.platformTag` for every tag and platform.
fn platform_tags<'a>(
    target: &Target,
    template: &str,
    platforms: impl Iterator<Item = &'a str>,
) -> Result<Vec<(String, String)>, String> {
    const FIELD: &str = "spec.target.platformTag";
    let mut meant: BTreeMap<String, &str> =
        target.tags.iter().map(|tag| (tag.clone(), "the index")).collect();
    let mut tags = Vec::new();
    for name in platforms {
        let platform: Platform = name.parse().map_err(|error| format!("spec.platforms: {error}"))?;
        for tag in &target.tags {
            let expanded = expand(template, tag, &platform);
            if expanded.len() > 128 {
                return Err(format!(
                    "{FIELD}: {expanded} has more than the 128 characters of a tag; shorten it"
                ));
            }
            match meant.insert(expanded.clone(), name) {
                None => tags.push((name.to_owned(), expanded)),
                // Without {tag} all tags have the same one.
                Some(other) if other == name => {}
                Some(other) => {
                    return Err(format!(
                        "{FIELD}: {other} and {name} would both have the tag {expanded}; write for example \
                         \"{{tag}}-{{os}}-{{arch}}{{-variant}}\""
                    ));
                }
            }
        }
    }
    Ok(tags)
}

fn expand(template: &str, tag: &str, platform: &Platform) -> String {
    let variant = platform.variant().unwrap_or_default();
    let with_dash = if variant.is_empty() { String::new() } else { format!("-{variant}") };
    template
        .replace("{os}", platform.os())
        .replace("{arch}", platform.architecture())
        .replace("{variant}", variant)
        .replace("{-variant}", &with_dash)
        .replace("{tag}", tag)
}
