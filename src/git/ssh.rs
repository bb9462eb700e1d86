//! Git servers over ssh: one `git-upload-pack` a connection.

use std::sync::Arc;
use std::time::Duration;

use russh::client::{self, AuthResult, Handle};
use russh::keys::{HashAlg, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Channel, ChannelMsg, Disconnect, Preferred};
use tokio::net::TcpStream;

use super::answer::{Answer, Until, repeated};
use super::connection::explain;
use super::credentials::SshCredentials;
use super::error::Error;
use super::known_hosts::{KnownHosts, Refusal, fingerprint};
use super::location::SshLocation;
use crate::network::{Access, canonical};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may be silent.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of what the server's program complains of is kept, in bytes.
const MOST_COMPLAINTS: usize = 4096;

/// A repository whose `git-upload-pack` runs.
pub(super) struct SshConnection {
    /// Ends the connection when it is dropped.
    handle: Handle<Verifier>,
    channel: Channel<client::Msg>,
    complaints: Vec<u8>,
    url: String,
}

impl SshConnection {
    /// Connects, and reads what the server says of itself.
    pub(super) async fn open(
        access: Option<&Access>,
        url: &str,
        at: &SshLocation,
        credentials: &SshCredentials,
    ) -> Result<(Self, Answer), Error> {
        let mut handle = connect(access, url, at, &credentials.known_hosts).await?;
        authenticate(url, at, &mut handle, credentials).await?;
        let failed = |error| failed(url, &error);
        let channel = handle.channel_open_session().await.map_err(failed)?;
        // Many servers refuse variables; then they speak version 0.
        channel.set_env(false, "GIT_PROTOCOL", "version=2").await.map_err(failed)?;
        let command = format!("git-upload-pack '{}'", at.path.replace('\'', r"'\''").replace('!', r"'\!'"));
        channel.exec(true, command).await.map_err(failed)?;
        let mut connection = Self { handle, channel, complaints: Vec::new(), url: url.to_owned() };
        let mut answer = Answer::new(Until::Flush);
        connection.read(&mut answer).await?;
        if answer.is_empty() {
            return Err(connection.no_repository());
        }
        let answer = answer.end().map_err(|fault| explain(url, fault))?;
        Ok((connection, answer))
    }

    /// One question and its answer.
    pub(super) async fn exchange(&mut self, body: Vec<u8>, answer: &mut Answer) -> Result<(), Error> {
        let sent = self.channel.data_bytes(body).await;
        sent.map_err(|error| failed(&self.url, &error))?;
        self.read(answer).await
    }

    /// Says that nothing more is wanted, so that nobody has to wait for us.
    pub(super) async fn close(self) {
        let _ = self.channel.data_bytes(b"0000".as_slice()).await;
        let _ = self.handle.disconnect(Disconnect::ByApplication, "", "").await;
    }

    /// Reads until the answer or the stream is over.
    async fn read(&mut self, answer: &mut Answer) -> Result<(), Error> {
        loop {
            let message = tokio::time::timeout(READ_TIMEOUT, self.channel.wait()).await;
            let message = message.map_err(|_| Error::unavailable(&self.url, "the server is silent"))?;
            match message {
                Some(ChannelMsg::Data { data }) => {
                    if answer.push(&data) {
                        return Ok(());
                    }
                }
                Some(ChannelMsg::ExtendedData { data, .. }) => {
                    let room = MOST_COMPLAINTS.saturating_sub(self.complaints.len());
                    self.complaints.extend_from_slice(&data[..data.len().min(room)]);
                }
                Some(ChannelMsg::Failure) => {
                    return Err(Error::no_repository(&self.url, "the server does not run git-upload-pack"));
                }
                // What is complained of may come after the end of what is said.
                Some(ChannelMsg::Close) | None => return Ok(()),
                Some(_) => {}
            }
        }
    }

    /// The program has ended without a word for us, only for people.
    fn no_repository(&self) -> Error {
        let said = repeated(&String::from_utf8_lossy(&self.complaints));
        let lower = said.to_ascii_lowercase();
        if ["denied", "forbidden", "unauthorized", "not authorized"].iter().any(|word| lower.contains(word)) {
            let remedy = "give the key in identity access to this repository on the server".to_owned();
            return Error::Denied { url: self.url.clone(), cause: said, remedy };
        }
        let said = if said.is_empty() { "the server closed the connection".to_owned() } else { said };
        Error::no_repository(&self.url, format!("{said}; or the key in identity does not open it"))
    }
}

/// A connection to one of the addresses of the server that `access` lets us speak to.
async fn reach(access: Option<&Access>, url: &str, at: &SshLocation) -> Result<TcpStream, Error> {
    let Some(access) = access else {
        let connected = TcpStream::connect((at.host.as_str(), at.port)).await;
        return connected.map_err(|error| Error::no_answer(url, &error));
    };
    // Resolved is what is checked, and not another form of it.
    let host = &canonical(&at.host);
    let guard = access.check(host, at.port).map_err(|denied| Error::denied(url, denied))?;
    let addresses = guard.lookup(host, at.port).await.map_err(|error| Error::no_answer(url, &*error))?;
    TcpStream::connect(addresses.as_slice()).await.map_err(|error| Error::no_answer(url, &error))
}

