//! Following: pods as they come, their lines as they are printed, until the image is settled.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{BoxStream, SelectAll};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as start};

use super::super::watch::{self, Change};
use super::lines::Timed;
use super::pods::Work;
use super::{Outcome, Reader, container, pods, refusal, say};
use crate::api::{LABEL_IMAGE, MultiArchImage};
use crate::cli::exit::{Exit, Failure};
use crate::cli::{Error, output};

/// A line, or why there is none, of what a pod does for a platform.
type Line = (String, Work, Result<Timed, String>);

/// What has been found and opened so far.
#[derive(Default)]
struct Followed {
    /// The pods of the list with which the watch begins, until it is complete.
    listed: Vec<Pod>,
    /// Whether the pods there were at the beginning are known.
    has_list: bool,
    /// Containers whose log is being read, or was, by the pod's UID.
    begun: BTreeSet<(String, String)>,
    /// Pods that a later attempt had replaced before anybody looked.
    skipped: BTreeSet<String>,
    /// How many pods of a platform have been begun.
    attempts: BTreeMap<(String, Work), usize>,
    lines: SelectAll<BoxStream<'static, Line>>,
    outcome: Outcome,
}

impl Reader<'_> {
    /// Prints what there is and what comes, until the image is settled.
    pub async fn follow(&self) -> Result<(), Error> {
        let configuration =
            watcher::Config::default().labels(&format!("{LABEL_IMAGE}={}", self.arguments.name));
        let pods = start(self.cluster.namespaced::<Pod>(), configuration).default_backoff();
        let mut pods = std::pin::pin!(watch::lasting(pods));
        let mut changes =
            std::pin::pin!(watch::images(self.cluster.namespaced(), Some(&self.arguments.name)));
        let mut followed = Followed::default();
        let mut settled: Option<MultiArchImage> = None;
        loop {
            if let Some(image) = settled.as_ref().filter(|_| followed.has_list && followed.lines.is_empty()) {
                // Pods that the watch has not shown yet.
                self.begin_all(&mut followed, self.pods().await?).await;
                if followed.lines.is_empty() {
                    return self.conclude(image, followed.outcome);
                }
            }
            tokio::select! {
                // The end of the last log is no line, and the loop must see it.
                line = followed.lines.next(), if !followed.lines.is_empty() => {
                    match line {
                        Some((platform, work, Ok(line))) => {
                            let line = self.prefixes.line(&platform, &line.told(self.arguments.timestamps));
                            output::write(line.as_bytes())?;
                            followed.outcome.read.insert((platform, work));
                        }
                        Some((platform, _, Err(what))) => say(&platform, &what),
                        None => {}
                    }
                }
                event = pods.try_next() => match event? {
                    Some(event) => self.see(&mut followed, event).await,
                    None => return Ok(()),
                },
                change = changes.try_next() => match change? {
                    Some(change) => settled = self.settled(change)?,
                    None => return Ok(()),
                },
            }
        }
    }

    /// The image, if no more is to be expected of its builds.
    fn settled(&self, change: Change) -> Result<Option<MultiArchImage>, Error> {
        let image = match change {
            Change::All(images) => images.into_values().next(),
            Change::Changed(image) => Some(*image),
            Change::Gone(_) => None,
        };
        let name = &self.arguments.name;
        let gone = || Failure::new(Exit::NotFound, format!("{name}: was deleted meanwhile"));
        Ok(Some(image.ok_or_else(gone)?).filter(|image| self.wanted.is_over(image)))
    }

    async fn see(&self, followed: &mut Followed, event: Event<Pod>) {
        match event {
            Event::Init => followed.listed.clear(),
            Event::InitApply(pod) => followed.listed.push(pod),
            Event::InitDone => {
                let listed = std::mem::take(&mut followed.listed);
                self.begin_all(followed, listed).await;
            }
            Event::Apply(pod) => self.begin(followed, &pod).await,
            Event::Delete(_) => {}
        }
    }

    /// Begins with all pods there are; at the very beginning with the latest of each platform.
    async fn begin_all(&self, followed: &mut Followed, listed: Vec<Pod>) {
        let found = pods::by_platform(&self.wanted, &listed);
        if !followed.has_list {
            let earlier = found.values().flat_map(|pods| pods.iter().skip(1));
            followed.skipped = earlier.filter_map(|pod| pod.metadata.uid.clone()).collect();
            followed.has_list = true;
        }
        for pod in found.values().flatten() {
            self.begin(followed, pod).await;
        }
    }

    /// Opens the logs of a pod's containers that have started and are not being read yet.
    async fn begin(&self, followed: &mut Followed, pod: &Pod) {
        let (Some(platform), Some(uid)) = (self.wanted.platform_of(pod), &pod.metadata.uid) else { return };
        if followed.skipped.contains(uid) {
            return;
        }
        followed.outcome.found.insert((platform.clone(), Work::of(pod)));
        for name in pods::started(pod) {
            let key = (uid.clone(), name.clone());
            if followed.begun.contains(&key) {
                continue;
            }
            if !followed.begun.iter().any(|(begun, _)| begun == uid) {
                announce(followed, platform, pod);
            }
            followed.begun.insert(key);
            let container = self.container(pod, name);
            match container.open(true, None).await {
                Ok(log) => {
                    let (platform, work, pod) = (platform.clone(), Work::of(pod), pod.name_any());
                    let reopen = move |since, broke| {
                        let container = container.clone();
                        async move { container.reopen(since, broke).await }
                    };
                    let lines = container::lines(log, reopen).map(move |line| {
                        (platform.clone(), work, line.map_err(|what| format!("pod/{pod}: {what}")))
                    });
                    followed.lines.push(lines.boxed());
                }
                Err(error) => {
                    say(platform, &format!("pod/{}: {error}", pod.name_any()));
                    if followed.outcome.refused.is_none() {
                        followed.outcome.refused = refusal(error);
                    }
                }
            }
        }
    }
}

/// Says which pod's lines follow.
fn announce(followed: &mut Followed, platform: &str, pod: &Pod) {
    let attempts = followed.attempts.entry((platform.to_owned(), Work::of(pod))).or_default();
    *attempts += 1;
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("a node");
    let again = if *attempts > 1 { "another attempt, " } else { "" };
    say(platform, &format!("{again}pod/{} on {node}", pod.name_any()));
}
