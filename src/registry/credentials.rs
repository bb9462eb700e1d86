//! Who we are at each registry: credentials matched as the kubelet does.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::docker_config::{CredentialsError, DockerConfig, config_key, names_of};
use super::host::HostPattern;
use super::reference::Repository;

/// One way to say who we are. Its `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// Name and password, for basic authentication or in exchange for a token.
    Basic {
        /// The user's name.
        username: String,
        /// The password, or what stands for it: `AWS` and `oauth2accesstoken` have tokens here.
        password: String,
    },
    /// An OAuth refresh token, exchanged for access tokens.
    IdentityToken {
        /// The user's name; often only `<token>` or zeros.
        username: String,
        /// The refresh token.
        token: String,
    },
    /// A token that is sent to the registry as it is.
    RegistryToken(
        /// The access token.
        String,
    ),
}

impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Basic { .. } => "Basic([redacted])",
            Self::IdentityToken { .. } => "IdentityToken([redacted])",
            Self::RegistryToken(_) => "RegistryToken([redacted])",
        })
    }
}

impl Credential {
    /// Tells credentials apart without holding them: a rotated secret is another identity.
    pub(crate) fn identity(&self) -> [u8; 32] {
        let (kind, name, secret) = match self {
            Self::Basic { username, password } => ("basic", username.as_str(), password),
            Self::IdentityToken { username, token } => ("identity", username.as_str(), token),
            Self::RegistryToken(token) => ("registry", "", token),
        };
        let mut hasher = Sha256::new();
        for part in [kind, name, secret] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }
}

/// All credentials of a resource, of any number of Secrets. Without any, requests are anonymous.
#[derive(Clone, Default)]
pub struct Keyring {
    entries: Vec<Entry>,
    warnings: Vec<String>,
}

#[derive(Clone, PartialEq)]
struct Entry {
    name: String,
    host: HostPattern,
    path: String,
    credential: Credential,
}

impl Keyring {
    /// Adds a `.dockerconfigjson` (`{"auths": …}`) or the older `.dockercfg` (the same without `auths`).
    /// `document` is what messages call it: `secret team-a/regcred`.
    ///
    /// # Errors
    /// If it is not such a document, or a credential in it cannot be read. Nothing is added then.
    pub fn add(&mut self, document: &str, content: &[u8]) -> Result<(), CredentialsError> {
        let config = DockerConfig::parse(document, content)?;
        for (key, credential) in &config.auths {
            if credential.is_none() {
                self.warnings.push(format!("{document}: the entry for {key:?} is empty and was ignored"));
            }
        }
        for helper in config.helpers.keys().map(String::as_str).chain(config.store.map(|_| "all registries"))
        {
            self.warnings.push(format!(
                "{document}: the credential helper for {helper} was ignored, as helpers are programs on \
                 somebody's machine; put the credential itself in the secret"
            ));
        }
        self.extend(
            config.auths.into_iter().filter_map(|(key, credential)| Some(Entry::new(&key, credential?))),
        );
        Ok(())
    }

    /// Adds a credential for everything at `registry`.
    pub fn insert(&mut self, registry: &str, credential: Credential) {
        self.extend([Entry::new(registry, credential)]);
    }

    /// Adds what is written in `config` for `repository`, and nothing else of it.
    pub fn insert_matching(&mut self, config: &DockerConfig, repository: &Repository) {
        let entries =
            config.auths.iter().filter_map(|(key, credential)| Some(Entry::new(key, credential.clone()?)));
        self.extend(entries.filter(|entry| entry.matches(repository)));
    }

    fn extend(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            // Nobody tries the same twice.
            if !self.entries.contains(&entry) {
                self.entries.push(entry);
            }
        }
        // The longest path first, a host by its name before a wildcard; else as they were added.
        self.entries.sort_by_key(|entry| (std::cmp::Reverse(entry.path.len()), entry.host.has_wildcard()));
    }

    /// What was ignored and why, for people.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Every credential that matches, the most specific first. They are tried in this order.
    pub fn for_repository(&self, repository: &Repository) -> Vec<Credential> {
        self.matching(repository).map(|entry| entry.credential.clone()).collect()
    }

    /// One docker configuration (`config.json`) for tools that know credentials by host alone: at the host of
    /// `target` its best match, at every other host the entry with the shortest path. Wildcards cannot be
    /// said in it and are left out elsewhere. The result is a secret.
    pub fn docker_config(&self, target: &Repository) -> String {
        let mut auths = BTreeMap::new();
        // Entries are sorted longest path first, so the shortest is the last to be inserted.
        for entry in self.entries.iter().filter(|entry| !entry.host.has_wildcard()) {
            auths.insert(config_key(&entry.name), config_entry(&entry.credential));
        }
        if let Some(best) = self.matching(target).next() {
            auths.insert(config_key(target.registry()), config_entry(&best.credential));
        }
        serde_json::json!({ "auths": auths }).to_string()
    }

    fn matching(&self, repository: &Repository) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.matches(repository))
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Keyring({} credentials)", self.entries.len())
    }
}

