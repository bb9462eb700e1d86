//! buildkitd.toml: what the daemon of a build's pod is told.

use std::fmt::Write as _;

use super::{BuildRequest, BuilderSettings, BuildkitRegistry, cache};

/// The configuration of the daemon: registries, and how much it may keep.
pub(super) fn configuration(request: &BuildRequest<'_>, settings: &BuilderSettings) -> String {
    let mut text = String::new();
    for (number, registry) in settings.buildkit_registries.iter().enumerate() {
        let name = format!("registry.{}", quoted(&registry.host));
        section(&mut text, &name, &registry_values(number, registry));
    }
    if let Some(volume) = request.build.cache.as_ref().and_then(|cache| cache.volume.as_ref()) {
        let limit = cache::volume_limit(&volume.size).to_string();
        section(&mut text, "worker.oci", &[("gc", "true".to_owned()), ("maxUsedSpace", limit)]);
    }
    text
}

/// The certificates of private authorities, those of each after a line with the file that the configuration names.
pub(super) fn authorities(settings: &BuilderSettings) -> Option<String> {
    let numbered = settings.buildkit_registries.iter().enumerate();
    let files = numbered.filter_map(|(number, registry)| {
        let certificates = registry.certificate_authority.as_deref()?;
        Some(format!("{}\n{}\n", authority(number), certificates.trim_end()))
    });
    let text: String = files.collect();
    (!text.is_empty()).then_some(text)
}

fn authority(number: usize) -> String {
    format!("/context/authority-{number}.pem")
}

fn registry_values(number: usize, registry: &BuildkitRegistry) -> Vec<(&'static str, String)> {
    let mut values = Vec::new();
    let mut truth = |name, is_set: bool| values.extend(is_set.then(|| (name, "true".to_owned())));
    truth("http", registry.plain_http);
    truth("insecure", registry.insecure_skip_verify);
    if !registry.mirrors.is_empty() {
        let mirrors: Vec<String> = registry.mirrors.iter().map(|mirror| quoted(mirror)).collect();
        values.push(("mirrors", format!("[{}]", mirrors.join(", "))));
    }
    if registry.certificate_authority.is_some() {
        values.push(("ca", format!("[{}]", quoted(&authority(number)))));
    }
    values
}

fn section(text: &mut String, name: &str, values: &[(&str, String)]) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "[{name}]");
    for (key, value) in values {
        let _ = writeln!(text, "  {key} = {value}");
    }
}

/// A basic string of TOML, which is written as JSON writes strings.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
