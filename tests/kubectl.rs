//! The commands that look at a cluster, as people run them: `status`, `wait` and `logs`, and the program as kubectl's plugin.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/command.rs"]
mod command;
#[path = "support/fault_server.rs"]
mod fault_server;
mod support;

use std::path::Path;
use std::process::Stdio;

use command::{Ran, command, run};
use fault_server::{Answer, FaultServer};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use multiarch::api::{ANNOTATION_RECONCILE, MultiArchImage, Phase};
use serde_json::{Value, json};
use support::accounts::{kubeconfig_of, refused};
use support::builds::{inline, open_gate, until_gate_opens, until_gone};
use support::images::Push;
use support::nodes::needs_nodes;
use support::operator::Operator;
use support::{PATIENCE, World};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

const PLATFORM: &str = "linux/amd64";

/// The command, in the namespace of the test.
fn within(world: &World, arguments: &[&str]) -> Command {
    let kubeconfig = world.rig.kubeconfig.to_string_lossy();
    command(&[arguments, &["-n", &world.namespace, "--kubeconfig", &kubeconfig]].concat())
}

async fn multiarch(world: &World, arguments: &[&str]) -> Ran {
    tokio::time::timeout(PATIENCE, run(within(world, arguments))).await.expect("it ends")
}

/// The command while it runs; it is killed when it is dropped.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(world: &World, arguments: &[&str]) -> Self {
        let mut child = within(world, arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("it starts");
        let stdout = child.stdout.take().expect("its output");
        Self { child, lines: BufReader::new(stdout).lines() }
    }

    /// The next line in which these words stand.
    async fn until(&mut self, words: &str) -> String {
        let found = async {
            loop {
                let line = self.lines.next_line().await.expect("UTF-8");
                let line = line.unwrap_or_else(|| panic!("it ended without {words:?}"));
                if line.contains(words) {
                    return line;
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{words:?} never came"))
    }

    /// The exit code, when it ends by itself.
    async fn code(mut self) -> Option<i32> {
        let ended = async {
            while let Ok(Some(_)) = self.lines.next_line().await {}
            self.child.wait().await.expect("it ends").code()
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("it ends")
    }
}

fn source(world: &World, image: &str) -> Value {
    json!({
        "target": {"repository": world.repository("web"), "tags": ["1.0", "latest"]},
        "platforms": [{"platform": PLATFORM, "image": image}],
    })
}

/// An image of one that exists, ready.
async fn ready(world: &World) -> MultiArchImage {
    let from = world.repository("from");
    Push::to(&from).image("v1", PLATFORM, "content").await;
    world.apply("web", source(world, &format!("{from}:v1"))).await;
    world.until_ready("web").await
}

#[tokio::test]
async fn status_shows_images_and_one_of_them_by_platform() {
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let nothing = multiarch(&world, &["status"]).await.ok();
    assert_eq!(
        (nothing.stdout.as_str(), nothing.stderr.trim_end()),
        ("", &*format!("no MultiArchImages in namespace {}", world.namespace))
    );
    let image = ready(&world).await;
    let digest = image.status.as_ref().and_then(|status| status.digest.clone()).expect("a digest");
    let short = &digest["sha256:".len()..][..12];
    let table = multiarch(&world, &["status"]).await.ok();
    let row: Vec<&str> = table.lines()[1].split_whitespace().collect();
    assert_eq!(row[..6], ["web", "True", "Published", "1/1", "1.0", short], "{}", table.stdout);
    let one = multiarch(&world, &["status", "multiarchimage.multiarch.dev/web"]).await.ok();
    assert!(
        one.stdout.contains(&format!("target  {}:1.0, latest", world.repository("web"))),
        "{}",
        one.stdout
    );
    assert!(
        one.lines().iter().any(|line| line.starts_with("linux/amd64  Ready  Verified")),
        "{}",
        one.stdout
    );
    assert!(!one.stdout.contains('\u{1b}'), "no colours where there is no terminal");

    let document = multiarch(&world, &["status", "web", "-o", "json"]).await.json();
    assert_eq!(document["state"], "Ready");
    assert_eq!(document["status"], serde_json::to_value(&image.status).expect("JSON"));
    let list = multiarch(&world, &["status", "-o", "yaml"]).await.ok();
    assert!(list.stdout.starts_with("- namespace: "), "{}", list.stdout);

    let kubeconfig = world.rig.kubeconfig.to_string_lossy();
    let all = command::multiarch(&["status", "-A", "--kubeconfig", &kubeconfig]).await.ok();
    assert!(all.lines()[0].starts_with("NAMESPACE "), "{}", all.stdout);
    assert!(
        all.lines().iter().any(|line| line.starts_with(&world.namespace) && line.contains(short)),
        "{}",
        all.stdout
    );
    let missing = multiarch(&world, &["status", "missing"]).await.failed(3);
    assert_eq!(
        missing.trim_end(),
        format!("multiarch: multiarchimage/missing: not found in namespace {}", world.namespace)
    );
}

#[tokio::test]
async fn a_watch_tells_every_change_on_a_line() {
    let world = World::new().await;
    let mut watching = Running::start(&world, &["status", "--watch"]);
    let mut documents = Running::start(&world, &["status", "--watch", "-o", "json"]);
    let _operator = Operator::start(&world);
    ready(&world).await;
    let line = watching.until("linux/amd64 Ready").await;
    assert!(
        line.starts_with(&format!("{}/web linux/amd64 Ready Verified: verified sha256:", world.namespace)),
        "{line}"
    );
    watching.until("/web Ready 1/1: sha256:").await;
    let document = documents.until("\"state\":\"Ready\"").await;
    let document: Value = serde_json::from_str(&document).expect("one document on a line");
    assert_eq!(document["name"], "web");
    world.api::<MultiArchImage>().delete("web", &DeleteParams::default()).await.expect("deleted");
    watching.until("/web deleted").await;
}

#[tokio::test]
async fn waiting_ends_when_the_image_is_ready_and_at_once_when_it_is_stalled() {
    let world = World::new().await;
    let from = world.repository("from");
    let waiting = Running::start(&world, &["wait", "web", "--timeout", "5m"]);
    assert_eq!(waiting.code().await, Some(3), "there is none yet");
    world.apply("web", source(&world, &format!("{from}:missing"))).await;
    let waiting = within(&world, &["wait", "web", "--timeout", "1h"]);
    let _operator = Operator::start(&world);
    let said = tokio::time::timeout(PATIENCE, run(waiting)).await.expect("long before the hour").failed(8);
    let cause = format!("multiarch: web: Stalled: linux/amd64: SourceNotFound: {from}:missing: not found");
    assert!(said.starts_with(&cause), "{said}");
    let kubeconfig = world.rig.kubeconfig.display();
    let more =
        format!("`multiarch why web --kubeconfig {kubeconfig} -n {}` says what to do", world.namespace);
    assert!(said.contains(&more), "{said}");

    // That it was stalled is of the spec as it was.
    let mut waiting = {
        Push::to(&from).image("v1", PLATFORM, "content").await;
        world.apply("web", source(&world, &format!("{from}:v1"))).await;
        Running::start(&world, &["wait", "web", "--timeout", "1h"])
    };
    waiting.until("web: Ready: sha256:").await;
    assert_eq!(waiting.code().await, Some(0));
}

#[tokio::test]
async fn a_request_that_nobody_has_answered_is_waited_for_until_the_time_is_over() {
    let world = World::new().await;
    let mut operator = Operator::start(&world);
    ready(&world).await;
    operator.kill().await;
    let request = json!({"metadata": {"annotations": {ANNOTATION_RECONCILE: "now"}}});
    let images = world.api::<MultiArchImage>();
    images.patch("web", &PatchParams::default(), &Patch::Merge(request)).await.expect("a request");
    let said = multiarch(&world, &["wait", "web", "--timeout", "0s"]).await.failed(9);
    let told = "multiarch: web: not ready: the operator has not looked at the latest spec or request yet";
    assert_eq!(said.trim_end(), told);
    let told = multiarch(&world, &["why", "web"]).await.ok();
    assert!(
        told.stdout.starts_with("web: Unseen: the operator has not answered the latest request"),
        "{}",
        told.stdout
    );
    let waiting = within(&world, &["wait", "web", "--timeout", "1h"]);
    let _operator = Operator::start(&world);
    tokio::time::timeout(PATIENCE, run(waiting)).await.expect("long before the hour").ok();
}

#[tokio::test]
async fn who_waits_is_told_that_the_image_was_deleted() {
    let world = World::new().await;
    for name in ["web", "api"] {
        world.apply(name, source(&world, &format!("{}:v1", world.repository("from")))).await;
    }
    let mut watching = Running::start(&world, &["status", "web", "--watch"]);
    watching.until("/web Unseen").await;
    let ready = Running::start(&world, &["wait", "web"]);
    let deleted = Running::start(&world, &["wait", "web", "api", "--for", "deleted"]);
    let images = world.api::<MultiArchImage>();
    for name in ["web", "api"] {
        images.delete(name, &DeleteParams::default()).await.expect("deleted");
    }
    assert_eq!(ready.code().await, Some(3));
    assert_eq!(deleted.code().await, Some(0));
}

#[tokio::test]
async fn the_logs_of_all_platforms_come_together_and_following_ends_with_the_builds() {
    needs_nodes!("the_logs_of_all_platforms_come_together_and_following_ends_with_the_builds");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let commands = format!("{}\nRUN echo built-for-$(uname -m)", until_gate_opens(&world));
    world.apply("web", inline(&world, "web", &["linux/amd64", "linux/arm64"], &commands)).await;
    // Nothing has begun: its pods come while it is followed.
    let mut following = Running::start(&world, &["logs", "web", "-f"]);
    world.until_platform("web", "linux/arm64", Phase::Building, "Building").await;
    world.until_platform("web", "linux/amd64", Phase::Building, "Building").await;
    let refused = multiarch(&world, &["logs", "web", "--platform", "linux/s390x"]).await.failed(3);
    assert!(refused.contains("no platform linux/s390x; it has linux/amd64, linux/arm64"), "{refused}");
    open_gate(&world).await;
    following.until("built-for-").await;
    assert_eq!(following.code().await, Some(0), "it ends by itself");
    world.until_ready("web").await;

    let all = multiarch(&world, &["logs", "web"]).await.ok();
    for line in ["linux/amd64 | ", "linux/arm64 | "] {
        assert!(all.lines().iter().any(|found| found.starts_with(line)), "{}", all.stdout);
    }
    let machines: Vec<&str> = ["x86_64", "aarch64"]
        .into_iter()
        .filter(|machine| all.stdout.contains(&format!("built-for-{machine}")))
        .collect();
    assert_eq!(machines, ["x86_64", "aarch64"], "{}", all.stdout);
    assert!(all.lines().iter().all(|line| line.starts_with("linux/")), "{}", all.stdout);
    let one = multiarch(&world, &["logs", "web", "--platform", "linux/arm64", "--tail", "2"]).await.ok();
    assert!(one.lines().iter().all(|line| line.starts_with("linux/arm64 | ")), "{}", one.stdout);
    let timed = multiarch(&world, &["logs", "web", "--timestamps"]).await.ok();
    let times: Vec<jiff::Timestamp> = timed
        .lines()
        .iter()
        .map(|line| {
            line.split(" | ").nth(1).and_then(|line| line.split(' ').next()?.parse().ok()).expect("a time")
        })
        .collect();
    assert!(times.is_sorted(), "{}", timed.stdout);
}

#[tokio::test]
async fn attempts_that_come_later_are_followed_and_what_is_left_of_the_last_one_is_told() {
    needs_nodes!("attempts_that_come_later_are_followed_and_what_is_left_of_the_last_one_is_told");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let commands = format!("{}\nRUN echo told-by-the-step && exit 3", until_gate_opens(&world));
    let mut spec = inline(&world, "web", &[PLATFORM], &commands);
    spec["build"]["retries"] = json!(1);
    world.apply("web", spec).await;
    let first = world.until_platform("web", PLATFORM, Phase::Building, "Building").await;
    let following = within(&world, &["logs", "web", "-f"]);
    let delete = async {
        world
            .api::<Pod>()
            .delete(&first.pod.clone().expect("a pod"), &DeleteParams::default())
            .await
            .expect("deleted");
        let is_second = |image: &MultiArchImage| {
            support::entry(image, PLATFORM)
                .is_some_and(|entry| entry.phase == Phase::Building && entry.pod != first.pod)
        };
        let second = world.until("web", "building again", is_second).await;
        open_gate(&world).await;
        support::entry(&second, PLATFORM).and_then(|entry| entry.pod.clone()).expect("a pod")
    };
    let (followed, second) = tokio::join!(tokio::time::timeout(PATIENCE, run(following)), delete);
    let followed = followed.expect("it ends").ok();
    assert!(followed.stdout.contains("told-by-the-step"), "{}", followed.stdout);
    assert!(
        followed.stderr.contains(&format!("linux/amd64: another attempt, pod/{second} on node-amd64")),
        "{}",
        followed.stderr
    );

    world.until_platform("web", PLATFORM, Phase::Failed, "BuildFailed").await;
    let pods = world.api::<Pod>();
    for pod in pods.list(&ListParams::default()).await.expect("pods") {
        let name = pod.metadata.name.expect("a name");
        let _ = pods.delete(&name, &DeleteParams::default().grace_period(0)).await;
        until_gone(pods.clone(), &name).await;
    }
    let earlier = multiarch(&world, &["logs", "web", "--previous"]).await.ok();
    assert_eq!(earlier.stdout, "", "what the status keeps is of the latest");
    assert!(earlier.stderr.contains("earlier attempt"), "{}", earlier.stderr);
    let left = multiarch(&world, &["logs", "web"]).await.ok();
    assert!(left.stdout.contains("told-by-the-step"), "{}", left.stdout);
    assert!(
        left.stderr.contains("its pod is gone; these are the last lines, which the status keeps"),
        "{}",
        left.stderr
    );
}

#[tokio::test]
async fn a_cluster_that_cannot_be_asked_is_told_plainly() {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = |server: &str| {
        let path = folder.path().join("config");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "east",
            "clusters": [{"name": "c", "cluster": {"server": server}}], "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "east", "context": {"cluster": "c", "user": "u", "namespace": "team-a"}}],
        });
        std::fs::write(&path, config.to_string()).unwrap();
        path.to_string_lossy().into_owned()
    };
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let unreachable = kubeconfig(&nobody);
    let said = command::multiarch(&["status", "--kubeconfig", &unreachable]).await.failed(6);
    assert!(
        said.starts_with("multiarch: the cluster does not answer: ") && said.contains("refused"),
        "{said}"
    );
    let said =
        command::multiarch(&["status", "--kubeconfig", &unreachable, "--context", "west"]).await.failed(2);
    assert_eq!(said.trim_end(), "multiarch: the kubeconfig has no context \"west\"; it has east");
    let said = command::multiarch(&["status"]).await.failed(2);
    assert!(said.contains("/nonexistent/.kube/config") && said.contains("--kubeconfig"), "{said}");

    // An API server that has never heard of us, as it says so.
    let stranger = FaultServer::start(|_| Answer::status(404).body("404 page not found\n")).await;
    let stranger = kubeconfig(&format!("http://{}", stranger.host));
    for arguments in [&["status"][..], &["why", "web"], &["wait", "web"], &["status", "--watch"]] {
        let said = command::multiarch(&[arguments, &["--kubeconfig", &stranger]].concat()).await.failed(3);
        assert!(said.contains("multiarch crd | kubectl apply"), "{arguments:?}: {said}");
    }
}

/// The Role that the documentation names.
fn documented_role(world: &World) -> Role {
    let text = std::fs::read_to_string(support::root().join("docs/kubectl.md")).expect("the documentation");
    let block = text.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a Role");
    let mut role: Role = serde_saphyr::from_str(block).expect("a Role");
    role.metadata.namespace = Some(world.namespace.clone());
    role
}

#[tokio::test]
async fn the_role_that_is_documented_is_all_that_a_person_needs() {
    needs_nodes!("the_role_that_is_documented_is_all_that_a_person_needs");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let role = documented_role(&world);
    world.api::<Role>().create(&PostParams::default(), &role).await.expect("the Role");
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "person"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role.metadata.name},
        "subjects": [{"kind": "ServiceAccount", "name": "person", "namespace": world.namespace}],
    }))
    .expect("a binding");
    world.api::<RoleBinding>().create(&PostParams::default(), &binding).await.expect("the binding");
    let kubeconfig = kubeconfig_of(&world, "person").await;
    let person = |arguments: &[&str]| {
        let kubeconfig = kubeconfig.to_string_lossy();
        run(command(&[arguments, &["-n", &world.namespace, "--kubeconfig", &kubeconfig]].concat()))
    };
    let mut spec = inline(&world, "waits", &[PLATFORM], "RUN true");
    spec["build"]["pod"] = json!({"nodeSelector": {"multiarch-test/nowhere": world.namespace}});
    world.apply("waits", spec).await;
    world.apply("web", inline(&world, "web", &[PLATFORM], "RUN true")).await;
    for arguments in
        [&["wait", "web"][..], &["status"], &["logs", "web", "-f"], &["logs", "web"], &["why", "web"]]
    {
        person(arguments).await.ok();
    }
    world.until_platform("waits", PLATFORM, Phase::Waiting, "Unschedulable").await;
    person(&["why", "waits"]).await.ok();
    person(&["status", "waits"]).await.ok();
    assert_eq!(refused(&world, "person"), Vec::<String>::new());
    let mut rules = role.rules.clone().expect("rules");
    rules.retain(|rule| !rule.resources.iter().flatten().any(|resource| resource == "pods/log"));
    let name = role.metadata.name.as_deref().expect("a name");
    let without_logs = Patch::Merge(json!({"rules": rules}));
    world.api::<Role>().patch(name, &PatchParams::default(), &without_logs).await.expect("the Role");
    let said = loop {
        let ran = person(&["logs", "web"]).await;
        if ran.code != Some(0) {
            break ran.failed(4);
        }
    };
    assert!(said.contains("pods/log") && !said.contains("gone") && !said.contains("hint:"), "{said}");
    world.api::<RoleBinding>().delete("person", &DeleteParams::default()).await.expect("deleted");
    let said = loop {
        // The authorizer learns of it by a watch.
        let ran = person(&["why", "web"]).await;
        if ran.code != Some(0) {
            break ran.failed(4);
        }
    };
    assert!(said.contains("cannot get resource \"multiarchimages\""), "{said}");
    assert!(!refused(&world, "person").is_empty(), "what is refused is noted");
}

