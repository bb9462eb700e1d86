//! Which images a command is about: those that are named, or all that there are.

use clap::Args;
use kube::ResourceExt as _;
use kube::api::ListParams;

use super::image_name;
use crate::api::MultiArchImage;
use crate::cli::cluster::{self, Cluster, NamespacesArguments};
use crate::cli::{Error, progress};

/// Which images.
#[derive(Args, Debug)]
pub struct Selection {
    /// The images.
    #[arg(
        value_name = "NAME",
        required_unless_present_any = ["all", "selector"],
        conflicts_with_all = ["all", "selector", "all_namespaces"],
        value_parser = image_name
    )]
    names: Vec<String>,
    /// All images of the namespace.
    #[arg(long, conflicts_with = "selector")]
    all: bool,
    /// Those with these labels, as kubectl has it: `app=web,tier!=test`.
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    #[command(flatten)]
    namespaces: NamespacesArguments,
}

/// An image that a command is about.
#[derive(Clone)]
pub struct Chosen {
    /// Its cluster, in its namespace.
    pub cluster: Cluster,
    /// Its name.
    pub name: String,
    /// What it is called in lines for people: with its namespace, where there may be several.
    pub title: String,
}

impl Selection {
    /// The images of the cluster. Whether those that are named are there is not asked.
    ///
    /// # Errors
    /// When the cluster cannot be reached, or does not say.
    pub async fn choose(&self) -> Result<Vec<Chosen>, Error> {
        let cluster = self.namespaces.connect().await?;
        if !self.names.is_empty() {
            let chosen =
                |name: &String| Chosen { cluster: cluster.clone(), name: name.clone(), title: name.clone() };
            return Ok(self.names.iter().map(chosen).collect());
        }
        let parameters = ListParams { label_selector: self.selector.clone(), ..ListParams::default() };
        let images = cluster.images().list(&parameters).await.map_err(cluster::explain)?.items;
        if images.is_empty() {
            let of = self.selector.as_ref().map(|selector| format!(" with {selector}")).unwrap_or_default();
            let place = match cluster.is_all_namespaces() {
                true => String::new(),
                false => format!(" in namespace {}", cluster.namespace),
            };
            progress::say(&format!("no MultiArchImages{of}{place}"));
        }
        Ok(images.iter().map(|image| Chosen::of(image, &cluster)).collect())
    }

    /// Whether one image is meant, by its name.
    pub fn is_one(&self) -> bool {
        self.names.len() == 1
    }
}

impl Chosen {
    fn of(image: &MultiArchImage, cluster: &Cluster) -> Self {
        let name = image.name_any();
        let title = match (cluster.is_all_namespaces(), &image.metadata.namespace) {
            (true, Some(namespace)) => format!("{namespace}/{name}"),
            (true, None) | (false, _) => name.clone(),
        };
        let namespace = image.namespace().unwrap_or_else(|| cluster.namespace.clone());
        Self { cluster: cluster.clone().within(namespace), name, title }
    }
}
