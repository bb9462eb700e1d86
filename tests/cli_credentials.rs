//! Who the person at the keyboard is to registries, seen by the whole command.

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/fault_server.rs"]
mod fault_server;
#[path = "support/registry.rs"]
mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use certificates::Folder;
use fault_server::{Answer, Asked, FaultServer};
use multiarch::cli::credentials::{AuthFiles, keyring};
use multiarch::registry::{Credential, Keyring, MediaType, Repository};
use serde_json::json;
use support::{PASSWORD, Registry, USER};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

const INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// A person with a home and programs of their own.
struct Person(Folder);

impl Person {
    fn new() -> Self {
        let folder = Folder::new();
        std::fs::create_dir_all(folder.path().join("bin")).unwrap();
        Self(folder)
    }

    /// Writes a file in the person's home.
    fn with(self, path: &str, content: impl ToString) -> Self {
        self.0.write(path, content.to_string());
        self
    }

    /// A credential helper, a shell script that has the registry as `$server`.
    fn with_helper(self, name: &str, script: &str) -> Self {
        let text = format!("#!/bin/sh\nread -r server\n{script}\n");
        let path = self.0.write(&format!("bin/docker-credential-{name}"), text);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn home(&self) -> &Path {
        self.0.path()
    }

    /// What a command prints, or else what it says; `~` in variables and arguments is the person's home.
    async fn types(
        &self,
        variables: &[(&str, &str)],
        arguments: &[&str],
        input: &str,
    ) -> Result<String, String> {
        let home = |text: &str| text.replace('~', self.home().to_str().unwrap());
        let mut process = Command::new(env!("CARGO_BIN_EXE_multiarch"))
            .args(["index", "inspect", "--raw"])
            .args(arguments.iter().map(|argument| home(argument)))
            .env_clear()
            .env("HOME", self.home())
            .env("PATH", format!("{}:/usr/bin:/bin", self.home().join("bin").display()))
            .envs(variables.iter().map(|(name, value)| (*name, home(value))))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = process.stdin.take().unwrap();
        // Who wants no input does not read it.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = process.wait_with_output().await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        match output.status.success() {
            true => Ok(text(output.stdout)),
            false => Err(text(output.stderr)),
        }
    }

    async fn inspects(&self, reference: &str) -> Result<String, String> {
        self.types(&[], &[reference], "").await
    }
}

fn auths(host: &str, password: &str) -> serde_json::Value {
    json!({"auths": {host: {"username": USER, "password": password}}})
}

/// A registry that wants a password, with an image in it.
async fn private() -> (Registry, String) {
    let registry = Registry::with_password();
    registry.push_image("team/web", "1", "linux/amd64").await;
    let reference = format!("{}/team/web:1", registry.host);
    (registry, reference)
}

/// A registry that has an index for those who come with this header.
async fn wanting(authorization: &'static str) -> FaultServer {
    FaultServer::start(move |asked| match asked.authorization() {
        Some(given) if given == authorization => {
            Answer::status(200).header("Content-Type", MediaType::OCI_INDEX.as_str()).body(INDEX)
        }
        _ => Answer::status(401).header("WWW-Authenticate", "Basic realm=\"test\""),
    })
    .await
}

#[tokio::test]
async fn credentials_are_found_where_docker_and_podman_have_left_them() {
    let (registry, reference) = private().await;
    let right = auths(&registry.host, PASSWORD);
    let error = Person::new().inspects(&reference).await.unwrap_err();
    assert!(error.contains("authentication required, and no credential matches"), "{error}");

    for (file, variables, arguments) in [
        (".docker/config.json", &[][..], &[][..]),
        ("docker/config.json", &[("DOCKER_CONFIG", "~/docker")], &[]),
        ("run/containers/auth.json", &[("XDG_RUNTIME_DIR", "~/run")], &[]),
        (".config/containers/auth.json", &[], &[]),
        ("config/containers/auth.json", &[("XDG_CONFIG_HOME", "~/config")], &[]),
        ("named.json", &[("REGISTRY_AUTH_FILE", "~/named.json")], &[]),
        ("named.json", &[], &["--auth-file", "~/named.json"]),
    ] {
        let person = Person::new().with(file, &right);
        let arguments = [arguments, &[reference.as_str()]].concat();
        let found = person.types(variables, &arguments, "").await;
        assert!(found.is_ok(), "{file} {variables:?} {arguments:?}: {found:?}");
    }
    let person = Person::new().with(".dockercfg", &right["auths"]);
    person.inspects(&reference).await.unwrap();
}

