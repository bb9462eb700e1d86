//! `multiarch operator`: runs the controller until it is told to stop.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::Error;
use crate::build::BuilderSettings;
use crate::registry::RegistrySettings;
use crate::{controller, git, registry};

/// The builder image that is used unless another is named; pinned, so that builds do not change by themselves.
const BUILDER_IMAGE: &str = "moby/buildkit:v0.33.0-rootless";

/// The operator's settings.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Look at this namespace only.
    #[arg(long, env = "MULTIARCH_NAMESPACE")]
    namespace: Option<String>,
    /// The image that builds run in, of the shape of moby/buildkit:*-rootless.
    #[arg(long, env = "MULTIARCH_BUILDER_IMAGE", default_value = BUILDER_IMAGE)]
    builder_image: String,
    /// A file of registry settings (YAML): plain HTTP, certificates, mirrors, limits.
    #[arg(long, env = "MULTIARCH_REGISTRIES", value_name = "FILE")]
    registries: Option<PathBuf>,
    /// A registry (host or host:port) that speaks plain HTTP; may be given more than once.
    #[arg(long = "plain-http", env = "MULTIARCH_PLAIN_HTTP", value_delimiter = ',', value_name = "HOST")]
    plain_http: Vec<String>,
    /// How log lines are written. RUST_LOG says which.
    #[arg(long, env = "MULTIARCH_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Runs the operator until SIGTERM or SIGINT.
///
/// # Errors
/// When the cluster cannot be reached or does not know the resource.
pub async fn run(arguments: Arguments) -> Result<(), Error> {
    start_logging(arguments.log_format);
    let client = kube::Client::try_default()
        .await
        .map_err(|error| format!("no cluster to work with: {error}; set KUBECONFIG or run in a pod"))?;
    let mut plain_http = arguments.plain_http;
    let registries = super::registry::settings(arguments.registries.as_deref())?;
    let registry = registry::Client::new(&registry::Settings {
        plain_http: plain_http.clone(),
        registries: registries.clone(),
        ..registry::Settings::default()
    })?;
    // Better a pod that says why it does not start than images that fail one by one.
    registry.check_certificates()?;
    // BuildKit knows no patterns.
    let is_plain = |registry: &RegistrySettings| {
        registry.plain_http == Some(true) && !registry.host.contains(['*', '?'])
    };
    plain_http.extend(registries.into_iter().filter(is_plain).map(|registry| registry.host));
    let http = reqwest::Client::builder()
        .user_agent(concat!("multiarch-operator/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(std::time::Duration::from_secs(10))
        .build()?;
    let settings = controller::Settings {
        namespace: arguments.namespace,
        builder: BuilderSettings { image: arguments.builder_image, plain_http },
        registry,
        git: git::Client::new(http),
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("stopping");
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        builder = settings.builder.image,
        "the operator starts"
    );
    controller::run(client, settings, shutdown).await.map_err(explain)
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

fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
}
