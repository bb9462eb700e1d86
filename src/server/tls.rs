//! TLS for the server, with a certificate that is renewed while it runs.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

use crate::watched_file::{Content, INTERVAL, WatchedFile};

/// How long a client may take to agree on keys.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// Clients that do so at once.
const MOST_HANDSHAKES: usize = 256;

/// The files of a certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate, followed by those of the authorities between it and the root.
    pub certificate: PathBuf,
    /// Its private key, not encrypted.
    pub key: PathBuf,
}

/// The certificate of the moment.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Connections on which keys have been agreed.
pub(super) struct TlsListener {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
    /// Ends with the listener.
    _work: JoinSet<()>,
}

impl TlsListener {
    /// Speaks TLS on a listener. The files are read again when they change; what is then no use is told in the log, and
    /// the certificate before it stays.
    ///
    /// # Errors
    /// If the files cannot be used.
    pub fn new(listener: TcpListener, files: Certificate) -> Result<Self, String> {
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut pair = Pair::new(files);
        let first = pair.change(&provider).ok_or("no certificate")??;
        let current = Arc::new(Current(RwLock::new(first)));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let (sender, ready) = mpsc::channel(MOST_HANDSHAKES);
        let mut work = JoinSet::new();
        work.spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), sender));
        work.spawn(follow(pair, current, provider));
        Ok(Self { ready, address, _work: work })
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}

/// Agrees on keys with several clients at once: one that is slow keeps only itself waiting.
async fn accept(
    mut listener: TcpListener,
    acceptor: TlsAcceptor,
    ready: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let turns = Arc::new(Semaphore::new(MOST_HANDSHAKES));
    loop {
        let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
        let (connection, address) = Listener::accept(&mut listener).await;
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            let _turn = turn;
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(connection)).await {
                // The receiver goes with the server.
                Ok(Ok(connection)) => _ = ready.send((connection, address)).await,
                Ok(Err(error)) => tracing::debug!(%address, "no TLS: {error}"),
                Err(_) => tracing::debug!(%address, "no TLS in time"),
            }
        });
    }
}

async fn follow(mut pair: Pair, current: Arc<Current>, provider: Arc<CryptoProvider>) {
    let mut looks = tokio::time::interval(INTERVAL);
    loop {
        looks.tick().await;
        match pair.change(&provider) {
            None => {}
            Some(Ok(changed)) => {
                *current.0.write().unwrap_or_else(PoisonError::into_inner) = changed;
                tracing::info!("the server's certificate has been renewed");
            }
            Some(Err(problem)) => tracing::warn!("the server's certificate stays as it was: {problem}"),
        }
    }
}

/// The two files, which change one after the other or together.
struct Pair {
    certificate: WatchedFile,
    key: WatchedFile,
    contents: [Content; 2],
}

impl Pair {
    fn new(files: Certificate) -> Self {
        let (certificate, key) = (WatchedFile::new(files.certificate), WatchedFile::new(files.key));
        Self { certificate, key, contents: [Ok(None), Ok(None)] }
    }

    /// What the files have become, if one of them is not as it was at the last look.
    fn change(&mut self, provider: &CryptoProvider) -> Option<Result<Arc<CertifiedKey>, String>> {
        let changes = [self.certificate.change(), self.key.change()];
        if changes.iter().all(Option::is_none) {
            return None;
        }
        for (content, change) in self.contents.iter_mut().zip(changes) {
            *content = change.unwrap_or_else(|| content.clone());
        }
        Some(self.parse(provider))
    }

    fn parse(&self, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, String> {
        let [certificate, key] = &self.contents;
        let pem = |content: &Content, file: &WatchedFile| match content {
            Ok(Some(pem)) => Ok(pem.clone()),
            Ok(None) => Err(format!("{} does not exist", file.path().display())),
            Err(problem) => Err(format!("{}: {problem}", file.path().display())),
        };
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(&pem(certificate, &self.certificate)?).flatten().collect();
        if chain.is_empty() {
            return Err(format!("{} has no certificate in PEM", self.certificate.path().display()));
        }
        // The words of an error may be of the file, so they are not repeated.
        let key = PrivateKeyDer::from_pem_slice(&pem(key, &self.key)?)
            .map_err(|_| format!("{} has no private key in PEM", self.key.path().display()))?;
        CertifiedKey::from_der(chain, key, provider).map(Arc::new).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => format!(
                "{} is not the key of {}",
                self.key.path().display(),
                self.certificate.path().display()
            ),
            error => format!("{}: {error}", self.certificate.path().display()),
        })
    }
}
