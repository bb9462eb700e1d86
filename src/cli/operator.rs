//! `multiarch operator`: runs the controller until it is told to stop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, Args};
use futures::FutureExt as _;
use tokio::signal::unix::{SignalKind, signal};

use super::builder::BuilderArguments;
use super::server::ServerArguments;
use super::telemetry::TelemetryArguments;
use super::{Error, kubeconfig};
use crate::health::Health;
use crate::lease::Election;
use crate::metrics::Metrics;
use crate::policy::Policies;
use crate::telemetry::Telemetry;
use crate::{controller, git, registry};

/// The operator's settings.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Look at this namespace only.
    #[arg(long, env = "MULTIARCH_NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    builder: BuilderArguments,
    /// A file of policies (YAML): which namespaces may publish to which repositories, and speak to which hosts. Everything is
    /// allowed without it, but link-local, metadata and loopback addresses.
    #[arg(long, env = "MULTIARCH_POLICIES", value_name = "FILE")]
    policies: Option<PathBuf>,
    #[command(flatten)]
    lease: LeaseArguments,
    #[command(flatten)]
    server: ServerArguments,
    /// How long a stop waits for writes that are under way, in seconds. What is abandoned is done by the next operator.
    #[arg(long, env = "MULTIARCH_SHUTDOWN_GRACE", value_name = "SECONDS", default_value_t = 15)]
    shutdown_grace: u64,
    #[command(flatten)]
    telemetry: TelemetryArguments,
}

/// Which of several operators works.
#[derive(Args, Debug)]
struct LeaseArguments {
    /// Whether to wait for a lease before any work, so that of several operators one works and the others stand by.
    #[arg(long, env = "MULTIARCH_LEADER_ELECTION", value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    leader_election: bool,
    /// Name of the lease.
    #[arg(long, env = "MULTIARCH_LEASE_NAME", value_name = "NAME", default_value = "multiarch-operator")]
    lease_name: String,
    /// Namespace of the lease: by default the pod's own; outside of a pod the one of --namespace or of the kubeconfig.
    #[arg(long, env = "MULTIARCH_LEASE_NAMESPACE", value_name = "NAMESPACE")]
    lease_namespace: Option<String>,
}

/// What is there in every pod with an account.
const POD_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// How long the API server may be silent: longer than a watch without news, which it ends after 290 s.
const SILENCE: Duration = Duration::from_secs(295);

/// Runs the operator until SIGTERM or SIGINT; a second one ends it at once.
///
/// # Errors
/// When the cluster cannot be reached or does not know the resource, when the lease cannot be had or is lost, and when a
/// setting makes no sense.
pub async fn run(arguments: Arguments) -> Result<(), Error> {
    let telemetry = Telemetry::start(arguments.telemetry.settings())?;
    operate(arguments).await?;
    // Whoever has lost the lease must be gone at once.
    telemetry.stop().await;
    Ok(())
}

async fn operate(arguments: Arguments) -> Result<(), Error> {
    let client = client().map_err(|error| format!("no cluster to work with: {error}, or run in a pod"))?;
    let election = arguments.lease.election(&client, arguments.namespace.as_deref());
    let settings = settings(&arguments)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        builder = settings.builder.image,
        "the operator starts"
    );
    let health = Arc::new(Health::default());
    let _server = arguments.server.start(&client, &health, &settings.metrics).await?;
    let shutdown = shutdown()?.boxed().shared();
    match election {
        Some(election) => lead(client, settings, health, election, shutdown).await,
        None => {
            health.lists();
            controller::run(client, settings, health, shutdown).await.map_err(explain)
        }
    }
}

/// The way to the API server. A request on a connection that died must end, or its image would wait for ever.
fn client() -> Result<kube::Client, Error> {
    let mut config = kubeconfig::config(None, None)?;
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    // What fails is tried again by whoever knows how urgent it is.
    config.default_retry = false;
    Ok(kube::Client::try_from(config)?)
}

fn settings(arguments: &Arguments) -> Result<controller::Settings, Error> {
    let builder = arguments.builder.read()?;
    // An empty MULTIARCH_POLICIES is none.
    let policies = arguments.policies.as_deref().filter(|file| !file.as_os_str().is_empty());
    let policies = policies.map(Policies::read_file).transpose()?.unwrap_or_default();
    let policies = policies.with_hosts_of(&arguments.builder.plain_http, &builder.registries);
    let metrics = Metrics::new();
    let settings_of_registries = registry::Settings {
        plain_http: arguments.builder.plain_http.clone(),
        registries: builder.registries,
        ..registry::Settings::default()
    };
    let registry = registry::Client::observed(&settings_of_registries, Arc::new(metrics.clone()))?;
    // Better a pod that says why it does not start than images that fail one by one.
    registry.check_certificates()?;
    for warning in &builder.warnings {
        tracing::warn!("{warning}");
    }
    let plain_http = builder.settings.buildkit_registries.iter().filter(|registry| registry.plain_http);
    let plain_http: Vec<String> = plain_http.map(|registry| registry.host.clone()).collect();
    Ok(controller::Settings {
        namespace: arguments.namespace.clone(),
        builder: builder.settings,
        policies,
        registry,
        git: git::Client::new(plain_http),
        metrics,
        shutdown_grace: Duration::from_secs(arguments.shutdown_grace),
    })
}

impl LeaseArguments {
    fn election(&self, client: &kube::Client, namespace: Option<&str>) -> Option<Election> {
        if !self.leader_election {
            return None;
        }
        let watched = namespace.filter(|_| !Path::new(POD_NAMESPACE).exists());
        let namespace = self.lease_namespace.as_deref().or(watched).unwrap_or(client.default_namespace());
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "operator".to_owned());
        Some(Election {
            namespace: namespace.to_owned(),
            name: self.lease_name.clone(),
            identity: format!("{host}_{:08x}", fastrand::u32(..)),
        })
    }
}

/// Works from when the lease is won until it is lost or the operator is to stop.
async fn lead(
    client: kube::Client,
    settings: controller::Settings,
    health: Arc<Health>,
    election: Election,
    shutdown: impl Future<Output = ()> + Clone + Send + 'static,
) -> Result<(), Error> {
    let mut leadership = tokio::select! {
        won = election.win(client.clone(), Arc::clone(&health)) => won?,
        () = shutdown.clone() => return Ok(()),
    };
    let ended = tokio::select! {
        ended = controller::run(client, settings, health, shutdown) => ended.map_err(explain),
        lost = leadership.lost() => return Err(lost.into()),
    };
    leadership.release().await;
    ended
}

/// Done at the first signal to stop.
fn shutdown() -> Result<impl Future<Output = ()> + Send + 'static, Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("stopping; a second signal ends it at once");
        tokio::spawn(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            std::process::exit(130);
        });
    })
}

fn explain(error: kube::Error) -> Error {
    match &error {
        kube::Error::Api(status) if status.code == 404 => {
            "the cluster does not know MultiArchImage; install it by `multiarch crd | kubectl apply -f -`"
                .into()
        }
        kube::Error::Api(status) if status.code == 403 => {
            format!("the operator may not list MultiArchImages: {}", status.message).into()
        }
        _ => error.into(),
    }
}
