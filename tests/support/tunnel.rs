//! A proxy through which TLS goes as it is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// A proxy that tunnels: it leads to one server whatever it is asked for, and remembers what that was.
pub struct Tunnel {
    pub url: String,
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Tunnel {
    pub async fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (log, server) = (asked.clone(), server.to_owned());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(tunnel(client, server.clone(), log.clone()));
            }
        });
        Self { url, asked, task }
    }

    /// The requests for a tunnel, and the credentials that came with them.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn tunnel(client: TcpStream, server: String, log: Arc<Mutex<Vec<String>>>) {
    let mut client = BufReader::new(client);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        client.read_line(&mut line).await.unwrap();
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    log.lock().unwrap().extend(lines.into_iter().filter(|line| {
        let line = line.to_ascii_lowercase();
        line.starts_with("connect ") || line.starts_with("proxy-authorization:")
    }));
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
    let mut server = TcpStream::connect(server).await.unwrap();
    // Whoever has heard enough hangs up.
    let _ = copy_bidirectional(&mut client, &mut server).await;
}
