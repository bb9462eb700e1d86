//! Which HTTP client serves which host: one for every way in which hosts are reached, built when it is first needed.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{Certificate, Identity, Url};

use super::challenge::Challenge;
use super::digest::Digest;
use super::error::{Error, Kind, Operation};
use super::host::{HostPattern, is_loopback};
use super::mirrors::copies;
use super::name::without_https_port;
use super::reference::{Repository, api_host};
use super::settings::{ClientCertificate, RegistrySettings, Settings, read_limited};
use super::transport::{Client, Message, authority};
use crate::network::{self, Access, Guard};

/// All HTTP clients of a registry client.
pub(crate) struct HttpClients {
    registries: Vec<(HostPattern, Arc<RegistrySettings>)>,
    others: Arc<RegistrySettings>,
    plain_http: Vec<HostPattern>,
    proxies: Matcher,
    user_agent: String,
    connect_timeout: Duration,
    fresh: Duration,
    /// What was found out about hosts that may be reached insecurely.
    insecure: Mutex<HashMap<String, Arc<RegistrySettings>>>,
    clients: Mutex<HashMap<Way, Built>>,
    warned: Mutex<HashSet<String>>,
}

/// What hosts that share a client have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Way {
    /// Not through a proxy.
    direct: bool,
    tls: Tls,
    /// Which of the addresses of a host are connected to; any where there is none.
    guard: Option<Guard>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Tls {
    /// The certificates of authorities are not even read, which takes longer than all else.
    None,
    Verified {
        authority: Option<PathBuf>,
        identity: Option<ClientCertificate>,
    },
    Unverified {
        identity: Option<ClientCertificate>,
    },
}

struct Built {
    client: reqwest::Client,
    /// Of the files that it was built from.
    content: Digest,
    checked: Instant,
}

