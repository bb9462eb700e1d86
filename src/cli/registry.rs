//! Which registries, and as whom.

use std::sync::Arc;

use clap::Args;

use super::Error;
use crate::registry::{Client, Keyring, Repository, Session, Settings};

/// How registries are reached.
#[derive(Args, Debug, Clone, Default)]
pub struct RegistryArguments {
    /// A registry (host or host:port) that speaks plain HTTP; may be given more than once.
    #[arg(long = "plain-http", value_delimiter = ',', value_name = "HOST")]
    plain_http: Vec<String>,
}

impl RegistryArguments {
    /// The connections.
    ///
    /// # Errors
    /// If a setting cannot be used.
    pub fn client(&self) -> Result<Client, Error> {
        Ok(Client::new(&Settings { plain_http: self.plain_http.clone(), ..Settings::default() })?)
    }

    /// A session with the credentials for these repositories.
    ///
    /// # Errors
    /// If credentials cannot be read.
    pub async fn session(&self, client: &Client, _: &[&Repository]) -> Result<Session, Error> {
        Ok(client.session(Arc::new(Keyring::default())))
    }
}
