//! `multiarch wait`: until images are ready, or are known not to become so.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use indicatif::ProgressBar;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tokio::time::{Instant, timeout_at};

use super::selection::{Chosen, Selection};
use super::state::{self, State};
use super::watch::{self, Change};
use crate::api::MultiArchImage;
use crate::cli::exit::{self, Exit, Failure};
use crate::cli::output::{self, OutputArguments, OutputFormat};
use crate::cli::{Error, cluster, progress, typed_as};

/// How long the first answer may take, if less was to be waited for.
const FIRST_ANSWER: Duration = Duration::from_secs(30);

/// For what to wait.
#[derive(Args, Debug)]
#[command(after_help = exit::HELP)]
pub struct Arguments {
    #[command(flatten)]
    images: Selection,
    /// What is waited for.
    #[arg(long = "for", value_enum, default_value_t = Goal::Ready)]
    goal: Goal,
    /// How long at most; 0s looks once.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = how_long)]
    timeout: kube::core::Duration,
    #[command(flatten)]
    output: OutputArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Goal {
    /// Published as the latest spec and the latest requests say.
    Ready,
    /// Gone.
    Deleted,
}

/// The longest text of a duration: with more digits it may be longer than can be counted, which its parser does not
/// refuse but panics at.
const LONGEST: usize = 16;

/// What follows `--timeout`.
///
/// # Errors
/// When it is no duration as Go writes them, negative, or longer than anybody waits.
pub fn how_long(text: &str) -> Result<kube::core::Duration, String> {
    let duration = Some(text).filter(|text| text.len() <= LONGEST).and_then(|text| text.parse().ok());
    duration
        .filter(|duration: &kube::core::Duration| !duration.is_negative())
        .ok_or_else(|| "write how long, as in 90s, 10m or 1h30m; 0s looks once".to_owned())
}

/// Waits.
///
/// # Errors
/// At once when an image is Stalled, suspended before it was published, or not there; when the time is over.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    cluster::run(async {
        let chosen = arguments.images.choose().await?;
        if chosen.is_empty() && arguments.goal == Goal::Ready {
            return Err(Failure::new(Exit::NotFound, "there is nothing to wait for").into());
        }
        let format = arguments.output.output;
        let images = wait(&chosen, arguments.goal, arguments.timeout, format).await?;
        output::print_resources(format, &images, arguments.images.is_one())
    })
}

/// Waits until images are published as their latest specs and the latest requests say, and gives them as they are then.
///
/// # Errors
/// As [`run`].
pub async fn until_ready(
    chosen: &[Chosen],
    timeout: kube::core::Duration,
    format: OutputFormat,
) -> Result<Vec<MultiArchImage>, Error> {
    wait(chosen, Goal::Ready, timeout, format).await
}

async fn wait(
    chosen: &[Chosen],
    goal: Goal,
    timeout: kube::core::Duration,
    format: OutputFormat,
) -> Result<Vec<MultiArchImage>, Error> {
    let start = Instant::now();
    let deadline = start.checked_add(timeout.into()).unwrap_or(start + Duration::from_secs(u32::MAX.into()));
    let mut waiting: Vec<Watched> = chosen.iter().map(|chosen| Watched::of(chosen, goal)).collect();
    let mut changes =
        stream::select_all(waiting.iter().zip(chosen).map(|(watched, chosen)| watched.changes(chosen)));
    let mut met = BTreeMap::new();
    while !waiting.is_empty() {
        let until = match waiting.iter().all(|watched| watched.is_seen) {
            true => deadline,
            false => deadline.max(start + FIRST_ANSWER),
        };
        let Ok(Some((title, change))) = timeout_at(until, changes.next()).await else {
            let still: Vec<String> = waiting.iter().map(|watched| watched.timed_out(timeout)).collect();
            return Err(Failure::new(Exit::TimedOut, still.join("\n")).into());
        };
        let change = change?;
        let Some(at) = waiting.iter().position(|watched| watched.title == title) else { continue };
        match waiting[at].judge(latest(&change)) {
            Verdict::Waiting => {}
            Verdict::Met(message) => {
                met.extend(waiting.remove(at).last.map(|image| (title.clone(), image)));
                if format == OutputFormat::Table {
                    output::write(format!("{title}: {}\n", output::readable(&message)).as_bytes())?;
                }
            }
            Verdict::Failed(failure) => return Err(failure.into()),
        }
    }
    Ok(chosen.iter().filter_map(|chosen| met.remove(&chosen.title)).collect())
}

