//! The documents of a file: what they are, and what is wrong with them.

use serde_json::Value;

use super::{manifest_tool, multi_arch_image};
use crate::cli::exit::Failure;
use crate::cli::schema::{Problem, Problems};
use crate::image::Composition;

/// A document, understood.
#[derive(Debug)]
pub(super) struct Document {
    /// What messages call it.
    pub(super) name: String,
    /// What it wants published.
    pub(super) composition: Composition,
    /// What people should know.
    pub(super) warnings: Vec<String>,
    /// Whether nothing is to be done.
    pub(super) suspended: bool,
}

/// All documents of a file called `file`.
///
/// # Errors
/// All that is wrong with any of them, before anything is done for one.
pub(super) fn read(file: &str, text: &str) -> Result<Vec<Document>, Failure> {
    let values: Vec<Value> = serde_saphyr::from_multiple(text)
        .map_err(|error| Failure::usage(format!("{file}: not YAML: {error}")))?;
    let values: Vec<Value> = values.into_iter().filter(|value| !value.is_null()).collect();
    if values.is_empty() {
        return Err(Failure::usage(format!("{file}: there is nothing in it")));
    }
    let several = values.len() > 1;
    let mut problems = Vec::new();
    let mut documents = Vec::new();
    for (number, value) in values.iter().enumerate() {
        let place = if several { format!("document {}: ", number + 1) } else { String::new() };
        match understand(value) {
            Ok(document) => documents.push(document),
            Err(found) => problems.extend(found.into_iter().map(|problem| format!("{place}{problem}"))),
        }
    }
    match problems.as_slice() {
        [] => Ok(documents),
        [problem] => Err(Failure::usage(format!("{file}: {problem}"))),
        _ => Err(Failure::usage(format!("{file}:\n  {}", problems.join("\n  ")))),
    }
}

