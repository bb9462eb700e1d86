//! Flux on the rig: its controllers, and the objects that tell them what to apply.

use std::sync::OnceLock;

use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};

use super::git::GitRepository;
use super::recording::says;
use super::{PATIENCE, World, devcluster};

/// What `flux create source git` and `flux create kustomization` would make, in the test's namespace.
pub struct Flux<'a> {
    world: &'a World,
}

impl<'a> Flux<'a> {
    /// Starts the controllers where they do not run yet.
    pub fn start(world: &'a World) -> Flux<'a> {
        static STARTED: OnceLock<()> = OnceLock::new();
        STARTED.get_or_init(|| {
            devcluster::run(&["flux", "up"]);
        });
        Flux { world }
    }

    /// Follows the branch `main` of a repository.
    pub async fn source(&self, name: &str, repository: &GitRepository) {
        let spec = json!({"url": repository.url, "ref": {"branch": "main"}, "interval": "1h"});
        self.apply(&git_repository(), name, spec).await;
    }

    /// Applies what lies in a folder of the source of the same name, and waits for it for an hour.
    pub async fn kustomization(&self, name: &str, path: &str) {
        let spec = json!({
            "sourceRef": {"kind": "GitRepository", "name": name}, "path": path, "prune": true, "wait": true,
            "interval": "1h", "timeout": "1h", "targetNamespace": self.world.namespace,
        });
        self.apply(&kustomization(), name, spec).await;
    }

    async fn apply(&self, resource: &ApiResource, name: &str, spec: Value) {
        let object = json!({
            "apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}, "spec": spec,
        });
        let parameters = PatchParams::apply("test").force();
        self.api(resource).patch(name, &parameters, &Patch::Apply(object)).await.expect("it is accepted");
    }

    /// `flux reconcile`: looks now, and returns when it has been noticed.
    pub async fn reconcile(&self, resource: &ApiResource, name: &str, at: &str) {
        let annotation = json!({"metadata": {"annotations": {"reconcile.fluxcd.io/requestedAt": at}}});
        let patched =
            self.api(resource).patch(name, &PatchParams::default(), &Patch::Merge(annotation)).await;
        patched.expect("it is annotated");
        self.until(resource, name, "looked at again", |object| {
            object["status"]["lastHandledReconcileAt"] == at
        })
        .await;
    }

    /// Fetches a commit that was just pushed, and waits until it has been applied and found good.
    pub async fn until_applied(&self, name: &str, commit: &str) -> Value {
        self.reconcile(&git_repository(), name, commit).await;
        let applied = |object: &Value| {
            let revision = object["status"]["lastAppliedRevision"].as_str().unwrap_or_default();
            revision.ends_with(commit) && says(object, "Ready", "True")
        };
        self.until(&kustomization(), name, &format!("at {commit}"), applied).await
    }

    pub async fn until(
        &self,
        resource: &ApiResource,
        name: &str,
        what: &str,
        met: impl Fn(&Value) -> bool + Send + Sync,
    ) -> Value {
        let value =
            |object: Option<&DynamicObject>| object.map(|object| serde_json::to_value(object).expect("JSON"));
        let seen = await_condition(self.api(resource), name, |object: Option<&DynamicObject>| {
            value(object).is_some_and(|object| met(&object))
        });
        match tokio::time::timeout(PATIENCE, seen).await {
            Ok(found) => value(found.expect("it is watched").as_ref()).expect("an object"),
            Err(_) => {
                let object = self.api(resource).get(name).await.expect("it is there");
                panic!("{} {name} never came to be {what}: {:#}", resource.kind, object.data["status"]);
            }
        }
    }

    fn api(&self, resource: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.world.client.clone(), &self.world.namespace, resource)
    }
}

pub fn git_repository() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("source.toolkit.fluxcd.io", "v1", "GitRepository"))
}

pub fn kustomization() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("kustomize.toolkit.fluxcd.io", "v1", "Kustomization"))
}
