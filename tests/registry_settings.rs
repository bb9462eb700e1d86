//! Registries that are reached in their own ways: private certificates, client certificates, no TLS, a changed file.

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/registry.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use certificates::{Authority, Certificate, Folder};
use multiarch::registry::{
    Client, ClientCertificate, Error, Keyring, Kind, MediaType, RegistrySettings, Repository, Settings,
};
use serde_json::json;
use support::Registry;

/// A registry with this certificate, and perhaps with clients of some authority only.
fn serve(folder: &Folder, certificate: &Certificate, clients: Option<&Authority>) -> Registry {
    let mut tls = json!({
        "certificate": folder.write("server.crt", &certificate.certificate),
        "key": folder.write("server.key", &certificate.key),
    });
    if let Some(authority) = clients {
        tls["clientcas"] = json!([folder.write("clients.crt", authority.pem())]);
    }
    Registry::configured(json!({"http": {"tls": tls}}))
}

/// Settings that say this of the registry, and look at certificates anew each time.
fn settings(registry: &Registry, entry: RegistrySettings) -> Settings {
    let mut settings = Settings {
        registries: vec![RegistrySettings { host: registry.host.clone(), ..entry }],
        certificates_fresh: Duration::ZERO,
        ..Settings::default()
    };
    // Enough to see a refusal of TLS 1.3, which gets lost where the connection ends before it is read.
    (settings.retry.attempts, settings.retry.pause) = (200, Duration::ZERO);
    settings
}

fn client(registry: &Registry, entry: RegistrySettings) -> Client {
    Client::new(&settings(registry, entry)).unwrap()
}

fn tls() -> RegistrySettings {
    RegistrySettings { plain_http: Some(false), ..RegistrySettings::default() }
}

fn trusting(authority: &Path) -> RegistrySettings {
    RegistrySettings { certificate_authority: Some(authority.to_owned()), ..RegistrySettings::default() }
}

/// Writes a manifest and reads it again.
async fn write_and_read(client: &Client, repository: &Repository) -> Result<(), Error> {
    let session = client.session(Arc::new(Keyring::default()));
    let index = json!({"schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": []});
    let bytes = Bytes::from(index.to_string());
    let reference = repository.with_tag("1").unwrap();
    session.put_manifest(&reference, &MediaType::OCI_INDEX, &bytes).await?;
    let found = session.get_manifest(&reference).await?;
    assert_eq!(found.bytes, bytes);
    Ok(())
}

/// What keeps a client from writing to the registry.
async fn problem(client: &Client, registry: &Registry) -> String {
    let error = write_and_read(client, &registry.repository("team/web")).await.unwrap_err();
    assert!(!error.is_transient(), "{error}");
    let text = error.to_string();
    let place = format!("{}/team/web:1: ", registry.host);
    text.strip_prefix(&place).unwrap_or_else(|| panic!("{text}")).to_owned()
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_where_the_settings_name_it_and_nowhere_else() {
    let (folder, authority) = (Folder::new(), Authority::named("ours"));
    let registry = serve(&folder, &authority.server("127.0.0.1"), None);
    let repository = registry.repository("team/web");
    let ca = folder.write("ca.crt", authority.pem());

    write_and_read(&client(&registry, trusting(&ca)), &repository).await.unwrap();

    let cause = problem(&client(&registry, tls()), &registry).await;
    let expected = "its certificate is of an authority that is not known here; if that is as it should be, name the \
                    authority's certificate in the registry settings (certificateAuthorityFile)";
    assert!(cause.starts_with(expected), "{cause}");
    for name in ["others", "ours"] {
        let stranger = folder.write("stranger.crt", Authority::named(name).pem());
        let cause = problem(&client(&registry, trusting(&stranger)), &registry).await;
        assert!(cause.starts_with(expected), "{name}: {cause}");
    }
}

#[tokio::test]
async fn the_settings_of_a_file_are_those_of_the_client() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let registry = serve(&folder, &authority.server("127.0.0.1"), None);
    folder.write("tls/ca.crt", authority.pem());
    let (_, port) = registry.host.split_once(':').unwrap();
    let text = format!(
        "registries:\n- host: '*.*.*.*:{port}'\n- host: '127.0.*.*:{port}'\n  certificateAuthorityFile: tls/ca.crt\n"
    );
    let file = folder.write("registries.yaml", text);

    let registries = RegistrySettings::read_file(&file).unwrap();
    let client = Client::new(&Settings { registries, ..Settings::default() }).unwrap();
    client.check_certificates().unwrap();
    write_and_read(&client, &registry.repository("team/web")).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_is_wrong_is_explained() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let ca = folder.write("ca.crt", authority.pem());

    let registry = serve(&folder, &authority.server("registry.example.com"), None);
    let cause = problem(&client(&registry, trusting(&ca)), &registry).await;
    assert!(
        cause.starts_with("its certificate is only valid for ") && cause.contains("registry.example.com"),
        "{cause}"
    );

    let registry = serve(&folder, &authority.expired("127.0.0.1"), None);
    let cause = problem(&client(&registry, trusting(&ca)), &registry).await;
    assert!(cause.starts_with("its certificate has expired; "), "{cause}");
}

