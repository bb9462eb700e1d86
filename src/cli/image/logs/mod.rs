//! `multiarch logs`: what the builds of an image print, all platforms together.

mod container;
mod follow;
mod lines;
mod pods;

use std::collections::BTreeSet;

use clap::Args;
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::ListParams;

use super::image_name;
use crate::api::{LABEL_IMAGE, MultiArchImage, PlatformStatus, Reason};
use crate::cli::cluster::{self, Cluster, NamespaceArguments};
use crate::cli::exit::{self, Exit, Failure};
use crate::cli::{Error, output, progress};
use crate::platform::Platform;
use container::Container;
use lines::{Prefixes, Timed};
pub(in crate::cli) use pods::started;
use pods::{Wanted, Work};

/// How many logs are fetched at once.
const AT_ONCE: usize = 8;

/// Whose logs, and how much of them.
#[derive(Args, Debug)]
#[command(after_help = exit::HELP)]
pub struct Arguments {
    /// The image.
    #[arg(value_name = "NAME", value_parser = image_name)]
    name: String,
    /// Only this platform; may be given more than once.
    #[arg(long = "platform", value_name = "PLATFORM")]
    platforms: Vec<Platform>,
    /// Go on until the image is Ready or Stalled; attempts and platforms that begin later come along.
    #[arg(short, long)]
    follow: bool,
    /// The last lines of every container only.
    #[arg(long, value_name = "LINES")]
    tail: Option<u32>,
    /// The attempt before the latest.
    #[arg(short, long, conflicts_with = "follow")]
    previous: bool,
    /// Begin every line with its time.
    #[arg(long)]
    timestamps: bool,
    #[command(flatten)]
    namespace: NamespaceArguments,
}

/// Prints the logs.
///
/// # Errors
/// When the image or the platform is not there, or the cluster does not say.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    cluster::run(async {
        let cluster = arguments.namespace.connect().await?;
        let image = cluster.image(&arguments.name).await?;
        let wanted = Wanted::new(&image, &arguments.platforms)
            .map_err(|message| Failure::new(Exit::NotFound, message))?;
        let reader = Reader { prefixes: Prefixes::new(&wanted.platforms), cluster, arguments, wanted };
        match arguments.follow {
            true => reader.follow().await,
            false => reader.print(&image).await,
        }
    })
}

/// What reads the logs of an image's builds.
struct Reader<'a> {
    cluster: Cluster,
    arguments: &'a Arguments,
    wanted: Wanted,
    prefixes: Prefixes,
}

impl Reader<'_> {
    /// Prints what there is by now.
    async fn print(&self, image: &MultiArchImage) -> Result<(), Error> {
        let pods = self.pods().await?;
        let skipped = usize::from(self.arguments.previous);
        let found = pods::by_platform(&self.wanted, &pods);
        let chosen: Vec<(&String, Work, &Pod)> = found
            .iter()
            .filter_map(|((platform, work), pods)| Some((*platform, *work, *pods.get(skipped)?)))
            .collect();
        let found = chosen.iter().map(|(platform, work, _)| ((*platform).clone(), *work)).collect();
        let logs =
            stream::iter(chosen)
                .map(|(platform, work, pod)| async move {
                    (platform.clone(), work, self.lines(platform, pod).await)
                })
                .buffered(AT_ONCE);
        let logs: Vec<(String, Work, Log)> = logs.collect().await;
        let mut outcome = Outcome { found, ..Outcome::default() };
        let mut lines = Vec::new();
        for (platform, work, log) in logs {
            if !log.lines.is_empty() {
                outcome.read.insert((platform.clone(), work));
            }
            outcome.refused = outcome.refused.or(log.refused);
            lines.push((platform, log.lines));
        }
        let lines = lines::interleaved(lines);
        let with_time = self.arguments.timestamps;
        let text: String = lines
            .iter()
            .map(|(platform, line)| self.prefixes.line(platform, &line.told(with_time)))
            .collect();
        output::write(text.as_bytes())?;
        self.conclude(image, outcome)
    }

    async fn pods(&self) -> Result<Vec<Pod>, Error> {
        let parameters = ListParams::default().labels(&format!("{LABEL_IMAGE}={}", self.arguments.name));
        Ok(self.cluster.namespaced::<Pod>().list(&parameters).await.map_err(cluster::explain)?.items)
    }

    /// The lines of a pod's containers, one after the other. What cannot be read is said.
    async fn lines(&self, platform: &str, pod: &Pod) -> Log {
        let mut read = Log::default();
        for container in pods::started(pod) {
            match self.container(pod, container).open(false, None).await {
                Ok(log) => {
                    let (lines, broke) = container::read(log).await;
                    read.lines.extend(lines);
                    if let Some(cause) = broke {
                        say(platform, &format!("pod/{}: its log broke off: {cause}", pod.name_any()));
                    }
                }
                Err(error) => {
                    say(platform, &format!("pod/{}: {error}", pod.name_any()));
                    read.refused = read.refused.or(refusal(error));
                }
            }
        }
        read
    }

    /// A container of a pod.
    fn container(&self, pod: &Pod, name: String) -> Container {
        Container { pods: self.cluster.namespaced(), pod: pod.name_any(), name, tail: self.arguments.tail }
    }

    /// Of platforms without a line: what the status keeps of what failed, or why there is nothing.
    fn conclude(&self, image: &MultiArchImage, outcome: Outcome) -> Result<(), Error> {
        for entry in self.wanted.entries(image) {
            let Some(Silence { why, tail }) = silence(entry, &outcome, self.arguments.previous) else {
                continue;
            };
            say(&entry.platform, &why);
            let tail = tail.into_iter().flat_map(str::lines);
            let text: String = tail.map(|line| self.prefixes.line(&entry.platform, line)).collect();
            output::write(text.as_bytes())?;
        }
        match outcome.refused.filter(|_| outcome.read.is_empty()) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// What a pod has printed.
#[derive(Default)]
struct Log {
    lines: Vec<Timed>,
    /// Why it could not be read.
    refused: Option<Error>,
}

/// What has come of reading.
#[derive(Default)]
struct Outcome {
    /// The platforms that have a pod whose log was to be read.
    found: BTreeSet<(String, Work)>,
    /// Those of which something was printed.
    read: BTreeSet<(String, Work)>,
    /// What the cluster said first when it let a log not be read.
    refused: Option<Error>,
}

/// What a command that has read nothing fails with. A container that has not started yet, or a pod that has gone just
/// now, is no failure.
fn refusal(error: Error) -> Option<Error> {
    matches!(exit::code(&*error), Exit::Denied | Exit::Unavailable).then_some(error)
}

/// What is said of a platform without a line.
#[derive(Debug, PartialEq, Eq)]
struct Silence<'a> {
    why: String,
    /// The last lines, which the status keeps of the latest attempt.
    tail: Option<&'a str>,
}

