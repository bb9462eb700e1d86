//! `multiarch platforms`: which platforms a cluster builds natively, emulates, reaches elsewhere or lacks.

mod probe;
mod survey;

use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;

use self::survey::{Built, NodeSurvey, PlatformSurvey, Probes, Survey, survey};
use super::builder::BuilderArguments;
use super::cluster::{self, NamespacesArguments};
use super::output::{self, Cell, GREEN, OutputFormat, PLAIN, RED, Table, YELLOW};
use super::{Error, exit};
use crate::platform::Platform;

/// How many names of nodes are shown before the rest is counted.
const SHOWN: usize = 3;

/// What to look at.
#[derive(Args, Debug)]
#[command(after_help = exit::HELP)]
pub struct Arguments {
    /// Run a small pod on each kind of node, in the namespace, that finds out what the node emulates.
    #[arg(long)]
    probe: bool,
    /// How results are printed. The names of JSON and YAML fields are stable.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(flatten)]
    namespaces: NamespacesArguments,
    #[command(flatten)]
    builder: BuilderArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// The same with the nodes, and with the images that want a platform.
    Wide,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// Shows it.
///
/// # Errors
/// When the cluster does not say, or does not let us make pods that ask its nodes.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let settings = arguments.builder.read()?.settings;
    cluster::run(async {
        let cluster = arguments.namespaces.connect().await?;
        let all = ListParams::default();
        let nodes: Api<Node> = Api::all(cluster.client.clone());
        let nodes = nodes.list(&all).await.map_err(cluster::explain)?.items;
        let images = cluster.images().list(&all).await.map_err(cluster::explain)?.items;
        let probes = match arguments.probe {
            true => probe::probe(&cluster, &settings, &nodes).await?,
            false => Probes::new(),
        };
        print(&survey(&nodes, &images, &probes), arguments.output)
    })
}

fn print(survey: &Survey, format: Format) -> Result<(), Error> {
    let text = match format {
        Format::Table => platforms(survey, false),
        Format::Wide => format!("{}\n{}", platforms(survey, true), nodes(&survey.nodes)),
        Format::Json => return OutputFormat::Json.print(survey, |_| String::new()),
        Format::Yaml => return OutputFormat::Yaml.print(survey, |_| String::new()),
    };
    // A node that did not answer is told by the wide table too.
    for node in survey.nodes.iter().filter(|_| format == Format::Table) {
        if let Some(problem) = &node.problem {
            super::progress::say(&format!("warning: {}: {problem}", node.name));
        }
    }
    output::write(text.as_bytes())
}

fn platforms(survey: &Survey, is_wide: bool) -> String {
    let mut table = Table::new(["PLATFORM", "BUILT", "READY", "NODES", "REMOTE", "WANTED BY", "MESSAGE"]);
    for row in &survey.platforms {
        let PlatformSurvey { platform, built, nodes, ready_nodes, remotes, wanted_by, message } = row;
        let style = match built {
            Built::Native if *ready_nodes > 0 => GREEN,
            Built::Native | Built::Unknown => YELLOW,
            Built::Emulated | Built::Remote => PLAIN,
            Built::Lacking => RED,
        };
        let ready =
            if *built == Built::Native { format!("{ready_nodes}/{}", nodes.len()) } else { String::new() };
        table.row([
            platform.to_string().into(),
            Cell::styled(format!("{built:?}"), style),
            ready.into(),
            some_of(nodes).into(),
            remotes.join(",").into(),
            if is_wide { some_of(wanted_by) } else { String::new() }.into(),
            message.as_str().into(),
        ]);
    }
    table.render()
}

fn nodes(nodes: &[NodeSurvey]) -> String {
    let mut table = Table::new(["NODE", "PLATFORM", "STATUS", "TAINTS", "OS", "KERNEL", "RUNS", "PROBLEM"]);
    for node in nodes {
        // As kubectl has it.
        let status = match (node.ready, node.schedulable) {
            (true, true) => Cell::styled("Ready", GREEN),
            (true, false) => Cell::styled("Ready,SchedulingDisabled", YELLOW),
            (false, true) => Cell::styled("NotReady", RED),
            (false, false) => Cell::styled("NotReady,SchedulingDisabled", RED),
        };
        let names =
            |platforms: &[Platform]| platforms.iter().map(Platform::to_string).collect::<Vec<_>>().join(",");
        table.row([
            node.name.as_str().into(),
            node.platform.as_ref().map(Platform::to_string).unwrap_or_default().into(),
            status,
            node.taints.join(",").into(),
            node.os_image.as_str().into(),
            node.kernel.as_str().into(),
            node.runs.as_deref().map(names).unwrap_or_default().into(),
            node.problem.as_deref().unwrap_or_default().into(),
        ]);
    }
    table.render()
}

fn some_of(names: &[String]) -> String {
    match names.len() {
        count if count > SHOWN => format!("{},… ({count})", names[..SHOWN].join(",")),
        _ => names.join(","),
    }
}