#[tokio::test]
async fn the_first_file_that_knows_the_registry_answers_for_it() {
    let (registry, reference) = private().await;
    let (right, wrong) = (auths(&registry.host, PASSWORD), auths(&registry.host, "hunter2"));
    let other = auths("other.test", PASSWORD);
    let person = |named: &serde_json::Value, docker, podman| {
        let person = Person::new().with("named.json", named).with(".docker/config.json", docker);
        person.with(".config/containers/auth.json", podman)
    };
    for (named, docker, podman, good) in [
        (&right, &wrong, &wrong, true),
        (&wrong, &right, &right, false),
        (&other, &right, &wrong, true),
        (&other, &wrong, &right, false),
        (&other, &other, &right, true),
    ] {
        let person = person(named, docker, podman);
        let found = person.types(&[], &["--auth-file", "~/named.json", &reference], "").await;
        assert_eq!(found.is_ok(), good, "{named} {docker} {podman}: {found:?}");
        assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
    }
}

#[tokio::test]
async fn podmans_entries_for_a_part_of_a_registry_are_understood() {
    let (registry, reference) = private().await;
    let person = Person::new().with(
        "run/containers/auth.json",
        json!({"auths": {
            format!("{}/team-b", registry.host): {"username": USER, "password": "wrong"},
            format!("{}/team", registry.host): {"username": USER, "password": PASSWORD},
        }}),
    );
    person.types(&[("XDG_RUNTIME_DIR", "~/run")], &[&reference], "").await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_named_has_to_be_there_and_any_has_to_make_sense() {
    let (_registry, reference) = private().await;
    let error = Person::new().types(&[], &["--auth-file", "~/no.json", &reference], "").await.unwrap_err();
    assert!(error.contains("/no.json: cannot be read: No such file or directory"), "{error}");
    let person = Person::new().with(".docker/config.json", "{\"auths\": \"hunter2\"}");
    let error = person.inspects(&reference).await.unwrap_err();
    assert!(error.contains("/.docker/config.json: not a docker configuration"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn a_password_is_read_from_standard_input_and_is_for_the_targets_registry() {
    let (registry, reference) = private().await;
    let person = Person::new().with(".docker/config.json", auths(&registry.host, "wrong"));
    let arguments = ["--username", USER, "--password-stdin", &reference];
    person.types(&[], &arguments, &format!("{PASSWORD}\r\n")).await.unwrap();
    let error = person.types(&[], &arguments, "hunter2").await.unwrap_err();
    assert!(error.contains("authentication failed") && !error.contains("hunter2"), "{error}");
    let error = person.types(&[], &arguments, "\n").await.unwrap_err();
    assert!(error.contains("standard input has no password (--password-stdin)"), "{error}");
    let error = person.types(&[], &["--username", USER, &reference], "").await.unwrap_err();
    assert!(error.contains("--password-stdin"), "{error}");
}

#[tokio::test]
async fn a_credential_helper_is_asked_for_the_registry_that_is_used() {
    let registry = wanting("Basic YWxpLWJhYmE6b3Blbi1zZXNhbWU=").await;
    let reference = format!("{}/team/web:1", registry.host);
    let script = r#"echo "$1 $server" >> "$HOME/asked"; echo '{"ServerURL":"x","Username":"ali-baba","Secret":"open-sesame"}'"#;
    let missing = json!({"other.test": "missing", "*.test": "missing"});
    for config in [
        json!({"credHelpers": {registry.host.as_str(): "cave"}}),
        json!({"credsStore": "cave", "credHelpers": missing}),
        json!({"credsStore": "missing", "credHelpers": {registry.host.as_str(): "cave"}}),
        json!({"credsStore": "cave", "auths": {registry.host.as_str(): {}}}),
        json!({"credsStore": "cave", "auths": {registry.host.as_str(): {"auth": "d3Jvbmc6d3Jvbmc="}}}),
    ] {
        let person = Person::new().with(".docker/config.json", &config).with_helper("cave", script);
        let found = person.inspects(&reference).await;
        assert_eq!(found.as_deref().map(str::trim_end), Ok(INDEX), "{config}");
        let asked = std::fs::read_to_string(person.home().join("asked")).unwrap();
        assert_eq!(asked, format!("get {}\n", registry.host), "{config}");
    }
}

#[tokio::test]
async fn a_helper_that_has_nothing_leaves_what_the_file_says_or_nobody() {
    let (registry, reference) = private().await;
    let open = Registry::anonymous();
    open.push_image("team/web", "1", "linux/amd64").await;
    let script = "echo 'credentials not found in native keychain'; exit 1";
    let config = json!({
        "credsStore": "cave",
        "auths": {registry.host.as_str(): {"username": USER, "password": PASSWORD}},
    });
    let person = Person::new().with(".docker/config.json", config).with_helper("cave", script);
    person.inspects(&reference).await.unwrap();
    person.inspects(&format!("{}/team/web:1", open.host)).await.unwrap();
}

#[tokio::test]
async fn a_helper_that_fails_or_is_missing_is_named() {
    let (registry, reference) = private().await;
    let endless = "while :; do echo hunter2hunter2hunter2hunter2hunter2hunter2hunter2hunter2; done";
    for (script, told) in [
        (None, "docker-credential-cave is not installed, or not in PATH"),
        (Some("echo 'the cave is locked'; exit 3"), "docker-credential-cave failed: the cave is locked"),
        (Some("exit 3"), "docker-credential-cave failed and did not say why"),
        (
            Some("echo hunter2"),
            "the answer of docker-credential-cave is not {\"Username\": …, \"Secret\": …}",
        ),
        (Some(endless), "the answer of docker-credential-cave is larger than 65536 bytes"),
    ] {
        let config = json!({"credHelpers": {registry.host.as_str(): "cave"}});
        let mut person = Person::new().with(".docker/config.json", config);
        if let Some(script) = script {
            person = person.with_helper("cave", script);
        }
        let error = person.inspects(&reference).await.unwrap_err();
        let named = format!("{}/.docker/config.json names this credential helper", person.home().display());
        assert!(error.contains(told) && error.contains(&named) && !error.contains("hunter2"), "{error}");
    }
    let config = json!({"credHelpers": {registry.host.as_str(): "../cave"}});
    let error = Person::new().with(".docker/config.json", config).inspects(&reference).await.unwrap_err();
    assert!(error.contains("\"docker-credential-../cave\" is no name of a program"), "{error}");
}

/// A registry that gives tokens for refresh tokens, as those of Azure do.
async fn exchanging() -> FaultServer {
    FaultServer::start(|asked: &Asked| {
        let host = &asked.headers["host"];
        match (asked.target.as_str(), asked.authorization()) {
            ("/token", _) if String::from_utf8_lossy(&asked.body).contains("refresh_token=refresh-me") => {
                Answer::status(200).body(r#"{"access_token":"good"}"#)
            }
            ("/token", _) => Answer::status(403),
            (_, Some("Bearer good")) => {
                Answer::status(200).header("Content-Type", MediaType::OCI_INDEX.as_str()).body(INDEX)
            }
            _ => {
                let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"{host}\"");
                Answer::status(401).header("WWW-Authenticate", challenge)
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_identity_token_is_exchanged_wherever_it_comes_from() {
    let registry = exchanging().await;
    let reference = format!("{}/team/web:1", registry.host);
    let script = r#"echo '{"Username":"<token>","Secret":"refresh-me"}'"#;
    let config = json!({"credHelpers": {registry.host.as_str(): "azure"}});
    Person::new()
        .with(".docker/config.json", config)
        .with_helper("azure", script)
        .inspects(&reference)
        .await
        .unwrap();

    // As `az acr login` leaves it: the name of nobody, no password, and the token.
    let nobody = json!({"auth": "MDAwMDAwMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAwOg==", "identitytoken": "refresh-me"});
    let config = json!({"auths": {registry.host.as_str(): nobody}});
    Person::new().with(".docker/config.json", config).inspects(&reference).await.unwrap();
}

#[tokio::test]
async fn each_repository_has_the_most_specific_entry_whatever_comes_before_it() {
    let folder = Folder::new();
    let entry = |user: &str| json!({"username": user, "password": "hunter2"});
    let auths = json!({"auths": {"quay.test": entry("all"), "quay.test/acme": entry("acme")}});
    let file = folder.write("auth.json", auths.to_string());
    let [other, acme]: [Repository; 2] =
        ["quay.test/other/web", "quay.test/acme/app"].map(|name| name.parse().unwrap());
    let users = |keyring: &Keyring, repository: &Repository| -> Vec<String> {
        let name = |credential| match credential {
            Credential::Basic { username, .. } => username,
            other => format!("{other:?}"),
        };
        keyring.for_repository(repository).into_iter().map(name).collect()
    };
    for order in [[&other, &acme], [&acme, &other]] {
        let files = AuthFiles::from_environment(Some(&file));
        let keyring = keyring(&files, &order).await.unwrap();
        assert_eq!(users(&keyring, &acme), ["acme", "all"]);
        assert_eq!(users(&keyring, &other), ["all"]);
    }
}

#[tokio::test]
async fn a_file_of_another_user_is_passed_over_unless_it_is_named() {
    let open = Registry::anonymous();
    open.push_image("web", "1", "linux/amd64").await;
    let person = Person::new().with(".docker/config.json", "{}");
    let file = person.home().join(".docker/config.json");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o000)).unwrap();
    let inspect = [env!("CARGO_BIN_EXE_multiarch"), "index", "inspect", "--raw"];
    // Root may read everything, unless it gives that up.
    let as_nobody = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"];
    let program = if std::fs::read(&file).is_ok() { &as_nobody[..] } else { &[] };
    let name = format!("{}/web:1", open.host);
    let auth_file = format!("--auth-file={}", file.display());
    for (arguments, works) in [(vec![name.as_str()], true), (vec![name.as_str(), &auth_file], false)] {
        let words = [program, &inspect, &arguments].concat();
        let output =
            Command::new(words[0]).args(&words[1..]).env("HOME", person.home()).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), works, "{said}");
        assert!(said.contains("config.json: cannot be read"), "{said}");
    }
}
