//! buildkitd.toml: what the daemon of a build's pod is told.

use std::fmt::Write as _;

use super::{BuilderSettings, BuildkitRegistry};

/// What the daemon is told of registries. How much it may keep depends on the volume, which the pod's script looks at.
pub(super) fn configuration(settings: &BuilderSettings) -> String {
    let mut text = String::new();
    let authorities = distinct_authorities(settings);
    for registry in &settings.buildkit_registries {
        let name = format!("registry.{}", quoted(&registry.host));
        let certificates = registry.certificate_authority.as_deref();
        let number = authorities.iter().position(|known| Some(*known) == certificates);
        section(&mut text, &name, &registry_values(number, registry));
    }
    text
}

/// The certificates of private authorities, those of each after a line with the file that the configuration names.
pub(super) fn authorities(settings: &BuilderSettings) -> Option<String> {
    let authorities = distinct_authorities(settings).into_iter().enumerate();
    let files = authorities
        .map(|(number, certificates)| format!("{}\n{}\n", authority(number), certificates.trim_end()));
    let text: String = files.collect();
    (!text.is_empty()).then_some(text)
}

/// What several registries have in common once.
fn distinct_authorities(settings: &BuilderSettings) -> Vec<&str> {
    let mut distinct = Vec::new();
    for certificates in
        settings.buildkit_registries.iter().filter_map(|of| of.certificate_authority.as_deref())
    {
        if !distinct.contains(&certificates) {
            distinct.push(certificates);
        }
    }
    distinct
}

fn authority(number: usize) -> String {
    format!("/context/authority-{number}.pem")
}

fn registry_values(
    authority_number: Option<usize>,
    registry: &BuildkitRegistry,
) -> Vec<(&'static str, String)> {
    let mut values = Vec::new();
    let mut truth = |name, is_set: bool| values.extend(is_set.then(|| (name, "true".to_owned())));
    truth("http", registry.plain_http);
    truth("insecure", registry.insecure_skip_verify);
    if !registry.mirrors.is_empty() {
        let mirrors: Vec<String> = registry.mirrors.iter().map(|mirror| quoted(mirror)).collect();
        values.push(("mirrors", format!("[{}]", mirrors.join(", "))));
    }
    if let Some(number) = authority_number {
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
