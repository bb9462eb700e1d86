//! What the integration tests stand on: the development cluster, namespaces of their own, and waiting for what
//! the cluster says instead of for time to pass.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

pub mod accounts;
pub mod builds;
pub mod chart;
pub mod devcluster;
pub mod examples;
pub mod flux;
pub mod git;
pub mod images;
pub mod json_schemas;
pub mod nodes;
pub mod operator;
pub mod operator_image;
pub mod proxy;
pub mod recording;
pub mod release;
pub mod tools;

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub use devcluster::root;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, CustomResourceExt as _, ResourceExt as _};
use multiarch::api::{MultiArchImage, Phase, PlatformStatus};
use serde::Deserialize;
use serde_json::{Value, json};
#[allow(unused_imports, reason = "each test binary uses a part of it")]
pub use tools::{crane, skopeo};

/// How long a test waits for something that must happen; builds under emulation included.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// What `devcluster up` says.
#[derive(Deserialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Rig {
    pub tier: String,
    pub address: String,
    pub kubeconfig: PathBuf,
    pub kubectl: PathBuf,
    pub bin_dir: PathBuf,
    pub registry: String,
    pub private_registry: PrivateRegistry,
    pub read_only_registry: Host,
    pub git: Git,
    pub builder_image: String,
    pub images: std::collections::BTreeMap<String, String>,
    pub nodes: Vec<Node>,
}

#[derive(Deserialize, Clone, Debug)]
pub struct PrivateRegistry {
    pub host: String,
    pub username: String,
    pub password: String,
}

#[derive(Deserialize, Clone, Debug)]
pub struct Host {
    pub host: String,
}

#[derive(Deserialize, Clone, Debug)]
pub struct Git {
    pub url: String,
    pub root: PathBuf,
    pub https: GitHttps,
    pub ssh: GitSsh,
}

/// The same repositories for those who show a password or a token.
#[derive(Deserialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct GitHttps {
    pub url: String,
    pub username: String,
    pub password: String,
    pub token: String,
    pub ca_file: PathBuf,
}

/// The same repositories for those who show a key.
#[derive(Deserialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct GitSsh {
    pub url: String,
    /// Of type ed25519; `id_ecdsa` and `id_rsa` lie beside it.
    pub identity_file: PathBuf,
    pub known_hosts: String,
}

#[derive(Deserialize, Clone, Debug)]
pub struct Node {
    pub name: String,
    pub arch: String,
}

impl Rig {
    /// The running rig; the first test starts it, and it goes when cargo goes.
    pub fn get() -> &'static Rig {
        static RIG: OnceLock<Rig> = OnceLock::new();
        RIG.get_or_init(|| {
            let owner = std::os::unix::process::parent_id().to_string();
            let state = devcluster::run(&["up", "--owner-pid", &owner]);
            serde_json::from_str(&state).expect("the state of the devcluster")
        })
    }

    /// Whether there are nodes to run pods on. A test that needs them and has none says so by name.
    pub fn has_nodes(&self, test: &str) -> bool {
        let has = self.tier == "nodes";
        if !has {
            // Past the test harness, which swallows what tests that pass print.
            let told =
                writeln!(std::io::stderr(), "SKIPPED {test}: it needs real nodes, which need root on Linux");
            told.expect("standard error");
        }
        has
    }

    /// Every registry of the rig that speaks plain HTTP.
    pub fn plain_http(&self) -> String {
        let mut hosts = vec![&*self.registry, &*self.private_registry.host, &*self.read_only_registry.host];
        // Without nodes the rig is on a loopback address, which the operator speaks to where it is named.
        hosts.extend(self.git.url.strip_prefix("http://").filter(|host| host.starts_with("127.")));
        hosts.join(",")
    }

    pub async fn client(&self) -> Client {
        let kubeconfig = kube::config::Kubeconfig::read_from(&self.kubeconfig).expect("a kubeconfig");
        let config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.expect("a config");
        Client::try_from(config).expect("a client")
    }
}

/// A namespace of a test's own, with the resource installed.
pub struct World {
    pub rig: &'static Rig,
    pub client: Client,
    pub namespace: String,
}

