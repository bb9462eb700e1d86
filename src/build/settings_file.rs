//! The file of `--builds`: what an operator's owner says of builds.

use std::path::Path;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{BuilderSettings, NamespaceSettings, Profile};
use crate::glob;
use crate::platform::check_name;
use crate::registry::Reference;
use crate::settings_file::{self, Given, Problem, SettingsFileError, namespace_pattern, take};

impl BuilderSettings {
    /// The settings of a file, which is YAML of at most 1 MiB; what it does not say is as by default.
    ///
    /// ```yaml
    /// profile: Rootless            # Rootless | UserNamespace | Privileged
    /// sbomScanner: docker.io/docker/buildkit-syft-scanner:1.12.0@sha256:ae4f3b554449e7e25548e7d8ccc029d17357348e30c6e3df01b92bc93654d6a9
    /// maxRunning: 20               # builds of the operator at once; unlimited when unset
    /// maxRunningPerNamespace: 5
    /// namespaces:                  # the first pattern that matches decides
    /// - namespace: team-a-*
    ///   profile: Privileged
    ///   maxRunning: 2
    /// ```
    ///
    /// # Errors
    /// If the file cannot be read, or anything in it is unknown or makes no sense.
    pub fn read_file(path: &Path) -> Result<Self, SettingsFileError> {
        settings_file::read(path, parse)
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    profile: Given,
    sbom_scanner: Given,
    max_running: Given,
    max_running_per_namespace: Given,
    namespaces: Option<Vec<Spanned<Entry>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    namespace: Given,
    profile: Given,
    max_running: Given,
}

fn parse(text: &str) -> Result<BuilderSettings, Problem> {
    let document: Document = settings_file::document(text)?;
    let defaults = BuilderSettings::default();
    let mut namespaces: Vec<NamespaceSettings> = Vec::new();
    for (position, entry) in document.namespaces.unwrap_or_default().into_iter().enumerate() {
        let place = format!("namespaces[{position}]");
        let line = entry.referenced.line();
        let entry = entry.value.settings(&place, line)?;
        if let Some(first) = namespaces.iter().position(|other| covers(&other.namespace, &entry.namespace)) {
            let words = format!(
                "{place} ({}) is never used: namespaces[{first}] ({}) matches all of it and comes first",
                entry.namespace, namespaces[first].namespace
            );
            return Err(Problem { line: Some(line), words });
        }
        namespaces.push(entry);
    }
    Ok(BuilderSettings {
        profile: profile("profile", document.profile)?.unwrap_or(defaults.profile),
        sbom_scanner: image("sbomScanner", document.sbom_scanner)?.unwrap_or(defaults.sbom_scanner),
        max_running: count("maxRunning", document.max_running)?,
        max_running_per_namespace: count("maxRunningPerNamespace", document.max_running_per_namespace)?,
        namespaces,
        image: defaults.image,
        buildkit_registries: defaults.buildkit_registries,
    })
}

impl Entry {
    fn settings(self, place: &str, line: u64) -> Result<NamespaceSettings, Problem> {
        let Some(namespace) = take(&format!("{place}.namespace"), self.namespace, namespace_pattern)? else {
            return Err(Problem { line: Some(line), words: format!("{place}: namespace is missing") });
        };
        Ok(NamespaceSettings {
            namespace,
            profile: profile(&format!("{place}.profile"), self.profile)?,
            max_running: count(&format!("{place}.maxRunning"), self.max_running)?,
        })
    }
}

/// Whether the pattern `earlier` matches whatever `later` does. `*` of `later` counts as a letter that only `*` matches.
fn covers(earlier: &str, later: &str) -> bool {
    let vague = earlier.contains('?') && later.contains('*');
    glob::matches(earlier, later) && (!vague || earlier == later)
}

fn count(key: &str, given: Given) -> Result<Option<usize>, Problem> {
    take(key, given, |value| {
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        count.filter(|count| *count > 0).ok_or_else(|| "expected a number of 1 or more".to_owned())
    })
}

fn profile(key: &str, given: Given) -> Result<Option<Profile>, Problem> {
    let names = Profile::ALL.map(|(name, _)| name);
    take(key, given, |value| {
        let name = value.as_str().ok_or_else(|| format!("expected {}", names.join(", ")))?;
        check_name("profile", name, &names)?;
        Ok(Profile::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, profile)| profile))
    })
    .map(Option::flatten)
}

