//! Whether the controller goes on: something that is scheduled as images are and comes out where they do.

use futures::channel::mpsc::UnboundedSender;
use kube::api::DynamicObject;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::Notify;

use crate::api::MultiArchImage;

/// No object has such a name, so nothing is done for it; but its turn has to come as everybody else's.
const NOBODY: &str = "/";

/// Sends a request that concerns nobody through the controller.
pub(super) struct Pulse {
    queue: UnboundedSender<ObjectRef<MultiArchImage>>,
    came: Notify,
}

impl Pulse {
    pub fn new(queue: UnboundedSender<ObjectRef<MultiArchImage>>) -> Self {
        Pulse { queue, came: Notify::new() }
    }

    /// Done when its turn has come.
    pub async fn beat(&self) {
        let came = self.came.notified();
        tokio::pin!(came);
        came.as_mut().enable();
        // The receiver lives as long as the controller.
        let _ = self.queue.unbounded_send(ObjectRef::new(NOBODY));
        came.await;
    }

    /// Takes note of an object that was scheduled and does not exist. Whether it was the pulse.
    pub fn came(&self, object: &ObjectRef<DynamicObject>) -> bool {
        let is_pulse = object.name == NOBODY;
        if is_pulse {
            self.came.notify_waiters();
        }
        is_pulse
    }
}