#[tokio::test]
async fn a_certificate_is_not_verified_where_the_settings_say_so() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let registry = serve(&folder, &authority.expired("registry.example.com"), None);
    let entry = RegistrySettings { insecure_skip_verify: true, ..RegistrySettings::default() };
    write_and_read(&client(&registry, entry), &registry.repository("team/web")).await.unwrap();
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_who_demands_it() {
    let (folder, authority, users) = (Folder::new(), Authority::new(), Authority::new());
    let registry = serve(&folder, &authority.server("127.0.0.1"), Some(&users));
    let ca = folder.write("ca.crt", authority.pem());
    let with = |name: &str, certificate: &Certificate| RegistrySettings {
        client_certificate: Some(ClientCertificate {
            certificate: folder.write(&format!("{name}.crt"), &certificate.certificate),
            key: folder.write(&format!("{name}.key"), &certificate.key),
        }),
        ..trusting(&ca)
    };

    let known = with("known", &users.client("ci"));
    write_and_read(&client(&registry, known.clone()), &registry.repository("team/web")).await.unwrap();
    let unverified = RegistrySettings { insecure_skip_verify: true, certificate_authority: None, ..known };
    write_and_read(&client(&registry, unverified), &registry.repository("team/web")).await.unwrap();

    let cause = problem(&client(&registry, trusting(&ca)), &registry).await;
    assert!(cause.starts_with("it wants a client certificate; name one in the registry settings"), "{cause}");
    let unknown = with("unknown", &authority.client("ci"));
    let cause = problem(&client(&registry, unknown), &registry).await;
    assert!(cause.contains("look at the one in the registry settings"), "{cause}");
}

#[tokio::test]
async fn changed_certificates_are_used_without_a_restart() {
    let (folder, authority, users) = (Folder::new(), Authority::new(), Authority::new());
    let registry = serve(&folder, &authority.server("127.0.0.1"), Some(&users));
    let (old_authority, old_user) = (Authority::new(), authority.client("ci"));
    let ca = folder.write("ca.crt", old_authority.pem());
    let certificate = folder.write("client.crt", old_user.certificate);
    let key = folder.write("client.key", old_user.key);
    let client_certificate = Some(ClientCertificate { certificate, key });
    let client = client(&registry, RegistrySettings { client_certificate, ..trusting(&ca) });
    let repository = registry.repository("team/web");

    let cause = problem(&client, &registry).await;
    assert!(cause.starts_with("its certificate is of an authority that is not known here"), "{cause}");
    folder.write("ca.crt", authority.pem());
    let cause = problem(&client, &registry).await;
    assert!(cause.contains("client certificate"), "{cause}");
    // Between the two files the pair makes no sense; what was good is used until it does.
    let user = users.client("ci");
    folder.write("client.crt", user.certificate);
    let cause = problem(&client, &registry).await;
    assert!(cause.contains("client certificate"), "{cause}");
    folder.write("client.key", user.key);
    write_and_read(&client, &repository).await.unwrap();

    folder.write("ca.crt", "half of a cert");
    write_and_read(&client, &repository).await.unwrap();
    std::fs::remove_file(&ca).unwrap();
    write_and_read(&client, &repository).await.unwrap();
}

