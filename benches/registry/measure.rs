//! What a command costs: wall time, CPU time, memory.
//!
//! The kernel counts into a process's largest resident set what its parent had when it was started. So commands are
//! started by a small process of its own: this program again, before it has done anything.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The first argument that makes this program the small one.
pub const STARTER: &str = "start-and-measure";

/// How long a command may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(300);

/// A program and its arguments.
pub type Words = Vec<String>;

/// What commands took that ran one after the other, with the processes they started.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Usage {
    pub wall_seconds: f64,
    /// User and system together.
    pub cpu_seconds: f64,
    /// The largest resident set of one process.
    pub rss_bytes: u64,
    pub succeeded: bool,
}

/// Where commands find their configuration and credentials, so that nothing of the user's is read. (For root, skopeo
/// keeps elsewhere which host has which blob; hosts here have a new port for each run.)
pub struct Home {
    folder: PathBuf,
}

impl Home {
    pub fn new(folder: PathBuf) -> Self {
        std::fs::create_dir_all(folder.join(".docker")).expect("a home");
        Self { folder }
    }

    /// Hosts that speak plain HTTP, and the credentials for them if they want any.
    pub fn configure(&self, hosts: &[&str], credentials: Option<(&str, &str)>) {
        use base64::Engine as _;
        use base64::engine::general_purpose::STANDARD;
        let (mut auths, mut regctl) = (serde_json::Map::new(), serde_json::Map::new());
        for &host in hosts {
            let mut entry = serde_json::json!({"tls": "disabled", "hostname": host});
            if let Some((user, password)) = credentials {
                let auth = STANDARD.encode(format!("{user}:{password}"));
                auths.insert(host.to_owned(), serde_json::json!({"auth": auth}));
                entry["user"] = user.into();
                entry["pass"] = password.into();
            }
            regctl.insert(host.to_owned(), entry);
        }
        let docker = serde_json::json!({"auths": auths});
        std::fs::write(self.folder.join(".docker/config.json"), docker.to_string()).expect("a file");
        let regctl = serde_json::json!({"hosts": regctl});
        std::fs::write(self.folder.join("regctl.json"), regctl.to_string()).expect("a file");
    }

    fn variables(&self) -> [(&'static str, PathBuf); 5] {
        let docker = self.folder.join(".docker");
        [
            ("HOME", self.folder.clone()),
            ("REGISTRY_AUTH_FILE", docker.join("config.json")),
            ("DOCKER_CONFIG", docker),
            ("REGCTL_CONFIG", self.folder.join("regctl.json")),
            ("BUILDX_CONFIG", self.folder.join("buildx")),
        ]
    }

    /// Runs commands one after the other. The error is what the one that failed said on standard error.
    pub async fn measure(&self, commands: &[Words]) -> Result<Usage, String> {
        match self.start(commands).await? {
            (usage, _) if usage.succeeded => Ok(usage),
            (_, said) => Err(said),
        }
    }

    /// Runs a command that is to fail.
    pub async fn measure_failure(&self, command: Words) -> Result<Usage, String> {
        match self.start(&[command]).await? {
            (usage, _) if usage.succeeded => Err("it did not fail".to_owned()),
            (usage, _) => Ok(usage),
        }
    }

    async fn start(&self, commands: &[Words]) -> Result<(Usage, String), String> {
        let program = std::env::current_exe().expect("this program");
        let commands = serde_json::to_string(commands).expect("JSON");
        let mut starter = tokio::process::Command::new(program);
        starter.args([STARTER, &commands]).envs(self.variables()).stdin(Stdio::null()).kill_on_drop(true);
        let output = match tokio::time::timeout(PATIENCE, starter.output()).await {
            Ok(output) => output.expect("this program starts"),
            Err(_) => return Err(format!("took longer than {} s", PATIENCE.as_secs())),
        };
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let usage = serde_json::from_slice(&output.stdout).map_err(|_| said.clone())?;
        Ok((usage, said))
    }
}

/// What the small process does.
pub fn start_and_measure(commands: &str) -> ExitCode {
    let commands: Vec<Words> = serde_json::from_str(commands).expect("commands");
    let mut usage = Usage { succeeded: true, ..Usage::default() };
    let began = Instant::now();
    for command in &commands {
        let (program, arguments) = command.split_first().expect("a program");
        let child = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let result = match child.and_then(wait4::Wait4::wait4) {
            Ok(result) => result,
            Err(error) => {
                eprintln!("{program}: {error}");
                return ExitCode::FAILURE;
            }
        };
        usage.cpu_seconds += (result.rusage.utime + result.rusage.stime).as_secs_f64();
        usage.rss_bytes = usage.rss_bytes.max(result.rusage.maxrss);
        usage.succeeded = result.status.success();
        if !usage.succeeded {
            break;
        }
    }
    usage.wall_seconds = began.elapsed().as_secs_f64();
    println!("{}", serde_json::to_string(&usage).expect("JSON"));
    ExitCode::SUCCESS
}
