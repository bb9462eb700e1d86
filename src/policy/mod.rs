//! What whoever runs the operator lets namespaces do. Pure: nothing is looked up.

mod file;
mod hosts;

use std::sync::Arc;

use kube::ResourceExt as _;

use crate::api::{MultiArchImage, MultiArchImageSpec, Reason};
use crate::glob;
use crate::network::{Access, HostPolicy, HostSelector};
use crate::registry::{RegistrySettings, Repository, RepositoryPrefix};

/// The policies of an operator, from the file of `--policies` ([`Policies::read_file`]). By default everything is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// Who may publish where; what no rule allows is denied. Everybody everywhere when absent.
    pub publish: Option<Vec<PublishRule>>,
    /// Which hosts namespaces may lead the operator to, and name for their builds.
    pub hosts: Arc<HostPolicy>,
}

/// Where some namespaces may publish. Rules add up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRule {
    /// Names of namespaces; `*` stands for any text, `?` for one character.
    pub namespaces: Vec<String>,
    /// Where their repositories lie.
    pub repositories: Vec<RepositoryPrefix>,
}

impl Policies {
    /// Why an image must not be worked on, and that for people: the field, the rule, and what is allowed instead.
    pub fn denial(&self, image: &MultiArchImage) -> Option<(Reason, String)> {
        let repository = || Some((Reason::PolicyDenied, self.repository_denial(image)?));
        let host = || Some((Reason::HostDenied, hosts::denial(&self.access(image), &image.spec)?));
        repository().or_else(host)
    }

    /// The same, with the hosts that the operator's own settings name.
    pub fn with_hosts_of(self, plain_http: &[String], registries: &[RegistrySettings]) -> Self {
        // A pattern that is no single host, such as `*`, names none.
        let selectors = |texts: &mut dyn Iterator<Item = String>| {
            texts.filter_map(|text| text.parse().ok()).collect::<Vec<HostSelector>>()
        };
        let hosts = registries.iter().map(|entry| entry.host.clone());
        let named = selectors(&mut plain_http.iter().cloned().chain(hosts));
        let mirrors = registries.iter().flat_map(|entry| &entry.mirrors);
        let mirrors = selectors(&mut mirrors.map(|mirror| mirror.host().to_owned()));
        let rules = self.hosts.rules.clone();
        Self { hosts: Arc::new(HostPolicy { rules, named, mirrors }), ..self }
    }

    /// The hosts that the operator may speak to on behalf of an image.
    pub fn access(&self, image: &MultiArchImage) -> Access {
        self.hosts.access(&image.namespace().unwrap_or_default())
    }

    fn repository_denial(&self, image: &MultiArchImage) -> Option<String> {
        let rules = self.publish.as_ref()?;
        let namespace = image.namespace().unwrap_or_default();
        let is_for =
            |rule: &PublishRule| rule.namespaces.iter().any(|pattern| glob::matches(pattern, &namespace));
        let own: Vec<(usize, &PublishRule)> =
            rules.iter().enumerate().filter(|(_, rule)| is_for(rule)).collect();
        let is_allowed = |repository: &Repository| {
            own.iter().any(|(_, rule)| rule.repositories.iter().any(|prefix| prefix.covers(repository)))
        };
        written_repositories(&image.spec).into_iter().find_map(|(field, text)| match text.parse() {
            Ok(repository) if is_allowed(&repository) => None,
            Ok(_) => Some(format!("{field} is {text}, and {}", allowed(&namespace, &own))),
            Err(error) => Some(format!("{field}: {error}")),
        })
    }
}

fn allowed(namespace: &str, rules: &[(usize, &PublishRule)]) -> String {
    if rules.is_empty() {
        return format!(
            "namespace {namespace} may publish nowhere: no rule of the operator's policies is for it; whoever runs the \
             operator can add one under publish"
        );
    }
    let prefixes: Vec<String> =
        rules.iter().flat_map(|(_, rule)| rule.repositories.iter().map(ToString::to_string)).collect();
    let numbers: Vec<String> = rules.iter().map(|(number, _)| format!("publish[{number}]")).collect();
    format!(
        "namespace {namespace} may publish to {} and below ({} of the operator's policies)",
        prefixes.join(", "),
        numbers.join(", ")
    )
}

