//! `multiarch why`: the leaf cause, the object to look at, and what to do.

mod advice;
mod evidence;
mod explanation;
mod place;
#[cfg(test)]
mod tests;

use clap::Args;
use kube::ResourceExt as _;
use kube::api::ListParams;

use super::image_name;
use super::state::State;
use crate::api::{MultiArchImage, Phase};
use crate::cli::cluster::{self, Cluster, NamespacesArguments};
use crate::cli::output::{BOLD, GREEN, OutputArguments, RED, YELLOW, readable};
use crate::cli::{Error, exit, progress, typed_as};
use explanation::{Cause, Evidence, Explanation, explain};
use place::Typed;

/// How much of the end of a log is shown to people; the status has more.
const LOG_LINES: usize = 12;

/// Which image.
#[derive(Args, Debug)]
#[command(after_help = exit::HELP)]
pub struct Arguments {
    /// The image; all that are not ready unless given.
    #[arg(value_name = "NAME", conflicts_with = "all_namespaces", value_parser = image_name)]
    name: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    namespaces: NamespacesArguments,
}

/// Prints why an image stands as it does. Only looking is no failure, whatever is seen.
///
/// # Errors
/// When the image is not there, or the cluster does not say.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    cluster::run(async {
        let cluster = arguments.namespaces.connect().await?;
        let format = arguments.output.output;
        if let Some(name) = &arguments.name {
            let image = cluster.image(name).await?;
            return format.print(&explained(&cluster, &image).await, |explanation| text(explanation, false));
        }
        let images = cluster.images().list(&ListParams::default()).await.map_err(cluster::explain)?.items;
        let mut explanations = Vec::new();
        for image in images.iter().filter(|image| !is_well(image)) {
            let namespace = image.namespace().unwrap_or_else(|| cluster.namespace.clone());
            explanations.push(explained(&cluster.clone().within(namespace), image).await);
        }
        if explanations.is_empty() {
            progress::say("there is none that is not ready");
        }
        format.print(&explanations, |explanations| {
            let texts = explanations.iter().map(|explanation| text(explanation, cluster.is_all_namespaces()));
            texts.collect::<Vec<_>>().join("\n")
        })
    })
}

/// Why an image of the cluster's namespace stands as it does.
async fn explained(cluster: &Cluster, image: &MultiArchImage) -> Explanation {
    let evidence = evidence::gather(cluster, image).await;
    let typed = Typed {
        program: typed_as(),
        flags: cluster.flags(),
        cluster_flags: cluster.flags_without_namespace().to_owned(),
    };
    explain(image, &evidence, &typed)
}

/// Whether there is nothing to tell of an image: it is ready, and so is all of it.
fn is_well(image: &MultiArchImage) -> bool {
    let typed = Typed { program: "", flags: String::new(), cluster_flags: String::new() };
    let Explanation { state, causes, .. } = explain(image, &Evidence::default(), &typed);
    state == State::Ready && causes.is_empty()
}

/// The explanation for people, with the image's namespace where there may be several.
fn text(explanation: &Explanation, with_namespace: bool) -> String {
    let Explanation { namespace, name, state, summary, causes } = explanation;
    let name = if with_namespace { format!("{namespace}/{name}") } else { name.clone() };
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
