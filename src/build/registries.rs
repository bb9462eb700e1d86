//! What of the registry settings BuildKit can be told.

use std::collections::BTreeSet;
use std::path::Path;

use super::inputs::VARIABLE_LIMIT;
use crate::registry::RegistrySettings;

/// A registry's section of `buildkitd.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildkitRegistry {
    /// `host[:port]`, without wildcards: BuildKit knows none.
    pub host: String,
    /// No TLS (`http`).
    pub plain_http: bool,
    /// TLS without verification of who is at the other end (`insecure`).
    pub insecure_skip_verify: bool,
    /// Asked first for what is read, `host[:port][/prefix]`, in this order (`mirrors`).
    pub mirrors: Vec<String>,
    /// Certificates of private authorities beside the system's, PEM (`ca` names a file with them).
    pub certificate_authority: Option<String>,
}

/// What BuildKit is told of registries, and for people what it is not told. `plain_http` are further registries that
/// speak plain HTTP, whatever else is said of them; `read` reads a file of certificates.
///
/// # Errors
/// When a file of certificates cannot be read; which, and why.
pub fn buildkit_registries(
    registries: &[RegistrySettings],
    plain_http: &[String],
    read: impl Fn(&Path) -> Result<String, String>,
) -> Result<(Vec<BuildkitRegistry>, Vec<String>), String> {
    let mut told: Vec<BuildkitRegistry> = Vec::new();
    let mut warnings = Vec::new();
    for settings in registries {
        let host = &settings.host;
        if is_pattern(host) {
            warnings.push(unknown_to_builds(host));
            continue;
        }
        if settings.client_certificate.is_some() {
            warnings.push(format!(
                "registries: {host}: builds do not get its client certificate: whoever builds could take the key"
            ));
        }
        let certificate_authority = match &settings.certificate_authority {
            Some(file) => Some(read_authority(file, &read)?),
            None => None,
        };
        told.push(BuildkitRegistry {
            host: host.clone(),
            plain_http: settings.plain_http == Some(true),
            insecure_skip_verify: settings.insecure_skip_verify,
            mirrors: settings.mirrors.iter().map(ToString::to_string).collect(),
            certificate_authority,
        });
    }
    for host in plain_http.iter().filter(|host| !host.is_empty()) {
        match told.iter_mut().find(|registry| registry.host.eq_ignore_ascii_case(host)) {
            Some(registry) => registry.plain_http = true,
            None if is_pattern(host) => warnings.push(unknown_to_builds(host)),
            None => told.push(BuildkitRegistry {
                host: host.clone(),
                plain_http: true,
                ..BuildkitRegistry::default()
            }),
        }
    }
    // Plain HTTP without more says nothing of TLS, of which BuildKit would try some first.
    for registry in told.iter_mut().filter(|registry| registry.plain_http) {
        (registry.insecure_skip_verify, registry.certificate_authority) = (false, None);
    }
    told.retain(|registry| {
        *registry != BuildkitRegistry { host: registry.host.clone(), ..Default::default() }
    });
    check_size(&told)?;
    Ok((told, warnings))
}

fn read_authority(file: &Path, read: impl Fn(&Path) -> Result<String, String>) -> Result<String, String> {
    read(file).map_err(|problem| format!("{}: {problem}", file.display()))
}

/// The certificates of all registries reach the builder as one variable, what several have in common once.
fn check_size(told: &[BuildkitRegistry]) -> Result<(), String> {
    let distinct: BTreeSet<&str> = told.iter().filter_map(|of| of.certificate_authority.as_deref()).collect();
    let size: usize = distinct.into_iter().map(str::len).sum();
    if size <= VARIABLE_LIMIT {
        return Ok(());
    }
    let having = told.iter().filter(|registry| registry.certificate_authority.is_some());
    let hosts: Vec<&str> = having.map(|registry| registry.host.as_str()).collect();
    Err(format!(
        "registries: {}: {size} bytes of certificates in all, of which builds can be given {VARIABLE_LIMIT}; leave out \
         the authorities that every system knows",
        hosts.join(", ")
    ))
}

fn is_pattern(host: &str) -> bool {
    host.contains(['*', '?'])
}

