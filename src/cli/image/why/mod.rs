//! `multiarch why`: the leaf cause, the object to look at, and what to do.

mod advice;
mod evidence;
mod explanation;
mod place;
#[cfg(test)]
mod tests;

use clap::Args;

use super::image_name;
use super::state::State;
use crate::api::Phase;
use crate::cli::cluster::{self, NamespaceArguments};
use crate::cli::output::{BOLD, GREEN, OutputArguments, RED, YELLOW, readable};
use crate::cli::{Error, exit, typed_as};
use explanation::{Cause, Explanation, explain};
use place::Typed;

/// How much of the end of a log is shown to people; the status has more.
const LOG_LINES: usize = 12;

/// Which image.
#[derive(Args, Debug)]
#[command(after_help = exit::HELP)]
pub struct Arguments {
    /// The image.
    #[arg(value_name = "NAME", value_parser = image_name)]
    name: String,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    namespace: NamespaceArguments,
}

/// Prints why an image stands as it does. Only looking is no failure, whatever is seen.
///
/// # Errors
/// When the image is not there, or the cluster does not say.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    cluster::run(async {
        let cluster = arguments.namespace.connect().await?;
        let image = cluster.image(&arguments.name).await?;
        let evidence = evidence::gather(&cluster, &image).await;
        let typed = Typed {
            program: typed_as(),
            flags: cluster.flags(),
            cluster_flags: cluster.flags_without_namespace().to_owned(),
        };
        arguments.output.output.print(&explain(&image, &evidence, &typed), text)
    })
}

/// The explanation for people.
fn text(explanation: &Explanation) -> String {
    let Explanation { name, state, summary, causes, .. } = explanation;
    let style = match state {
        State::Ready => GREEN,
        State::Stalled => RED,
        State::Working | State::Unseen | State::Suspended | State::Deleting => YELLOW,
    };
    let heading = format!("{BOLD}{name}{BOLD:#}: {style}{state:?}{style:#}: {}\n", readable(summary));
    causes.iter().fold(heading, |text, cause| text + "\n" + &paragraph(cause))
}

fn paragraph(cause: &Cause) -> String {
    let style = match cause.phase {
        Some(Phase::Failed) | None => RED,
        Some(Phase::Waiting | Phase::Skipped) => YELLOW,
        Some(Phase::Pending | Phase::Resolving | Phase::Building | Phase::Verifying | Phase::Ready) => BOLD,
    };
    let phase = cause.phase.map(|phase| format!("{}: ", phase.as_str())).unwrap_or_default();
    let place =
        cause.platform.as_deref().map(|platform| format!("{}: ", readable(platform))).unwrap_or_default();
    let mut text = format!("{BOLD}{place}{BOLD:#}{style}{phase}{}{style:#}\n", cause.reason);
    let mut line =
        |label: &str, content: &str| text.push_str(&format!("  {label:<9}{}\n", readable(content)));
    line("says", &cause.message);
    if is_at_work(cause) {
        cause.next.first().into_iter().for_each(|command| line("type", command));
        return text;
    }
    line("means", cause.meaning);
    for event in &cause.events {
        line("cluster", event);
    }
    if !cause.objects.is_empty() {
        line("look at", &cause.objects.join(", "));
    }
    line("do", cause.remedy);
    for (number, command) in cause.next.iter().enumerate() {
        line(if number == 0 { "type" } else { "" }, command);
    }
    let logged: Vec<&str> = cause.log_tail.iter().flat_map(|tail| tail.lines()).collect();
    for (number, logged) in logged.iter().skip(logged.len().saturating_sub(LOG_LINES)).enumerate() {
        line(if number == 0 { "log" } else { "" }, logged);
    }
    text
}

/// Whether there is nothing to explain: it goes its way.
fn is_at_work(cause: &Cause) -> bool {
    let goes_on =
        matches!(cause.phase, Some(Phase::Resolving | Phase::Building | Phase::Verifying | Phase::Pending));
    goes_on && cause.events.is_empty()
}
