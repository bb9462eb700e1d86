//! A server that misbehaves as told, and remembers what it was asked.
#![allow(dead_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use multiarch::registry::{Descriptor, Digest, MediaType, Repository};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What the server was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    /// The path with the query.
    pub target: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
    /// Whether the body had all the bytes that were announced.
    pub complete: bool,
}

impl Asked {
    /// `GET /v2/…`
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    pub fn authorization(&self) -> Option<&str> {
        self.headers.get("authorization").map(String::as_str)
    }
}

/// What the server answers.
pub struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Body,
}

enum Body {
    Whole(Vec<u8>),
    /// Announced longer than it is.
    CutOff(Vec<u8>),
    Endless,
    /// Nothing at all until the client hangs up.
    Never,
}

impl Answer {
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::Whole(Vec::new()) }
    }

    /// No answer.
    pub fn never() -> Self {
        Self { status: 0, headers: Vec::new(), body: Body::Never }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Body::Whole(body.into());
        self
    }

    pub fn cut_off(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Body::CutOff(body.into());
        self
    }

    pub fn endless(mut self) -> Self {
        self.body = Body::Endless;
        self
    }

    async fn write(self, stream: &mut TcpStream, head: bool) -> std::io::Result<()> {
        if let Body::Never = self.body {
            return stream.read(&mut [0]).await.map(drop);
        }
        let mut text = format!("HTTP/1.1 {} Told\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        let (length, body) = match &self.body {
            Body::Whole(body) => (Some(body.len()), body.as_slice()),
            Body::CutOff(body) => (Some(body.len() + 1), body.as_slice()),
            Body::Endless | Body::Never => (None, &[][..]),
        };
        if let Some(length) = length {
            text += &format!("Content-Length: {length}\r\n");
        }
        stream.write_all(format!("{text}\r\n").as_bytes()).await?;
        if head {
            return Ok(());
        }
        stream.write_all(body).await?;
        if let Body::Endless = self.body {
            // Ends with an error when the client hangs up.
            loop {
                stream.write_all(&[b' '; 65536]).await?;
            }
        }
        Ok(())
    }
}

/// A running server; ends with the value.
pub struct FaultServer {
    pub host: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl FaultServer {
    /// Answers every request, one a connection, with what `answer` says.
    pub async fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (asked, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let log: Arc<Mutex<Vec<Asked>>> = asked.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, answer) = (log.clone(), answer.clone());
                tokio::spawn(async move {
                    let mut stream = stream;
                    let Some(request) = read(&mut stream).await else { return };
                    let answer = answer(&request);
                    let head = request.method == "HEAD";
                    log.lock().unwrap().push(request);
                    // Who has heard enough hangs up.
                    let _ = answer.write(&mut stream, head).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { host, asked, task }
    }

    /// A repository at this server.
    pub fn repository(&self, path: &str) -> Repository {
        format!("{}/{path}", self.host).parse().unwrap()
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.asked().iter().map(Asked::line).collect()
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).await.ok()?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await.ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let length: u64 = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    let _ = reader.take(length).read_to_end(&mut body).await;
    let complete = body.len() as u64 == length;
    Some(Asked { method, target, headers, body, complete })
}

/// A blob that servers have.
pub const BLOB: &[u8] = b"all the bytes of a layer";

pub fn blob() -> Descriptor {
    Descriptor::new(MediaType::new("x/y"), Digest::sha256(BLOB), BLOB.len() as u64)
}

/// A challenge that leads to `/token` of the server itself.
pub fn bearer(asked: &Asked) -> Answer {
    let host = &asked.headers["host"];
    let challenge = format!(r#"Bearer realm="http://{host}/token",service="registry""#);
    Answer::status(401).header("WWW-Authenticate", challenge)
}

/// A registry that has the blob in `team/base` and opens uploads in `team/web`.
pub fn uploads(asked: &Asked, mount: fn() -> Answer) -> Answer {
    let opened = || Answer::status(202).header("Location", "/upload?state=a%2Bb");
    match (asked.method.as_str(), asked.target.as_str()) {
        ("GET", target) if target.starts_with("/v2/team/base/blobs/") => Answer::status(200).body(BLOB),
        ("POST", target) if target.contains("mount=") => mount(),
        ("POST", _) => opened(),
        ("PUT", _) if asked.complete => Answer::status(201),
        ("DELETE", _) => Answer::status(204),
        _ => Answer::status(404),
    }
}