fn unknown_to_builds(host: &str) -> String {
    format!(
        "registries: {host}: builds do not know it, as BuildKit knows no patterns; name the hosts that builds need"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::ClientCertificate;

    fn settings(host: &str) -> RegistrySettings {
        RegistrySettings { host: host.to_owned(), ..RegistrySettings::default() }
    }

    fn told(registries: &[RegistrySettings], plain_http: &[&str]) -> (Vec<BuildkitRegistry>, Vec<String>) {
        let plain_http: Vec<String> = plain_http.iter().map(|host| (*host).to_owned()).collect();
        let read = |path: &Path| Ok(format!("the content of {}", path.display()));
        buildkit_registries(registries, &plain_http, read).expect("files that can be read")
    }

    #[test]
    fn buildkit_is_told_all_that_it_knows_of() {
        let mirrored = RegistrySettings {
            mirrors: vec!["mirror.example.com/hub".parse().expect("a mirror")],
            certificate_authority: Some("/tls/ca.crt".into()),
            ..settings("docker.io")
        };
        let lab = RegistrySettings { insecure_skip_verify: true, ..settings("lab.example.com") };
        let plain = RegistrySettings { plain_http: Some(true), ..settings("a.io:5000") };
        // Of this one BuildKit need not know anything.
        let quiet = RegistrySettings { max_concurrent_requests: 3.try_into().ok(), ..settings("quiet.io") };
        let (registries, warnings) = told(&[mirrored, lab, plain, quiet], &["b.io:5000"]);
        let expected = [
            BuildkitRegistry {
                host: "docker.io".to_owned(),
                mirrors: vec!["mirror.example.com/hub".to_owned()],
                certificate_authority: Some("the content of /tls/ca.crt".to_owned()),
                ..BuildkitRegistry::default()
            },
            BuildkitRegistry {
                host: "lab.example.com".to_owned(),
                insecure_skip_verify: true,
                ..BuildkitRegistry::default()
            },
            BuildkitRegistry {
                host: "a.io:5000".to_owned(),
                plain_http: true,
                ..BuildkitRegistry::default()
            },
            BuildkitRegistry {
                host: "b.io:5000".to_owned(),
                plain_http: true,
                ..BuildkitRegistry::default()
            },
        ];
        assert_eq!(registries, expected);
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn what_buildkit_cannot_know_is_left_out_with_a_warning() {
        let pattern = RegistrySettings { plain_http: Some(true), ..settings("*.example.com") };
        let client_certificate =
            Some(ClientCertificate { certificate: "/tls/tls.crt".into(), key: "/tls/tls.key".into() });
        let client = RegistrySettings { client_certificate, ..settings("a.io") };
        let (registries, warnings) = told(&[pattern, client], &["*.lab.example.com:5000"]);
        assert!(registries.is_empty(), "{registries:?}");
        let hosts = ["*.example.com", "a.io", "*.lab.example.com:5000"];
        assert_eq!(warnings.len(), hosts.len());
        for (host, warning) in hosts.iter().zip(&warnings) {
            assert!(warning.starts_with(&format!("registries: {host}: builds do not ")), "{warning}");
        }
    }

    #[test]
    fn plain_http_is_for_a_registry_that_has_other_settings_too() {
        let mirrored = RegistrySettings {
            mirrors: vec!["mirror.example.com".parse().expect("a mirror")],
            insecure_skip_verify: true,
            ..settings("A.io")
        };
        let (registries, _) = told(&[mirrored], &["a.io", "a.io"]);
        assert_eq!(registries.len(), 1, "{registries:?}");
        assert!(registries[0].plain_http && !registries[0].insecure_skip_verify);
        assert_eq!(registries[0].mirrors, ["mirror.example.com"]);
    }

    #[test]
    fn certificates_that_cannot_be_read_are_named() {
        let private =
            RegistrySettings { certificate_authority: Some("/tls/ca.crt".into()), ..settings("a.io") };
        let error = buildkit_registries(&[private], &[], |_| Err("cannot be read: no such file".to_owned()));
        assert_eq!(error, Err("/tls/ca.crt: cannot be read: no such file".to_owned()));
    }

    #[test]
    fn certificates_that_together_are_too_many_for_a_build_are_refused_and_shared_ones_count_once() {
        let private = |host: &str, file: &str| RegistrySettings {
            certificate_authority: Some(file.into()),
            ..settings(host)
        };
        // Each file has its own content.
        let read = |file: &Path| Ok(file.display().to_string().repeat(80_000 / 2));
        let told = |registries: &[RegistrySettings]| buildkit_registries(registries, &[], read);
        assert!(told(&[private("a.io", "/a"), private("b.io", "/a")]).is_ok());
        let error = told(&[private("a.io", "/a"), settings("b.io"), private("c.io", "/c")]);
        let words = "registries: a.io, c.io: 160000 bytes of certificates in all, of which builds can be given 100000; \
                     leave out the authorities that every system knows";
        assert_eq!(error, Err(words.to_owned()));
    }
}
