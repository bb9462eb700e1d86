//! Which images a build will need, and for which platform, told from the Dockerfile before anything is built. Pure.
//!
//! ```text
//! bytes ─▶ lines (instructions) ─▶ stages (what each needs, names expanded) ─▶ what the target reaches ─▶ BaseImage
//! ```
//!
//! The rules are those of BuildKit's `dockerfile.v0` frontend (docs.docker.com/reference/dockerfile, and
//! `frontend/dockerfile` of its source, v0.33). What cannot be known here (the platform of a builder elsewhere, a
//! frontend of somebody else, a substitution that we do not follow) is left out: the build itself will tell.

mod directive;
mod expansion;
mod instruction;
mod pattern;
mod stage;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::platform::Platform;
use crate::registry::Reference;

/// The longest reason of an error, in characters.
const LONGEST_REASON: usize = 400;

/// What a Dockerfile is built with, as far as it decides which images are needed.
#[derive(Debug, Clone, Copy)]
pub struct BuildParameters<'a> {
    /// The build arguments by their names.
    pub arguments: &'a BTreeMap<String, String>,
    /// The stage that is built; the last one if there is none.
    pub target: Option<&'a str>,
    /// What the build is for.
    pub target_platform: &'a Platform,
    /// What the builder runs on. Without it, whatever depends on it is left out.
    pub build_platform: Option<&'a Platform>,
    /// The named contexts by their names, each as BuildKit takes it: `docker-image://alpine`, a URL, `local:…`.
    pub contexts: &'a BTreeMap<String, String>,
}

/// An image that a build needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseImage {
    /// The image as it is written, with variables expanded. It may be no valid reference.
    pub reference: String,
    /// The platform that it is needed for.
    pub platform: Platform,
    /// The line of the Dockerfile that asks for it; the first one is 1.
    pub line: usize,
    /// The stage that asks for it: its name, or `stage-0` for the first one without a name.
    pub stage: String,
}

/// Why no build can be made of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Dockerfile{}: {reason}", line.map(|line| format!(" line {line}")).unwrap_or_default())]
pub struct DockerfileError {
    /// Where, if it is in one place; the first line is 1.
    pub line: Option<usize>,
    /// What is wrong and what to do, for people.
    pub reason: String,
}

impl DockerfileError {
    fn at(line: usize, reason: impl AsRef<str>) -> Self {
        Self { line: Some(line), reason: shown(reason.as_ref()) }
    }

    fn whole(reason: impl AsRef<str>) -> Self {
        Self { line: None, reason: shown(reason.as_ref()) }
    }
}

/// Fit for one line: what is quoted of a Dockerfile may be long, and of any characters.
fn shown(reason: &str) -> String {
    let mut shown: String =
        reason.chars().filter(|letter| !letter.is_control()).take(LONGEST_REASON).collect();
    if shown.len() < reason.len() {
        shown.push('…');
    }
    shown
}

/// The images that the build needs from registries, each once for a platform, in the order of the lines: the bases of
/// stages, and what `COPY --from` and `RUN --mount` take from. Stages that the target does not need are not asked.
/// None if the Dockerfile is for a frontend of somebody else.
///
/// Takes time in proportion to the length of the Dockerfile.
///
/// # Errors
/// If BuildKit would refuse the Dockerfile for what had to be understood to get here. The rest of it is not checked.
pub fn base_images(
    dockerfile: &[u8],
    build: &BuildParameters<'_>,
) -> Result<Vec<BaseImage>, DockerfileError> {
    let chosen = build.arguments.get("BUILDKIT_SYNTAX").cloned();
    let text = String::from_utf8_lossy(dockerfile);
    if chosen.or_else(|| directive::syntax(&text)).is_some_and(|frontend| !speaks_dockerfile(&frontend)) {
        return Ok(Vec::new());
    }
    let Some(instructions) = instruction::read(&text)? else { return Ok(Vec::new()) };
    stage::base_images(&instructions, build)
}

/// The frontend that the Dockerfile asks for with `# syntax=`, for messages: the image alone.
pub fn frontend(dockerfile: &[u8]) -> Option<String> {
    let syntax = directive::syntax(&String::from_utf8_lossy(dockerfile))?;
    syntax.split_whitespace().next().map(str::to_owned)
}

/// Whether this frontend is Docker's own, or a copy of it in another registry.
fn speaks_dockerfile(frontend: &str) -> bool {
    let image = frontend.split_whitespace().next().unwrap_or_default();
    let Ok(reference) = image.parse::<Reference>() else { return false };
    matches!(reference.repository().path().rsplit('/').next(), Some("dockerfile" | "dockerfile-upstream"))
}

/// The name under which BuildKit looks for a named context: of an image reference its familiar form without `:latest`,
/// so that `docker.io/library/alpine:latest` is `alpine`. As buildx does, a context is to be passed on under this name.
/// What follows `::` is a platform and stays. A name that is no reference stays as it is.
pub fn context_name(name: &str) -> String {
    let (image, platform) = match name.split_once("::") {
        Some((image, platform)) => (image, Some(platform)),
        None => (name, None),
    };
    let Ok(reference) = image.parse::<Reference>() else { return name.to_owned() };
    let whole = reference.to_string();
    let familiar = match whole.strip_prefix("docker.io/") {
        Some(path) if path.matches('/').count() == 1 => path.strip_prefix("library/").unwrap_or(path),
        Some(path) => path,
        None => &whole,
    };
    let familiar = familiar.strip_suffix(":latest").unwrap_or(familiar);
    platform.map_or_else(|| familiar.to_owned(), |platform| format!("{familiar}::{platform}"))
}
