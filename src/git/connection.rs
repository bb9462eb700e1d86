//! A repository that has been reached, however that was.

use super::answer::{Answer, Fault, Until};
use super::credentials::Credentials;
use super::error::Error;
use super::http::{HttpClients, HttpConnection};
use super::location::{Location, shown};
use super::object::ObjectId;
use super::pack::{Objects, PackError, unpack};
use super::protocol::{Advertisement, Depth, Refs, prefixes, refs_v2};
use super::ssh::SshConnection;
use crate::network::Access;

/// A repository that has said what it can do.
pub(super) struct Connection {
    /// For messages.
    pub(super) url: String,
    pub(super) advertisement: Advertisement,
    transport: Transport,
}

enum Transport {
    Http(Box<HttpConnection>),
    Ssh(Box<SshConnection>),
}

impl Connection {
    pub(super) async fn open(
        clients: &HttpClients,
        access: Option<&Access>,
        url: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Self, Error> {
        let location = Location::parse(url)?;
        if let Some(credentials) = credentials {
            credentials.check_url(url)?;
        }
        let url = shown(url.trim_end_matches('/'));
        let (transport, answer) = match &location {
            Location::Http(base) => {
                let credentials = credentials.and_then(|credentials| credentials.https.as_ref());
                let opened = HttpConnection::open(clients, access, base.clone(), credentials).await;
                let (connection, answer) = opened?;
                (Transport::Http(Box::new(connection)), answer)
            }
            Location::Ssh(at) => {
                let credentials = credentials.and_then(|credentials| credentials.ssh.as_ref());
                let Some(credentials) = credentials else {
                    return Err(Error::credentials(
                        &url,
                        "an ssh URL needs a Secret with identity and known_hosts; or use the https URL",
                    ));
                };
                let (connection, answer) = SshConnection::open(access, &url, at, credentials).await?;
                (Transport::Ssh(Box::new(connection)), answer)
            }
        };
        let advertisement =
            Advertisement::parse(&answer.lines).map_err(|cause| Error::no_repository(&url, cause))?;
        Ok(Self { url, advertisement, transport })
    }

    /// The refs that the candidates may be among.
    pub(super) async fn refs(&mut self, candidates: &[String]) -> Result<Refs, Error> {
        if let Some(refs) = &self.advertisement.refs {
            return Ok(refs.clone());
        }
        let body = self.advertisement.list(&prefixes(candidates));
        let answer = self.exchange(body, Until::Flush).await?;
        answer.map(|answer| refs_v2(&answer.lines)).map_err(|fault| explain(&self.url, fault))
    }

    /// An object and what belongs to it. What comes is hashed, so it is what it is called.
    pub(super) async fn fetch(&mut self, want: &ObjectId, depth: Depth) -> Result<Objects, Error> {
        if let Some(obstacle) = self.advertisement.obstacle(&want.to_string()) {
            return Err(Error::not_inspectable(&self.url, obstacle));
        }
        let body = self.advertisement.fetch(want, depth);
        let answer = self.exchange(body, Until::PackEnd).await?;
        let pack = match answer {
            Ok(answer) => answer.pack,
            Err(Fault::TooLarge) => return Err(self.too_large()),
            Err(Fault::Said(cause)) if is_missing(&cause) => {
                return Err(Error::NoCommit { url: self.url.clone(), commit: want.to_string(), cause });
            }
            Err(Fault::Said(said)) => {
                return Err(Error::unavailable(&self.url, format!("the server says: {said}")));
            }
            Err(fault) => return Err(explain(&self.url, fault)),
        };
        let format = self.advertisement.format;
        let unpacked = tokio::task::spawn_blocking(move || unpack(&pack, format)).await;
        match unpacked {
            Ok(Ok(objects)) => Ok(objects),
            Ok(Err(PackError::TooLarge)) => Err(self.too_large()),
            Ok(Err(PackError::Malformed(cause))) => {
                Err(Error::unavailable(&self.url, format!("the server sends a broken pack: {cause}")))
            }
            Err(error) => Err(Error::unavailable(&self.url, error.to_string())),
        }
    }

    pub(super) async fn close(self) {
        match self.transport {
            Transport::Http(_) => {}
            Transport::Ssh(connection) => connection.close().await,
        }
    }

    async fn exchange(&mut self, body: Vec<u8>, until: Until) -> Result<Result<Answer, Fault>, Error> {
        let mut answer = Answer::new(until);
        match &mut self.transport {
            Transport::Http(connection) => connection.exchange(body, &mut answer).await?,
            Transport::Ssh(connection) => connection.exchange(body, &mut answer).await?,
        }
        Ok(answer.end())
    }

    fn too_large(&self) -> Error {
        let cause = if self.advertisement.filters() {
            "it is too large to be read in one go"
        } else {
            "it is too large, and the server cannot leave out files: uploadpack.allowFilter is off"
        };
        Error::not_inspectable(&self.url, cause)
    }
}

/// Whether the server's words are git's for an object that is not there, or is not given away.
fn is_missing(said: &str) -> bool {
    ["not our ref", "unadvertised object", "not found", "does not exist"]
        .iter()
        .any(|words| said.contains(words))
}

pub(super) fn explain(url: &str, fault: Fault) -> Error {
    match fault {
        Fault::Malformed(cause) => Error::unavailable(url, cause),
        Fault::Said(said) => Error::no_repository(url, format!("the server says: {said}")),
        Fault::TooLarge => Error::unavailable(url, "the answer is longer than anything that is read"),
    }
}
