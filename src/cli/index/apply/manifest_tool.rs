//! The YAML of `manifest-tool push from-spec`: estesp/manifest-tool, README and `pkg/types/input.go`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::document::Document;
use crate::cli::schema::{self, Problem, Problems};
use crate::image::{Composition, DescriptorEdits, Source, Target};
use crate::platform::Platform;
use crate::registry::Reference;

#[derive(Deserialize)]
struct Input {
    image: String,
    #[serde(default)]
    tags: Option<Vec<Text>>,
    manifests: Vec<Entry>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, Text>>,
}

#[derive(Deserialize)]
struct Entry {
    image: String,
    #[serde(default)]
    platform: Option<InputPlatform>,
}

/// With dots as in an index, or without as manifest-tool itself reads them.
#[derive(Deserialize, Default)]
struct InputPlatform {
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    architecture: Option<Text>,
    #[serde(default)]
    variant: Option<Text>,
    #[serde(default, alias = "os.version")]
    osversion: Option<String>,
    #[serde(default, alias = "os.features")]
    osfeatures: Option<Vec<String>>,
    #[serde(default)]
    features: Option<Vec<String>>,
}

/// Text, or a whole number that stands for its digits: `architecture: 386`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Number(i64),
    Text(String),
}

impl Text {
    fn into_string(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

fn schema() -> Value {
    let text = json!({"type": "string", "minLength": 1});
    let number = json!({"x-kubernetes-int-or-string": true});
    let texts = json!({"type": "array", "items": text});
    json!({
        "type": "object",
        "required": ["image", "manifests"],
        "properties": {
            "image": text,
            "tags": {"type": "array", "items": number},
            "annotations": {"type": "object", "additionalProperties": number},
            "manifests": {"type": "array", "minItems": 1, "items": {
                "type": "object",
                "required": ["image"],
                "properties": {
                    "image": text,
                    "platform": {"type": "object", "properties": {
                        "os": {"type": "string"}, "architecture": number, "variant": number,
                        "os.version": {"type": "string"}, "osversion": {"type": "string"},
                        "os.features": texts, "osfeatures": texts, "features": texts,
                    }},
                },
            }},
        },
    })
}

/// What the document wants published; all that is wrong with it otherwise.
pub(super) fn read(value: &Value) -> Result<Document, Problems> {
    let mut problems = Problems::new();
    schema::check(&schema(), value, "", &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    let input: Input = serde_json::from_value(value.clone()).map_err(|error| vec![Problem::at("", error)])?;
    let name = format!("manifest-tool's {}", input.image);
    let tags = input.tags.into_iter().flatten().map(Text::into_string).collect();
    let target = target(&input.image, tags, &mut problems);
    let mut warnings = Vec::new();
    let sources: Vec<Source> = input
        .manifests
        .into_iter()
        .enumerate()
        .filter_map(|(number, entry)| source(number, entry, &mut warnings, &mut problems))
        .collect();
    let (Some(target), true) = (target, problems.is_empty()) else { return Err(problems) };
    let annotations = input.annotations.into_iter().flatten();
    let composition = Composition {
        sources,
        targets: vec![target],
        annotations: annotations.map(|(key, text)| (key, text.into_string())).collect(),
        ..Composition::default()
    };
    Ok(Document { name, composition, warnings, suspended: false })
}

/// The tag of the image first, then the further ones.
fn target(image: &str, mut tags: Vec<String>, problems: &mut Problems) -> Option<Target> {
    let reference: Reference =
        image.parse().map_err(|error| problems.push(Problem::at("image", error))).ok()?;
    if reference.digest().is_some() {
        let reason = "nothing can be published under a digest chosen beforehand; write a tag";
        problems.push(Problem::at("image", reason));
    }
    for (number, tag) in tags.iter().enumerate() {
        if let Err(error) = reference.repository().with_tag(tag) {
            problems.push(Problem::at(format!("tags[{number}]"), error));
        }
    }
    tags.splice(0..0, reference.tag().map(str::to_owned));
    Some(Target { repository: reference.repository().clone(), tags })
}

fn source(
    number: usize,
    Entry { image, platform }: Entry,
    warnings: &mut Vec<String>,
    problems: &mut Problems,
) -> Option<Source> {
    let place = format!("manifests[{number}]");
    let reference: Option<Reference> =
        image.parse().map_err(|error| problems.push(Problem::at(format!("{place}.image"), error))).ok();
    let InputPlatform { os, architecture, variant, osversion, osfeatures, features } =
        platform.unwrap_or_default();
    if features.is_some_and(|features| !features.is_empty()) {
        warnings
            .push(format!("{place}.platform.features: left out, as images and runtimes know no such thing"));
    }
    let platform = named_platform(os, architecture.map(Text::into_string), variant.map(Text::into_string))
        .map_err(|error| problems.push(Problem::at(format!("{place}.platform"), error)))
        .ok()?;
    let edits = DescriptorEdits {
        os_version: osversion.filter(|version| !version.is_empty()),
        os_features: osfeatures.filter(|features| !features.is_empty()),
        ..DescriptorEdits::default()
    };
    Some(Source { reference: reference?, platform, edits })
}

/// The platform; none if nothing is said, so that the image's own counts.
fn named_platform(
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
) -> Result<Option<Platform>, String> {
    let said = |text: Option<String>| text.filter(|text| !text.is_empty());
    let text = match (said(os), said(architecture), said(variant)) {
        (None, None, None) => return Ok(None),
        (Some(os), Some(architecture), None) => format!("{os}/{architecture}"),
        (Some(os), Some(architecture), Some(variant)) => format!("{os}/{architecture}/{variant}"),
        _ => return Err("write both os and architecture, or no platform at all".to_owned()),
    };
    text.parse().map(Some).map_err(|error: crate::platform::ParsePlatformError| error.to_string())
}