/// Every repository that is written to, by the field that names it.
fn written_repositories(spec: &MultiArchImageSpec) -> Vec<(String, &str)> {
    let mut written = vec![("spec.target.repository".to_owned(), spec.target.repository.as_str())];
    let mirrors = spec.target.mirrors.iter().enumerate();
    written.extend(mirrors.map(|(position, mirror)| {
        (format!("spec.target.mirrors[{position}].repository"), mirror.repository.as_str())
    }));
    let cache = spec.build.iter().filter_map(|build| build.cache.as_ref()?.repository.as_deref());
    written.extend(cache.map(|repository| ("spec.build.cache.repository".to_owned(), repository)));
    for (position, entry) in spec.platforms.iter().enumerate() {
        let cache = entry.build.as_ref().and_then(|build| build.cache.as_ref()?.repository.as_deref());
        let field = || format!("spec.platforms[{position}].build.cache.repository");
        written.extend(cache.map(|repository| (field(), repository)));
    }
    written
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policies() -> Policies {
        let rule = |namespaces: &[&str], repositories: &[&str]| PublishRule {
            namespaces: namespaces.iter().map(|text| (*text).to_owned()).collect(),
            repositories: repositories.iter().map(|text| text.parse().expect("a prefix")).collect(),
        };
        Policies {
            publish: Some(vec![
                rule(&["team-a", "team-a-*"], &["registry.test/team-a", "docker.io/acme"]),
                rule(&["team-?"], &["registry.test/shared"]),
            ]),
            ..Policies::default()
        }
    }

    fn image(namespace: &str, spec: Value) -> MultiArchImage {
        serde_json::from_value(json!({
            "apiVersion": "multiarch.dev/v1alpha1", "kind": "MultiArchImage",
            "metadata": {"name": "web", "namespace": namespace}, "spec": spec,
        }))
        .expect("a MultiArchImage")
    }

    fn denial(namespace: &str, repository: &str) -> Option<String> {
        let target = json!({"repository": repository, "tags": ["1"]});
        policies().repository_denial(&image(namespace, json!({"target": target, "platforms": []})))
    }

    #[test]
    fn a_namespace_publishes_where_any_of_its_rules_says() {
        for (namespace, repository) in [
            ("team-a", "registry.test/team-a/web"),
            ("team-a", "registry.test/shared"),
            ("team-a-ci", "acme/web"),
            ("team-b", "registry.test/shared/x"),
        ] {
            assert_eq!(denial(namespace, repository), None, "{namespace} {repository}");
        }
        for (namespace, repository) in [
            ("team-b", "registry.test/team-a/web"),
            ("team-a-ci", "registry.test/shared/x"),
            ("xteam-a", "registry.test/team-a/web"),
            ("default", "registry.test/team-a/web"),
            ("", "registry.test/team-a/web"),
        ] {
            assert!(denial(namespace, repository).is_some(), "{namespace} {repository}");
        }
        assert_eq!(
            Policies::default().repository_denial(&image(
                "x",
                json!({"target": {"repository": "anything at all", "tags": []}, "platforms": []})
            )),
            None
        );
    }

    #[test]
    fn a_denial_names_the_field_the_rules_and_what_is_allowed() {
        assert_eq!(
            denial("team-a", "registry.test/team-ab").expect("denied"),
            "spec.target.repository is registry.test/team-ab, and namespace team-a may publish to registry.test/team-a, \
             docker.io/acme, registry.test/shared and below (publish[0], publish[1] of the operator's policies)"
        );
        assert_eq!(
            denial("default", "registry.test/x").expect("denied"),
            "spec.target.repository is registry.test/x, and namespace default may publish nowhere: no rule of the operator's \
             policies is for it; whoever runs the operator can add one under publish"
        );
        let words = denial("team-a", "registry.test/team-a@evil.test/x").expect("denied");
        assert!(words.starts_with("spec.target.repository: "), "{words}");
    }

    #[test]
    fn every_repository_that_is_written_to_counts() {
        let cache = |repository: &str| json!({"type": "Registry", "repository": repository});
        let spec = |mirror: &str, shared: &str, own: &str| {
            json!({
                "target": {"repository": "registry.test/team-a/web", "tags": ["1"], "mirrors": [{"repository": mirror}]},
                "build": {"context": {"inline": {"dockerfile": "FROM scratch"}}, "cache": cache(shared)},
                "platforms": [{"platform": "linux/amd64"}, {"platform": "linux/arm64", "build": {"cache": cache(own)}}],
            })
        };
        let (good, bad) = ("registry.test/team-a/cache", "registry.test/team-b/cache");
        let denial = |spec| policies().repository_denial(&image("team-a", spec));
        assert_eq!(denial(spec(good, good, good)), None);
        assert!(
            denial(spec(good, bad, good))
                .is_some_and(|words| words.starts_with("spec.build.cache.repository is"))
        );
        let words = denial(spec(bad, good, good)).expect("denied");
        assert!(
            words.starts_with("spec.target.mirrors[0].repository is registry.test/team-b/cache"),
            "{words}"
        );
        let words = denial(spec(good, good, bad)).expect("denied");
        assert!(
            words.starts_with("spec.platforms[1].build.cache.repository is registry.test/team-b/cache"),
            "{words}"
        );
    }
}
