//! The operator as a process of its own, which a test can kill.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::{World, root};

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
}

impl Start {
    pub fn new(world: &World) -> Self {
        Start {
            kubeconfig: world.rig.kubeconfig.clone(),
            namespace: world.namespace.clone(),
            builder_image: world.rig.builder_image.clone(),
            plain_http: world.rig.plain_http(),
        }
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

    pub fn run(&self) -> Operator {
        let folder = root().join("target/test-logs");
        std::fs::create_dir_all(&folder).expect("a folder for logs");
        let log = folder.join(format!("{}.log", self.namespace));
        let file = File::options().create(true).append(true).open(&log).expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_multiarch"))
            .args(["operator", "--namespace", &self.namespace])
            .args(["--builder-image", &self.builder_image, "--plain-http", &self.plain_http])
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

impl Operator {
    pub fn start(world: &World) -> Operator {
        Start::new(world).run()
    }

    /// SIGKILL, and the end of the process.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("it can be killed");
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}
