//! How registries are reached: the settings of the operator and of the command line.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::host::HostPattern;
use super::mirrors::Mirror;
use super::retry::Retry;
use crate::platform::check_name;

/// The largest file of settings, certificates or keys that is read, in bytes.
pub(crate) const LARGEST_FILE: u64 = 1024 * 1024;

/// How registries are reached, the same for every session of a client.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What is particular to some registries. Of those that match a host, the most specific one counts alone.
    pub registries: Vec<RegistrySettings>,
    /// Further registries that speak plain HTTP, as `host[:port]` with `*` within a label, whatever else is set.
    pub plain_http: Vec<String>,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// The longest time to connect.
    pub connect_timeout: Duration,
    /// The longest time without a byte of an answer.
    pub read_timeout: Duration,
    /// The longest time that an upload stands still, and that the registry then takes to store a blob.
    pub upload_timeout: Duration,
    /// For how long certificate files are taken to be unchanged before they are looked at again.
    pub certificates_fresh: Duration,
    /// When requests are tried again.
    pub retry: Retry,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            registries: Vec::new(),
            plain_http: Vec::new(),
            user_agent: concat!("multiarch-operator/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            upload_timeout: Duration::from_secs(300),
            certificates_fresh: Duration::from_secs(5),
            retry: Retry::default(),
        }
    }
}

/// One entry of a file of registry settings.
///
/// ```yaml
/// registries:
/// - host: registry.example.com:5000       # or *.example.com, * within one label, as in Kubernetes' pull secrets
///   plainHTTP: true
/// - host: "*.corp.example.com"
///   certificateAuthorityFile: ca.crt      # PEM, beside the system's; relative to this file
///   clientCertificateFile: client.crt     # PEM
///   clientKeyFile: client.key
///   insecureSkipVerify: false             # TLS without verification
///   maxConcurrentRequests: 8
/// - host: docker.io
///   mirrors: [mirror.example.com/hub]     # asked first for what is read
/// ```
///
/// A host without a port matches registries without a port only. Of several entries that match, the most specific
/// one counts, alone: a name before a pattern, then the pattern with more letters, then the one that stands first.
/// Hosts that a registry leads to, for tokens or for blobs, have entries of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistrySettings {
    /// `host[:port]`; `*` and `?` stand for parts of one label.
    pub host: String,
    /// Whether it speaks plain HTTP; not given, loopback hosts without any TLS setting do.
    pub plain_http: Option<bool>,
    /// TLS without verification of who is at the other end.
    pub insecure_skip_verify: bool,
    /// Certificates of private authorities, PEM, beside the system's.
    pub certificate_authority: Option<PathBuf>,
    /// Who we are to the registry's TLS.
    pub client_certificate: Option<ClientCertificate>,
    /// Asked first for what is read, in this order.
    pub mirrors: Vec<Mirror>,
    /// The most requests that may be under way at once.
    pub max_concurrent_requests: Option<NonZeroUsize>,
}

/// A certificate and its key, as the files that cert-manager and others keep up to date.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientCertificate {
    /// The certificate with those of its issuers, PEM.
    pub certificate: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

/// Why a file of registry settings cannot be used: which file, which entry, which key, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct SettingsError {
    file: String,
    problem: String,
}

impl RegistrySettings {
    /// All entries of the file, which is YAML of at most 1 MiB. Files that it names are not opened yet.
    ///
    /// # Errors
    /// If the file cannot be read, or anything in it is unknown or makes no sense.
    pub fn read_file(path: &Path) -> Result<Vec<Self>, SettingsError> {
        let fail = |problem| SettingsError { file: path.display().to_string(), problem };
        let content = read_limited(path).map_err(fail)?;
        let text = std::str::from_utf8(&content).map_err(|_| fail("not text".to_owned()))?;
        parse(text, path.parent().unwrap_or(Path::new(""))).map_err(fail)
    }

    pub(crate) fn has_tls_settings(&self) -> bool {
        self.insecure_skip_verify || self.certificate_authority.is_some() || self.client_certificate.is_some()
    }
}

/// The content of a file of at most [`LARGEST_FILE`] bytes.
pub(crate) fn read_limited(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let mut content = Vec::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut content));
    match read {
        Ok(_) if content.len() as u64 > LARGEST_FILE => Err(format!("larger than {LARGEST_FILE} bytes")),
        Ok(_) => Ok(content),
        Err(error) => Err(format!("cannot be read: {}", plain(&error))),
    }
}

