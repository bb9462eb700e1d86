//! `multiarch status`: how images stand, and one of them by platform; once, or as it changes.

mod changes;
mod live;
mod table;

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use clap::Args;
use console::Term;
use futures::StreamExt as _;
use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::ListParams;
use serde::Serialize;

use super::image_name;
use super::state::State;
use super::watch::{self, Change, Images};
use crate::api::{MultiArchImage, MultiArchImageStatus};
use crate::cli::cluster::{self, Cluster, NamespacesArguments};
use crate::cli::output::{self, OutputArguments, OutputFormat};
use crate::cli::{Error, exit};
use live::{Screen, View};

/// How many images are asked for at once.
const PAGE: u32 = 500;
/// How long a picture stays while something turns, and otherwise.
const PICTURE: [Duration; 2] = [Duration::from_millis(120), Duration::from_secs(1)];

/// What to show.
#[derive(Args, Debug)]
#[command(after_help = exit::HELP)]
pub struct Arguments {
    /// The image; all of the namespace unless given.
    #[arg(value_name = "NAME", value_parser = image_name, conflicts_with = "all_namespaces")]
    name: Option<String>,
    /// Go on until interrupted: a table that is redrawn on a terminal, a line for each change elsewhere.
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    output: OutputArguments,
    #[command(flatten)]
    namespaces: NamespacesArguments,
}

/// An image for programs: what it is called, how it stands, and the whole status. The names are stable.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    namespace: String,
    name: String,
    generation: i64,
    state: Cow<'static, str>,
    repository: &'a str,
    tags: &'a [String],
    status: Option<&'a MultiArchImageStatus>,
}

impl<'a> From<&'a MultiArchImage> for Shown<'a> {
    fn from(image: &'a MultiArchImage) -> Self {
        Shown {
            namespace: image.namespace().unwrap_or_default(),
            name: image.name_any(),
            generation: image.generation(),
            state: Cow::Owned(format!("{:?}", State::of(image))),
            repository: &image.spec.target.repository,
            tags: &image.spec.target.tags,
            status: image.status.as_ref(),
        }
    }
}

impl<'a> Shown<'a> {
    /// The image as it was last, and that it is gone.
    fn gone(image: &'a MultiArchImage) -> Self {
        Shown { state: Cow::Borrowed("Deleted"), ..Shown::from(image) }
    }

    /// A document in a row of them.
    fn document(&self, format: OutputFormat) -> Result<String, Error> {
        Ok(match format {
            OutputFormat::Yaml => format!("---\n{}", serde_saphyr::to_string(self)?),
            OutputFormat::Json | OutputFormat::Table => {
                output::harmless(&serde_json::to_string(self)?) + "\n"
            }
        })
    }
}

/// Shows it.
///
/// # Errors
/// When the image is not there, or the cluster does not say.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    cluster::run(async {
        let cluster = arguments.namespaces.connect().await?;
        match (arguments.watch, &arguments.name) {
            (false, Some(name)) => one(arguments, &cluster.image(name).await?),
            (false, None) => all(arguments, &cluster).await,
            (true, name) => {
                // A name that is not there is told; one that goes while it is watched may come back.
                if let Some(name) = name {
                    cluster.image(name).await?;
                }
                follow(arguments, &cluster).await
            }
        }
    })
}

fn one(arguments: &Arguments, image: &MultiArchImage) -> Result<(), Error> {
    arguments.output.output.print(&Shown::from(image), |_| table::of_image(image, Timestamp::now()))
}

