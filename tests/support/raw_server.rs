//! A server of raw bytes, for what no library would send.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use multiarch::registry::{Reference, Repository};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A server of raw bytes; ends with the value.
pub struct Raw {
    pub host: String,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Raw {
    /// Leaves every connection, with its number from 0 on, to `talk`.
    pub async fn start<Talk>(talk: impl Fn(usize, Peer) -> Talk + Send + Sync + 'static) -> Self
    where
        Talk: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Who has heard enough hangs up, which is no error here.
                tokio::spawn(talk(count.fetch_add(1, Ordering::SeqCst), Peer(BufReader::new(stream))));
            }
        });
        Self { host, connections, task }
    }

    /// Answers the first request of every connection with these bytes.
    pub async fn saying(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes: Arc<Vec<u8>> = Arc::new(bytes.into());
        Self::start(move |_, mut peer| {
            let bytes = Arc::clone(&bytes);
            async move {
                peer.asked().await?;
                peer.say(bytes.as_slice()).await
            }
        })
        .await
    }

    pub fn repository(&self) -> Repository {
        format!("{}/team/web", self.host).parse().unwrap()
    }

    pub fn tag(&self, tag: &str) -> Reference {
        self.repository().with_tag(tag).unwrap()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub struct Peer(BufReader<TcpStream>);

impl Peer {
    /// The head of the next request.
    pub async fn asked(&mut self) -> std::io::Result<String> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(head)
    }

    pub async fn say(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.0.write_all(bytes.as_ref()).await
    }

    /// Ends the connection by RST, as a machine that has lost it does.
    pub fn reset(self) -> std::io::Result<()> {
        self.0.get_ref().set_zero_linger()
    }
}
