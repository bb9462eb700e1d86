//! Who the person at the keyboard is to registries, as `docker login` and `podman login` have left it.
//!
//! The files, in the order in which they are asked; the first that knows a registry answers for it:
//!
//! 1. `--auth-file`, or else `$REGISTRY_AUTH_FILE`
//! 2. `$DOCKER_CONFIG/config.json`, or else `~/.docker/config.json` (Docker, crane)
//! 3. `$XDG_RUNTIME_DIR/containers/auth.json` (Podman, Buildah, Skopeo)
//! 4. `$XDG_CONFIG_HOME/containers/auth.json`, or else `~/.config/containers/auth.json`
//! 5. `~/.dockercfg`, which is long out of use
//!
//! containers-auth.json(5) has 3 and 4 before 2; whoever wants that names the file. In a file, a credential helper
//! comes before what is written in it, and a helper for one registry before the one for all, as in Docker.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::Error;
use crate::registry::{Credential, DockerConfig, Keyring, Repository};

/// The largest password, or answer of a credential helper, in bytes.
const LARGEST_ANSWER: u64 = 64 * 1024;
/// How long a credential helper may take; it may have to ask a person.
const PATIENCE: Duration = Duration::from_secs(60);
/// What helpers say when they have nothing, on standard output: docker-credential-helpers, `credentials/error.go`.
const NOTHING: [&str; 2] = ["credentials not found", "no credentials"];

/// Where credentials are looked for.
#[derive(Debug, Default)]
pub struct AuthFiles {
    /// Named by the person, so it has to be there.
    named: Option<PathBuf>,
    usual: Vec<PathBuf>,
    /// For one registry there is nothing to look for.
    given: Option<(String, Credential)>,
}

impl AuthFiles {
    /// The usual places, after the file that is named, if one is.
    pub fn from_environment(named: Option<&Path>) -> Self {
        Self { named: named.map(Path::to_owned), usual: usual(|name| std::env::var_os(name)), given: None }
    }

    /// The same places, but at the registry of `target` this credential, and nothing else.
    #[must_use]
    pub fn with_credential(self, target: &Repository, credential: Credential) -> Self {
        Self { given: Some((target.registry().to_owned(), credential)), ..self }
    }
}

