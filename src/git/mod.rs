//! What the operator needs of git servers, without a clone: the commit that a ref names, as `git ls-remote` does,
//! and single files of a commit.
//!
//! ```text
//! Client ─▶ Connection ──▶ http, ssh     where it is (location), who we are (credentials), who it is (known_hosts)
//!               │
//!               ├─ protocol, answer      version 2, else version 0: what is asked, and packet lines as they come
//!               └─ pack ─▶ object        a pack that was just enough, and every object by its own hash
//! ```
//!
//! See git's `gitprotocol-http(5)`, `gitprotocol-v2(5)` and `gitformat-pack(5)`.

mod answer;
mod connection;
mod credentials;
mod error;
mod http;
mod known_hosts;
mod location;
mod object;
mod pack;
mod protocol;
mod snapshot;
mod ssh;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use connection::Connection;
pub use credentials::{Credentials, CredentialsError};
pub use error::Error;
use http::HttpClients;
pub(crate) use location::{host_and_port, shown};
use protocol::{candidates, pick, similar};
pub use snapshot::Snapshot;

use crate::network::Access;

/// Every call is over within this time.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How many packs are in memory at once; each takes 192 MiB at worst, and some hundred KiB mostly.
pub(crate) const MOST_PACKS: usize = 2;
/// That worst, in bytes.
#[cfg(test)]
pub(crate) const LARGEST_PACK: u64 = pack::LARGEST_PACK as u64 + pack::MOST_UNPACKED;

/// A client for git repositories over https and ssh, and over http without credentials. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: Arc<HttpClients>,
    packs: Arc<Semaphore>,
    access: Option<Access>,
}

impl Client {
    /// A client that sends credentials without TLS to `plain_http`, each a `host` or `host:port`, and to this
    /// machine, and nowhere else.
    pub fn new(plain_http: impl IntoIterator<Item = String>) -> Self {
        let plain_http: BTreeSet<String> =
            plain_http.into_iter().map(|host| host.to_ascii_lowercase()).collect();
        let packs = Arc::new(Semaphore::new(MOST_PACKS));
        Self { http: Arc::new(HttpClients::new(plain_http)), packs, access: None }
    }

    /// The same client, which speaks to no host but those that `access` lets it, wherever servers lead it.
    pub fn limited_to(&self, access: Access) -> Self {
        Self { access: Some(access), ..self.clone() }
    }

    /// The commit that a ref names: a full name (`refs/…`), a tag, a branch (in git's own order), or the
    /// remote's HEAD without one. Annotated tags give the commit they point at. Takes at most a minute.
    ///
    /// # Errors
    /// See [`Error`]; every one names the repository.
    pub async fn resolve(
        &self,
        url: &str,
        reference: Option<&str>,
        credentials: Option<&Credentials>,
    ) -> Result<String, Error> {
        within(TIMEOUT, url, async {
            let candidates = candidates(reference);
            let mut connection = self.connect(url, credentials).await?;
            let refs = connection.refs(&candidates).await?;
            let url = connection.url.clone();
            connection.close().await;
            pick(&refs, &candidates).ok_or_else(|| Error::NoReference {
                url,
                reference: reference.unwrap_or("HEAD").to_owned(),
                similar: similar(&refs, reference.unwrap_or_default()),
            })
        })
        .await
    }

    async fn connect(&self, url: &str, credentials: Option<&Credentials>) -> Result<Connection, Error> {
        Connection::open(&self.http, self.access.as_ref(), url, credentials).await
    }

    /// Begins to look at a commit: several files cost one connection. Waits for its turn, since only two commits
    /// are looked at at once: who holds a [`Snapshot`] must not open another. Then takes at most a minute.
    ///
    /// # Errors
    /// See [`Error`]. What cannot be looked at is [`Error::NotInspectable`], and says nothing of what is there.
    pub async fn open(
        &self,
        url: &str,
        commit: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Snapshot, Error> {
        let stopping = |_| Error::unavailable(&shown(url), "stopping");
        let permit = Arc::clone(&self.packs).acquire_owned().await.map_err(stopping)?;
        within(TIMEOUT, url, async {
            let connection = self.connect(url, credentials).await?;
            Snapshot::open(connection, commit, permit).await
        })
        .await
    }

    /// One file of a commit: see [`Snapshot::read_file`].
    ///
    /// # Errors
    /// See [`Self::open`].
    pub async fn read_file(
        &self,
        url: &str,
        commit: &str,
        path: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Option<Bytes>, Error> {
        let mut snapshot = self.open(url, commit, credentials).await?;
        let file = snapshot.read_file(path).await?;
        snapshot.close().await;
        Ok(file)
    }

    /// When a commit was committed, in seconds since 1970-01-01 UTC: see [`Snapshot::committed`].
    ///
    /// # Errors
    /// See [`Self::open`].
    pub async fn read_commit_time(
        &self,
        url: &str,
        commit: &str,
        credentials: Option<&Credentials>,
    ) -> Result<i64, Error> {
        let snapshot = self.open(url, commit, credentials).await?;
        let committed = snapshot.committed();
        snapshot.close().await;
        Ok(committed)
    }
}

async fn within<T>(
    limit: Duration,
    url: &str,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let late = |_| Error::unavailable(&shown(url), format!("no answer within {} seconds", limit.as_secs()));
    tokio::time::timeout(limit, work).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
}
