//! Reads registry credentials, each time anew, so that a rotated Secret is used at once, and gives builders what they may
//! use of them.

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, Patch, PatchParams};

use super::tasks::Problem;
use crate::api::{MANAGER, Reason};
use crate::git;
use crate::plan::task::SecretKeys;
use crate::registry::{Keyring, Repository};

const CREDENTIALS_TYPE: &str = "kubernetes.io/dockerconfigjson";

/// The credentials of Secrets of one namespace, all of which must be there.
pub(super) async fn keyring(
    cluster: &kube::Client,
    namespace: &str,
    names: &[String],
) -> Result<Keyring, Problem> {
    let mut keyring = Keyring::default();
    for name in names {
        let data = get(cluster, namespace, name).await?.data.unwrap_or_default();
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

/// Whether Secrets are there with their keys.
pub(super) async fn check(
    cluster: &kube::Client,
    namespace: &str,
    wanted: &[SecretKeys],
) -> Result<(), Problem> {
    for secret in wanted {
        let name = &secret.name;
        let data = get(cluster, namespace, name).await?.data.unwrap_or_default();
        if let Some(names) =
            secret.keys.iter().find(|names| !names.iter().any(|name| data.contains_key(name)))
        {
            let has: Vec<&str> = data.keys().map(String::as_str).collect();
            let has = if has.is_empty() { "none".to_owned() } else { has.join(", ") };
            let message = format!("secret/{name} has no key {}; it has: {has}", names.join(" or "));
            return Err(Problem::transient(Reason::SecretInvalid, message));
        }
    }
    Ok(())
}

/// What a git server asks for, as a Secret has it.
pub(super) async fn git(
    cluster: &kube::Client,
    namespace: &str,
    name: Option<&str>,
) -> Result<Option<git::Credentials>, Problem> {
    let Some(name) = name else { return Ok(None) };
    let secret = get(cluster, namespace, name).await?;
    let data = secret.data.unwrap_or_default();
    // A key with a passphrase takes a second of computing.
    let read = tokio::task::spawn_blocking(move || {
        git::Credentials::new(data.iter().map(|(key, value)| (key.as_str(), value.0.as_slice())))
    });
    match read.await {
        Ok(Ok(credentials)) => Ok(Some(credentials)),
        Ok(Err(error)) => Err(Problem::transient(Reason::SecretInvalid, format!("secret/{name}: {error}"))),
        Err(error) => Err(Problem::transient(Reason::InternalError, error.to_string())),
    }
}

async fn get(cluster: &kube::Client, namespace: &str, name: &str) -> Result<Secret, Problem> {
    let api: Api<Secret> = Api::namespaced(cluster.clone(), namespace);
    let found = api.get_opt(name).await.map_err(|error| Problem::cluster(&error))?;
    found.ok_or_else(|| {
        let message = format!("secret/{name} does not exist in namespace {namespace}; create it");
        Problem::transient(Reason::SecretNotFound, message)
    })
}

/// Applies one Secret of the Job's name with what its builder may use. It goes when the Job goes. A Secret of somebody
/// else's is left as it is.
pub(super) async fn merge(
    cluster: &kube::Client,
    namespace: &str,
    job: (&str, &str),
    names: &[String],
    target: &Repository,
) -> Result<(), Problem> {
    let (name, uid) = job;
    let api: Api<Secret> = Api::namespaced(cluster.clone(), namespace);
    let found = api.get_metadata_opt(name).await.map_err(|error| Problem::cluster(&error))?;
    let found = found.map(|found| found.metadata);
    found.as_ref().map_or(Ok(()), |found| check_owner(found, job))?;
    let keyring = keyring(cluster, namespace, names).await?;
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            // Nobody has put another in its place meanwhile.
            resource_version: found.and_then(|found| found.resource_version),
            labels: Some([("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned())].into()),
            owner_references: Some(vec![OwnerReference {
                api_version: "batch/v1".to_owned(),
                kind: "Job".to_owned(),
                name: name.to_owned(),
                uid: uid.to_owned(),
                controller: Some(true),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        type_: Some(CREDENTIALS_TYPE.to_owned()),
        string_data: Some([(".dockerconfigjson".to_owned(), keyring.docker_config(target))].into()),
        ..Secret::default()
    };
    let parameters = PatchParams::apply(MANAGER);
    api.patch(name, &parameters, &Patch::Apply(&secret)).await.map_err(|error| Problem::cluster(&error))?;
    Ok(())
}

/// A Secret is ours if the Job of this name and UID owns it: the name alone proves nothing.
fn check_owner(secret: &ObjectMeta, (name, uid): (&str, &str)) -> Result<(), Problem> {
    let owners = secret.owner_references.as_deref().unwrap_or_default();
    let owner = owners.iter().find(|owner| owner.controller == Some(true));
    match owner {
        Some(owner) if owner.uid == uid => Ok(()),
        Some(owner) if owner.kind == "Job" && owner.name == name => Err(Problem::transient(
            Reason::Pending,
            format!("secret/{name} of an earlier job/{name} is being removed"),
        )),
        _ => Err(Problem::lasting(
            Reason::JobConflict,
            format!(
                "secret/{name} exists and belongs to somebody else; delete it, for job/{name} keeps its credentials there"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned_by(kind: &str, name: &str, uid: &str) -> ObjectMeta {
        let owner = OwnerReference {
            kind: kind.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        };
        ObjectMeta { owner_references: Some(vec![owner]), ..ObjectMeta::default() }
    }

    #[test]
    fn only_a_secret_of_the_job_itself_is_written_over() {
        let check = |secret: &ObjectMeta| check_owner(secret, ("web-1", "uid-2"));
        assert!(check(&owned_by("Job", "web-1", "uid-2")).is_ok());
        let earlier = check(&owned_by("Job", "web-1", "uid-1")).expect_err("that of an earlier Job");
        assert!(earlier.transient, "it goes with its Job");
        for other in
            [ObjectMeta::default(), owned_by("Job", "db-1", "uid-3"), owned_by("Thing", "web-1", "uid-4")]
        {
            let problem = check(&other).expect_err("somebody else's");
            assert_eq!((problem.reason, problem.transient), (Reason::JobConflict, false));
            assert!(
                problem.message.starts_with("secret/web-1 exists and belongs to somebody else; delete it")
            );
        }
    }
}