/// The program under the name by which kubectl finds it, in a folder of its own.
fn plugin(folder: &Path) {
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_multiarch"), folder.join("kubectl-multiarch")).unwrap();
}

#[tokio::test]
async fn kubectl_finds_it_as_a_plugin_and_it_tells_how_it_was_typed() {
    let world = World::new().await;
    let _operator = Operator::start(&world);
    ready(&world).await;
    let folder = tempfile::tempdir().unwrap();
    plugin(folder.path());
    let kubectl = |arguments: &[&str]| {
        let mut command = Command::new(&world.rig.kubectl);
        command.arg("multiarch").args(arguments).env_clear().env("HOME", "/nonexistent");
        command.env("PATH", folder.path()).env("KUBECONFIG", &world.rig.kubeconfig);
        run(command)
    };
    let help = kubectl(&["status", "--help"]).await.ok();
    assert!(help.stdout.contains("Usage: kubectl multiarch status [OPTIONS] [NAME]"), "{}", help.stdout);
    let wrong = kubectl(&["status", "--nonsense"]).await.failed(2);
    assert!(wrong.contains("Usage: kubectl multiarch status"), "{wrong}");
    let table = kubectl(&["status", "-n", &world.namespace]).await.ok();
    assert!(table.lines()[1].starts_with("web "), "{}", table.stdout);
    world.apply("bad", source(&world, &format!("{}:missing", world.repository("from")))).await;
    let said = kubectl(&["wait", "bad", "-n", &world.namespace]).await.failed(8);
    assert!(said.contains("`kubectl multiarch why bad -n"), "{said}");
}
