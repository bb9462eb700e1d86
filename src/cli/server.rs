//! Where the operator answers probes and scrapes, and whom.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use super::Error;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::server::{self, Answers, Authorizer, Certificate, Server};

/// The HTTP server.
#[derive(Args, Debug)]
pub struct ServerArguments {
    /// Answer /healthz, /readyz and /metrics here, such as 0.0.0.0:8080; nowhere without it.
    #[arg(long, env = "MULTIARCH_LISTEN", value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Speak TLS there with this certificate (PEM, the authorities between it and the root behind it).
    #[arg(long, env = "MULTIARCH_TLS_CERTIFICATE", value_name = "FILE")]
    tls_certificate: Option<PathBuf>,
    /// The private key of the certificate (PEM, not encrypted). Both are read again when they change.
    #[arg(long, env = "MULTIARCH_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Who may read /metrics: everybody, or whom Kubernetes lets get the nonResourceURL /metrics.
    #[arg(long, env = "MULTIARCH_METRICS_AUTHORIZATION", value_enum, default_value_t = MetricsAuthorization::None)]
    metrics_authorization: MetricsAuthorization,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
enum MetricsAuthorization {
    None,
    Kubernetes,
}

impl ServerArguments {
    /// Begins to answer, if there is an address.
    ///
    /// # Errors
    /// When nothing can be listened on there, or the certificate cannot be used.
    pub async fn start(
        &self,
        client: &kube::Client,
        health: &Arc<Health>,
        metrics: &Metrics,
    ) -> Result<Option<Server>, Error> {
        let certificate = self.certificate()?;
        let Some(address) = self.listen else { return Ok(None) };
        let authorizer = (self.metrics_authorization == MetricsAuthorization::Kubernetes)
            .then(|| Arc::new(Authorizer::new(client.clone(), server::METRICS)));
        let answers = Answers { health: Arc::clone(health), metrics: metrics.clone(), authorizer };
        let server = Server::start(address, certificate, server::router(answers)).await?;
        tracing::info!(address = %server.address(), "listening");
        Ok(Some(server))
    }

    fn certificate(&self) -> Result<Option<Certificate>, Error> {
        // Empty variables are none.
        let given = |file: &Option<PathBuf>| file.clone().filter(|file| !file.as_os_str().is_empty());
        match (given(&self.tls_certificate), given(&self.tls_key)) {
            (Some(certificate), Some(key)) => Ok(Some(Certificate { certificate, key })),
            (None, None) => Ok(None),
            _ => Err("--tls-certificate and --tls-key go together; give both".into()),
        }
    }
}
