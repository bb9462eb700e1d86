//! The way to an API server: what a kubeconfig says, a pod's own account where there is none, and the proxy on the way.

use std::path::Path;

use axum::http::Uri;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use kube::config::{AuthInfo, Cluster, Config, ExecAuthCluster, Kubeconfig, KubeconfigError};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

use super::exit::Failure;
use crate::registry::is_loopback;

/// What leads to the cluster of a kubeconfig, or of the pod this runs in if there is none and none was asked for.
///
/// # Errors
/// When the kubeconfig is missing, of no use, or has no such context. Nothing is asked of the cluster yet.
pub fn config(path: Option<&Path>, context: Option<&str>) -> Result<Config, Failure> {
    let read = match path {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    match read {
        Ok(kubeconfig) => choose(kubeconfig, context, &Matcher::from_env()),
        Err(error) => without_kubeconfig(error, path.is_none() && context.is_none()),
    }
}

/// What a context says. kube would take the proxy of the environment wherever the cluster is: it holds NO_PROXY against
/// the proxy's own address.
fn choose(kubeconfig: Kubeconfig, context: Option<&str>, environment: &Matcher) -> Result<Config, Failure> {
    let known: Vec<&str> = kubeconfig.contexts.iter().map(|context| context.name.as_str()).collect();
    let name = context.or(kubeconfig.current_context.as_deref()).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| {
        Failure::usage(format!(
            "the kubeconfig has no current context; name one by --context{}",
            one_of(&known)
        ))
    })?;
    let context = kubeconfig.contexts.iter().find(|context| context.name == name);
    let context = context
        .and_then(|context| context.context.as_ref())
        .ok_or_else(|| Failure::usage(format!("the kubeconfig has no context {name:?}{}", one_of(&known))))?;
    let cluster = kubeconfig.clusters.iter().find(|cluster| cluster.name == context.cluster);
    let cluster = cluster.and_then(|cluster| cluster.cluster.as_ref()).ok_or_else(|| {
        Failure::usage(format!(
            "the kubeconfig has no cluster {:?}, which context {name:?} is of",
            context.cluster
        ))
    })?;
    // A user who is not there is nobody, as for kubectl.
    let user = kubeconfig.auth_infos.iter().find(|user| Some(&user.name) == context.user.as_ref());
    let user = user.and_then(|user| user.auth_info.clone()).unwrap_or_default();
    let mut config = of_cluster(cluster, user).map_err(of_no_use)?;
    config.default_namespace = context.namespace.clone().unwrap_or(config.default_namespace);
    config.proxy_url = proxy(cluster.proxy_url.as_deref(), &config.cluster_url, environment)?;
    Ok(config)
}

fn of_cluster(cluster: &Cluster, mut user: AuthInfo) -> Result<Config, KubeconfigError> {
    let server = cluster.server.as_deref().ok_or(KubeconfigError::MissingClusterUrl)?;
    let mut config = Config::new(server.parse().map_err(KubeconfigError::ParseClusterUrl)?);
    let told = ExecAuthCluster::try_from(cluster)?;
    config.root_cert = told.certificate_authority_data.as_deref().map(certificates);
    config.accept_invalid_certs = cluster.insecure_skip_tls_verify.unwrap_or_default();
    config.disable_compression = cluster.disable_compression.unwrap_or_default();
    config.tls_server_name = cluster.tls_server_name.clone();
    if let Some(exec) = user.exec.as_mut().filter(|exec| exec.provide_cluster_info) {
        exec.cluster = Some(told);
    }
    config.auth_info = user;
    Ok(config)
}

/// The certificates of a PEM file; what else is in it concerns nobody here.
fn certificates(pem: &[u8]) -> Vec<Vec<u8>> {
    CertificateDer::pem_slice_iter(pem).flatten().map(|certificate| certificate.to_vec()).collect()
}

