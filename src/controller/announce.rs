//! Tells people: by the log at once, and by events, for which no round waits.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource as _;
use kube::runtime::events::{Event, EventType, Recorder};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::api::MultiArchImage;
use crate::plan::Note;

/// Images whose events are written at once.
const CONCURRENCY: usize = 8;
/// Images whose events may wait. More do only where the API server takes none.
const MOST_WAITING: usize = 4096;
/// How long one event may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tells people of images.
pub(super) struct Announcer {
    recorder: Recorder,
    permits: Arc<Semaphore>,
    under_way: TaskTracker,
}

impl Announcer {
    pub fn new(recorder: Recorder) -> Self {
        Announcer { recorder, permits: Arc::new(Semaphore::new(CONCURRENCY)), under_way: TaskTracker::new() }
    }

    /// Tells of an image. An event that cannot be written is not worth a retry.
    pub fn announce(&self, image: &MultiArchImage, notes: Vec<Note>) {
        for note in &notes {
            match note.warning {
                true => tracing::warn!(reason = note.reason, "{}", note.message),
                false => tracing::info!(reason = note.reason, "{}", note.message),
            }
        }
        if notes.is_empty() {
            return;
        }
        if self.under_way.len() >= MOST_WAITING {
            tracing::warn!("events are not written: too many wait for the API server");
            return;
        }
        let (recorder, permits) = (self.recorder.clone(), Arc::clone(&self.permits));
        let object = image.object_ref(&());
        self.under_way.spawn(async move {
            let _permit = permits.acquire().await;
            for note in notes {
                write(&recorder, &event(note), &object).await;
            }
        });
    }

    /// Done when everything that was to be told is written.
    pub async fn finish(&self) {
        self.under_way.close();
        self.under_way.wait().await;
    }
}

async fn write(recorder: &Recorder, event: &Event, object: &ObjectReference) {
    let error = match tokio::time::timeout(PATIENCE, recorder.publish(event, object)).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("the API server has not answered for {} s", PATIENCE.as_secs()),
    };
    tracing::warn!(error, "an event was not written");
}

fn event(note: Note) -> Event {
    // kube's recorder counts events of one action and reason as one and keeps the text of the first: another
    // text is another action to it.
    let mut text = DefaultHasher::new();
    note.message.hash(&mut text);
    let action = format!("{}#{:x}", note.action, text.finish());
    Event {
        type_: if note.warning { EventType::Warning } else { EventType::Normal },
        reason: note.reason,
        note: Some(note.message),
        action,
        secondary: None,
    }
}
