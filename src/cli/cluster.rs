//! The cluster that commands talk to: which one, as whom, in which namespace, and what is said if that does not work.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kube::{Api, Client};
use tokio::signal::unix::{SignalKind, signal};

use super::exit::{Exit, Failure};
use super::resource::is_dns_label;
use super::{Error, kubeconfig, logging, typed_as};
use crate::api::MultiArchImage;

/// How long a connection may take to come about. People wait for it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Which cluster; as kubectl has it.
#[derive(Args, Debug, Clone, Default)]
pub struct ClusterArguments {
    /// The context of the kubeconfig; its current one unless given.
    #[arg(long, value_name = "NAME", help_heading = "Cluster")]
    context: Option<String>,
    /// The kubeconfig; KUBECONFIG or ~/.kube/config unless given.
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    kubeconfig: Option<PathBuf>,
}

/// Which cluster, and which namespace of it.
#[derive(Args, Debug, Clone, Default)]
pub struct NamespaceArguments {
    /// The namespace; that of the context unless given.
    #[arg(short, long, value_name = "NAME", help_heading = "Cluster", value_parser = namespace_name)]
    namespace: Option<String>,
    #[command(flatten)]
    cluster: ClusterArguments,
}

/// Which cluster, and which namespace of it, or all of them.
#[derive(Args, Debug, Clone, Default)]
pub struct NamespacesArguments {
    #[command(flatten)]
    one: NamespaceArguments,
    /// All namespaces.
    #[arg(short = 'A', long, conflicts_with = "namespace", help_heading = "Cluster")]
    all_namespaces: bool,
}

/// A cluster, and where in it a command works.
#[derive(Clone)]
pub struct Cluster {
    /// The way to its API server.
    pub client: Client,
    /// The namespace of `--namespace`, else of the context, else `default`.
    pub namespace: String,
    all_namespaces: bool,
    /// What leads to it: ` --context east`.
    flags: String,
}

impl Cluster {
    /// Objects of the namespace, `--all-namespaces` or not.
    pub fn namespaced<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The `MultiArchImage`s of the namespace, or of all of them with `--all-namespaces`.
    pub fn images(&self) -> Api<MultiArchImage> {
        match self.all_namespaces {
            true => Api::all(self.client.clone()),
            false => self.namespaced(),
        }
    }

    /// The `MultiArchImage` of a name.
    ///
    /// # Errors
    /// When there is none, or the cluster does not say.
    pub async fn image(&self, name: &str) -> Result<MultiArchImage, Error> {
        match self.namespaced::<MultiArchImage>().get_opt(name).await {
            Ok(Some(image)) => Ok(image),
            Ok(None) => Err(self.not_found(name).await),
            Err(error) => Err(explain(error)),
        }
    }

    /// The same cluster in one namespace.
    pub fn within(self, namespace: String) -> Self {
        Self { namespace, all_namespaces: false, ..self }
    }

    /// Whether `--all-namespaces` was given.
    pub fn is_all_namespaces(&self) -> bool {
        self.all_namespaces
    }

    /// What another command needs to look at the same namespace: ` --context east -n team-a`, as a shell takes it.
    pub fn flags(&self) -> String {
        format!("{} -n {}", self.flags, quoted(&self.namespace))
    }

    /// The same for what has no namespace.
    pub fn flags_without_namespace(&self) -> &str {
        &self.flags
    }

    /// An object that is not there and a kind that is not there are both a 404; a list tells them apart.
    async fn not_found(&self, name: &str) -> Error {
        let one = kube::api::ListParams::default().limit(1);
        match self.namespaced::<MultiArchImage>().list(&one).await {
            Err(error) => explain(error),
            Ok(_) => {
                let message = format!("multiarchimage/{name}: not found in namespace {}", self.namespace);
                Failure::new(Exit::NotFound, message).into()
            }
        }
    }
}