impl HttpClients {
    pub(crate) fn new(settings: &Settings) -> Self {
        let pattern = |entry: &RegistrySettings| {
            let host = entry.host.to_ascii_lowercase();
            HostPattern::new(without_https_port(if host == "index.docker.io" {
                api_host("docker.io")
            } else {
                api_host(&host)
            }))
        };
        let mut registries: Vec<_> =
            settings.registries.iter().map(|entry| (pattern(entry), Arc::new(entry.clone()))).collect();
        registries.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.specificity()));
        Self {
            registries,
            others: Arc::default(),
            plain_http: settings
                .plain_http
                .iter()
                .map(|host| HostPattern::new(without_https_port(host)))
                .collect(),
            proxies: Matcher::from_env(),
            user_agent: settings.user_agent.clone(),
            connect_timeout: settings.connect_timeout,
            fresh: settings.certificates_fresh,
            insecure: Mutex::default(),
            clients: Mutex::default(),
            warned: Mutex::default(),
        }
    }

    /// What is set for `host`.
    pub(crate) fn settings(&self, host: &str) -> Arc<RegistrySettings> {
        let host = without_https_port(host);
        if let Some(settings) = lock(&self.insecure).get(host) {
            return settings.clone();
        }
        let entry = self.registries.iter().find(|(pattern, _)| pattern.matches(host));
        Arc::clone(entry.map_or(&self.others, |(_, settings)| settings))
    }

    /// Whether `host` is spoken to without TLS.
    pub(crate) fn is_plain_http(&self, host: &str) -> bool {
        let settings = self.settings(host);
        self.plain_http.iter().any(|pattern| pattern.matches(without_https_port(host)))
            || settings.plain_http.unwrap_or_else(|| is_loopback(host) && !settings.has_tls_settings())
    }

    /// From now on `host` is reached as `settings` say.
    pub(crate) fn set(&self, host: &str, settings: RegistrySettings) {
        lock(&self.insecure).insert(without_https_port(host).to_owned(), Arc::new(settings));
    }

    /// The client for an address, for who has this access: anybody to anywhere where none is given.
    ///
    /// # Errors
    /// If the host must not be spoken to, or the files of certificates for it cannot be used.
    pub(crate) fn for_url(
        &self,
        operation: &Operation,
        url: &Url,
        access: Option<&Access>,
    ) -> Result<reqwest::Client, Error> {
        let host = authority(url);
        // As in Go: a proxy cannot reach what is on this machine.
        let direct = is_loopback(&host) || !network::is_proxied(&self.proxies, url);
        let guard = network::guard(access, url, direct);
        let guard = guard.map_err(|denied| operation.error(Kind::HostDenied, denied.to_string()))?;
        let settings = self.settings(&host);
        let tls = if url.scheme() == "http" { Tls::None } else { Self::tls(&settings) };
        if matches!(tls, Tls::Unverified { .. }) && lock(&self.warned).insert(host.clone()) {
            tracing::warn!(
                host,
                "TLS without verification: whoever is in between reads and changes everything"
            );
        }
        self.client(&Way { direct, tls, guard })
            .map_err(|problem| Operation::new(&host, "setting up TLS").error(Kind::Unsupported, problem))
    }

    fn tls(settings: &RegistrySettings) -> Tls {
        let identity = settings.client_certificate.clone();
        match settings.insecure_skip_verify {
            true => Tls::Unverified { identity },
            false => Tls::Verified { authority: settings.certificate_authority.clone(), identity },
        }
    }

    /// The client of that way; a new one if its files have changed.
    fn client(&self, way: &Way) -> Result<reqwest::Client, String> {
        let mut clients = lock(&self.clients);
        if let Some(built) = clients.get_mut(way) {
            if way.tls.files().next().is_none() || built.checked.elapsed() < self.fresh {
                return Ok(built.client.clone());
            }
            built.checked = Instant::now();
            let content = way.tls.content();
            if built.content != content {
                // A mistake is told once, and what was good so far is used until it is mended.
                built.content = content;
                match self.build(way) {
                    Ok(client) => built.client = client,
                    Err(problem) => tracing::warn!(problem, "the changed certificates are not used"),
                }
            }
            return Ok(built.client.clone());
        }
        let content = way.tls.content();
        let client = self.build(way)?;
        let built = Built { client: client.clone(), content, checked: Instant::now() };
        clients.insert(way.clone(), built);
        Ok(client)
    }

    fn build(&self, way: &Way) -> Result<reqwest::Client, String> {
        let mut builder = reqwest::Client::builder()
            .user_agent(&self.user_agent)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(self.connect_timeout);
        if way.direct {
            builder = builder.no_proxy();
        }
        if let Some(guard) = &way.guard {
            builder = builder.dns_resolver(guard.clone());
        }
        let identity = match &way.tls {
            Tls::None if way.direct || !proxy_has_tls() => {
                builder = builder.tls_certs_only([]);
                None
            }
            Tls::None => None,
            Tls::Unverified { identity } => {
                builder = builder.tls_danger_accept_invalid_certs(true);
                identity.as_ref()
            }
            Tls::Verified { authority, identity } => {
                if let Some(file) = authority {
                    builder = builder.tls_certs_merge(certificates(file)?);
                }
                identity.as_ref()
            }
        };
        if let Some(ClientCertificate { certificate, key }) = identity {
            builder = builder.identity(self::identity(certificate, key)?);
        }
        let files: Vec<String> = way.tls.files().map(|file| file.display().to_string()).collect();
        builder.build().map_err(|error| match (cause(&error), files.as_slice()) {
            (cause, []) => format!("{cause}; install the system's certificates (ca-certificates)"),
            (cause, files) => format!("{}: {cause}", files.join(", ")),
        })
    }
}

impl Tls {
    fn files(&self) -> impl Iterator<Item = &Path> {
        let (authority, identity) = match self {
            Self::None => (None, None),
            Self::Unverified { identity } => (None, identity.as_ref()),
            Self::Verified { authority, identity } => (authority.as_ref(), identity.as_ref()),
        };
        let identity = identity.into_iter().flat_map(|identity| [&identity.certificate, &identity.key]);
        authority.into_iter().chain(identity).map(PathBuf::as_path)
    }

    /// Of everything in the files, what is wrong with them included.
    fn content(&self) -> Digest {
        let contents: Vec<_> = self.files().map(read_limited).collect();
        Digest::sha256(format!("{contents:?}").as_bytes())
    }
}

fn unusable(host: &str, problem: String) -> Error {
    Operation::new(host, "setting up TLS").error(Kind::Unsupported, problem)
}

fn certificates(file: &Path) -> Result<Vec<Certificate>, String> {
    let pem = read(file)?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(format!("{}: has no certificates in PEM (-----BEGIN CERTIFICATE-----)", file.display())),
    }
}

fn identity(certificate: &Path, key: &Path) -> Result<Identity, String> {
    let pem = [read(certificate)?, b"\n".to_vec(), read(key)?].concat();
    Identity::from_pem(&pem).map_err(|_| {
        let (certificate, key) = (certificate.display(), key.display());
        format!("{certificate}, {key}: expected a certificate and its private key in PEM, not encrypted")
    })
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    read_limited(file).map_err(|problem| format!("{}: {problem}", file.display()))
}

impl Client {
    /// The most requests that may be under way at `host` at once, if there is such a limit.
    pub fn max_concurrent(&self, host: &str) -> Option<NonZeroUsize> {
        self.http().settings(host).max_concurrent_requests
    }