/// The words of an error of the system without its number.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn parse(text: &str, folder: &Path) -> Result<Vec<RegistrySettings>, String> {
    let document: Value = serde_saphyr::from_str(text)
        .map_err(|error| format!("not YAML: {}", error.without_snippet().to_string().trim()))?;
    let mut document = match document {
        Value::Null => Map::new(),
        Value::Object(document) => document,
        _ => return Err("expected \"registries:\" and a list of entries".to_owned()),
    };
    let entries = document.remove("registries").unwrap_or_default();
    if let Some(other) = document.keys().next() {
        check_name("key", other, &["registries"])?;
    }
    let entries = match entries {
        Value::Null => Vec::new(),
        Value::Array(entries) => entries,
        _ => return Err("registries: expected a list of entries".to_owned()),
    };
    let mut found: Vec<RegistrySettings> = Vec::new();
    for (position, entry) in entries.into_iter().enumerate() {
        let name = match entry.get("host").and_then(Value::as_str) {
            Some(host) => format!("registries[{position}] ({host})"),
            None => format!("registries[{position}]"),
        };
        let Value::Object(keys) = entry else { return Err(format!("{name}: expected keys and values")) };
        let entry = Entry { keys, folder }.settings().map_err(|problem| format!("{name}: {problem}"))?;
        if let Some(first) = found.iter().position(|other| other.host.eq_ignore_ascii_case(&entry.host)) {
            return Err(format!("{name}: registries[{first}] is for the same host; write one entry"));
        }
        found.push(entry);
    }
    Ok(found)
}

/// The keys of an entry; every one that is read is taken out.
struct Entry<'a> {
    keys: Map<String, Value>,
    folder: &'a Path,
}

