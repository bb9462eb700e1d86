//! The program itself, run as people run it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::Write as _;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use crate::support::Registry;

/// The program with a home of its own, for a registry that speaks plain HTTP.
pub struct Multiarch {
    plain_http: String,
    input: Vec<u8>,
    home: std::sync::Arc<TempDir>,
}

/// How it ended.
pub struct Ended {
    pub code: i32,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

impl Multiarch {
    pub fn new(registry: &Registry) -> Self {
        let home = tempfile::tempdir().unwrap().into();
        Self { plain_http: registry.host.clone(), input: Vec::new(), home }
    }

    /// The same, with this on standard input.
    pub fn with_input(&self, input: impl AsRef<[u8]>) -> Self {
        Self { plain_http: self.plain_http.clone(), input: input.as_ref().to_vec(), home: self.home.clone() }
    }

    /// The same, for one more registry.
    pub fn and_plain_http(mut self, host: &str) -> Self {
        self.plain_http = format!("{},{host}", self.plain_http);
        self
    }

    pub fn run(&self, arguments: &[&str]) -> Ended {
        let Output { status, stdout, stderr } = self.run_raw(arguments);
        Ended {
            code: status.code().unwrap(),
            output: String::from_utf8(stdout).unwrap(),
            errors: String::from_utf8(stderr).unwrap(),
        }
    }

    pub fn run_raw(&self, arguments: &[&str]) -> Output {
        let mut child = self.spawn(arguments);
        let mut stdin = child.stdin.take().unwrap();
        let input = self.input.clone();
        let writer = std::thread::spawn(move || {
            // It may have ended before it has read all.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    pub fn spawn(&self, arguments: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_multiarch"))
            .args(arguments)
            .env_clear()
            .env("HOME", self.home.path())
            .env("MULTIARCH_PLAIN_HTTP", &self.plain_http)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
}