impl World {
    pub async fn new() -> World {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let rig = Rig::get();
        let client = rig.client().await;
        install_crd(&client).await;
        let namespace = format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let metadata = ObjectMeta { name: Some(namespace.clone()), ..ObjectMeta::default() };
        let object = Namespace { metadata, ..Namespace::default() };
        Api::<Namespace>::all(client.clone())
            .create(&PostParams::default(), &object)
            .await
            .expect("a namespace");
        World { rig, client, namespace }
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A repository that no other test writes to.
    pub fn repository(&self, name: &str) -> String {
        format!("{}/{}/{name}", self.rig.registry, self.namespace)
    }

    /// Applies a `MultiArchImage`, as `kubectl apply --server-side` does.
    pub async fn apply(&self, name: &str, spec: Value) -> MultiArchImage {
        self.try_apply(name, spec).await.expect("the MultiArchImage is accepted")
    }

    pub async fn try_apply(&self, name: &str, spec: Value) -> Result<MultiArchImage, kube::Error> {
        self.patch(name, spec, PatchParams::apply("test").force()).await
    }

    /// What the API server would make of a spec; nothing is stored.
    pub async fn dry_run(&self, spec: Value) -> Result<MultiArchImage, kube::Error> {
        self.patch("tried", spec, PatchParams { dry_run: true, ..PatchParams::apply("test").force() }).await
    }

    async fn patch(
        &self,
        name: &str,
        spec: Value,
        parameters: PatchParams,
    ) -> Result<MultiArchImage, kube::Error> {
        let object = json!({
            "apiVersion": "multiarch.dev/v1alpha1",
            "kind": "MultiArchImage",
            "metadata": {"name": name},
            "spec": spec,
        });
        self.api::<MultiArchImage>().patch(name, &parameters, &Patch::Apply(object)).await
    }

    /// Waits until the image is as the condition says, and gives it.
    pub async fn until(
        &self,
        name: &str,
        what: &str,
        condition: impl Fn(&MultiArchImage) -> bool + Send + Sync,
    ) -> MultiArchImage {
        let api = self.api::<MultiArchImage>();
        let met = |image: Option<&MultiArchImage>| image.is_some_and(&condition);
        let wait = tokio::time::timeout(PATIENCE, await_condition(api.clone(), name, met)).await;
        match wait {
            Ok(Ok(Some(image))) => image,
            _ => {
                let image = api.get_opt(name).await.ok().flatten();
                let status =
                    image.and_then(|image| image.status).map(|status| serde_json::to_string_pretty(&status));
                panic!("{name} in {} never came to be {what}; its status: {status:#?}", self.namespace);
            }
        }
    }

    pub async fn until_ready(&self, name: &str) -> MultiArchImage {
        self.until(name, "ready", is_ready).await
    }

    /// Waits until a platform is in a phase for a reason, and gives its entry.
    pub async fn until_platform(
        &self,
        name: &str,
        platform: &str,
        phase: Phase,
        reason: &str,
    ) -> PlatformStatus {
        let what = format!("{phase:?} {reason} on {platform}");
        let image = self
            .until(name, &what, |image| {
                entry(image, platform).is_some_and(|entry| {
                    entry.phase == phase && entry.reason.is_some_and(|found| found.as_str() == reason)
                })
            })
            .await;
        entry(&image, platform).expect("the entry").clone()
    }
}

/// The entry of a platform in the status of the latest generation.
pub fn entry<'a>(image: &'a MultiArchImage, platform: &str) -> Option<&'a PlatformStatus> {
    let status =
        image.status.as_ref().filter(|status| status.observed_generation == image.metadata.generation)?;
    status.platform(platform)
}

/// Ready as `kubectl wait` and kstatus see it.
pub fn is_ready(image: &MultiArchImage) -> bool {
    has_condition(image, "Ready", "True")
}

pub fn has_condition(image: &MultiArchImage, type_: &str, state: &str) -> bool {
    image
        .status
        .as_ref()
        .filter(|status| status.observed_generation == image.metadata.generation)
        .is_some_and(|status| {
            status.condition(type_).is_some_and(|condition| {
                condition.status == state && condition.observed_generation == image.metadata.generation
            })
        })
}

/// The message of a condition; empty where there is none.
pub fn message(image: &MultiArchImage, type_: &str) -> String {
    let condition = image.status.as_ref().and_then(|status| status.condition(type_));
    condition.map(|condition| condition.message.clone()).unwrap_or_default()
}

async fn install_crd(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = MultiArchImage::crd();
    let name = definition.name_any();
    let parameters = PatchParams::apply("test").force();
    api.patch(&name, &parameters, &Patch::Apply(&definition)).await.expect("the CRD is accepted");
    until_established(client, &name).await;
}

/// Waits until the API server serves a resource that was just defined.
pub async fn until_established(client: &Client, name: &str) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let established = await_condition(api, name, conditions::is_crd_established());
    tokio::time::timeout(PATIENCE, established).await.expect("in time").expect("the CRD is established");
}
