//! `MultiArchImage`s as they change: a list, then every change after it, none of them missed.

use std::collections::BTreeMap;

use futures::{Stream, StreamExt as _, future};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as start};
use kube::{Api, ResourceExt as _};

use crate::api::MultiArchImage;
use crate::cli::{Error, cluster, progress};

/// Images by namespace and name.
pub(super) type Images = BTreeMap<(String, String), MultiArchImage>;

/// One change, or the state of all at the beginning.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// All there are, at the beginning or after an interruption.
    All(Images),
    /// One has been made or changed.
    Changed(Box<MultiArchImage>),
    /// One is gone.
    Gone(Box<MultiArchImage>),
}

/// The images, and every change. With a name only that one.
///
/// A cluster that stops to answer is asked again and again; what it refuses ends the stream with an error.
pub(super) fn images(
    api: Api<MultiArchImage>,
    name: Option<&str>,
) -> impl Stream<Item = Result<Change, Error>> + use<> {
    let configuration = match name {
        Some(name) => watcher::Config::default().fields(&format!("metadata.name={name}")),
        None => watcher::Config::default(),
    };
    let events = lasting(start(api, configuration).default_backoff());
    events
        .scan(Images::new(), |all, event| future::ready(Some(event.map(|event| collect(all, event)))))
        .filter_map(|change| future::ready(change.transpose()))
}

pub(super) fn key(image: &MultiArchImage) -> (String, String) {
    (image.namespace().unwrap_or_default(), image.name_any())
}

/// `all` holds what a list has given so far.
fn collect(all: &mut Images, event: Event<MultiArchImage>) -> Option<Change> {
    match event {
        Event::Init => {
            all.clear();
            None
        }
        Event::InitApply(image) => {
            all.insert(key(&image), image);
            None
        }
        Event::InitDone => Some(Change::All(std::mem::take(all))),
        Event::Apply(image) => Some(Change::Changed(Box::new(image))),
        Event::Delete(image) => Some(Change::Gone(Box::new(image))),
    }
}

/// The events of a watch that outlives interruptions: what the cluster refuses, and silence at the very beginning, end it;
/// whatever comes later passes, and is said once.
pub(super) fn lasting<K>(
    events: impl Stream<Item = Result<Event<K>, watcher::Error>>,
) -> impl Stream<Item = Result<Event<K>, Error>> {
    let (mut has_begun, mut is_told) = (false, false);
    events.filter_map(move |event| {
        future::ready(match event {
            Ok(event) => {
                has_begun |= !matches!(event, Event::Init);
                is_told = false;
                Some(Ok(event))
            }
            Err(error) if !has_begun || is_refusal(&error) => Some(Err(explain(error))),
            Err(error) => {
                if !is_told {
                    progress::say(&format!("warning: {}; trying again", explain(error)));
                }
                is_told = true;
                None
            }
        })
    })
}

fn is_refusal(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    let (InitialListFailed(cause) | WatchStartFailed(cause) | WatchFailed(cause)) = error else {
        return false;
    };
    matches!(cause, kube::Error::Api(status) if matches!(status.code, 400..=409 | 411..=428))
}

fn explain(error: watcher::Error) -> Error {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(cause) | WatchStartFailed(cause) | WatchFailed(cause) => cluster::explain(cause),
        WatchError(status) => cluster::explain(kube::Error::Api(status)),
        other => other.into(),
    }
}
