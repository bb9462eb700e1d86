//! What `buildctl build` is called with. No value of a secret is among it, only the paths of files.

use super::{BuildRequest, BuilderSettings, PinnedContext, cache};
use crate::api::{Attestations, Provenance};
use crate::dockerfile::context_name;

const EPOCH: &str = "SOURCE_DATE_EPOCH";
/// The value of SOURCE_DATE_EPOCH that stands for the time of the context's commit.
const OF_CONTEXT: &str = "context";
/// The name of a build secret's file in its folder.
pub(super) const SECRET_FILE: &str = "value";

/// The folder of the build secret at a place of the list, without the slash before.
pub(super) fn secret_folder(at: usize) -> String {
    format!("secrets/{at}")
}

/// Whether the time of the build is that of the context.
pub(super) fn epoch_of_context(request: &BuildRequest<'_>) -> bool {
    request.build.args.get(EPOCH).is_some_and(|value| value.0 == OF_CONTEXT)
}

pub(super) fn of(request: &BuildRequest<'_>, settings: &BuilderSettings) -> Vec<String> {
    let mut arguments = vec![];
    let mut option = |key: &str, value: &str| arguments.push(format!("--opt={key}={value}"));
    let build = request.build;
    option("platform", &request.platform.to_string());
    let filename = match request.context {
        PinnedContext::Inline { .. } => "Dockerfile",
        _ => &build.dockerfile,
    };
    option("filename", filename);
    if let Some(target) = &build.target {
        option("target", target);
    }
    for (name, value) in &build.args {
        if name != EPOCH || !epoch_of_context(request) {
            option(&format!("build-arg:{name}"), &value.0);
        }
    }
    for (name, value) in &build.labels {
        option(&format!("label:{name}"), value);
    }
    for (name, address) in &build.contexts {
        // The name that the check of base images goes by.
        option(&format!("context:{}", context_name(name)), &address.0);
    }
    if let Some(attestations) = &build.attestations {
        attest(attestations, settings, &mut option);
    }
    for (at, secret) in build.secrets.iter().enumerate() {
        arguments.push(format!("--secret=id={},src=/{}/{SECRET_FILE}", secret.id, secret_folder(at)));
    }
    arguments.extend(cache::arguments(request));
    arguments.push(output(request));
    arguments
}

fn attest(wanted: &Attestations, settings: &BuilderSettings, option: &mut impl FnMut(&str, &str)) {
    match wanted.provenance {
        Provenance::Off => {}
        Provenance::Min => option("attest:provenance", "mode=min"),
        Provenance::Max => option("attest:provenance", "mode=max"),
    }
    if wanted.sbom {
        option("attest:sbom", &format!("generator={}", settings.sbom_scanner));
    }
}

/// The result goes to the registry by digest: a Job may run twice, and the operator alone writes tags.
fn output(request: &BuildRequest<'_>) -> String {
    let mut fields: Vec<String> = vec![
        "type=image".to_owned(),
        format!("name={}", request.repository),
        "push=true".to_owned(),
        "push-by-digest=true".to_owned(),
        "oci-mediatypes=true".to_owned(),
    ];
    if request.build.args.contains_key(EPOCH) {
        fields.push("rewrite-timestamp=true".to_owned());
    }
    for (name, value) in &request.build.annotations {
        fields.push(format!("annotation.{name}={value}"));
    }
    let fields: Vec<String> = fields.iter().map(|field| comma_separated(field)).collect();
    format!("--output={}", fields.join(","))
}

/// A field of comma-separated values (RFC 4180).
fn comma_separated(field: &str) -> String {
    match field.contains([',', '"', '\n', '\r']) || field.starts_with(' ') {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}