async fn all(arguments: &Arguments, cluster: &Cluster) -> Result<(), Error> {
    let mut images = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = cluster.images().list(&page).await.map_err(cluster::explain)?;
        images.extend(list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    if images.is_empty() && arguments.output.output == OutputFormat::Table {
        let place = match cluster.is_all_namespaces() {
            true => "any namespace".to_owned(),
            false => format!("namespace {}", cluster.namespace),
        };
        crate::cli::progress::say(&format!("no MultiArchImages in {place}"));
        return Ok(());
    }
    let shown: Vec<Shown<'_>> = images.iter().map(Shown::from).collect();
    arguments
        .output
        .output
        .print(&shown, |_| table::of_images(&images, cluster.is_all_namespaces(), Timestamp::now()))
}

async fn follow(arguments: &Arguments, cluster: &Cluster) -> Result<(), Error> {
    match arguments.output.output {
        OutputFormat::Table if io::stdout().is_terminal() => redraw(arguments, cluster).await,
        format => tell(arguments, cluster, format).await,
    }
}

/// Redraws the table in place.
async fn redraw(arguments: &Arguments, cluster: &Cluster) -> Result<(), Error> {
    let mut changes = std::pin::pin!(watch::images(cluster.images(), arguments.name.as_deref()));
    let terminal = Cursor::hide();
    let (mut images, mut screen) = (None, Screen::default());
    for tick in 0_usize.. {
        if let Some(images) = &images {
            let (rows, columns) = terminal.size();
            let with_namespace = cluster.is_all_namespaces();
            let view = View { images, with_namespace, now: Timestamp::now(), tick, size: (rows, columns) };
            output::write(screen.draw(view.lines(), columns).as_bytes())?;
        }
        let still = !images.as_ref().is_some_and(live::is_turning);
        let picture = tokio::time::sleep(PICTURE[usize::from(still)]);
        tokio::select! {
            Some(change) = changes.next() => apply(images.get_or_insert_default(), change?),
            () = picture => {}
        }
    }
    Ok(())
}

fn apply(images: &mut Images, change: Change) {
    match change {
        Change::All(all) => *images = all,
        Change::Changed(image) => {
            images.insert(watch::key(&image), *image);
        }
        Change::Gone(image) => {
            images.remove(&watch::key(&image));
        }
    }
}

/// Tells every change on a line, or as a document of its own.
async fn tell(arguments: &Arguments, cluster: &Cluster, format: OutputFormat) -> Result<(), Error> {
    let mut changes = std::pin::pin!(watch::images(cluster.images(), arguments.name.as_deref()));
    let mut images = Images::new();
    while let Some(change) = changes.next().await {
        let change = change?;
        output::write(difference(&images, &change, format)?.as_bytes())?;
        apply(&mut images, change);
    }
    Ok(())
}

/// What a change says that was not known before it.
fn difference(known: &Images, change: &Change, format: OutputFormat) -> Result<String, Error> {
    let present: Vec<&MultiArchImage> = match change {
        Change::All(all) => all.values().collect(),
        Change::Changed(image) => vec![image],
        Change::Gone(_) => vec![],
    };
    let gone: Vec<&MultiArchImage> = match change {
        Change::All(all) => {
            known.iter().filter(|(key, _)| !all.contains_key(*key)).map(|(_, image)| image).collect()
        }
        Change::Changed(_) => vec![],
        Change::Gone(image) => vec![image],
    };
    let mut text = String::new();
    for image in present {
        let before = known.get(&watch::key(image));
        if before != Some(image) {
            text += &told(before, image, format)?;
        }
    }
    for image in gone {
        text += &match format {
            OutputFormat::Table => changes::gone(image) + "\n",
            OutputFormat::Json | OutputFormat::Yaml => Shown::gone(image).document(format)?,
        };
    }
    Ok(text)
}

fn told(
    before: Option<&MultiArchImage>,
    image: &MultiArchImage,
    format: OutputFormat,
) -> Result<String, Error> {
    Ok(match format {
        OutputFormat::Table => changes::lines(before, image).into_iter().map(|line| line + "\n").collect(),
        OutputFormat::Json | OutputFormat::Yaml => Shown::from(image).document(format)?,
    })
}

/// The terminal, whose cursor is hidden while this lives.
struct Cursor(Term);

impl Cursor {
    fn hide() -> Self {
        let terminal = Term::stdout();
        let _ = terminal.hide_cursor();
        Self(terminal)
    }

    /// Rows and columns.
    fn size(&self) -> (usize, usize) {
        let (rows, columns) = self.0.size();
        (rows.into(), columns.into())
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        let _ = self.0.show_cursor();
        let _ = io::stdout().flush();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::state::tests::image;
    use super::*;

    #[test]
    fn programs_are_told_that_an_image_is_gone() {
        let image = image("True", false, json!([{"platform": "linux/amd64", "phase": "Ready"}]));
        let known = Images::from([(watch::key(&image), image.clone())]);
        for change in [Change::Gone(Box::new(image)), Change::All(Images::new())] {
            let text = difference(&known, &change, OutputFormat::Json).unwrap();
            let shown: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&shown["name"], &shown["state"]), (&json!("web"), &json!("Deleted")));
            let text = difference(&known, &change, OutputFormat::Yaml).unwrap();
            assert!(text.starts_with("---\n") && text.contains("state: Deleted"), "{text}");
        }
    }
}
