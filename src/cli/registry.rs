//! What all commands that speak to registries are told about them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use clap::Args;

use super::Error;
use super::credentials::{self, AuthFiles};
use super::exit::Failure;
use crate::registry::{Client, Credential, RegistrySettings, Repository, Session, Settings};

/// How registries are reached and who we are to them.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Registries")]
pub struct RegistryArguments {
    /// A file of registry settings (YAML): plain HTTP, certificates, mirrors.
    #[arg(long, env = "MULTIARCH_REGISTRIES", value_name = "FILE")]
    registries: Option<PathBuf>,
    /// A registry (host or host:port) that speaks plain HTTP; may be given more than once.
    #[arg(long = "plain-http", env = "MULTIARCH_PLAIN_HTTP", value_delimiter = ',', value_name = "HOST")]
    plain_http: Vec<String>,
    /// Let the registries named in the command speak TLS without verification, or plain HTTP.
    #[arg(long)]
    insecure: bool,
    /// Credentials from this file first, of the form of ~/.docker/config.json.
    #[arg(long, env = "REGISTRY_AUTH_FILE", value_name = "FILE")]
    auth_file: Option<PathBuf>,
    /// Who to be at the target's registry.
    #[arg(long, value_name = "NAME", requires = "password_stdin")]
    username: Option<String>,
    /// Read the password that goes with --username from standard input.
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// What --username and --password-stdin make together; standard input can be read once only.
    #[arg(skip)]
    given: OnceLock<Credential>,
}

impl RegistryArguments {
    /// Sees to it that standard input is free for something else.
    ///
    /// # Errors
    /// When the password is to come from it.
    pub fn leave_standard_input(&self) -> Result<(), Error> {
        if self.password_stdin {
            return Err(Failure::usage("standard input is `-`, so --password-stdin cannot have it").into());
        }
        Ok(())
    }

    /// A client with these settings. Nothing is connected yet.
    ///
    /// # Errors
    /// When the file of settings cannot be used.
    pub fn client(&self) -> Result<Client, Error> {
        let registries = settings(self.registries.as_deref())?;
        let plain_http = self.plain_http.clone();
        Ok(Client::new(&Settings { registries, plain_http, ..Settings::default() })?)
    }

    /// A session with the credentials for these repositories, all that the command talks to. `--username` is for the
    /// registry of the first, and nothing else is tried there. Reads standard input if the password is to come from it.
    ///
    /// # Errors
    /// When credentials cannot be read, a credential helper fails, or a registry does not answer at all and is to be
    /// asked how it wants to be spoken to (`--insecure`).
    pub async fn session(&self, client: &Client, repositories: &[&Repository]) -> Result<Session, Error> {
        if self.insecure {
            let hosts: BTreeMap<&str, &Repository> =
                repositories.iter().map(|repository| (repository.registry(), *repository)).collect();
            for repository in hosts.into_values() {
                client.allow_insecure(repository).await?;
            }
        }
        let copies: Vec<Repository> =
            repositories.iter().flat_map(|repository| client.mirrors(repository)).collect();
        let mut files = AuthFiles::from_environment(self.auth_file.as_deref());
        if let (Some(username), Some(target)) = (&self.username, repositories.first()) {
            files = files.with_credential(target, self.given(username)?);
        }
        let all: Vec<&Repository> = repositories.iter().copied().chain(&copies).collect();
        let keyring = credentials::keyring(&files, &all).await?;
        Ok(client.session(Arc::new(keyring)))
    }

    /// Who `--username` is, whatever the number of sessions.
    fn given(&self, username: &str) -> Result<Credential, Error> {
        if let Some(given) = self.given.get() {
            return Ok(given.clone());
        }
        let password = credentials::password_from_stdin()?;
        let credential = Credential::Basic { username: username.to_owned(), password };
        Ok(self.given.get_or_init(|| credential).clone())
    }
}

/// What the file says of registries, if there is one.
///
/// # Errors
/// When it cannot be used.
pub fn settings(file: Option<&Path>) -> Result<Vec<RegistrySettings>, Error> {
    // An empty MULTIARCH_REGISTRIES is none.
    let file = file.filter(|file| !file.as_os_str().is_empty());
    Ok(file.map(RegistrySettings::read_file).transpose()?.unwrap_or_default())
}