impl ClusterArguments {
    /// The cluster, in the namespace of the context.
    ///
    /// # Errors
    /// When the kubeconfig is missing, of no use, or has no such context. Nothing is asked of the cluster yet.
    pub async fn connect(&self) -> Result<Cluster, Error> {
        let mut config = kubeconfig::config(self.kubeconfig.as_deref(), self.context.as_deref())?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(explain)?;
        Ok(Cluster { client, namespace, all_namespaces: false, flags: self.flags() })
    }

    /// What leads another command to the same cluster, as a shell takes it.
    fn flags(&self) -> String {
        let kubeconfig =
            self.kubeconfig.as_ref().map(|path| format!(" --kubeconfig {}", quoted(&path.to_string_lossy())));
        let context = self.context.as_ref().map(|context| format!(" --context {}", quoted(context)));
        format!("{}{}", kubeconfig.unwrap_or_default(), context.unwrap_or_default())
    }
}

impl NamespaceArguments {
    /// The cluster, in the namespace that was named, or that of the context.
    ///
    /// # Errors
    /// As [`ClusterArguments::connect`].
    pub async fn connect(&self) -> Result<Cluster, Error> {
        let cluster = self.cluster.connect().await?;
        let namespace = self.namespace.clone().filter(|name| !name.is_empty());
        let namespace = namespace.unwrap_or_else(|| cluster.namespace.clone());
        Ok(Cluster { namespace, ..cluster })
    }
}

impl NamespacesArguments {
    /// The cluster, in the namespace that was named, that of the context, or all of them.
    ///
    /// # Errors
    /// As [`ClusterArguments::connect`].
    pub async fn connect(&self) -> Result<Cluster, Error> {
        Ok(Cluster { all_namespaces: self.all_namespaces, ..self.one.connect().await? })
    }

    /// Whether `--all-namespaces` was given.
    pub fn is_all(&self) -> bool {
        self.all_namespaces
    }
}

