//! The operator as a process of its own, which a test can kill.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::process::{Child, Command};

use super::{PATIENCE, World, root};

/// A running operator that looks at one test's namespace. It is killed when it is dropped.
pub struct Operator {
    child: Child,
    log: PathBuf,
}

/// How an operator is started.
pub struct Start {
    kubeconfig: PathBuf,
    namespace: String,
    builder_image: String,
    plain_http: String,
    builds: Option<PathBuf>,
    policies: Option<PathBuf>,
    elected: bool,
    more: Vec<String>,
    environment: Vec<(&'static str, OsString)>,
    /// A file in the place of `/etc/hosts`.
    hosts: Option<PathBuf>,
}

impl Start {
    pub fn new(world: &World) -> Self {
        Start {
            kubeconfig: world.rig.kubeconfig.clone(),
            namespace: world.namespace.clone(),
            builder_image: world.rig.builder_image.clone(),
            plain_http: world.rig.plain_http(),
            builds: None,
            policies: None,
            elected: false,
            more: vec![],
            environment: vec![],
            hosts: None,
        }
    }

    /// With this in its environment.
    pub fn environment(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// On a machine that knows these names, each line an address and a name. Needs user namespaces.
    pub fn hosts(mut self, lines: &str) -> Self {
        let file = logs().join(format!("{}-hosts", self.namespace));
        std::fs::write(&file, lines).expect("a file of hosts");
        self.hosts = Some(file);
        self
    }

    pub fn kubeconfig(mut self, path: &Path) -> Self {
        self.kubeconfig = path.to_owned();
        self
    }

    pub fn plain_http(mut self, host: &str) -> Self {
        self.plain_http = format!("{},{host}", self.plain_http);
        self
    }

    pub fn builder_image(mut self, image: &str) -> Self {
        self.builder_image = image.to_owned();
        self
    }

    /// One of several: without this an operator does not wait for the lease of one that was killed.
    pub fn elected(mut self) -> Self {
        self.elected = true;
        self
    }

    /// With these arguments as well.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.more.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// With this file of build settings.
    pub fn builds(mut self, settings: &str) -> Self {
        let folder = logs();
        let file = folder.join(format!("{}-builds.yaml", self.namespace));
        std::fs::write(&file, settings).expect("a file of build settings");
        self.builds = Some(file);
        self
    }

    /// With this file of policies.
    pub fn policies(mut self, policies: &str) -> Self {
        let file = logs().join(format!("{}-policies.yaml", self.namespace));
        std::fs::write(&file, policies).expect("a file of policies");
        self.policies = Some(file);
        self
    }

    pub fn run(&self) -> Operator {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let log = logs().join(format!("{}-{number}.log", self.namespace));
        let file = File::options().create(true).append(true).open(&log).expect("a log");
        let program = env!("CARGO_BIN_EXE_multiarch");
        let mut command = match &self.hosts {
            None => Command::new(program),
            Some(hosts) => {
                // Each program takes the place of the one before, so that there is one process to kill.
                let mut command = Command::new("unshare");
                let script = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
                command.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(hosts).arg(program);
                command
            }
        };
        let child = command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .args(["operator", "--namespace", &self.namespace])
            .args(["--builder-image", &self.builder_image, "--plain-http", &self.plain_http])
            .args(self.builds.iter().flat_map(|file| [OsStr::new("--builds"), file.as_os_str()]))
            .args(self.policies.iter().flat_map(|file| [OsStr::new("--policies"), file.as_os_str()]))
            .arg(format!("--leader-election={}", self.elected))
            .args(&self.more)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("RUST_LOG", "info,multiarch=debug")
            .stdout(Stdio::null())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .expect("the operator starts");
        Operator { child, log }
    }
}

fn logs() -> PathBuf {
    let folder = root().join("target/test-logs");
    std::fs::create_dir_all(&folder).expect("a folder for logs");
    folder
}

impl Operator {
    pub fn start(world: &World) -> Operator {
        Start::new(world).run()
    }

    /// SIGKILL, and the end of the process.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("it can be killed");
    }

    /// SIGTERM, as the kubelet sends it.
    pub fn terminate(&self) {
        let sent = std::process::Command::new("kill").args(["-TERM", &self.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// The end of the process, which the test does not cause.
    pub async fn ended(&mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends in time").expect("its status")
    }

    /// Until a line of the log has these words; gives the line.
    pub async fn until_log(&self, words: &str) -> String {
        let said = async {
            loop {
                if let Some(line) = self.log().lines().find(|line| line.contains(words)) {
                    return line.to_owned();
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, said).await;
        waited.unwrap_or_else(|_| panic!("{words:?} is not in the log:\n{}", self.log()))
    }

    /// Where it answers, once it does.
    pub async fn address(&self) -> String {
        let line = self.until_log("listening address=").await;
        line.rsplit("address=").next().expect("an address").trim().to_owned()
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}
