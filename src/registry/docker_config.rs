//! The files in which Docker and Podman keep credentials; Kubernetes has them in Secrets.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::credentials::Credential;
use super::descriptor::null_as_default;
use super::reference::Repository;

/// The names under which credentials for Docker Hub are filed.
const DOCKER_HUB_NAMES: [&str; 3] = ["index.docker.io", "docker.io", "registry-1.docker.io"];
/// The key under which Docker's own tools look for them.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// Why a document holds no credentials. Names the document, never what is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{document}: {reason}")]
pub struct CredentialsError {
    document: String,
    reason: String,
}

/// What is in a `config.json` of Docker or an `auth.json` of Podman. Has secrets, so it has no `Debug`.
pub struct DockerConfig {
    /// By registry; none where there is an entry with nothing in it, as beside a credential helper.
    pub(crate) auths: Vec<(String, Option<Credential>)>,
    pub(crate) helpers: BTreeMap<String, serde_json::Value>,
    pub(crate) store: Option<serde_json::Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default, deserialize_with = "null_as_default")]
    auths: BTreeMap<String, Auth>,
    #[serde(default, deserialize_with = "null_as_default")]
    cred_helpers: BTreeMap<String, serde_json::Value>,
    creds_store: Option<serde_json::Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl DockerConfig {
    /// Reads `{"auths": …}` or the older form without `auths`. `document` is what messages call it.
    ///
    /// # Errors
    /// If it is not such a document, or a credential in it cannot be read.
    pub fn parse(document: &str, content: &[u8]) -> Result<Self, CredentialsError> {
        let fail = |reason: String| CredentialsError { document: document.to_owned(), reason };
        let Document { auths, cred_helpers, creds_store } = Document::parse(content).map_err(fail)?;
        let auths = auths.into_iter().map(|(key, auth)| match auth.credential() {
            Ok(credential) => Ok((key, credential)),
            Err(reason) => Err(fail(format!("the entry for {key:?} {reason}"))),
        });
        Ok(Self { auths: auths.collect::<Result<_, _>>()?, helpers: cred_helpers, store: creds_store })
    }

    /// What to ask for the credential of `repository`, and the helper to ask: the `<name>` of
    /// `docker-credential-<name>`. As in Docker, one for the registry comes before one for all, and an empty
    /// name is none.
    pub fn helper_for(&self, repository: &Repository) -> Option<(String, &str)> {
        let host = |key: &str| {
            let key = key.split_once("://").map_or(key, |(_, rest)| rest);
            key.split('/').next().unwrap_or_default().to_ascii_lowercase()
        };
        let own = self
            .helpers
            .iter()
            .find(|(key, _)| names_of(repository.registry()).any(|name| host(key) == name));
        let name = own.map(|(_, name)| name).or(self.store.as_ref())?.as_str()?;
        (!name.is_empty()).then(|| (config_key(repository.registry()), name))
    }
}

impl Document {
    /// Errors say where, not what: serde's own messages quote the content.
    fn parse(content: &[u8]) -> Result<Self, String> {
        let place = |error: serde_json::Error| format!("at line {}, column {}", error.line(), error.column());
        let value: serde_json::Value = serde_json::from_slice(content)
            .map_err(|error| format!("not JSON {}; expected a docker configuration", place(error)))?;
        let wrong = |_| {
            "not a docker configuration; expected {\"auths\": {\"<registry>\": {\"auth\": …}}}".to_owned()
        };
        if ["auths", "credHelpers", "credsStore"].iter().any(|key| value.get(key).is_some()) {
            return serde_json::from_value(value).map_err(wrong);
        }
        Ok(Self { auths: serde_json::from_value(value).map_err(wrong)?, ..Self::default() })
    }
}

impl Auth {
    fn credential(&self) -> Result<Option<Credential>, &'static str> {
        let given = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
        if let Some(token) = given(&self.registrytoken) {
            return Ok(Some(Credential::RegistryToken(token)));
        }
        // As in Docker, `auth` wins over the two fields that it stands for.
        let (username, password) = match given(&self.auth) {
            Some(auth) => decode(&auth)?,
            None => (given(&self.username).unwrap_or_default(), given(&self.password).unwrap_or_default()),
        };
        Ok(match given(&self.identitytoken) {
            Some(token) => Some(Credential::IdentityToken { username, token }),
            None if username.is_empty() && password.is_empty() => None,
            None => Some(Credential::Basic { username, password }),
        })
    }
}

fn decode(auth: &str) -> Result<(String, String), &'static str> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let lenient = GeneralPurpose::new(&base64::alphabet::STANDARD, config);
    let bytes = lenient.decode(auth.trim()).map_err(|_| "has an \"auth\" that is not base64")?;
    let text = String::from_utf8(bytes).map_err(|_| "has an \"auth\" that is not text")?;
    let (username, password) = text.split_once(':').ok_or("has an \"auth\" without a colon")?;
    Ok((username.to_owned(), password.trim_end_matches(['\0', '\r', '\n']).to_owned()))
}

/// The names under which credentials for a registry are filed.
pub(crate) fn names_of(registry: &str) -> impl Iterator<Item = &str> {
    let hub: &[&str] = if registry == "docker.io" { &DOCKER_HUB_NAMES } else { &[] };
    hub.iter().copied().chain(hub.is_empty().then_some(registry))
}

/// Under which key Docker's own tools look for the credentials of a registry.
pub(crate) fn config_key(registry: &str) -> String {
    if DOCKER_HUB_NAMES.contains(&registry) { DOCKER_HUB_KEY.to_owned() } else { registry.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_for_the_registry_comes_before_one_for_all() {
        let config = |text: &str| DockerConfig::parse("config.json", text.as_bytes()).unwrap();
        let helper = |config: &DockerConfig, repository: &str| {
            config.helper_for(&repository.parse().unwrap()).map(|(server, name)| format!("{name} {server}"))
        };
        let several = config(
            r#"{"credsStore":"all","credHelpers":{"gcr.io":"gcloud","https://quay.io/v2/":"quay","plain.io":"","docker.io":"hub"}}"#,
        );
        assert_eq!(helper(&several, "gcr.io/web").as_deref(), Some("gcloud gcr.io"));
        assert_eq!(helper(&several, "quay.io/web").as_deref(), Some("quay quay.io"));
        assert_eq!(helper(&several, "busybox").as_deref(), Some("hub https://index.docker.io/v1/"));
        assert_eq!(helper(&several, "b.io:5000/web").as_deref(), Some("all b.io:5000"));
        assert_eq!(helper(&several, "plain.io/web"), None);
        let own = config(r#"{"credHelpers":{"https://index.docker.io/v1/":"hub"}}"#);
        assert_eq!(helper(&own, "busybox").as_deref(), Some("hub https://index.docker.io/v1/"));
        assert_eq!(helper(&own, "gcr.io/web"), None);
        assert_eq!(helper(&config(r#"{"credsStore":7}"#), "gcr.io/web"), None);
    }
}
