//! The file of `--policies`.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_saphyr::Spanned;

use super::{Policies, PublishRule};
use crate::network::{HostPolicy, HostRule, HostSelector};
use crate::registry::RepositoryPrefix;
use crate::settings_file::{self, Problem, SettingsFileError, namespace_pattern, take};

impl Policies {
    /// The policies of a file, which is YAML of at most 1 MiB.
    ///
    /// ```yaml
    /// publish:                                       # who may publish where; what no rule allows is denied
    /// - namespaces: [team-a, team-a-*]
    ///   repositories: [registry.example.com/team-a]  # and all that is below
    /// hosts:                                         # which registries and git servers may be spoken to
    /// - namespaces: ["*"]
    ///   allow: [ghcr.io, "*.example.com"]            # and no others; without it all
    ///   deny: [10.96.0.0/12, secret.example.com]     # in any case
    /// ```
    ///
    /// # Errors
    /// If the file cannot be read, anything in it is unknown or makes no sense, or it has no rule.
    pub fn read_file(path: &Path) -> Result<Self, SettingsFileError> {
        settings_file::read(path, parse)
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Document {
    #[serde(deserialize_with = "present")]
    publish: Option<Vec<Spanned<Entry>>>,
    #[serde(deserialize_with = "present")]
    hosts: Option<Vec<Spanned<HostEntry>>>,
}

/// A key without a value is an empty list, and not a key that is not there.
fn present<'a, D: Deserializer<'a>, T: Deserialize<'a>>(given: D) -> Result<Option<Vec<T>>, D::Error> {
    Ok(Some(Option::deserialize(given)?.unwrap_or_default()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    namespaces: Option<Vec<Spanned<Value>>>,
    repositories: Option<Vec<Spanned<Value>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HostEntry {
    namespaces: Option<Vec<Spanned<Value>>>,
    allow: Option<Vec<Spanned<Value>>>,
    deny: Option<Vec<Spanned<Value>>>,
}

fn parse(text: &str) -> Result<Policies, Problem> {
    let document: Document = settings_file::document(text)?;
    // A file that lost its rules must not allow everything.
    let lost = match (&document.publish, &document.hosts) {
        (Some(rules), _) if rules.is_empty() => Some("publish has no rule"),
        (_, Some(rules)) if rules.is_empty() => Some("hosts has no rule"),
        (None, None) => Some("there is neither publish nor hosts"),
        _ => None,
    };
    if let Some(lost) = lost {
        let words = format!("{lost}; write one, or start the operator without policies");
        return Err(Problem { line: None, words });
    }
    let publish = document.publish.map(|entries| rules("publish", entries, rule)).transpose()?;
    let hosts = document.hosts.map(|entries| rules("hosts", entries, host_rule)).transpose()?;
    let hosts = HostPolicy { rules: hosts.unwrap_or_default(), ..HostPolicy::default() };
    Ok(Policies { publish, hosts: Arc::new(hosts) })
}

fn rules<E, R>(
    key: &str,
    entries: Vec<Spanned<E>>,
    read: fn(&str, Spanned<E>) -> Result<R, Problem>,
) -> Result<Vec<R>, Problem> {
    let entries = entries.into_iter().enumerate();
    entries.map(|(position, entry)| read(&format!("{key}[{position}]"), entry)).collect()
}

fn rule(place: &str, entry: Spanned<Entry>) -> Result<PublishRule, Problem> {
    let line = entry.referenced.line();
    let Entry { namespaces, repositories } = entry.value;
    Ok(PublishRule {
        namespaces: each(&format!("{place}.namespaces"), line, namespaces, namespace_pattern)?,
        repositories: each(&format!("{place}.repositories"), line, repositories, prefix)?,
    })
}

fn host_rule(place: &str, entry: Spanned<HostEntry>) -> Result<HostRule, Problem> {
    let line = entry.referenced.line();
    let HostEntry { namespaces, allow, deny } = entry.value;
    if allow.is_none() && deny.is_none() {
        let words = format!("{place} has neither allow nor deny");
        return Err(Problem { line: Some(line), words });
    }
    let hosts = |key: &str, given: Option<_>| {
        let read = |given| each(&format!("{place}.{key}"), line, Some(given), selector);
        given.map(read).transpose().map(Option::unwrap_or_default)
    };
    Ok(HostRule {
        namespaces: each(&format!("{place}.namespaces"), line, namespaces, namespace_pattern)?,
        allow: hosts("allow", allow)?,
        deny: hosts("deny", deny)?,
    })
}

fn selector(value: &Value) -> Result<HostSelector, String> {
    value.as_str().ok_or("expected a host or a network")?.parse()
}

/// Every value of a list, which has one at least.
fn each<T>(
    key: &str,
    line: u64,
    given: Option<Vec<Spanned<Value>>>,
    read: fn(&Value) -> Result<T, String>,
) -> Result<Vec<T>, Problem> {
    let missing = || Problem { line: Some(line), words: format!("{key} is missing") };
    let given = given.filter(|given| !given.is_empty()).ok_or_else(missing)?;
    let value =
        |(position, value)| take(&format!("{key}[{position}]"), Some(value), read)?.ok_or_else(missing);
    given.into_iter().enumerate().map(value).collect()
}

fn prefix(value: &Value) -> Result<RepositoryPrefix, String> {
    let text = value.as_str().ok_or("expected a registry, or the beginning of a repository's name")?;
    text.parse().map_err(|error: crate::registry::ParsePrefixError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_documentation_shows_is_understood() {
        let text = include_str!("../../docs/policies.md");
        let (_, yaml) = text.split_once("```yaml\n").expect("an example");
        let policies = parse(yaml.split_once("```").expect("its end").0).expect("the example");
        let rules = policies.publish.expect("rules");
        assert_eq!(rules[0].namespaces, ["team-a", "team-a-*"]);
        let repositories: Vec<String> = rules[0].repositories.iter().map(ToString::to_string).collect();
        assert_eq!(repositories, ["registry.example.com/team-a", "ghcr.io/acme/team-a"]);
        let hosts = &policies.hosts.rules;
        let shown = |hosts: &[HostSelector]| hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(&hosts[0].deny), ["10.96.0.1", "*.internal.example.com"]);
        assert_eq!(shown(&hosts[1].allow)[..2], ["registry.example.com", "ghcr.io"]);
    }

    #[test]
    fn a_mistake_is_told_by_line_and_key() {
        for (text, line, told) in [
            ("publsh: []", Some(1), "unknown key \"publsh\"; did you mean publish?"),
            (
                "",
                None,
                "there is neither publish nor hosts; write one, or start the operator without policies",
            ),
            ("publish:", None, "publish has no rule; write one, or start the operator without policies"),
            ("publish: []", None, "publish has no rule; write one, or start the operator without policies"),
            ("publish: all", Some(1), "expected a list"),
            ("hosts:", None, "hosts has no rule; write one, or start the operator without policies"),
            (
                "publish:\nhosts:\n- {namespaces: [a], deny: [b.test]}",
                None,
                "publish has no rule; write one, or start the operator without policies",
            ),
            ("hosts:\n- namespaces: [a]", Some(2), "hosts[0] has neither allow nor deny"),
            ("hosts:\n- allow: [a.test]", Some(2), "hosts[0].namespaces is missing"),
            ("hosts:\n- namespaces: [a]\n  deny: []", Some(2), "hosts[0].deny is missing"),
            (
                "hosts:\n- namespaces: [a]\n  allow:\n  - a.test\n  - https://b.test",
                Some(5),
                "hosts[0].allow[1]: \"https://b.test\" is no network; write 10.0.0.0/8 or fd00::/8",
            ),
            (
                "hosts:\n- namespaces: [a]\n  deny: [10.0.0.1/8]",
                Some(3),
                "hosts[0].deny[0]: \"10.0.0.1/8\" has an address within the network; write 10.0.0.0/8",
            ),
            ("publish:\n- repositories: [r.test]", Some(2), "publish[0].namespaces is missing"),
            (
                "publish:\n- namespaces: [a]\n  repositories: []",
                Some(2),
                "publish[0].repositories is missing",
            ),
            (
                "publish:\n- namespaces: [a]\n  repository: [r.test]",
                Some(3),
                "unknown key \"repository\"; did you mean repositories?",
            ),
            ("publish:\n- namespaces: a\n  repositories: [r.test]", Some(2), "expected a list"),
            (
                "publish:\n- namespaces:\n  - a\n  -\n  repositories: [r.test]",
                Some(2),
                "publish[0].namespaces is missing",
            ),
            (
                "publish:\n- namespaces: [a]\n  repositories:\n  - r.test/a\n  - acme",
                Some(5),
                "publish[0].repositories[1]: \"acme\" is not a registry or the beginning of a repository's name: write the \
                 registry as well, as in docker.io/acme",
            ),
            (
                "publish:\n- namespaces: [a]\n  repositories: [3]",
                Some(3),
                "publish[0].repositories[0]: expected a registry, or the beginning of a repository's name",
            ),
        ] {
            let Problem { line: at, words } = parse(text).expect_err(text);
            assert_eq!((at, words.as_str()), (line, told), "{text}");
        }
        let words = parse("publish:\n- namespaces: [Team_A]\n  repositories: [r.test]")
            .expect_err("a namespace")
            .words;
        assert!(words.starts_with("publish[0].namespaces[0]: expected the name of a namespace"), "{words}");
    }
}