/// What a change makes of the one image that is watched.
fn latest(change: &Change) -> Option<&MultiArchImage> {
    match change {
        Change::All(images) => images.values().next(),
        Change::Changed(image) => Some(image),
        Change::Gone(_) => None,
    }
}

/// What becomes of waiting when an image is as it is.
#[derive(Debug)]
enum Verdict {
    Waiting,
    Met(String),
    Failed(Failure),
}

/// An image that is waited for.
struct Watched {
    title: String,
    name: String,
    namespace: String,
    /// What leads other commands to the image.
    flags: String,
    goal: Goal,
    uid: Option<String>,
    /// As it was seen last.
    last: Option<MultiArchImage>,
    is_seen: bool,
    /// What stood in the way last.
    told: String,
    spinner: ProgressBar,
}

impl Watched {
    fn of(chosen: &Chosen, goal: Goal) -> Self {
        let Chosen { cluster, name, title } = chosen;
        Self::new((title, name), &cluster.namespace, &cluster.flags(), goal)
    }

    fn new((title, name): (&str, &str), namespace: &str, flags: &str, goal: Goal) -> Self {
        let spinner = progress::spinner(&format!("{title}: asking the cluster"));
        let told = "the cluster has not answered".to_owned();
        let (title, name) = (title.to_owned(), name.to_owned());
        let (namespace, flags) = (namespace.to_owned(), flags.to_owned());
        Self { title, name, namespace, flags, goal, uid: None, last: None, is_seen: false, told, spinner }
    }

    fn changes(&self, chosen: &Chosen) -> BoxStream<'static, (String, Result<Change, Error>)> {
        let title = self.title.clone();
        let changes = watch::images(chosen.cluster.namespaced(), Some(&self.name));
        changes.map(move |change| (title.clone(), change)).boxed()
    }

    fn timed_out(&self, waited: kube::core::Duration) -> String {
        let goal = match self.goal {
            Goal::Ready => "ready",
            Goal::Deleted => "deleted",
        };
        let within = if waited == Duration::ZERO { String::new() } else { format!(" within {waited}") };
        format!("{}: not {goal}{within}: {}", self.title, self.told)
    }

    /// What the image being so means for the one who waits.
    fn judge(&mut self, image: Option<&MultiArchImage>) -> Verdict {
        self.is_seen = true;
        let is_another = |image: &MultiArchImage| self.uid.is_some() && image.metadata.uid != self.uid;
        let image = image.filter(|image| !is_another(image));
        let verdict = match (self.goal, image) {
            (Goal::Deleted, None) => Verdict::Met("deleted".to_owned()),
            (Goal::Deleted, Some(image)) => {
                self.told = match image.is_deleted() {
                    true => "it is being deleted".to_owned(),
                    false => "nobody has deleted it".to_owned(),
                };
                Verdict::Waiting
            }
            (Goal::Ready, None) => Verdict::Failed(self.missing()),
            (Goal::Ready, Some(image)) => self.judge_present(image),
        };
        self.uid = image.and_then(|image| image.metadata.uid.clone()).or(self.uid.take());
        self.last = image.cloned().or(self.last.take());
        self.spinner.set_message(output::readable(&format!("{}: {}", self.title, self.told)));
        verdict
    }

    fn missing(&self) -> Failure {
        let how = if self.uid.is_some() { "was deleted meanwhile" } else { "not found" };
        Failure::new(Exit::NotFound, format!("{}: {how} in namespace {}", self.title, self.namespace))
    }

    fn judge_present(&mut self, image: &MultiArchImage) -> Verdict {
        let told = state::ready(image).map(told).unwrap_or_default();
        let (title, name) = (&self.title, &self.name);
        match State::of(image) {
            State::Deleting => {
                Verdict::Failed(Failure::new(Exit::NotFound, format!("{title}: is being deleted")))
            }
            State::Unseen => {
                self.told = "the operator has not looked at the latest spec or request yet".to_owned();
                Verdict::Waiting
            }
            State::Stalled => {
                let more = format!("{} why {name}{}", typed_as(), self.flags);
                Verdict::Failed(Failure::new(
                    Exit::Stalled,
                    format!("{title}: Stalled: {told}\n`{more}` says what to do"),
                ))
            }
            State::Suspended if !state::is_published(image) => {
                let more = format!("{} resume {name}{}", typed_as(), self.flags);
                Verdict::Failed(Failure::new(
                    Exit::Stalled,
                    format!("{title}: suspended before it was published; `{more}` lets it go on"),
                ))
            }
            State::Suspended | State::Ready if state::is_published(image) => {
                Verdict::Met(format!("Ready: {told}"))
            }
            State::Suspended | State::Ready | State::Working => {
                self.told = told;
                Verdict::Waiting
            }
        }
    }
}

