//! Every version of an object that the API server has had, and what GitOps tools make of each.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use futures::StreamExt as _;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, WatchEvent, WatchParams};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{PATIENCE, World, devcluster, root};

/// The versions of one object, from before it is created.
pub struct Recording {
    versions: watch::Receiver<Vec<Value>>,
    taken: usize,
    watcher: JoinHandle<()>,
}

impl Recording {
    /// Of the object of this name in the test's namespace.
    pub async fn start(world: &World, resource: &ApiResource, name: &str) -> Recording {
        let api: Api<DynamicObject> = Api::namespaced_with(world.client.clone(), &world.namespace, resource);
        let list = api.list(&ListParams::default()).await.expect("a list");
        let mut seen = list.metadata.resource_version.expect("the version of a list");
        let (sender, versions) = watch::channel(vec![]);
        let parameters = WatchParams::default().fields(&format!("metadata.name={name}"));
        let watcher = tokio::spawn(async move {
            loop {
                let mut events = api.watch(&parameters, &seen).await.expect("a watch").boxed();
                while let Some(Ok(event)) = events.next().await {
                    let (WatchEvent::Added(object) | WatchEvent::Modified(object)) = event else { continue };
                    seen = object.metadata.resource_version.clone().expect("a version");
                    let version = serde_json::to_value(&object).expect("JSON");
                    sender.send_modify(|versions| versions.push(version));
                }
            }
        });
        Recording { versions, taken: 0, watcher }
    }

    /// The versions that came since the last call, up to the first that meets the condition.
    pub async fn until(&mut self, what: &str, met: impl Fn(&Value) -> bool) -> Vec<Value> {
        let from = self.taken;
        let find = |versions: &Vec<Value>| versions.iter().skip(from).position(&met);
        let found = self.versions.wait_for(|all| find(all).is_some());
        let found = tokio::time::timeout(PATIENCE, found).await.map(|all| all.expect("a watch").clone());
        let Ok(all) = found else {
            panic!("it never came to be {what}: {:#?}", self.versions.borrow().last());
        };
        self.taken = from + find(&all).expect("a version") + 1;
        all[from..self.taken].to_vec()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// A condition of any object that speaks of its latest generation.
pub fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a Value> {
    let current = |condition: &&Value| condition["observedGeneration"] == object["metadata"]["generation"];
    let mut conditions = object["status"]["conditions"].as_array()?.iter();
    conditions.find(|condition| condition["type"] == type_).filter(current)
}

/// Whether a condition says this.
pub fn says(object: &Value, type_: &str, state: &str) -> bool {
    condition(object, type_).is_some_and(|condition| condition["status"] == state)
}

/// What kstatus, which Flux and Helm use, computes of each object.
pub fn kstatus(objects: &[Value]) -> Vec<String> {
    health(&["kstatus"], objects)
}

/// What Argo CD says of each object by our script.
pub fn argo_cd(objects: &[Value]) -> Vec<String> {
    health(&["argocd", &root().join("config/argocd/health.lua").to_string_lossy()], objects)
}

fn health(arguments: &[&str], objects: &[Value]) -> Vec<String> {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| devcluster::run(&["tool", "health"]).trim().into());
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let input: String = objects.iter().map(Value::to_string).collect();
    let mut stdin = child.stdin.take().expect("standard input");
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("the program ends");
    writer.join().expect("a thread").expect("it reads everything");
    assert!(output.status.success(), "{arguments:?} does not judge {objects:#?}");
    let answers = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let states: Vec<String> =
        answers.map(|answer| answer.expect("JSON")["status"].as_str().expect("a state").to_owned()).collect();
    assert_eq!(states.len(), objects.len());
    states
}
