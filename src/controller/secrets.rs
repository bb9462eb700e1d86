//! Reads registry credentials, each time anew, so that a rotated Secret is used at once.

use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;

use super::tasks::Problem;
use crate::api::Reason;
use crate::registry::Keyring;

/// The credentials of Secrets of one namespace, all of which must be there.
pub(super) async fn keyring(
    cluster: &kube::Client,
    namespace: &str,
    names: &[String],
) -> Result<Keyring, Problem> {
    let api: Api<Secret> = Api::namespaced(cluster.clone(), namespace);
    let mut keyring = Keyring::default();
    for name in names {
        let found = api.get_opt(name).await.map_err(|error| Problem::cluster(&error))?;
        let Some(secret) = found else {
            let message = format!("secret/{name} does not exist in namespace {namespace}; create it");
            return Err(Problem::transient(Reason::SecretNotFound, message));
        };
        let data = secret.data.unwrap_or_default();
        let Some(document) = data.get(".dockerconfigjson").or(data.get(".dockercfg")) else {
            let message = format!(
                "secret/{name} has no key .dockerconfigjson; make it by kubectl create secret docker-registry"
            );
            return Err(Problem::transient(Reason::SecretInvalid, message));
        };
        keyring
            .add(&format!("secret/{name}"), &document.0)
            .map_err(|error| Problem::transient(Reason::SecretInvalid, error.to_string()))?;
    }
    Ok(keyring)
}