impl Entry {
    /// `key` may have a scheme and `/v1/` or `/v2/`, as old tools write it.
    fn new(key: &str, credential: Credential) -> Self {
        let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
        let (name, path) = key.split_once('/').unwrap_or((key, ""));
        let path = match path.split_once('/') {
            Some(("v1" | "v2", path)) => path,
            _ if matches!(path, "v1" | "v2") => "",
            _ => path,
        };
        let path = path.trim_matches('/').to_owned();
        Self { name: name.to_ascii_lowercase(), host: HostPattern::new(name), path, credential }
    }

    fn matches(&self, repository: &Repository) -> bool {
        let host = names_of(repository.registry()).any(|name| self.host.matches(name));
        let rest = repository.path().strip_prefix(self.path.as_str());
        // Whole segments, unlike the kubelet: `team` must not lend its password to `team-b`.
        host && rest.is_some_and(|rest| self.path.is_empty() || rest.is_empty() || rest.starts_with('/'))
    }
}

fn config_entry(credential: &Credential) -> serde_json::Value {
    let auth = |username: &str, password: &str| STANDARD.encode(format!("{username}:{password}"));
    match credential {
        Credential::Basic { username, password } => serde_json::json!({ "auth": auth(username, password) }),
        Credential::IdentityToken { username, token } => {
            serde_json::json!({ "auth": auth(username, ""), "identitytoken": token })
        }
        Credential::RegistryToken(token) => serde_json::json!({ "registrytoken": token }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(document: &str) -> Keyring {
        let mut keyring = Keyring::default();
        keyring.add("secret regcred", document.as_bytes()).unwrap();
        keyring
    }

    fn users(keyring: &Keyring, repository: &str) -> Vec<String> {
        let name = |credential| match credential {
            Credential::Basic { username, .. } => username,
            other => format!("{other:?}"),
        };
        keyring.for_repository(&repository.parse().unwrap()).into_iter().map(name).collect()
    }

    fn auths(entries: &[(&str, &str)]) -> String {
        let entries: BTreeMap<_, _> = entries
            .iter()
            .map(|(key, user)| (*key, serde_json::json!({"username": user, "password": "hunter2"})))
            .collect();
        serde_json::json!({ "auths": entries }).to_string()
    }

    #[test]
    fn every_match_is_offered_and_the_longest_path_first() {
        let keyring = keyring(&auths(&[
            ("registry.example.com", "host"),
            ("*.example.com", "wildcard"),
            ("registry.example.com/team", "team"),
            ("registry.example.com/team/web", "web"),
            ("registry.example.com:5000", "port"),
            ("other.example.org", "other"),
        ]));
        assert_eq!(users(&keyring, "registry.example.com/team/web"), ["web", "team", "host", "wildcard"]);
        assert_eq!(users(&keyring, "registry.example.com/team/web-b"), ["team", "host", "wildcard"]);
        assert_eq!(users(&keyring, "registry.example.com/teams/web"), ["host", "wildcard"]);
        assert_eq!(users(&keyring, "registry.example.com:5000/web"), ["port"]);
        assert_eq!(users(&keyring, "ghcr.io/web"), [""; 0]);
    }

    #[test]
    fn a_key_matches_as_in_the_kubelet() {
        for (key, repository, matches) in [
            ("https://a.io", "a.io/web", true),
            ("http://a.io/", "a.io/web", true),
            ("https://a.io/v2/team/", "a.io/team/web", true),
            ("a.io/v2", "a.io/web", true),
            ("A.io/team", "a.io/team/web", true),
            ("a.io/Team", "a.io/team/web", false),
            ("a.io/team/web", "a.io/team/web", true),
            ("a.io/team/web", "a.io/team", false),
            ("a.io/te", "a.io/team/web", false),
            ("a.io/*", "a.io/team/web", false),
            ("a.io:5000", "a.io/web", false),
            ("a.io", "a.io:5000/web", false),
            ("*.io:5000/team", "a.io:5000/team/web", true),
            ("*.io", "b.a.io/web", false),
            ("*.*.io", "b.a.io/web", true),
            ("b?.a.io", "b1.a.io/web", true),
            ("*", "a.io/web", false),
            ("*", "localhost/web", true),
            ("[::1]:5000", "[::1]:5000/web", true),
            ("*.docker.io", "busybox", true),
            ("docker.io/library", "busybox", true),
            ("docker.io/acme", "busybox", false),
        ] {
            let found = users(&keyring(&auths(&[(key, "user")])), repository);
            assert_eq!(found.len(), usize::from(matches), "{key} {repository}");
        }
    }

    #[test]
    fn clouds_have_tokens_for_passwords() {
        let entry = |user: &str, password: &str| {
            let auth = STANDARD.encode(format!("{user}:{password}"));
            let keyring = keyring(&serde_json::json!({"auths": {"a.io": {"auth": auth}}}).to_string());
            keyring.for_repository(&"a.io/web".parse().unwrap()).remove(0)
        };
        let key_file = r#"{"type": "service_account", "private_key": "-----BEGIN…:…"}"#;
        for (user, password) in [
            ("AWS", "eyJwYXlsb2FkIjoi=="),
            ("oauth2accesstoken", "ya29.c:d"),
            ("_json_key", key_file),
            ("_json_key_base64", "eyJ0eXBlIjoi"),
        ] {
            let expected = Credential::Basic { username: user.into(), password: password.into() };
            assert_eq!(entry(user, password), expected);
        }
    }

    #[test]
    fn docker_hub_is_known_by_all_its_names() {
        for key in ["https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io/v2/"]
        {
            assert_eq!(users(&keyring(&auths(&[(key, "hub")])), "busybox"), ["hub"], "{key}");
        }
        assert_eq!(
            users(&keyring(&auths(&[("https://index.docker.io/v1/", "hub")])), "ghcr.io/busybox"),
            [""; 0]
        );
    }

    #[test]
    fn an_auth_is_decoded_and_wins() {
        let document = format!(
            r#"{{"auths":{{"a.io":{{"auth":"{}","username":"x","password":"y"}}}}}}"#,
            STANDARD.encode("AWS:to:ken\n")
        );
        assert_eq!(
            keyring(&document).for_repository(&"a.io/web".parse().unwrap()),
            [Credential::Basic { username: "AWS".into(), password: "to:ken".into() }]
        );
    }

    #[test]
    fn tokens_are_read() {
        let document = r#"{"auths":{"a.io":{"auth":"MDAwOg==","identitytoken":"refresh"},"b.io":{"registrytoken":"access"}}}"#;
        let keyring = keyring(document);
        assert_eq!(
            keyring.for_repository(&"a.io/web".parse().unwrap()),
            [Credential::IdentityToken { username: "000".into(), token: "refresh".into() }]
        );
        assert_eq!(
            keyring.for_repository(&"b.io/web".parse().unwrap()),
            [Credential::RegistryToken("access".into())]
        );
    }

    #[test]
    fn the_older_form_is_read() {
        assert_eq!(users(&keyring(r#"{"a.io":{"username":"old","password":"p"}}"#), "a.io/web"), ["old"]);
        assert_eq!(users(&keyring("{}"), "a.io/web"), [""; 0]);
    }

    #[test]
    fn credential_helpers_are_not_silently_anonymous() {
        let keyring =
            keyring(r#"{"auths":{"gcr.io":{}},"credHelpers":{"gcr.io":"gcloud"},"credsStore":"desktop"}"#);
        assert_eq!(keyring.warnings().len(), 3);
        assert!(
            keyring.warnings()[1].starts_with("secret regcred: the credential helper for gcr.io was ignored")
        );
    }

    #[test]
    fn a_broken_document_is_named_without_its_content() {
        for document in [
            "hunter2",
            r#"{"auths":"hunter2"}"#,
            r#"{"auths":{"a.io":{"auth":"hunter2!"}}}"#,
            r#"{"auths":{"a.io":{"auth":"aHVudGVyMg=="}}}"#,
            r#"["hunter2"]"#,
        ] {
            let error = Keyring::default().add("secret regcred", document.as_bytes()).unwrap_err();
            assert!(error.to_string().starts_with("secret regcred: "), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let keyring = keyring(&auths(&[("a.io", "user")]));
        let shown = format!("{keyring:?} {:?}", keyring.for_repository(&"a.io/web".parse().unwrap()));
        assert_eq!(shown, "Keyring(1 credentials) [Basic([redacted])]");
    }

    #[test]
    fn a_rotated_password_is_another_identity() {
        let basic =
            |password: &str| Credential::Basic { username: "u".into(), password: password.into() }.identity();
        assert_eq!(basic("a"), basic("a"));
        assert_ne!(basic("a"), basic("b"));
    }

    #[test]
    fn tools_that_know_only_hosts_get_the_best_match_for_the_target() {
        let keyring = keyring(&auths(&[
            ("a.io", "host"),
            ("a.io/team", "team"),
            ("b.io/one", "one"),
            ("*.c.io", "wildcard"),
            ("docker.io", "hub"),
        ]));
        let config: serde_json::Value =
            serde_json::from_str(&keyring.docker_config(&"a.io/team/web".parse().unwrap())).unwrap();
        let auth = |user: &str| serde_json::json!({"auth": STANDARD.encode(format!("{user}:hunter2"))});
        assert_eq!(
            config,
            serde_json::json!({"auths": {"a.io": auth("team"), "b.io": auth("one"), "https://index.docker.io/v1/": auth("hub")}})
        );
        let config = keyring.docker_config(&"x.c.io/web".parse().unwrap());
        assert!(
            config.contains(&STANDARD.encode("wildcard:hunter2"))
                && config.contains(&STANDARD.encode("host:hunter2"))
        );
    }
}