async fn connect(
    access: Option<&Access>,
    url: &str,
    at: &SshLocation,
    known_hosts: &KnownHosts,
) -> Result<Handle<Verifier>, Error> {
    let within = tokio::time::timeout(CONNECT_TIMEOUT, reach(access, url, at)).await;
    let stream = within.map_err(|_| Error::unavailable(url, "the server does not answer"))??;
    let known_as = at.known_as();
    let preferred = Preferred { key: known_hosts.preferred(&known_as).into(), ..Preferred::DEFAULT };
    let config = client::Config {
        preferred,
        inactivity_timeout: Some(READ_TIMEOUT),
        nodelay: true,
        ..client::Config::default()
    };
    let verifier = Verifier { known_hosts: known_hosts.clone(), known_as, at: at.clone() };
    let greeted = client::connect_stream(Arc::new(config), stream, verifier);
    match tokio::time::timeout(READ_TIMEOUT, greeted).await {
        Ok(Ok(handle)) => Ok(handle),
        Ok(Err(Failure::HostKey(cause))) => Err(Error::HostKey { url: url.to_owned(), cause }),
        Ok(Err(Failure::Connection(error))) => Err(failed(url, &error)),
        Err(_) => Err(Error::unavailable(url, "the server does not answer as ssh servers do")),
    }
}

async fn authenticate(
    url: &str,
    at: &SshLocation,
    handle: &mut Handle<Verifier>,
    credentials: &SshCredentials,
) -> Result<(), Error> {
    let failed = |error| failed(url, &error);
    let hash = if credentials.key.algorithm().is_rsa() {
        // Never SHA-1: servers that know nothing else have been refused by ssh for years.
        handle.best_supported_rsa_hash().await.map_err(failed)?.flatten().or(Some(HashAlg::Sha512))
    } else {
        None
    };
    let key = PrivateKeyWithHashAlg::new(Arc::clone(&credentials.key), hash);
    let asked = handle.authenticate_publickey(&at.user, key);
    let result = tokio::time::timeout(READ_TIMEOUT, asked).await;
    let result = result.map_err(|_| Error::unavailable(url, "the server is silent"))?.map_err(failed)?;
    match result {
        AuthResult::Success => return Ok(()),
        // A server that goes away has not said no, which comes with what else it would take.
        AuthResult::Failure { remaining_methods, .. }
            if remaining_methods.is_empty() && handle.is_closed() =>
        {
            return Err(Error::unavailable(url, "the server closed the connection while the key was shown"));
        }
        AuthResult::Failure { .. } => {}
    }
    let public = fingerprint(credentials.key.public_key());
    Err(Error::Denied {
        url: url.to_owned(),
        cause: format!("the server does not accept the key {public} of user {}", at.user),
        remedy: "add the public half of the key in identity to the repository's deploy keys, or put another key into the Secret".to_owned(),
    })
}

/// What goes wrong between two ssh programs may have their lists of algorithms in it.
fn failed(url: &str, error: &russh::Error) -> Error {
    Error::unavailable(url, repeated(&error.to_string()))
}

/// Accepts the server only by its key.
struct Verifier {
    known_hosts: KnownHosts,
    known_as: String,
    at: SshLocation,
}

/// Why there is no connection.
#[derive(Debug)]
enum Failure {
    HostKey(String),
    Connection(russh::Error),
}

impl From<russh::Error> for Failure {
    fn from(error: russh::Error) -> Self {
        Failure::Connection(error)
    }
}

impl client::Handler for Verifier {
    type Error = Failure;

    async fn check_server_key(&mut self, offered: &PublicKeyOrCertificate) -> Result<bool, Failure> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = offered else {
            return Err(Failure::HostKey("the server shows a certificate instead of a key".to_owned()));
        };
        let Err(refusal) = self.known_hosts.check(&self.known_as, key) else { return Ok(true) };
        let offered = format!("{} {}", key.algorithm(), fingerprint(key));
        let port = if self.at.port == 22 { String::new() } else { format!("-p {} ", self.at.port) };
        let scan = format!("ssh-keyscan {port}{}", self.at.host);
        let known_as = &self.known_as;
        Err(Failure::HostKey(match refusal {
            Refusal::Unknown => format!(
                "{known_as} is not in known_hosts; it offers the key {offered}: compare that with what its owner publishes, then add the output of `{scan}` to known_hosts in the Secret"
            ),
            Refusal::Changed(known) => format!(
                "the host key of {known_as} is not the one in known_hosts ({}): it offers {offered}, so somebody may be posing as the server; if its owner has changed the key, replace it in the Secret by the output of `{scan}`",
                known.join(", ")
            ),
            Refusal::Revoked => format!("the host key {offered} of {known_as} is revoked in known_hosts"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::network::{HostPolicy, HostRule};

    #[tokio::test]
    async fn the_host_that_is_resolved_is_the_one_that_was_checked() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let allow = vec![format!("127.0.0.1:{port}").parse().expect("a selector")];
        let rule = HostRule { namespaces: vec!["*".to_owned()], allow, deny: vec![] };
        let access = Arc::new(HostPolicy { rules: vec![rule], ..HostPolicy::default() }).access("team-a");
        // For a resolver, this is a name.
        let (user, host, path) = ("git".to_owned(), "127.0.0.1.".to_owned(), "/web".to_owned());
        let at = SshLocation { user, host, port, path };
        let stream = reach(Some(&access), "ssh://git@127.0.0.1./web", &at).await.expect("a connection");
        assert_eq!(stream.peer_addr().expect("an address").port(), port);
    }
}
