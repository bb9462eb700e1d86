//! Creates and deletes the Jobs of builds, and the Secrets that go with them. A Job is written once and never changed.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};

use super::secrets::keyring;
use super::tasks::Problem;
use crate::api::{ANNOTATION_BUILD_HASH, MANAGER, Reason};
use crate::registry::Repository;

const CREDENTIALS_TYPE: &str = "kubernetes.io/dockerconfigjson";

/// Creates a Job, or adopts one of the same name if it has the same owner and builds the same.
pub(super) async fn create(cluster: &kube::Client, namespace: &str, job: Job) -> Result<(), Problem> {
    let api: Api<Job> = Api::namespaced(cluster.clone(), namespace);
    let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    match api.create(&parameters, &job).await {
        Ok(_) => Ok(()),
        Err(error) if has_code(&error, 409) => adopt(&api, &job).await,
        Err(error) => Err(Problem::cluster(&error)),
    }
}

/// A Job of this name is ours only with our owner's UID and for the same build: a name proves nothing.
async fn adopt(api: &Api<Job>, wanted: &Job) -> Result<(), Problem> {
    let name = wanted.metadata.name.as_deref().unwrap_or_default();
    let Some(found) = api.get_opt(name).await.map_err(|error| Problem::cluster(&error))? else {
        return Err(Problem::transient(Reason::JobConflict, format!("job/{name} was there and went")));
    };
    if found.metadata.deletion_timestamp.is_some() {
        return Err(Problem::transient(Reason::Pending, format!("an earlier job/{name} is being removed")));
    }
    let identity = |job: &Job| {
        let owners = job.metadata.owner_references.clone().unwrap_or_default();
        let owner = owners.into_iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid);
        let annotations = job.metadata.annotations.clone().unwrap_or_default();
        (owner, annotations.get(ANNOTATION_BUILD_HASH).cloned())
    };
    match identity(&found) == identity(wanted) {
        true => Ok(()),
        false => Err(Problem::lasting(
            Reason::JobConflict,
            format!("job/{name} exists and belongs to somebody else; delete or rename it"),
        )),
    }
}

/// Applies one Secret of the Job's name with what its builder may use. It goes when the Job goes.
pub(super) async fn merge_secrets(
    cluster: &kube::Client,
    namespace: &str,
    job: (&str, &str),
    names: &[String],
    target: &Repository,
) -> Result<(), Problem> {
    let (name, uid) = job;
    let keyring = keyring(cluster, namespace, names).await?;
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
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
    let api: Api<Secret> = Api::namespaced(cluster.clone(), namespace);
    let parameters = PatchParams::apply(MANAGER);
    api.patch(name, &parameters, &Patch::Apply(&secret)).await.map_err(|error| Problem::cluster(&error))?;
    Ok(())
}

/// Deletes a Job of this UID with its pods. Gone already is deleted.
pub(super) async fn delete(
    cluster: &kube::Client,
    namespace: &str,
    name: &str,
    uid: &str,
) -> Result<(), Problem> {
    let api: Api<Job> = Api::namespaced(cluster.clone(), namespace);
    let ours = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    match api.delete(name, &DeleteParams::background().preconditions(ours)).await {
        Err(error) if !has_code(&error, 404) && !has_code(&error, 409) => Err(Problem::cluster(&error)),
        _ => Ok(()),
    }
}

fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}