    /// Reads all certificates that the settings name. Without this, each is read when it is first needed.
    ///
    /// # Errors
    /// If one cannot be used; names the entry and the file.
    pub fn check_certificates(&self) -> Result<(), Error> {
        let http = self.http();
        for (_, settings) in &http.registries {
            let tls = HttpClients::tls(settings);
            if tls.files().next().is_some() {
                let way = Way { direct: is_loopback(&settings.host), tls, guard: None };
                http.client(&way).map_err(|problem| unusable(&settings.host, problem))?;
            }
        }
        Ok(())
    }

    /// From now on lets the registry of `repository` speak TLS without verification, or plain HTTP if it has no TLS.
    /// Asks it which, and remembers how it wants to be authenticated to, so that the question is not wasted.
    ///
    /// # Errors
    /// If the registry answers neither way.
    pub async fn allow_insecure(&self, repository: &Repository) -> Result<(), Error> {
        let host = repository.host();
        let operation = Operation::new(host, "finding out how to speak to the registry");
        let settings = RegistrySettings::clone(&self.http().settings(host));
        let unverified =
            RegistrySettings { plain_http: Some(false), insecure_skip_verify: true, ..settings.clone() };
        let plain =
            RegistrySettings { plain_http: Some(true), insecure_skip_verify: false, ..settings.clone() };
        let mut first = None;
        for (scheme, settings) in [("https", unverified), ("http", plain)] {
            self.http().set(host, settings);
            let url: Url = format!("{scheme}://{host}/v2/")
                .parse()
                .map_err(|_| operation.error(Kind::Malformed, "this is no address of a registry"))?;
            match self.send(&operation, Message::get(url)).await {
                Ok(response) => {
                    if let Some(challenge) = Challenge::from_headers(response.headers()) {
                        self.host(host).remember(&challenge);
                    }
                    return Ok(());
                }
                Err(error) => _ = first.get_or_insert(error),
            }
        }
        self.http().set(host, settings);
        Err(first.unwrap_or_else(|| operation.error(Kind::Unavailable, "no answer")))
    }

    /// Where the mirrors have their copies of `repository`, in the order in which they are asked.
    pub fn mirrors(&self, repository: &Repository) -> Vec<Repository> {
        copies(&self.http().settings(repository.host()).mirrors, repository)
    }
}

/// The innermost error of a client that cannot be built.
fn cause(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |&cause| cause.source());
    causes.last().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Whether plain HTTP goes through a proxy that is reached by TLS itself.
fn proxy_has_tls() -> bool {
    ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
        .iter()
        .any(|name| std::env::var(name).is_ok_and(|proxy| proxy.starts_with("https:")))
}

/// What to do about an error of TLS, by its words in rustls; none if it is no such error.
pub(crate) fn explain_tls(error: &str) -> Option<String> {
    let has = |words: &[&str]| words.iter().any(|word| error.contains(word));
    let explanation = if has(&["UnknownIssuer", "BadSignature", "CaUsedAsEndEntity"]) {
        "its certificate is of an authority that is not known here; if that is as it should be, name the \
         authority's certificate in the registry settings (certificateAuthorityFile)"
            .to_owned()
    } else if has(&["certificate expired"]) {
        "its certificate has expired; somebody has to renew it, or the clock here is wrong".to_owned()
    } else if has(&["certificate not valid yet"]) {
        "its certificate is not valid yet; the clock here or there is wrong".to_owned()
    } else if has(&["certificate not valid for name"]) {
        let names = error.rsplit_once("certificate is").map_or("", |(_, names)| names.trim());
        format!("its certificate is {names}; use that name, or have a certificate made for this one")
    } else if has(&["invalid peer certificate"]) {
        let (_, cause) = error.rsplit_once("invalid peer certificate: ").unwrap_or(("", error));
        format!("its certificate is of no use: {cause}")
    } else if has(&["alert: CertificateRequired"]) {
        "it wants a client certificate; name one in the registry settings (clientCertificateFile, clientKeyFile)"
            .to_owned()
    } else if has(&["received fatal alert:"]) {
        let (_, alert) = error.rsplit_once("alert: ").unwrap_or(("", error));
        format!(
            "it ended TLS with the alert {alert}; where it wants a client certificate, look at the one in the \
             registry settings (clientCertificateFile, clientKeyFile)"
        )
    } else if has(&["InvalidContentType"]) {
        "it does not speak TLS; if it is meant to be plain HTTP, say so (--plain-http, or plainHTTP in the \
         registry settings)"
            .to_owned()
    } else {
        return None;
    };
    Some(explanation)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