/// `None` where something was printed and nothing is to be added.
fn silence<'a>(entry: &'a PlatformStatus, outcome: &Outcome, previous: bool) -> Option<Silence<'a>> {
    let failed = match entry.reason {
        Some(Reason::VerifyRunFailed) => Work::Run,
        _ => Work::Build,
    };
    let has = |set: &BTreeSet<(String, Work)>, work| set.contains(&(entry.platform.clone(), work));
    let tail = entry.log_tail.as_deref().filter(|_| !previous && !has(&outcome.read, failed));
    if tail.is_some() {
        let why = match has(&outcome.found, failed) {
            true => {
                "nothing could be read of its pod's log; these are the last lines, which the status keeps"
            }
            false => "its pod is gone; these are the last lines, which the status keeps",
        };
        return Some(Silence { why: why.to_owned(), tail });
    }
    let is_in_any = |set| has(set, Work::Build) || has(set, Work::Run);
    let why = match &entry.source {
        _ if is_in_any(&outcome.read) => return None,
        Some(source) => format!("not built: it comes from {}", source.image),
        None if previous
            && !is_in_any(&outcome.found)
            && entry.attempts.is_some_and(|attempts| attempts > 1) =>
        {
            "the pod of the earlier attempt is gone".to_owned()
        }
        None if previous && !is_in_any(&outcome.found) => "there was no earlier attempt".to_owned(),
        None => {
            let reason = entry.reason.unwrap_or(Reason::Pending);
            let message = entry.message.as_deref().unwrap_or_default();
            format!("no log: {}, {reason}: {message}", entry.phase.as_str())
        }
    };
    Some(Silence { why, tail: None })
}

fn say(platform: &str, message: &str) {
    progress::say(&format!("{platform}: {message}"));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::state::tests::image;
    use super::*;

    /// A platform whose build has failed, of which the status keeps the end of the log.
    fn failed() -> PlatformStatus {
        let platform = json!([{"platform": "linux/amd64", "phase": "Failed", "reason": "BuildFailed", "logTail": "last"}]);
        image("False", true, platform).status.unwrap().platforms.remove(0)
    }

    fn of_build() -> BTreeSet<(String, Work)> {
        [("linux/amd64".to_owned(), Work::Build)].into()
    }

    #[test]
    fn a_pod_is_gone_only_if_there_is_none() {
        let entry = failed();
        let gone = silence(&entry, &Outcome::default(), false).unwrap();
        assert!(gone.why.starts_with("its pod is gone") && gone.tail == Some("last"), "{gone:?}");
        let forbidden = Outcome { found: of_build(), ..Outcome::default() };
        let forbidden = silence(&entry, &forbidden, false).unwrap();
        assert!(!forbidden.why.contains("gone") && forbidden.tail == Some("last"), "{forbidden:?}");
        let read = Outcome { found: of_build(), read: of_build(), refused: None };
        assert_eq!(silence(&entry, &read, false), None);
    }

    #[test]
    fn the_end_of_the_latest_attempt_is_not_that_of_an_earlier_one() {
        let mut entry = failed();
        let silent = silence(&entry, &Outcome::default(), true).unwrap();
        assert_eq!(silent, Silence { why: "there was no earlier attempt".to_owned(), tail: None });
        entry.attempts = Some(2);
        let silent = silence(&entry, &Outcome::default(), true).unwrap();
        assert_eq!(silent, Silence { why: "the pod of the earlier attempt is gone".to_owned(), tail: None });
    }

    #[test]
    fn what_the_cluster_refuses_is_a_failure_and_what_comes_too_early_is_none() {
        let error = |exit| Failure::new(exit, "no").into();
        assert_eq!(refusal(error(Exit::Denied)).map(|error| exit::code(&*error)), Some(Exit::Denied));
        assert!(refusal(error(Exit::Usage)).is_none() && refusal(error(Exit::NotFound)).is_none());
    }
}