#[tokio::test]
async fn certificates_are_not_looked_at_for_every_request() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let registry = serve(&folder, &authority.server("127.0.0.1"), None);
    let ca = folder.write("ca.crt", Authority::new().pem());
    let settings =
        Settings { certificates_fresh: Duration::from_secs(3600), ..settings(&registry, trusting(&ca)) };
    let client = Client::new(&settings).unwrap();
    problem(&client, &registry).await;
    folder.write("ca.crt", authority.pem());
    let cause = problem(&client, &registry).await;
    assert!(cause.starts_with("its certificate is of an authority that is not known here"), "{cause}");
}

#[tokio::test]
async fn a_file_that_is_of_no_use_is_named() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let registry = serve(&folder, &authority.server("127.0.0.1"), None);
    let user = authority.client("ci");
    let missing = folder.path().join("missing.crt");
    let empty = folder.write("empty.crt", "");
    let certificate = folder.write("client.crt", &user.certificate);
    let other_key = folder.write("client.key", authority.client("other").key);
    let pair = |certificate: &Path, key: &Path| RegistrySettings {
        client_certificate: Some(ClientCertificate { certificate: certificate.into(), key: key.into() }),
        ..tls()
    };
    for (entry, told) in [
        (trusting(&missing), format!("{}: cannot be read: No such file or directory", missing.display())),
        (trusting(&empty), format!("{}: has no certificates in PEM", empty.display())),
        (
            pair(&certificate, &certificate),
            format!(
                "{}, {}: expected a certificate and its private key",
                certificate.display(),
                certificate.display()
            ),
        ),
        (pair(&certificate, &other_key), format!("{}, {}: ", certificate.display(), other_key.display())),
    ] {
        let client = client(&registry, entry);
        let error = write_and_read(&client, &registry.repository("team/web")).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        let told = format!("{}: {told}", registry.host);
        assert!(error.to_string().starts_with(&told), "{error}\n{told}");
        assert_eq!(client.check_certificates().unwrap_err().to_string(), error.to_string());
    }
}

#[tokio::test]
async fn insecure_is_tls_without_verification_or_no_tls_whichever_there_is() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let with_tls = serve(&folder, &authority.server("registry.example.com"), None);
    let plain = Registry::anonymous();
    let closed: Repository = "127.0.0.1:1/team/web".parse().unwrap();
    let mut settings = Settings::default();
    settings.retry.attempts = 1;
    let client = Client::new(&settings).unwrap();
    for registry in [&with_tls, &plain] {
        let repository = registry.repository("team/web");
        client.allow_insecure(&repository).await.unwrap();
        write_and_read(&client, &repository).await.unwrap();
    }
    let error = client.allow_insecure(&closed).await.unwrap_err().to_string();
    assert!(error.starts_with("127.0.0.1:1: connection refused"), "{error}");

    let entry = |plain_http| RegistrySettings {
        host: plain.host.clone(),
        plain_http: Some(plain_http),
        ..RegistrySettings::default()
    };
    let strict = Client::new(&Settings { registries: vec![entry(false)], ..settings }).unwrap();
    let cause = problem(&strict, &plain).await;
    assert!(cause.starts_with("it does not speak TLS; if it is meant to be plain HTTP, say so"), "{cause}");
}

#[test]
fn limits_of_requests_are_those_of_the_most_specific_entry() {
    let entry = |host: &str, most: usize| RegistrySettings {
        host: host.to_owned(),
        max_concurrent_requests: most.try_into().ok(),
        ..RegistrySettings::default()
    };
    let registries = vec![entry("*.example.com", 2), entry("a.example.com:443", 3), entry("docker.io", 4)];
    let client = Client::new(&Settings { registries, ..Settings::default() }).unwrap();
    let most = |host| client.max_concurrent(host).map(usize::from);
    assert_eq!(most("b.example.com"), Some(2));
    assert_eq!(most("a.example.com"), Some(3));
    assert_eq!(most("registry-1.docker.io"), Some(4));
    assert_eq!(most("a.b.example.com"), None);
}
