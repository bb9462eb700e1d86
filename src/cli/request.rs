//! `multiarch reconcile`, `rebuild`, `suspend` and `resume`: what people ask of the operator by changing the resource.

use clap::Args;
use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::image::selection::{Chosen, Selection};
use super::image::wait;
use super::output::{self, OutputArguments, OutputFormat};
use super::{Error, cluster, exit, typed_as};
use crate::api::{ANNOTATION_REBUILD, ANNOTATION_RECONCILE, MultiArchImage};

/// Who these changes are by, for server-side apply. Flux takes away what managers whose name begins with `kubectl` have
/// set, so ours does not.
pub const FIELD_MANAGER: &str = "multiarch-cli";

/// Of which images something is asked.
#[derive(Args, Debug)]
#[command(after_help = exit::HELP)]
pub struct Arguments {
    #[command(flatten)]
    images: Selection,
    #[command(flatten)]
    output: OutputArguments,
}

/// The same, and whether to wait for what comes of it.
#[derive(Args, Debug)]
pub struct WaitingArguments {
    #[command(flatten)]
    images: Arguments,
    /// Wait until the images are ready; fails at once when one of them is Stalled.
    #[arg(long)]
    wait: bool,
    /// How long to wait at most.
    #[arg(long, value_name = "DURATION", default_value = "1h", requires = "wait", value_parser = wait::how_long)]
    timeout: kube::core::Duration,
}

/// Asks the operator to look at every source again.
///
/// # Errors
/// When an image is not there, the cluster refuses, or what is waited for does not come.
pub fn reconcile(arguments: &WaitingArguments) -> Result<(), Error> {
    arguments.ask(Request::Reconcile)
}

/// Asks the operator to build every built platform again.
///
/// # Errors
/// As [`reconcile`].
pub fn rebuild(arguments: &WaitingArguments) -> Result<(), Error> {
    arguments.ask(Request::Rebuild)
}

/// Stops all work on images.
///
/// # Errors
/// As [`reconcile`].
pub fn suspend(arguments: &Arguments) -> Result<(), Error> {
    cluster::run(async {
        let (_, images) = arguments.ask(Request::Suspend).await?;
        arguments.print(&images)
    })
}

/// Goes on with images that were suspended.
///
/// # Errors
/// As [`reconcile`].
pub fn resume(arguments: &WaitingArguments) -> Result<(), Error> {
    arguments.ask(Request::Resume)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Request {
    Reconcile,
    Rebuild,
    Suspend,
    Resume,
}

impl Request {
    /// What changes in the resource (a JSON merge patch).
    fn patch(self, now: Timestamp) -> Value {
        let annotation = |name: &str| json!({"metadata": {"annotations": {name: now.to_string()}}});
        match self {
            Self::Reconcile => annotation(ANNOTATION_RECONCILE),
            Self::Rebuild => annotation(ANNOTATION_REBUILD),
            Self::Suspend => json!({"spec": {"suspend": true}}),
            // What is not there belongs to nobody, and is false.
            Self::Resume => json!({"spec": {"suspend": null}}),
        }
    }

    fn is_done(self, image: &MultiArchImage) -> bool {
        match self {
            Self::Reconcile | Self::Rebuild => false,
            Self::Suspend => image.spec.suspend,
            Self::Resume => !image.spec.suspend,
        }
    }

    /// What was done, of an image as it is now. `flags` lead other commands to it.
    fn done(self, image: &MultiArchImage, was_done: bool, flags: &str) -> String {
        let but = match self {
            Self::Reconcile | Self::Rebuild if image.spec.suspend => format!(
                "; it is suspended, so nothing happens until `{} resume {}{flags}`",
                typed_as(),
                image.name_any()
            ),
            _ => String::new(),
        };
        let what = match (self, was_done) {
            (Self::Reconcile, _) => "reconcile requested",
            (Self::Rebuild, _) => "rebuild requested",
            (Self::Suspend, false) => "suspended",
            (Self::Suspend, true) => "is suspended already",
            (Self::Resume, false) => "resumed",
            (Self::Resume, true) => "is not suspended",
        };
        format!("{what}{but}")
    }
}

impl WaitingArguments {
    fn ask(&self, request: Request) -> Result<(), Error> {
        cluster::run(async {
            let (chosen, mut images) = self.images.ask(request).await?;
            if self.wait {
                images = wait::until_ready(&chosen, self.timeout, self.images.output.output).await?;
            }
            self.images.print(&images)
        })
    }
}

impl Arguments {
    /// Asks it of each image, and gives them as they are then.
    async fn ask(&self, request: Request) -> Result<(Vec<Chosen>, Vec<MultiArchImage>), Error> {
        let chosen = self.images.choose().await?;
        // All are looked up before anything is asked of one.
        let mut images = Vec::new();
        for Chosen { cluster, name, .. } in &chosen {
            images.push(cluster.image(name).await?);
        }
        let parameters =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        for (Chosen { cluster, name, title }, image) in chosen.iter().zip(&mut images) {
            let was_done = request.is_done(image);
            if !was_done {
                let patch = Patch::Merge(request.patch(Timestamp::now()));
                let patched = cluster.namespaced().patch(name, &parameters, &patch).await;
                *image = patched.map_err(cluster::explain)?;
            }
            if self.output.output == OutputFormat::Table {
                let line = format!("{title}: {}\n", request.done(image, was_done, &cluster.flags()));
                output::write(line.as_bytes())?;
            }
        }
        Ok((chosen, images))
    }

    fn print(&self, images: &[MultiArchImage]) -> Result<(), Error> {
        output::print_resources(self.output.output, images, self.images.is_one())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_of_a_suspended_image_comes_with_the_command_that_lets_it_go_on() {
        let image = serde_json::from_value(json!({
            "apiVersion": "multiarch.dev/v1alpha1", "kind": "MultiArchImage", "metadata": {"name": "web"},
            "spec": {"target": {"repository": "r.test/web", "tags": ["1"]}, "platforms": [], "suspend": true},
        }));
        let said = Request::Reconcile.done(&image.unwrap(), false, " --context east -n team-a");
        assert!(said.ends_with("resume web --context east -n team-a`"), "{said}");
    }
}