fn usual(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Vec<PathBuf> {
    let folder = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = folder("HOME");
    let at_home = |path: &str| home.as_ref().map(|home| home.join(path));
    let docker = folder("DOCKER_CONFIG").or_else(|| at_home(".docker"));
    let runtime = folder("XDG_RUNTIME_DIR");
    let config = folder("XDG_CONFIG_HOME").or_else(|| at_home(".config"));
    [
        docker.map(|folder| folder.join("config.json")),
        runtime.map(|folder| folder.join("containers/auth.json")),
        config.map(|folder| folder.join("containers/auth.json")),
        at_home(".dockercfg"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The credentials for these repositories, and for nothing else. Helpers are asked for their registries only.
///
/// # Errors
/// When a file cannot be read, or a helper that is asked fails or is not there. What helpers have nothing for is anonymous.
pub async fn keyring(files: &AuthFiles, repositories: &[&Repository]) -> Result<Keyring, Error> {
    let mut keyring = Keyring::default();
    if let Some((registry, credential)) = &files.given {
        keyring.insert(registry, credential.clone());
    }
    let mut configs = Vec::new();
    let named = files.named.iter().map(|path| (path, true));
    for (path, must_exist) in named.chain(files.usual.iter().map(|path| (path, false))) {
        if let Some(content) = read(path, must_exist)? {
            let config = DockerConfig::parse(&path.display().to_string(), &content)?;
            configs.push((path, config));
        }
    }
    let mut answers = HashMap::new();
    let is_given = |repository: &Repository| {
        files.given.as_ref().is_some_and(|(registry, _)| registry == repository.registry())
    };
    for repository in repositories.iter().filter(|repository| !is_given(repository)) {
        for (path, config) in &configs {
            if let Some((server, helper)) = config.helper_for(repository) {
                let question = (helper.to_owned(), server);
                if !answers.contains_key(&question) {
                    let answer = ask(helper, &question.1).await.map_err(|error| {
                        format!("{repository}: {error}; {} names this credential helper", path.display())
                    })?;
                    answers.insert(question.clone(), answer);
                }
                if let Some(Some(credential)) = answers.get(&question) {
                    keyring.insert(repository.registry(), credential.clone());
                    break;
                }
            }
            // Not what the keyring has by now: that may be less specific, and for another repository.
            let mut own = Keyring::default();
            own.insert_matching(config, repository);
            if !own.for_repository(repository).is_empty() {
                keyring.insert_matching(config, repository);
                break;
            }
        }
    }
    Ok(keyring)
}

/// The content of a file of at most 1 MiB. One that nobody named need not be there, nor be ours to read.
fn read(path: &Path, must_exist: bool) -> Result<Option<Vec<u8>>, Error> {
    use std::io::{ErrorKind, Read as _};
    const LARGEST: u64 = 1024 * 1024;
    let mut content = Vec::new();
    match std::fs::File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut content)) {
        Ok(_) if content.len() as u64 > LARGEST => {
            Err(format!("{}: larger than {LARGEST} bytes", path.display()).into())
        }
        Ok(_) => Ok(Some(content).filter(|content| !content.trim_ascii().is_empty())),
        Err(error)
            if !must_exist && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        // Another user's home, as in containers that are run with a user id of their own.
        Err(error) if !must_exist && error.kind() == ErrorKind::PermissionDenied => {
            tracing::warn!("{}: cannot be read, and is passed over: {error}", path.display());
            Ok(None)
        }
        Err(error) => Err(format!("{}: cannot be read: {error}", path.display()).into()),
    }
}

/// The password on standard input, without the end of its line.
///
/// # Errors
/// When there is none.
pub fn password_from_stdin() -> Result<String, Error> {
    use std::io::Read as _;
    let mut password = String::new();
    let read = std::io::stdin().take(LARGEST_ANSWER).read_to_string(&mut password);
    read.map_err(|_| "standard input has no password (--password-stdin): it is not text")?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err("standard input has no password (--password-stdin)".into());
    }
    Ok(password.to_owned())
}

/// What a credential helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks `docker-credential-<name> get` for `server`. No error repeats what might be a secret.
async fn ask(name: &str, server: &str) -> Result<Option<Credential>, String> {
    let program = format!("docker-credential-{name}");
    if name.is_empty() || name.contains(['/', '\\']) {
        return Err(format!("{program:?} is no name of a program"));
    }
    get(&program, server, PATIENCE).await
}

async fn get(program: &str, server: &str, patience: Duration) -> Result<Option<Credential>, String> {
    let answer = tokio::time::timeout(patience, run(program, server)).await;
    let (success, output) =
        answer.map_err(|_| format!("{program} did not answer in {} s", patience.as_secs()))??;
    if !success {
        let said = String::from_utf8_lossy(&output);
        let said = said.lines().next().unwrap_or_default().trim();
        if NOTHING.iter().any(|nothing| said.starts_with(nothing)) {
            return Ok(None);
        }
        return Err(match said {
            "" => format!("{program} failed and did not say why"),
            _ => format!("{program} failed: {}", said.chars().take(200).collect::<String>()),
        });
    }
    let answer: Answer = serde_json::from_slice(&output)
        .map_err(|_| format!("the answer of {program} is not {{\"Username\": …, \"Secret\": …}}"))?;
    Ok(match (answer.username.as_str(), answer.secret) {
        (_, secret) if secret.is_empty() => None,
        // docker-credential-helpers, README: then the secret is an identity token.
        ("<token>", token) => Some(Credential::IdentityToken { username: answer.username, token }),
        (_, password) => Some(Credential::Basic { username: answer.username, password }),
    })
}

/// Whether the helper succeeded, and what it wrote to standard output.
async fn run(program: &str, server: &str) -> Result<(bool, Vec<u8>), String> {
    let spawned = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut process = spawned.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("{program} is not installed, or not in PATH"),
        _ => format!("{program} cannot be run: {error}"),
    })?;
    let failed = |error: std::io::Error| format!("{program} cannot be spoken to: {error}");
    let (stdin, stdout) = (process.stdin.take(), process.stdout.take());
    if let Some(mut stdin) = stdin {
        // Some do not read what they are asked; that is for them to say.
        let _ = stdin.write_all(format!("{server}\n").as_bytes()).await;
    }
    let mut output = Vec::new();
    if let Some(stdout) = stdout {
        stdout.take(LARGEST_ANSWER + 1).read_to_end(&mut output).await.map_err(failed)?;
    }
    if output.len() as u64 > LARGEST_ANSWER {
        return Err(format!("the answer of {program} is larger than {LARGEST_ANSWER} bytes"));
    }
    Ok((process.wait().await.map_err(failed)?.success(), output))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn a_helper_that_says_nothing_is_given_up() {
        let program = std::env::temp_dir().join(format!("docker-credential-mute-{}", std::process::id()));
        std::fs::write(&program, "#!/bin/sh\nexec tail -f /dev/null\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = get(program.to_str().unwrap(), "a.io", Duration::ZERO).await.unwrap_err();
        std::fs::remove_file(&program).unwrap();
        assert!(error.ends_with(" did not answer in 0 s"), "{error}");
    }

    #[test]
    fn the_usual_places_follow_the_environment() {
        let places = |variables: &[(&str, &str)]| {
            let value =
                |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            let places = usual(value);
            places.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            places(&[("HOME", "/home/ali"), ("XDG_RUNTIME_DIR", "/run/user/1")]),
            [
                "/home/ali/.docker/config.json",
                "/run/user/1/containers/auth.json",
                "/home/ali/.config/containers/auth.json",
                "/home/ali/.dockercfg",
            ]
        );
        assert_eq!(
            places(&[("DOCKER_CONFIG", "/docker"), ("XDG_CONFIG_HOME", "/config"), ("XDG_RUNTIME_DIR", "")]),
            ["/docker/config.json", "/config/containers/auth.json"]
        );
        assert_eq!(places(&[]), [""; 0]);
    }
}
