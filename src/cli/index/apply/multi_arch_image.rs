//! The resource itself, as far as it needs no cluster.

use kube::CustomResourceExt as _;
use kube::core::{Message, Rule};
use serde_json::Value;

use super::document::Document;
use super::schema::{self, Problems};
use crate::api::{MultiArchImage, MultiArchImageSpec, PlatformSource, rules};
use crate::image::{Composition, DescriptorEdits, Source, Target};
use crate::platform::Platform;
use crate::registry::{Reference, Repository};

const API_VERSION: &str = "multiarch.dev/v1alpha1";
const KIND: &str = "MultiArchImage";

/// What the resource wants published; all that is wrong with it otherwise.
pub(super) fn read(value: &Value) -> Result<Document, Problems> {
    let mut problems = Problems::new();
    for (name, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        match value.get(name).and_then(Value::as_str) {
            Some(found) if found == expected => {}
            Some(found) => problems.push(format!("{name}: {found:?}, not {expected}")),
            None => problems.push(format!("{name}: missing; write {name}: {expected}")),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    schema::check(&schema(), value, "", &mut problems);
    let spec = value.get("spec").cloned().unwrap_or_default();
    // What does not fit the schema makes no sense to read on.
    let spec: MultiArchImageSpec = match serde_json::from_value(spec) {
        Ok(spec) if problems.is_empty() => spec,
        Err(error) if problems.is_empty() => return Err(vec![format!("spec: {error}")]),
        _ => return Err(problems),
    };
    let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("(no name)");
    let target = target(&spec, &mut problems);
    let sources = sources(&spec, &mut problems);
    let (Some(target), true) = (target, problems.is_empty()) else { return Err(problems) };
    let composition = Composition {
        sources,
        format: spec.target.format.map(Into::into),
        annotations: spec.target.annotations,
        policy: spec.target.tag_policy.into(),
        targets: vec![target],
        ..Composition::default()
    };
    let warnings = match spec.registry_secrets.is_empty() {
        true => Vec::new(),
        false => vec!["registrySecrets are those of a cluster and not used here".to_owned()],
    };
    Ok(Document { name: format!("{KIND} {name}"), composition, warnings, suspended: spec.suspend })
}

/// The schema of the custom resource, and what the API server adds to it.
fn schema() -> Value {
    let crd = serde_json::to_value(MultiArchImage::crd()).unwrap_or_default();
    let mut schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema").cloned().unwrap_or_default();
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        // Whatever the cluster has written there is its own.
        properties.insert("status".to_owned(), Value::default());
        for (name, kind) in [("apiVersion", "string"), ("kind", "string"), ("metadata", "object")] {
            let anything = serde_json::json!({"type": kind, "x-kubernetes-preserve-unknown-fields": true});
            properties.insert(name.to_owned(), anything);
        }
    }
    schema
}

fn target(spec: &MultiArchImageSpec, problems: &mut Problems) -> Option<Target> {
    let text = &spec.target.repository;
    let refused = |rule: Rule| format!("spec.target.repository: {}", message(&rule));
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
            problems.push(format!("spec.target.tags[{number}]: {tag:?}: {}", message(&rules::tags_form())));
        }
    }
    Some(Target { repository, tags: spec.target.tags.clone() })
}

fn sources(spec: &MultiArchImageSpec, problems: &mut Problems) -> Vec<Source> {
    let mut seen: Vec<Platform> = Vec::new();
    let mut sources = Vec::new();
    for (number, PlatformSource { platform, image, .. }) in spec.platforms.iter().enumerate() {
        let place = format!("spec.platforms[{number}]");
        let parsed: Option<Platform> =
            platform.parse().map_err(|error| problems.push(format!("{place}.platform: {error}"))).ok();
        if parsed.as_ref().is_some_and(|platform| seen.contains(platform)) {
            problems.push(format!("{place}: {platform}: {}", message(&rules::platforms_distinct())));
        }
        seen.extend(parsed.clone());
        let Some(image) = image else {
            problems.push(format!(
                "{place}: {platform} has no image and would be built, which only the operator in a cluster does: \
                 give it an image, or `kubectl apply` the file"
            ));
            continue;
        };
        let reference: Option<Reference> =
            image.parse().map_err(|error| problems.push(format!("{place}.image: {error}"))).ok();
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