/// The proxy on the way to a cluster: the kubeconfig's own in any case, else that of the environment, which as for kubectl
/// leads to no other place on this machine.
fn proxy(own: Option<&str>, cluster: &Uri, environment: &Matcher) -> Result<Option<Uri>, Failure> {
    let unusable = |whose| {
        Failure::usage(format!("{whose} leads to no cluster: it is no http://, https:// or socks5:// URL"))
    };
    if let Some(own) = own.filter(|own| !own.is_empty()) {
        let proxy = own.parse().ok().and_then(usable);
        return proxy.map(Some).ok_or_else(|| unusable("the kubeconfig's proxy-url"));
    }
    if cluster.host().is_none_or(is_loopback) {
        return Ok(None);
    }
    let Some(found) = environment.intercept(cluster) else { return Ok(None) };
    with_credentials(&found)
        .and_then(usable)
        .map(Some)
        .ok_or_else(|| unusable("the proxy of the environment"))
}

/// The proxy as a URL that has its credentials again.
fn with_credentials(found: &Intercept) -> Option<Uri> {
    let Some(basic) = found.basic_auth() else { return Some(found.uri().clone()) };
    let user = STANDARD.decode(basic.to_str().ok()?.strip_prefix("Basic ")?).ok()?;
    let user: String = user.iter().map(|byte| format!("%{byte:02X}")).collect();
    let authority = format!("{user}@{}", found.uri().authority()?);
    Uri::builder().scheme(found.uri().scheme_str()?).authority(authority).path_and_query("/").build().ok()
}

/// The proxy as kube takes it, if it does: it lets every SOCKS proxy resolve names, and knows no port of theirs.
fn usable(proxy: Uri) -> Option<Uri> {
    let authority = proxy.authority()?.as_str();
    match proxy.scheme_str()? {
        "http" | "https" => Some(proxy),
        "socks5" | "socks5h" => {
            let port = if proxy.port().is_none() { ":1080" } else { "" };
            format!("socks5://{authority}{port}/").parse().ok()
        }
        _ => None,
    }
}

/// In a pod there is no kubeconfig, and none is needed.
fn without_kubeconfig(error: KubeconfigError, may_be_pod: bool) -> Result<Config, Failure> {
    let missing = match &error {
        KubeconfigError::ReadConfig(cause, _) => cause.kind() == std::io::ErrorKind::NotFound,
        KubeconfigError::FindPath => true,
        _ => return Err(of_no_use(error)),
    };
    if missing
        && may_be_pod
        && let Ok(config) = Config::incluster()
    {
        return Ok(config);
    }
    Err(Failure::usage(match error {
        KubeconfigError::ReadConfig(cause, path) => format!(
            "no cluster to ask: {}: {cause}; name a kubeconfig by --kubeconfig or KUBECONFIG",
            path.display()
        ),
        _ => "no cluster to ask: name a kubeconfig by --kubeconfig or KUBECONFIG".to_owned(),
    }))
}

fn of_no_use(error: KubeconfigError) -> Failure {
    Failure::usage(format!("the kubeconfig is of no use: {error}"))
}