/// A condition as a sentence: its reason, unless the message has it already, and its message.
fn told(condition: &Condition) -> String {
    match condition.message.contains(&condition.reason) || condition.status == "True" {
        true => condition.message.clone(),
        false => format!("{}: {}", condition.reason, condition.message),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::state::tests::image;
    use super::*;

    fn watched() -> Watched {
        Watched::new(("web", "web"), "team-a", " --context east -n team-a", Goal::Ready)
    }

    fn platforms(phase: &str) -> serde_json::Value {
        json!([{"platform": "linux/amd64", "phase": phase}])
    }

    fn failure(verdict: Verdict) -> (Exit, String) {
        let Verdict::Failed(failure) = verdict else { panic!("{verdict:?}") };
        (exit::code(&failure), failure.to_string())
    }

    #[test]
    fn a_stalled_image_ends_waiting_at_once_with_its_cause() {
        let stalled = image("False", true, platforms("Failed"));
        let (exit, message) = failure(watched().judge(Some(&stalled)));
        assert_eq!(exit, Exit::Stalled);
        assert!(message.starts_with("web: Stalled: Reason: message\n"), "{message}");
        assert!(message.contains("why web --context east -n team-a`"), "{message}");
    }

    #[test]
    fn an_image_that_was_stalled_before_it_was_edited_is_waited_for() {
        let mut edited = image("False", true, platforms("Failed"));
        edited.metadata.generation = Some(3);
        let mut watched = watched();
        assert!(matches!(watched.judge(Some(&edited)), Verdict::Waiting));
        assert!(
            watched.timed_out(kube::core::Duration::from(Duration::from_secs(60))).contains("has not looked")
        );
    }

    #[test]
    fn a_published_image_is_what_was_waited_for() {
        let published = image("True", false, platforms("Ready"));
        assert!(matches!(watched().judge(Some(&published)), Verdict::Met(_)));
        let mut suspended = published.clone();
        suspended.spec.suspend = true;
        assert!(matches!(watched().judge(Some(&suspended)), Verdict::Met(_)));
    }

    #[test]
    fn one_that_is_suspended_before_it_is_published_is_not_waited_for() {
        let mut suspended = image("Unknown", false, platforms("Pending"));
        suspended.spec.suspend = true;
        let (exit, message) = failure(watched().judge(Some(&suspended)));
        assert_eq!(exit, Exit::Stalled);
        assert!(message.contains("resume web --context east -n team-a`"), "{message}");
    }

    #[test]
    fn one_that_is_not_there_is_told_from_one_that_has_gone() {
        let (exit, message) = failure(watched().judge(None));
        assert_eq!((exit, message.as_str()), (Exit::NotFound, "web: not found in namespace team-a"));
        let working = image("Unknown", false, platforms("Building"));
        let mut watched = watched();
        assert!(matches!(watched.judge(Some(&working)), Verdict::Waiting));
        // Between two lists one was deleted and another made.
        let mut another = image("True", false, platforms("Ready"));
        another.metadata.uid = Some("another".to_owned());
        let (exit, message) = failure(watched.judge(Some(&another)));
        assert_eq!(exit, Exit::NotFound);
        assert!(message.contains("was deleted meanwhile"), "{message}");
    }

    #[test]
    fn nobody_waits_until_the_past_or_for_ever() {
        for text in ["0s", "90s", "1h30m", "1.5h", "999999999999999h"] {
            how_long(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
        for text in ["-5s", "soon", "5", "99999999999999999999h", "-0.1s"] {
            assert!(how_long(text).is_err(), "{text}");
        }
    }

    #[test]
    fn deletion_can_be_waited_for() {
        let mut watched = Watched::new(("web", "web"), "team-a", "", Goal::Deleted);
        let there = image("True", false, platforms("Ready"));
        assert!(matches!(watched.judge(Some(&there)), Verdict::Waiting));
        assert!(matches!(watched.judge(None), Verdict::Met(_)));
    }
}
