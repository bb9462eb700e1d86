//! Status: one server-side apply, only when something changed, and the events that tell of the change.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::json;

use crate::api::{MANAGER, MultiArchImage, MultiArchImageStatus};
use crate::plan::Note;

/// Writes statuses and remembers each until the watch has caught up with it.
pub(super) struct Statuses {
    client: Client,
    recorder: Recorder,
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

impl Statuses {
    pub fn new(client: Client, recorder: Recorder) -> Self {
        Statuses { client, recorder, written: Mutex::default() }
    }

    /// The status that was written last: the watch's, or ours where the watch is behind.
    pub fn latest(&self, object: &ObjectRef<MultiArchImage>, image: &MultiArchImage) -> MultiArchImageStatus {
        let mut written = self.lock();
        if let Some(ours) = written.get(object) {
            if ours.uid == image.metadata.uid && ours.resource_version != image.metadata.resource_version {
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
    ) -> Result<Written, kube::Error> {
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
        match api.patch_status(&image.name_any(), &parameters, &Patch::Apply(patch)).await {
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
            Err(error) => Err(error),
        }
    }

    /// Tells people, by the log and by events. An event that cannot be written is not worth a retry.
    pub async fn announce(&self, image: &MultiArchImage, notes: Vec<Note>) {
        for note in notes {
            match note.warning {
                true => tracing::warn!(reason = note.reason, "{}", note.message),
                false => tracing::info!(reason = note.reason, "{}", note.message),
            }
            // kube's recorder counts events of one action and reason as one and keeps the text of the first: another
            // text is another action to it.
            let mut text = DefaultHasher::new();
            note.message.hash(&mut text);
            let action = format!("{}#{:x}", note.action, text.finish());
            let event = Event {
                type_: if note.warning { EventType::Warning } else { EventType::Normal },
                reason: note.reason,
                note: Some(note.message),
                action,
                secondary: None,
            };
            if let Err(error) = self.recorder.publish(&event, &image.object_ref(&())).await {
                tracing::warn!(%error, "an event was not written");
            }
        }
    }

    pub fn forget(&self, object: &ObjectRef<MultiArchImage>) {
        self.lock().remove(object);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectRef<MultiArchImage>, Latest>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
