//! Creates and deletes what the plan wants in the cluster: Jobs, pods and the volumes of caches. An object is written once
//! and never changed.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::tasks::Problem;
use crate::api::{ANNOTATION_BUILD_HASH, LABEL_IMAGE, LABEL_VERIFICATION, MANAGER, Reason, controller_uid};

/// Creates an object, or adopts one of the same name if it has the same owner and is for the same work: a name proves
/// nothing.
pub(super) async fn create<K>(cluster: &kube::Client, namespace: &str, object: K) -> Result<(), Problem>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(cluster.clone(), namespace);
    let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    match api.create(&parameters, &object).await {
        Ok(_) => return Ok(()),
        Err(error) if has_code(&error, 409) => {}
        Err(error) => return Err(Problem::cluster(&error)),
    }
    let name = object.meta().name.as_deref().unwrap_or_default();
    let what = format!("{}/{name}", K::kind(&()).to_lowercase());
    let Some(found) = api.get_opt(name).await.map_err(|error| Problem::cluster(&error))? else {
        return Err(Problem::transient(Reason::JobConflict, format!("{what} was there and went")));
    };
    if found.meta().deletion_timestamp.is_some() {
        return Err(Problem::transient(Reason::Pending, format!("an earlier {what} is being removed")));
    }
    if identity(found.meta()) != identity(object.meta()) {
        let message = format!("{what} exists and belongs to somebody else; delete or rename it");
        return Err(Problem::lasting(Reason::JobConflict, message));
    }
    Ok(())
}

/// The owner, and what a Job builds or a pod verifies.
fn identity(metadata: &ObjectMeta) -> (Option<&str>, Option<&String>, Option<&String>) {
    let build = metadata.annotations.as_ref().and_then(|all| all.get(ANNOTATION_BUILD_HASH));
    let verification = metadata.labels.as_ref().and_then(|all| all.get(LABEL_VERIFICATION));
    (controller_uid(metadata), build, verification)
}

/// The pods of an image that the Job of a UID controls, with what the API server knows of them now.
pub(super) async fn pods_of(
    cluster: &kube::Client,
    namespace: &str,
    (image, uid): (&str, &str),
) -> Result<Vec<Arc<Pod>>, Problem> {
    let api: Api<Pod> = Api::namespaced(cluster.clone(), namespace);
    let of_image = ListParams::default().labels(&format!("{LABEL_IMAGE}={image}"));
    let found = api.list(&of_image).await.map_err(|error| Problem::cluster(&error))?;
    let is_its = |pod: &Pod| controller_uid(&pod.metadata) == Some(uid);
    Ok(found.into_iter().filter(is_its).map(Arc::new).collect())
}

/// Deletes an object of this name and UID, and with it what it owns; `at_once` without waiting for a node to end it. Gone
/// already is deleted.
pub(super) async fn delete<K>(
    cluster: &kube::Client,
    namespace: &str,
    (name, uid): (&str, &str),
    at_once: bool,
) -> Result<(), Problem>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(cluster.clone(), namespace);
    let ours = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let parameters = DeleteParams::background().preconditions(ours);
    let parameters = if at_once { parameters.grace_period(0) } else { parameters };
    match api.delete(name, &parameters).await {
        Err(error) if !has_code(&error, 404) && !has_code(&error, 409) => Err(Problem::cluster(&error)),
        _ => Ok(()),
    }
}

fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}
