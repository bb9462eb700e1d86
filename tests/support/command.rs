//! The command line as people run it.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

/// What a run of the command left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    /// Exactly what was printed.
    pub bytes: Vec<u8>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The output of a run that has worked.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// The messages of a run that has failed in this way.
    pub fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self.stderr
    }

    pub fn json(self) -> Value {
        let ran = self.ok();
        serde_json::from_slice(&ran.bytes).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout))
    }

    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }
}

/// The command with nobody's credentials and settings.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_multiarch"));
    command.args(arguments).env_clear().env("HOME", "/nonexistent").stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs the command to its end.
pub async fn multiarch(arguments: &[&str]) -> Ran {
    run(command(arguments)).await
}

/// Runs a command to its end.
pub async fn run(mut command: Command) -> Ran {
    let output = command.output().await.expect("the command starts");
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        bytes: output.stdout,
    }
}