/// What follows `--namespace`; nothing at all is as good as no flag, as for kubectl.
///
/// # Errors
/// When no namespace can have the name (RFC 1123 label).
pub(super) fn namespace_name(text: &str) -> Result<String, String> {
    match text.is_empty() || is_dns_label(text) {
        true => Ok(text.to_owned()),
        false => Err("a namespace has small letters, digits and '-', at most 63 of them, and begins and ends with a letter \
                      or digit"
            .to_owned()),
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    // No argument of a process has a NUL in it, and nothing else cannot be quoted.
    shlex::try_quote(word).map_or_else(|_| String::new(), Into::into)
}

/// Runs a command that talks to a cluster until it ends or somebody interrupts it.
///
/// # Errors
/// Those of the command, and that it was interrupted.
pub fn run<F>(command: F) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>>,
{
    logging::start(0, false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(until_interrupted(command));
    // A look-up of a host name that nobody waits for any more holds nobody up.
    runtime.shutdown_background();
    result
}

async fn until_interrupted(command: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = command => result,
        // Control-C is how one leaves what runs on and on; there is nothing to say about it.
        _ = interrupt.recv() => Err(Failure::new(Exit::Interrupted, "").into()),
        _ = terminate.recv() => Err(Failure::new(Exit::Terminated, "").into()),
    }
}

/// What an error of the cluster means to the person who typed the command.
pub fn explain(error: kube::Error) -> Error {
    match error {
        kube::Error::Api(status) => refused(&status).into(),
        kube::Error::Service(cause) => unreachable(&*cause).into(),
        kube::Error::HyperError(cause) => unreachable(&cause).into(),
        kube::Error::Auth(cause) => {
            Failure::new(Exit::Denied, format!("the kubeconfig's credentials are of no use: {cause}")).into()
        }
        error => error.into(),
    }
}

/// What the API server's refusal means.
fn refused(status: &kube::core::Status) -> Failure {
    let message = match status.message.is_empty() {
        true => &status.reason,
        false => &status.message,
    };
    match status.code {
        // Of an object that is not there the API server tells the name; of a kind that is not there nothing.
        404 if status.details.as_ref().is_none_or(|details| details.name.is_empty()) => Failure::new(
            Exit::NotFound,
            format!(
                "the cluster does not know MultiArchImage; install it by `{} crd | kubectl apply --server-side -f -`",
                typed_as()
            ),
        ),
        404 => Failure::new(Exit::NotFound, message.as_str()),
        401 => Failure::new(
            Exit::Denied,
            format!("the cluster does not accept the kubeconfig's credentials: {message}"),
        ),
        403 => Failure::new(Exit::Denied, message.as_str()),
        409 => Failure::new(Exit::Conflict, message.as_str()),
        400 | 422 => Failure::new(Exit::Usage, message.as_str()),
        429 | 500..=599 => {
            Failure::new(Exit::Unavailable, format!("the cluster is busy or unwell: {message}"))
        }
        _ => Failure::new(Exit::Other, message.as_str()),
    }
}

/// No answer at all. The outer errors only say that a request failed; the innermost says why.
fn unreachable(error: &(dyn StdError + 'static)) -> Failure {
    let leaf = std::iter::successors(Some(error), |&cause| cause.source()).last().unwrap_or(error);
    Failure::new(Exit::Unavailable, format!("the cluster does not answer: {leaf}"))
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use kube::core::response::StatusDetails;

    use super::*;
    use crate::cli::exit::code;

    fn api_error(code: u16, details: Option<StatusDetails>) -> kube::Error {
        let status = Status { code, message: "told".to_owned(), details, ..Status::default() };
        kube::Error::Api(Box::new(status))
    }

    #[test]
    fn a_kind_that_is_not_there_is_told_from_an_object_that_is_not_there() {
        let kind = explain(api_error(404, None));
        assert!(kind.to_string().contains("multiarch crd"), "{kind}");
        let details = serde_json::from_str(r#"{"name": "web"}"#).unwrap();
        let object = explain(api_error(404, Some(details)));
        assert_eq!(object.to_string(), "told");
        for error in [kind, object] {
            assert_eq!(code(&*error), Exit::NotFound);
        }
    }

    #[test]
    fn what_the_api_server_refuses_has_its_number() {
        for (status, exit) in [
            (401, Exit::Denied),
            (403, Exit::Denied),
            (409, Exit::Conflict),
            (422, Exit::Usage),
            (429, Exit::Unavailable),
            (503, Exit::Unavailable),
        ] {
            assert_eq!(code(&*explain(api_error(status, None))), exit, "{status}");
        }
    }

    #[test]
    fn what_leads_to_the_cluster_is_quoted_for_the_shell() {
        let arguments = ClusterArguments {
            context: Some("ea st;rm".to_owned()),
            kubeconfig: Some(PathBuf::from("/home/me/my config")),
        };
        assert_eq!(
            shlex::split(&arguments.flags()).unwrap(),
            ["--kubeconfig", "/home/me/my config", "--context", "ea st;rm"]
        );
        let plain = ClusterArguments { context: Some("east".to_owned()), ..ClusterArguments::default() };
        assert_eq!(plain.flags(), " --context east");
    }

    #[test]
    fn a_namespace_without_a_name_is_none_and_one_that_cannot_be_is_refused() {
        for name in ["", "team-a", "0"] {
            assert_eq!(namespace_name(name).unwrap(), name);
        }
        for name in ["Team", "a.b", "../x", "a/b", "-a", &"a".repeat(64)] {
            assert!(namespace_name(name).is_err(), "{name}");
        }
    }

    #[tokio::test]
    async fn a_namespace_without_a_name_is_that_of_the_context() {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("config");
        let text = r#"{"apiVersion": "v1", "kind": "Config", "current-context": "east",
            "contexts": [{"name": "east", "context": {"cluster": "c", "namespace": "team-a"}}],
            "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}]}"#;
        std::fs::write(&kubeconfig, text).unwrap();
        let cluster = ClusterArguments { kubeconfig: Some(kubeconfig), context: None };
        let arguments = NamespaceArguments { namespace: Some(String::new()), cluster };
        let cluster = arguments.connect().await.unwrap();
        assert_eq!(cluster.namespace, "team-a");
        assert!(cluster.flags().ends_with("config -n team-a"), "{}", cluster.flags());
    }
}