impl Entry<'_> {
    const KEYS: [&'static str; 8] = [
        "host",
        "plainHTTP",
        "insecureSkipVerify",
        "certificateAuthorityFile",
        "clientCertificateFile",
        "clientKeyFile",
        "mirrors",
        "maxConcurrentRequests",
    ];

    fn settings(mut self) -> Result<RegistrySettings, String> {
        for key in self.keys.keys() {
            check_name("key", key, &Self::KEYS)?;
        }
        let host: String = self.take("host", "a host")?.ok_or("host is missing")?;
        HostPattern::check(&host).map_err(|problem| format!("host: {problem}"))?;
        let plain_http = self.take("plainHTTP", "true or false")?;
        let insecure_skip_verify = self.take("insecureSkipVerify", "true or false")?.unwrap_or(false);
        let certificate_authority = self.path("certificateAuthorityFile")?;
        let client_certificate = match (self.path("clientCertificateFile")?, self.path("clientKeyFile")?) {
            (Some(certificate), Some(key)) => Some(ClientCertificate { certificate, key }),
            (None, None) => None,
            (Some(_), None) => return Err("clientCertificateFile needs clientKeyFile".to_owned()),
            (None, Some(_)) => return Err("clientKeyFile needs clientCertificateFile".to_owned()),
        };
        let mirrors: Vec<String> = self.take("mirrors", "a list of host[/prefix]")?.unwrap_or_default();
        let mirrors = mirrors.iter().map(|mirror| mirror.parse()).collect::<Result<_, String>>();
        let max_concurrent_requests = self.take("maxConcurrentRequests", "a number of 1 or more")?;
        let settings = RegistrySettings {
            host,
            plain_http,
            insecure_skip_verify,
            certificate_authority,
            client_certificate,
            mirrors: mirrors.map_err(|problem| format!("mirrors: {problem}"))?,
            max_concurrent_requests,
        };
        if plain_http == Some(true) && settings.has_tls_settings() {
            return Err("plainHTTP has no TLS, so it goes with none of insecureSkipVerify, \
                        certificateAuthorityFile and clientCertificateFile"
                .to_owned());
        }
        Ok(settings)
    }

    /// The value of a key; `null` is none, as in Kubernetes.
    fn take<T: DeserializeOwned>(&mut self, key: &str, expected: &str) -> Result<Option<T>, String> {
        let value = self.keys.remove(key).unwrap_or_default();
        serde_json::from_value(value).map_err(|_| format!("{key}: expected {expected}"))
    }

    fn path(&mut self, key: &str) -> Result<Option<PathBuf>, String> {
        let path: Option<PathBuf> = self.take(key, "the path of a file")?;
        match path {
            Some(path) if path.as_os_str().is_empty() => Err(format!("{key}: expected the path of a file")),
            path => Ok(path.map(|path| self.folder.join(path))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        parse(text, Path::new("/etc/multiarch")).unwrap_err()
    }

    #[test]
    fn an_entry_has_everything_that_registries_differ_in() {
        let text = "
registries:
- host: registry.example.com:5000
  plainHTTP: true
- host: '*.corp.example.com'
  insecureSkipVerify: true
  certificateAuthorityFile: ca.crt
  clientCertificateFile: /tls/client.crt
  clientKeyFile: ../client.key
  mirrors: [mirror.example.com/hub, localhost:5000]
  maxConcurrentRequests: 8
";
        let entries = parse(text, Path::new("/etc/multiarch")).unwrap();
        let plain = RegistrySettings {
            host: "registry.example.com:5000".to_owned(),
            plain_http: Some(true),
            ..RegistrySettings::default()
        };
        let corporate = RegistrySettings {
            host: "*.corp.example.com".to_owned(),
            plain_http: None,
            insecure_skip_verify: true,
            certificate_authority: Some("/etc/multiarch/ca.crt".into()),
            client_certificate: Some(ClientCertificate {
                certificate: "/tls/client.crt".into(),
                key: "/etc/multiarch/../client.key".into(),
            }),
            mirrors: ["mirror.example.com/hub", "localhost:5000"].map(|text| text.parse().unwrap()).into(),
            max_concurrent_requests: NonZeroUsize::new(8),
        };
        assert_eq!(entries, [plain, corporate]);
        for nothing in ["", "registries:", "registries: []", "# none yet\n"] {
            assert_eq!(parse(nothing, Path::new("")), Ok(vec![]), "{nothing}");
        }
    }

    #[test]
    fn what_the_documentation_shows_is_understood() {
        let text = include_str!("../../docs/registries.md");
        let (_, yaml) = text.split_once("```yaml\n").unwrap();
        let (yaml, _) = yaml.split_once("```").unwrap();
        let entries = parse(yaml, Path::new("")).unwrap();
        assert_eq!(entries.len(), 4);
        // And every key is shown.
        assert_eq!(Entry::KEYS.iter().find(|key| !yaml.contains(**key)), None);
    }

    #[test]
    fn a_mistake_is_told_by_entry_and_key() {
        let entry = |text: &str| problem(&format!("registries:\n- host: a.io\n- {text}"));
        for (text, told) in [
            (
                "host: b.io\n  plainHttp: true",
                "registries[1] (b.io): unknown key \"plainHttp\"; did you mean plainHTTP?",
            ),
            ("plainHTTP: true", "registries[1]: host is missing"),
            ("host: b.io\n  plainHTTP: sure", "registries[1] (b.io): plainHTTP: expected true or false"),
            (
                "host: b.io\n  clientKeyFile: k",
                "registries[1] (b.io): clientKeyFile needs clientCertificateFile",
            ),
            (
                "host: b.io\n  maxConcurrentRequests: 0",
                "registries[1] (b.io): maxConcurrentRequests: expected a number of 1 or more",
            ),
            (
                "host: b.io\n  mirrors: mirror.io",
                "registries[1] (b.io): mirrors: expected a list of host[/prefix]",
            ),
            ("host: A.io", "registries[1] (A.io): registries[0] is for the same host; write one entry"),
            (
                "host: https://b.io",
                "registries[1] (https://b.io): host: write host[:port] without scheme and path",
            ),
            ("host: b.io/team", "registries[1] (b.io/team): host: write host[:port] without scheme and path"),
            ("b.io", "registries[1]: expected keys and values"),
        ] {
            assert_eq!(entry(text), told, "{text}");
        }
        assert!(
            entry("host: b.io\n  plainHTTP: true\n  insecureSkipVerify: true")
                .contains("plainHTTP has no TLS")
        );
        assert!(entry("host: b.io\n  mirrors: [hub]").starts_with("registries[1] (b.io): mirrors: "));
    }

    #[test]
    fn what_is_no_list_of_registries_is_refused() {
        assert_eq!(problem("registry: []"), "unknown key \"registry\"; did you mean registries?");
        assert_eq!(problem("- host: a.io"), "expected \"registries:\" and a list of entries");
        assert_eq!(problem("registries: a.io"), "registries: expected a list of entries");
        assert!(problem("registries: [").starts_with("not YAML: "));
        let twice = "registries:\n- host: a.io\n  host: b.io";
        assert!(problem(twice).starts_with("not YAML: "), "{}", problem(twice));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = RegistrySettings::read_file(Path::new("/nowhere/registries.yaml")).unwrap_err();
        assert_eq!(error.to_string(), "/nowhere/registries.yaml: cannot be read: No such file or directory");
    }
}
