//! The resource itself, as far as it needs no cluster.

use kube::core::{Message, Rule};
use serde_json::Value;

use super::document::Document;
use crate::api::{Enforcement, MultiArchImageSpec, PlatformSource, rules};
use crate::cli::resource::{self, KIND};
use crate::cli::schema::{Problem, Problems};
use crate::image::{Composition, DescriptorEdits, Source, Target};
use crate::platform::Platform;
use crate::registry::{Reference, Repository};

/// What the resource wants published; all that is wrong with it otherwise.
pub(super) fn read(value: &Value) -> Result<Document, Problems> {
    let spec = resource::read(value)?.spec;
    let mut problems = Problems::new();
    let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("(no name)");
    let target = target(&spec, &mut problems);
    let sources = sources(&spec, &mut problems);
    let (Some(target), true) = (target, problems.is_empty()) else { return Err(problems) };
    let verify = spec.verify.unwrap_or_default();
    let composition = Composition {
        sources,
        format: spec.target.format.map(Into::into),
        annotations: spec.target.annotations,
        policy: spec.target.tag_policy.into(),
        check: verify.platform.into(),
        targets: vec![target],
        ..Composition::default()
    };
    let mut warnings = Vec::new();
    if !spec.registry_secrets.is_empty() {
        warnings.push("registrySecrets are those of a cluster and not used here".to_owned());
    }
    if verify.run.is_some() {
        warnings.push("verify.run needs the nodes of a cluster and is left out here".to_owned());
    }
    if verify.binaries == Enforcement::Enforce {
        warnings.push(
            "verify.binaries is left out here; `multiarch index verify --binaries enforce` checks them"
                .to_owned(),
        );
    }
    Ok(Document { name: format!("{KIND} {name}"), composition, warnings, suspended: spec.suspend })
}

fn target(spec: &MultiArchImageSpec, problems: &mut Problems) -> Option<Target> {
    let text = &spec.target.repository;
    let refused = |rule: Rule| Problem::at("spec.target.repository", message(&rule));
    let repository: Option<Repository> = text.parse().ok().filter(|_| text.contains('/'));
    let Some(repository) = repository else {
        // It has a tag or a digest if it is a reference and no repository.
        let reference = text.contains('/') && text.parse::<Reference>().is_ok();
        problems.push(refused(if reference {
            rules::repository_without_tag()
        } else {
            rules::repository_form()
        }));
        return None;
    };
    for (number, tag) in spec.target.tags.iter().enumerate() {
        if repository.with_tag(tag).is_err() {
            let reason = format!("{tag:?}: {}", message(&rules::tags_form()));
            problems.push(Problem::at(format!("spec.target.tags[{number}]"), reason));
        }
    }
    Some(Target { repository, tags: spec.target.tags.clone() })
}

fn sources(spec: &MultiArchImageSpec, problems: &mut Problems) -> Vec<Source> {
    let mut seen: Vec<Platform> = Vec::new();
    let mut sources = Vec::new();
    for (number, PlatformSource { platform, image, .. }) in spec.platforms.iter().enumerate() {
        let place = format!("spec.platforms[{number}]");
        let parsed: Option<Platform> = platform
            .parse()
            .map_err(|error| problems.push(Problem::at(format!("{place}.platform"), error)))
            .ok();
        if parsed.as_ref().is_some_and(|platform| seen.contains(platform)) {
            let reason = format!("{platform}: {}", message(&rules::platforms_distinct()));
            problems.push(Problem::at(&place, reason));
        }
        seen.extend(parsed.clone());
        let Some(image) = image else {
            let reason = format!(
                "{platform} has no image and would be built, which only the operator in a cluster does: \
                 give it an image, or `kubectl apply` the file"
            );
            problems.push(Problem::at(&place, reason));
            continue;
        };
        let reference: Option<Reference> =
            image.parse().map_err(|error| problems.push(Problem::at(format!("{place}.image"), error))).ok();
        sources.extend(reference.map(|reference| Source {
            reference,
            platform: parsed,
            edits: DescriptorEdits::default(),
        }));
    }
    sources
}

/// The words in which the API server refuses.
fn message(rule: &Rule) -> &str {
    match &rule.message {
        Some(Message::Message(message)) => message,
        _ => &rule.rule,
    }
}