fn image(key: &str, given: Given) -> Result<Option<String>, Problem> {
    take(key, given, |value| {
        let text = value.as_str().ok_or("expected an image")?;
        text.parse::<Reference>().map(|_| text.to_owned()).map_err(|error| error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> (Option<u64>, String) {
        let Problem { line, words } = parse(text).expect_err(text);
        (line, words)
    }

    fn documented() -> String {
        let text = include_str!("../../docs/build-settings.md");
        let (_, yaml) = text.split_once("```yaml\n").expect("an example");
        yaml.split_once("```").expect("its end").0.to_owned()
    }

    #[test]
    fn what_the_documentation_shows_is_understood() {
        let settings = parse(&documented()).expect("the example");
        assert_eq!(
            settings,
            BuilderSettings {
                max_running: Some(20),
                max_running_per_namespace: Some(5),
                namespaces: vec![NamespaceSettings {
                    namespace: "team-a-*".to_owned(),
                    profile: Some(Profile::Privileged),
                    max_running: Some(2),
                }],
                ..BuilderSettings::default()
            }
        );
    }

    #[test]
    fn what_is_not_said_is_as_by_default() {
        for nothing in ["", "# none yet\n", "namespaces:", "namespaces: []", "maxRunning:", "{}"] {
            assert_eq!(parse(nothing), Ok(BuilderSettings::default()), "{nothing}");
        }
        assert_eq!(parse("profile: UserNamespace").expect("a file").profile, Profile::UserNamespace);
    }

    #[test]
    fn a_mistake_is_told_by_line_and_key() {
        for (text, line, told) in [
            ("maxRuning: 3", 1, "unknown key \"maxRuning\"; did you mean maxRunning?"),
            ("\nmaxRunning: 0", 2, "maxRunning: expected a number of 1 or more"),
            ("maxRunning: -1", 1, "maxRunning: expected a number of 1 or more"),
            ("maxRunning: many", 1, "maxRunning: expected a number of 1 or more"),
            ("maxRunningPerNamespace: 1.5", 1, "maxRunningPerNamespace: expected a number of 1 or more"),
            ("profile: rootless", 1, "profile: unknown profile \"rootless\"; did you mean Rootless?"),
            ("profile: true", 1, "profile: expected Rootless, UserNamespace, Privileged"),
            ("namespaces: team-a", 1, "expected a list"),
            ("namespaces:\n- team-a", 2, "expected keys and values"),
            ("- namespace: team-a", 1, "expected keys and values"),
            ("namespaces:\n- profile: Rootless", 2, "namespaces[0]: namespace is missing"),
            (
                "namespaces:\n- namespace: a\n  maxRunningPerNamespace: 3",
                3,
                "unknown key \"maxRunningPerNamespace\"; known are namespace, profile, maxRunning",
            ),
            (
                "namespaces:\n- namespace: a\n- namespace: Team_A",
                3,
                "namespaces[1].namespace: expected the name of a namespace, with * for any text and ? for one \
                 character",
            ),
            (
                "namespaces:\n- namespace: team-*\n  maxRunning: 1\n- namespace: team-a-*",
                4,
                "namespaces[1] (team-a-*) is never used: namespaces[0] (team-*) matches all of it and comes first",
            ),
            ("maxRunning: 3\nmaxRunning: 4", 2, "maxRunning stands there twice"),
        ] {
            assert_eq!(problem(text), (Some(line), told.to_owned()), "{text}");
        }
        assert!(problem("sbomScanner: docker://syft").1.starts_with("sbomScanner: "));
        let (line, words) = problem("profile: Rootless\nnamespaces: [");
        assert!(line.is_some() && words.starts_with("not YAML: "), "{line:?} {words}");
    }

    #[test]
    fn a_pattern_that_another_covers_only_in_part_is_fine() {
        for (earlier, later, covered) in [
            ("team-a", "team-a", true),
            ("*", "team-?", true),
            ("team-?", "team-a", true),
            ("team-?", "team-?", true),
            ("team-?", "team-*", false),
            ("t?-*", "ta-*", false),
            ("team-a", "team-*", false),
            ("team-*", "team*", false),
        ] {
            assert_eq!(covers(earlier, later), covered, "{earlier} {later}");
        }
    }

    #[test]
    fn the_error_names_file_and_line() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "maxRunning: 3\nprofile: Root\n").expect("written");
        let error = BuilderSettings::read_file(file.path()).expect_err("no profile").to_string();
        let place = format!("{}:2: profile: unknown profile \"Root\"", file.path().display());
        assert!(error.starts_with(&place), "{error}");
        let error = BuilderSettings::read_file(Path::new("/nowhere/builds.yaml")).expect_err("no file");
        assert_eq!(error.to_string(), "/nowhere/builds.yaml: cannot be read: No such file or directory");
    }
}