fn one_of(names: &[&str]) -> String {
    match names {
        [] => "; it has none".to_owned(),
        _ => format!("; it has {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn chosen(cluster: Value, environment: &Matcher) -> Result<Config, Failure> {
        let kubeconfig = json!({
            "current-context": "east",
            "contexts": [{"name": "east", "context": {"cluster": "c", "user": "me", "namespace": "team-a"}}],
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "me", "user": {"token": "t"}}],
        });
        choose(serde_json::from_value(kubeconfig).unwrap(), None, environment)
    }

    fn proxied(cluster: Value, proxy: &str, excepted: &str) -> Option<String> {
        let environment = Matcher::builder().https(proxy).no(excepted).build();
        chosen(cluster, &environment).unwrap().proxy_url.map(|url| url.to_string())
    }

    #[test]
    fn a_context_that_is_not_there_is_named_beside_those_that_are() {
        let kubeconfig =
            json!({"contexts": [{"name": "east"}, {"name": "west"}], "clusters": [], "users": []});
        let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig).unwrap();
        let none = Matcher::builder().build();
        let error = choose(kubeconfig.clone(), Some("north"), &none).unwrap_err();
        assert_eq!(error.to_string(), "the kubeconfig has no context \"north\"; it has east, west");
        let error = choose(kubeconfig, None, &none).unwrap_err();
        assert!(error.to_string().contains("--context; it has east, west"), "{error}");
    }

    #[test]
    fn a_kubeconfig_that_is_not_there_is_named() {
        let error = config(Some(Path::new("/nonexistent/config")), None).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/config") && error.contains("--kubeconfig"), "{error}");
    }

    #[test]
    fn what_a_kubeconfig_says_of_its_cluster_is_what_is_done() {
        let pem = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        let cluster = json!({
            "server": "https://cluster.test:6443", "certificate-authority-data": STANDARD.encode(pem.repeat(2)),
            "tls-server-name": "kubernetes", "insecure-skip-tls-verify": true,
        });
        let config = chosen(cluster, &Matcher::builder().build()).unwrap();
        assert_eq!(config.cluster_url, "https://cluster.test:6443");
        assert_eq!(config.root_cert, Some(vec![b"hello".to_vec(); 2]));
        assert_eq!(config.tls_server_name.as_deref(), Some("kubernetes"));
        assert_eq!(config.default_namespace, "team-a");
        assert!(
            config.accept_invalid_certs && config.auth_info.token.is_some() && config.proxy_url.is_none()
        );
    }

    #[test]
    fn a_cluster_is_reached_through_the_proxy_of_the_environment_unless_it_is_excepted() {
        let cluster = || json!({"server": "https://cluster.test:6443"});
        let through = |proxy, excepted| proxied(cluster(), proxy, excepted);
        assert_eq!(through("http://proxy.test:3128", ""), Some("http://proxy.test:3128/".to_owned()));
        assert_eq!(through("proxy.test:3128", ",other.test,"), Some("http://proxy.test:3128/".to_owned()));
        // The proxy's own address is no exception, the cluster's is.
        assert!(through("http://proxy.test:3128", "proxy.test").is_some());
        for excepted in ["cluster.test", ".test", "*", ",<local>,, cluster.test"] {
            assert_eq!(through("http://proxy.test:3128", excepted), None, "{excepted}");
        }
        assert_eq!(through("", ""), None);
        for server in ["https://127.0.0.1:6443", "https://localhost:6443", "https://[::1]:6443"] {
            assert_eq!(proxied(json!({"server": server}), "http://proxy.test:3128", ""), None, "{server}");
        }
        let address = json!({"server": "https://10.1.2.3:6443"});
        assert_eq!(proxied(address.clone(), "http://proxy.test:3128", "10.0.0.0/8"), None);
        assert!(proxied(address, "http://proxy.test:3128", "10.2.0.0/16").is_some());
    }

    #[test]
    fn the_proxy_of_a_kubeconfig_goes_before_that_of_the_environment_and_its_exceptions() {
        let cluster = |proxy| json!({"server": "https://127.0.0.1:6443", "proxy-url": proxy});
        for (given, taken) in [
            ("http://me:p%40ss@proxy.test:3128", "http://me:p%40ss@proxy.test:3128/"),
            ("https://proxy.test", "https://proxy.test/"),
            ("socks5://proxy.test", "socks5://proxy.test:1080/"),
            ("socks5h://proxy.test:9050", "socks5://proxy.test:9050/"),
        ] {
            assert_eq!(proxied(cluster(given), "http://other.test:1", "*").as_deref(), Some(taken));
        }
        assert_eq!(proxied(cluster(""), "http://other.test:1", ""), None);
        for wrong in
            ["proxy.test:3128", "ftp://me:hunter2@proxy.test", "socks4://me:hunter2@proxy.test", "::"]
        {
            let error = chosen(cluster(wrong), &Matcher::builder().build()).unwrap_err().to_string();
            assert!(error.contains("proxy-url") && !error.contains("hunter2"), "{wrong}: {error}");
        }
    }

    #[test]
    fn the_password_of_a_proxy_survives_the_way_to_it() {
        let cluster = json!({"server": "https://cluster.test:6443"});
        let proxy = proxied(cluster.clone(), "http://me:p%40s%3As@proxy.test:3128", "").unwrap();
        let (user, host) = proxy.strip_prefix("http://").unwrap().split_once('@').unwrap();
        assert_eq!((user, host), ("%6D%65%3A%70%40%73%3A%73", "proxy.test:3128/"));
        let environment = Matcher::builder().https("socks4://me:hunter2@proxy.test:1").build();
        let error = chosen(cluster, &environment).unwrap_err().to_string();
        assert!(error.contains("environment") && !error.contains("hunter2"), "{error}");
    }
}
