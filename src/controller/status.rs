//! Status: one server-side apply, only when something changed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::api::{Api, Patch, PatchParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::json;

use crate::api::{MANAGER, MultiArchImage, MultiArchImageStatus};

/// How long a write may take: one that hangs keeps its image, and one of the places of all images, from every round.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes statuses and remembers each until the watch has caught up with it.
pub(super) struct Statuses {
    client: Client,
    written: Mutex<HashMap<ObjectRef<MultiArchImage>, Latest>>,
}

struct Latest {
    uid: Option<String>,
    resource_version: Option<String>,
    status: MultiArchImageStatus,
}

/// Whether there still is an object to work for.
pub(super) enum Written {
    Yes,
    Gone,
}

/// Why a status is not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error("{0}")]
    Refused(#[from] kube::Error),
    #[error("the API server has not answered for {} s", PATIENCE.as_secs())]
    Late,
}

impl Statuses {
    pub fn new(client: Client) -> Self {
        Statuses { client, written: Mutex::default() }
    }

    /// The status that was written last: the watch's, or ours where the watch is behind.
    pub fn latest(&self, object: &ObjectRef<MultiArchImage>, image: &MultiArchImage) -> MultiArchImageStatus {
        let mut written = self.lock();
        if let Some(ours) = written.get(object) {
            if ours.is_ahead_of(image) {
                return ours.status.clone();
            }
            written.remove(object);
        }
        image.status.clone().unwrap_or_default()
    }

    /// Applies a status if it differs from the one before.
    pub async fn write(
        &self,
        object: &ObjectRef<MultiArchImage>,
        image: &MultiArchImage,
        before: &MultiArchImageStatus,
        status: MultiArchImageStatus,
    ) -> Result<Written, WriteError> {
        if *before == status {
            return Ok(Written::Yes);
        }
        let api: Api<MultiArchImage> =
            Api::namespaced(self.client.clone(), object.namespace.as_deref().unwrap_or_default());
        let patch = json!({
            "apiVersion": MultiArchImage::api_version(&()),
            "kind": MultiArchImage::kind(&()),
            "metadata": {"name": image.name_any(), "uid": image.uid()},
            "status": status,
        });
        let parameters = PatchParams::apply(MANAGER).force();
        let (name, patch) = (image.name_any(), Patch::Apply(patch));
        let answer = tokio::time::timeout(PATIENCE, api.patch_status(&name, &parameters, &patch)).await;
        match answer.map_err(|_| WriteError::Late)? {
            Ok(patched) => {
                let latest = Latest {
                    uid: patched.metadata.uid,
                    resource_version: patched.metadata.resource_version,
                    status,
                };
                self.lock().insert(object.clone(), latest);
                Ok(Written::Yes)
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Written::Gone),
            Err(error) => Err(error.into()),
        }
    }

    pub fn forget(&self, object: &ObjectRef<MultiArchImage>) {
        self.lock().remove(object);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectRef<MultiArchImage>, Latest>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Latest {
    /// Whether the watch has not come to this status yet. What it shows later is another's, or ours once more.
    fn is_ahead_of(&self, image: &MultiArchImage) -> bool {
        if self.uid != image.metadata.uid {
            return false;
        }
        let number = |version: &Option<String>| version.as_ref()?.parse::<u128>().ok();
        match (number(&self.resource_version), number(&image.metadata.resource_version)) {
            (Some(ours), Some(seen)) => seen < ours,
            _ => self.resource_version != image.metadata.resource_version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(version: &str, ready_platforms: &str) -> MultiArchImage {
        serde_json::from_value(json!({
            "apiVersion": "multiarch.dev/v1alpha1", "kind": "MultiArchImage",
            "metadata": {"name": "web", "uid": "uid", "resourceVersion": version},
            "spec": {"target": {"repository": "registry.test/web", "tags": ["1"]}, "platforms": []},
            "status": {"readyPlatforms": ready_platforms},
        }))
        .expect("an image")
    }

    #[test]
    fn our_status_counts_until_the_watch_has_come_to_it_and_then_what_the_watch_says() {
        let ours = Latest {
            uid: Some("uid".to_owned()),
            resource_version: Some("1000".to_owned()),
            status: image("1000", "ours").status.unwrap_or_default(),
        };
        assert!(ours.is_ahead_of(&image("999", "before")));
        assert!(!ours.is_ahead_of(&image("1000", "ours")));
        assert!(!ours.is_ahead_of(&image("1001", "edited by hand, and 1000 was never looked at")));
        let mut another = image("7", "of one that was made anew");
        another.metadata.uid = Some("another".to_owned());
        assert!(!ours.is_ahead_of(&another));
    }
}