/// Told by its shape.
fn understand(value: &Value) -> Result<Document, Problems> {
    let has = |name: &str| value.get(name).is_some();
    if has("kind") || has("apiVersion") || has("spec") {
        multi_arch_image::read(value)
    } else if has("manifests") || has("image") {
        manifest_tool::read(value)
    } else {
        let forms =
            "neither a MultiArchImage (apiVersion, kind, spec) nor manifest-tool's form (image, manifests)";
        Err(vec![Problem::at("", forms)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::PlatformCheck;
    use crate::platform::Platform;

    fn one(text: &str) -> Document {
        let mut documents = read("image.yaml", text).unwrap();
        assert_eq!(documents.len(), 1);
        documents.remove(0)
    }

    fn refusal(text: &str) -> String {
        read("image.yaml", text).unwrap_err().to_string()
    }

    fn resource(spec: &str) -> String {
        format!(
            "apiVersion: multiarch.dev/v1alpha1\nkind: MultiArchImage\nmetadata: {{name: web, labels: {{a: b}}}}\n{spec}"
        )
    }

    const VALID: &str = "spec: {target: {repository: a.io/web, tags: ['1']}, platforms: [{platform: linux/amd64, image: b.io/web}]}";

    #[test]
    fn a_resource_is_a_composition() {
        let document = one(&resource(
            "spec:\n  target: {repository: a.io/team/web, tags: ['1.4', latest]}\n  registrySecrets: [{name: regcred}]\n  \
             platforms:\n  - {platform: linux/x86_64, image: 'b.io/web:1-amd64'}\n  - {platform: linux/arm, image: b.io/web}\n",
        ));
        assert_eq!(document.name, "MultiArchImage web");
        let Composition { targets, sources, .. } = document.composition;
        assert_eq!((targets.len(), targets[0].repository.to_string()), (1, "a.io/team/web".to_owned()));
        assert_eq!(targets[0].tags, ["1.4", "latest"]);
        let sources: Vec<String> =
            sources.iter().map(|s| format!("{} {}", s.platform.as_ref().unwrap(), s.reference)).collect();
        assert_eq!(sources, ["linux/amd64 b.io/web:1-amd64", "linux/arm/v7 b.io/web:latest"]);
        assert_eq!(document.warnings, ["registrySecrets are those of a cluster and not used here"]);
    }

    #[test]
    fn what_the_resource_has_checked_is_checked_or_said_to_be_left_out() {
        let verify = "verify: {platform: 'Off', binaries: Enforce, run: {command: [/app]}}";
        let document = one(&resource(&VALID.replace("spec: {", &format!("spec: {{{verify}, "))));
        assert_eq!(document.composition.check, PlatformCheck::Off);
        assert!(document.warnings[0].contains("verify.run needs the nodes of a cluster"));
        assert!(document.warnings[1].contains("multiarch index verify --binaries enforce"));
        assert_eq!(one(&resource(VALID)).composition.check, PlatformCheck::Enforce);
    }

    #[test]
    fn the_readme_of_manifest_tool_is_understood() {
        let document = one("\
image: myprivreg:5000/someimage:latest
tags: [\"1.0.0\", \"1.0\", \"1\"]
manifests:
  -
    image: myprivreg:5000/someimage:arm64
    platform:
      architecture: arm64
      os: linux
  -
    image: myprivreg:5000/someimage:amd64
    platform:
      architecture: amd64
      os: linux
");
        let Composition { targets, sources, format, .. } = document.composition;
        assert_eq!(targets[0].repository.to_string(), "myprivreg:5000/someimage");
        assert_eq!(targets[0].tags, ["latest", "1.0.0", "1.0", "1"]);
        assert_eq!((sources.len(), format), (2, None));
        assert_eq!(sources[0].reference.to_string(), "myprivreg:5000/someimage:arm64");
        assert_eq!(sources[0].platform.as_ref().unwrap().to_string(), "linux/arm64");
    }

    #[test]
    fn manifest_tools_platforms_have_all_their_fields() {
        let document = one("\
image: a.io/web
annotations: {org.opencontainers.image.title: Web}
manifests:
- {image: 'a.io/web:386', platform: {os: linux, architecture: 386, features: [sse4]}}
- {image: 'a.io/web:arm', platform: {os: linux, architecture: arm, variant: v6}}
- {image: 'a.io/web:win', platform: {os: windows, architecture: amd64, os.version: 10.0.17763.1, osfeatures: [win32k]}}
- {image: 'a.io/web:own', platform: {}}
- {image: 'a.io/web:all'}
");
        let sources = &document.composition.sources;
        let platforms: Vec<String> = sources
            .iter()
            .map(|s| s.platform.as_ref().map_or("own".to_owned(), Platform::to_string))
            .collect();
        assert_eq!(platforms, ["linux/386", "linux/arm/v6", "windows/amd64", "own", "own"]);
        assert_eq!(sources[2].edits.os_version.as_deref(), Some("10.0.17763.1"));
        assert_eq!(sources[2].edits.os_features.as_deref(), Some(&["win32k".to_owned()][..]));
        assert_eq!(document.composition.annotations["org.opencontainers.image.title"], "Web");
        assert!(document.warnings[0].contains("manifests[0].platform.features: left out"));
    }

    #[test]
    fn several_documents_are_read_and_empty_ones_are_none() {
        let text =
            format!("---\n{}\n---\n---\nimage: a.io/x\nmanifests: [{{image: a.io/x:1}}]\n", resource(VALID));
        let names: Vec<String> =
            read("x", &text).unwrap().into_iter().map(|document| document.name).collect();
        assert_eq!(names, ["MultiArchImage web", "manifest-tool's a.io/x"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let wrong = |spec: &str, message: &str| {
            let refusal = refusal(&resource(spec));
            assert!(refusal.contains(message), "{refusal}\nhas not\n{message}");
        };
        wrong(
            &VALID.replace("tags", "tag"),
            "image.yaml:\n  spec.target.tag: unknown field; did you mean tags?\n  spec.target.tags: missing",
        );
        wrong(&VALID.replace("target", "targets"), "spec.targets: unknown field; did you mean target?");
        wrong(
            &VALID.replace("'1'", "1.4"),
            "spec.target.tags[0]: a number where text is expected; write it in quotes",
        );
        wrong(
            &VALID.replace("a.io/web", "a.io/web:1"),
            "spec.target.repository: write the repository without tag and digest",
        );
        wrong(
            &VALID.replace("a.io/web", "a.io/Web"),
            "spec.target.repository: write registry/repository in lower case",
        );
        wrong(
            &VALID.replace("a.io/web", "web"),
            "spec.target.repository: write registry/repository in lower case",
        );
        wrong(&VALID.replace("'1'", "'-1'"), r#"spec.target.tags[0]: "-1": a tag has letters, digits"#);
        wrong(
            &VALID.replace("amd64", "amd46"),
            "spec.platforms[0].platform: \"linux/amd46\" is not a platform: unknown architecture \"amd46\"; did you mean amd64?",
        );
        wrong(&VALID.replace("b.io/web", "b.io//web"), "spec.platforms[0].image: ");
        let twice = VALID.replace("}]}", "}, {platform: linux/x86_64, image: b.io/web}]}");
        wrong(&twice, "spec.platforms[1]: linux/x86_64: two entries are for the same platform");
        wrong("", "spec: missing");
    }

    #[test]
    fn a_build_needs_the_operator() {
        let build = VALID.replace(", image: b.io/web", "");
        let refusal = refusal(&resource(&build));
        assert!(
            refusal.contains(
                "spec.platforms[0]: linux/amd64 has no image and would be built, which only the operator"
            ),
            "{refusal}"
        );
    }

    #[test]
    fn a_document_of_another_kind_is_refused() {
        assert!(refusal("apiVersion: v1\nkind: Secret\n").contains(r#"kind: "Secret", not MultiArchImage"#));
        assert!(refusal("spec: {}").contains("kind: missing; write kind: MultiArchImage"));
        assert!(
            refusal("a: 1")
                .contains("neither a MultiArchImage (apiVersion, kind, spec) nor manifest-tool's form")
        );
        assert!(refusal("").contains("there is nothing in it"));
        assert!(refusal("a: [").contains("not YAML"));
        assert!(
            refusal("image: a.io/x\nmanifest: []")
                .contains("manifest: unknown field; did you mean manifests?")
        );
        let both =
            format!("{}\n---\nimage: a.io/x\nmanifests: []\n", resource(&VALID.replace("tags", "tgas")));
        assert!(refusal(&both).contains("\n  document 2: manifests: empty"));
    }

    #[test]
    fn a_platform_by_half_is_refused() {
        let text = "image: a.io/x\nmanifests: [{image: a.io/x, platform: {architecture: arm64}}]";
        assert!(refusal(text).contains("manifests[0].platform: write both os and architecture"));
        let digest = format!("image: a.io/x@sha256:{}\nmanifests: [{{image: a.io/x}}]", "0".repeat(64));
        assert!(refusal(&digest).contains("image: nothing can be published under a digest"));
    }
}
