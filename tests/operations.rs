//! What an operator says of itself: metrics, and who may read them; logs; traces.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/collector.rs"]
mod collector;
#[path = "support/metrics.rs"]
mod metrics;
mod support;

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use certificates::{Authority, Certificate, Folder};
use collector::{Collector, Span, attribute, hex};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use metrics::Scrape;
use multiarch::api::{ANNOTATION_RECONCILE, MultiArchImage, Phase};
use serde_json::{Value, json};
use support::accounts::kubeconfig_of;
use support::builds::{inline, secret};
use support::examples::yaml_blocks;
use support::images::Push;
use support::nodes::needs_nodes;
use support::operator::{Operator, Start};
use support::{World, has_condition, is_ready, root};

const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];

/// One image of a source that is there.
async fn spec(world: &World, name: &str) -> Value {
    Push::to(&world.repository("from")).image("v1", "linux/s390x", "content").await;
    json!({
        "target": {"repository": world.repository(name), "tags": ["1.0"]},
        "platforms": [{"platform": "linux/s390x", "image": format!("{}:v1", world.repository("from"))}],
    })
}

async fn ask_for_a_look(world: &World, name: &str) {
    let patch = json!({"metadata": {"annotations": {ANNOTATION_RECONCILE: "now"}}});
    let api = world.api::<MultiArchImage>();
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("the annotation");
}

/// The names in the tables of the documentation.
fn documented() -> Vec<String> {
    let page = std::fs::read_to_string(root().join("docs/operations.md")).expect("the page");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    rows.map(|(name, _)| name.to_owned()).collect()
}

#[tokio::test]
async fn a_scrape_tells_what_was_published_what_was_refused_and_what_drifted() {
    let world = World::new().await;
    let start = Start::new(&world).with(&LISTEN);
    let mut operator = start.run();
    let mut spec = spec(&world, "web").await;
    world.apply("web", spec.clone()).await;
    let web = world.until_ready("web").await;
    let succeeded = "multiarch_publications_total{outcome=\"Succeeded\"}";
    let scrape = Scrape::until(&operator, succeeded, 1.0).await;
    assert_eq!(scrape.content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert_eq!(scrape.value("multiarch_images{state=\"Ready\"}"), 1.0);
    assert_eq!(scrape.value("multiarch_platforms{phase=\"Ready\"}"), 1.0);
    assert_eq!(scrape.value("multiarch_leader"), 1.0);
    assert!(scrape.value("multiarch_tasks_total{task=\"Publish\",outcome=\"Succeeded\"}") >= 1.0);
    assert!(scrape.sum("multiarch_registry_requests_total{method=\"PUT\",code=\"201\"}") >= 2.0);
    assert!(scrape.sum("multiarch_copied_blobs_total") >= 2.0, "a config and a layer");
    assert!(scrape.sum("multiarch_reconciliations_total{outcome=\"Succeeded\"}") >= 1.0);

    // A tag that is not to be moved.
    spec["target"] =
        json!({"repository": world.repository("taken"), "tags": ["1.0"], "tagPolicy": "IfAbsent"});
    Push::to(&world.repository("taken")).image("1.0", "linux/amd64", "of somebody else").await;
    world.apply("taken", spec).await;
    world.until("taken", "stalled", |image| has_condition(image, "Stalled", "True")).await;
    Scrape::until(&operator, "multiarch_publications_total{outcome=\"TagExists\"}", 1.0).await;

    // A tag that somebody moved.
    let digest = web.status.and_then(|status| status.digest).expect("a digest");
    let other = Push::to(&world.repository("web")).image("1.0", "linux/amd64", "of somebody else").await;
    assert_ne!(other.digest, digest);
    ask_for_a_look(&world, "web").await;
    let scrape = Scrape::until(&operator, "multiarch_drift_corrected_total", 1.0).await;
    assert_eq!(scrape.value("multiarch_drift_found_total"), 1.0);
    assert_eq!(scrape.value(succeeded), 2.0);
    assert_eq!(scrape.value("multiarch_images{state=\"Stalled\"}"), 1.0);

    assert_eq!(scrape.faults(), "", "{}", scrape.text);
    let unknown: Vec<String> =
        scrape.names().into_iter().filter(|name| !documented().contains(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert!(!scrape.text.contains(&world.namespace) && !scrape.text.contains(&world.rig.registry));

    // What is ready when an operator comes is counted as it stands, and as nothing that has happened.
    operator.kill().await;
    let operator = start.run();
    let scrape =
        Scrape::until(&operator, "multiarch_reconciliations_total{outcome=\"Succeeded\"}", 2.0).await;
    assert_eq!(scrape.value("multiarch_images{state=\"Ready\"}"), 1.0);
    assert_eq!(scrape.sum("multiarch_publications_total"), 0.0);
    assert_eq!(scrape.sum("multiarch_drift"), 0.0);
}

#[tokio::test]
async fn a_scrape_tells_how_builds_ended_and_how_long_they_took() {
    needs_nodes!("a_scrape_tells_how_builds_ended_and_how_long_they_took");
    let world = World::new().await;
    let operator = Start::new(&world).with(&LISTEN).run();
    world.apply("good", inline(&world, "good", &["linux/amd64"], "RUN true")).await;
    let mut bad = inline(&world, "bad", &["linux/amd64"], "RUN false");
    bad["build"]["retries"] = json!(0);
    world.apply("bad", bad).await;
    world.until_ready("good").await;
    world.until_platform("bad", "linux/amd64", Phase::Failed, "BuildFailed").await;
    for outcome in ["Succeeded", "BuildFailed"] {
        let series = format!("multiarch_builds_total{{platform=\"linux/amd64\",outcome=\"{outcome}\"}}");
        assert_eq!(Scrape::until(&operator, &series, 1.0).await.value(&series), 1.0);
    }
    let labels = "{platform=\"linux/amd64\",emulated=\"false\"}";
    let scrape = Scrape::of(&operator).await;
    assert_eq!(scrape.value(&format!("multiarch_build_duration_seconds_count{labels}")), 2.0);
    assert_eq!(scrape.value("multiarch_builds_running"), 0.0);
    assert_eq!(scrape.faults(), "", "{}", scrape.text);
}

fn client(trusted: &Authority) -> reqwest::Client {
    let authority = reqwest::Certificate::from_pem(trusted.pem().as_bytes()).expect("a certificate");
    reqwest::Client::builder().tls_certs_only([authority]).build().expect("a client")
}

async fn status(client: &reqwest::Client, url: &str, token: Option<&str>) -> Option<(u16, String)> {
    let request = client.get(url);
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    let answer = request.send().await.ok()?;
    Some((answer.status().as_u16(), answer.text().await.expect("text")))
}

/// The token in a kubeconfig.
fn token(kubeconfig: &Path) -> String {
    let text = std::fs::read_to_string(kubeconfig).expect("a kubeconfig");
    let kubeconfig: Value = serde_saphyr::from_str(&text).expect("a kubeconfig");
    kubeconfig["users"][0]["user"]["token"].as_str().expect("a token").to_owned()
}

fn write(folder: &Folder, Certificate { certificate, key }: &Certificate) {
    folder.write("tls.crt", certificate);
    folder.write("tls.key", key);
}

#[tokio::test]
async fn the_server_speaks_tls_with_a_certificate_that_is_renewed_while_it_runs() {
    let world = World::new().await;
    let (old, new, folder) = (Authority::new(), Authority::new(), Folder::new());
    write(&folder, &old.server("127.0.0.1"));
    let [certificate, key] =
        ["tls.crt", "tls.key"].map(|name| folder.path().join(name).display().to_string());
    let tls = ["--tls-certificate", certificate.as_str(), "--tls-key", key.as_str()];
    let operator = Start::new(&world).with(&LISTEN).with(&tls).run();
    let url = format!("https://{}/readyz", operator.address().await);
    assert!(status(&client(&new), &url, None).await.is_none(), "nobody trusts it but who is to");
    assert!(status(&client(&old), &url, None).await.is_some());
    assert!(status(&client(&old), &url.replace("https", "http"), None).await.is_none());

    folder.write("tls.key", "no key");
    operator.until_log("the server's certificate stays as it was").await;
    assert!(status(&client(&old), &url, None).await.is_some());

    write(&folder, &new.server("127.0.0.1"));
    operator.until_log("the server's certificate has been renewed").await;
    assert!(status(&client(&new), &url, None).await.is_some());
    assert!(status(&client(&old), &url, None).await.is_none());

    let mut halves = Start::new(&world).with(&LISTEN).with(&tls[..2]).run();
    assert!(!halves.ended().await.success());
    assert!(halves.log().contains("--tls-certificate and --tls-key go together"), "{}", halves.log());
}

#[tokio::test]
async fn metrics_are_read_by_whom_kubernetes_lets_and_probes_by_everybody() {
    let world = World::new().await;
    let [asking, reading] = &roles_of("docs/operations.md")[..] else {
        panic!("the page has two ClusterRoles")
    };
    let reader = token(&kubeconfig_of(&world, "reader").await);
    let other = token(&kubeconfig_of(&world, "other").await);
    // The operator may do what the pages say, and nothing else.
    let operators = kubeconfig_of(&world, "operator").await;
    let mut granted = vec![grant(&world, asking, "operator").await, grant(&world, reading, "reader").await];
    granted.push(grant(&world, &roles_of("README.md")[0], "operator").await);
    let authorization = ["--metrics-authorization", "Kubernetes"];
    let operator = Start::new(&world).kubeconfig(&operators).with(&LISTEN).with(&authorization).run();
    let base = format!("http://{}", operator.address().await);
    let http = reqwest::Client::new();
    let metrics = format!("{base}/metrics");
    let ask = async |token: Option<&str>| status(&http, &metrics, token).await.expect("an answer");
    assert_eq!(ask(None).await.0, 401);
    let challenge = http.get(&metrics).send().await.expect("an answer");
    assert_eq!(challenge.headers()["www-authenticate"], "Bearer");
    assert_eq!(ask(Some("made-up")).await, (401, "the cluster does not know this token\n".to_owned()));
    let (code, words) = ask(Some(&other)).await;
    assert_eq!(code, 403);
    let user = format!("system:serviceaccount:{}:other may not get /metrics", world.namespace);
    assert!(words.starts_with(&user), "{words}");
    let (code, text) = ask(Some(&reader)).await;
    assert!(code == 200 && text.ends_with("# EOF\n"), "{code} {text}");
    assert_eq!(status(&http, &format!("{base}/healthz"), None).await.map(|answer| answer.0), Some(200));
    let log = operator.log();
    assert!(!log.contains(&reader) && !log.contains(&other), "{log}");
    for granted in granted {
        take_back(granted).await;
    }
}

fn roles_of(page: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(root().join(page)).expect("the page");
    yaml_blocks(&text).into_iter().filter(|block| block["kind"] == "ClusterRole").collect()
}

type Granted = (Api<ClusterRole>, Api<ClusterRoleBinding>, String);

/// Gives a role to an account of the test.
async fn grant(world: &World, role: &Value, account: &str) -> Granted {
    let name = format!("{}-{}", world.namespace, role["metadata"]["name"].as_str().expect("a name"));
    let mut role: ClusterRole = serde_json::from_value(role.clone()).expect("a ClusterRole");
    role.metadata.name = Some(name.clone());
    let roles: Api<ClusterRole> = Api::all(world.client.clone());
    roles.create(&PostParams::default(), &role).await.expect("a ClusterRole");
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": world.namespace}],
    }))
    .expect("a binding");
    let bindings: Api<ClusterRoleBinding> = Api::all(world.client.clone());
    bindings.create(&PostParams::default(), &binding).await.expect("a ClusterRoleBinding");
    (roles, bindings, name)
}

async fn take_back((roles, bindings, name): Granted) {
    roles.delete(&name, &DeleteParams::default()).await.expect("it can be deleted");
    bindings.delete(&name, &DeleteParams::default()).await.expect("it can be deleted");
}

/// The lines of a log in JSON.
fn lines(operator: &Operator) -> Vec<Value> {
    operator
        .log()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect()
}

fn of_task<'a>(lines: &'a [Value], task: &str) -> Option<&'a Value> {
    lines.iter().find(|line| line["task"] == task)
}

#[tokio::test]
async fn a_trace_leads_from_a_round_over_its_tasks_to_their_requests_and_to_the_log() {
    let world = World::new().await;
    let collector = Collector::start().await;
    let endpoint = format!("http://{}", collector.address);
    // A registry on loopback is spoken to if the settings name it.
    let start = Start::new(&world).plain_http(&collector.address.to_string());
    let operator = start.with(&["--otlp-endpoint", &endpoint, "--log-format", "json"]).run();
    // The collector is a registry as well, without any image.
    let spec = json!({
        "target": {"repository": world.repository("web"), "tags": ["1.0"]},
        "platforms": [{"platform": "linux/amd64", "image": format!("{}/team-a/web:1.0", collector.address)}],
    });
    world.apply("web", spec).await;
    world.until_platform("web", "linux/amd64", Phase::Failed, "SourceNotFound").await;
    let has = |spans: &[Span], name: &str| spans.iter().any(|span| span.name == name);
    let received = collector
        .until("a round, a task and a request", |received| {
            ["reconcile", "task", "request"].iter().all(|name| has(&received.spans, name))
        })
        .await;
    let parent_of = |span: &Span| {
        let parent = received.spans.iter().find(|other| other.span_id == span.parent_span_id);
        parent.unwrap_or_else(|| panic!("nothing is around {span:?}"))
    };
    let request = received.spans.iter().find(|span| span.name == "request").expect("a request");
    let path = attribute(request, "url.path").expect("a path");
    assert_eq!(path, "/v2/team-a/web/manifests/1.0");
    assert_eq!(attribute(request, "server.address"), Some(collector.address.to_string()));
    assert_eq!(attribute(request, "http.response.status_code").as_deref(), Some("404"));
    assert!(
        ["GET", "HEAD"]
            .map(str::to_owned)
            .contains(&attribute(request, "http.request.method").expect("a method"))
    );
    let task = parent_of(request);
    assert_eq!((task.name.as_str(), attribute(task, "task").as_deref()), ("task", Some("ResolveImage")));
    assert_eq!(task.status.as_ref().map(|status| status.message.as_str()), Some("SourceNotFound"));
    let round = parent_of(task);
    assert_eq!(round.name, "reconcile");
    assert_eq!(attribute(round, "image"), Some(format!("{}/web", world.namespace)));
    assert!(round.parent_span_id.is_empty());
    assert!([request, task].iter().all(|span| span.trace_id == round.trace_id));
    assert!(received.resource.contains(&("service.name".to_owned(), "multiarch-operator".to_owned())));

    let trace = hex(&round.trace_id);
    let parent = format!("00-{trace}-{}-01", hex(&request.span_id));
    assert!(received.parents.contains(&parent), "{parent} is not among {:?}", received.parents);
    let lines = lines(&operator);
    let line = of_task(&lines, "ResolveImage").expect("a line of the task");
    assert_eq!(line["trace_id"], trace.as_str());
    assert_eq!(line["image"], format!("{}/web", world.namespace));
}

#[tokio::test]
async fn without_traces_the_lines_of_a_round_and_its_tasks_have_one_id_all_the_same() {
    let world = World::new().await;
    let operator = Start::new(&world).with(&["--log-format", "json"]).run();
    world.apply("web", spec(&world, "web").await).await;
    operator.until_log("\"reason\":\"Published\"").await;
    let lines = lines(&operator);
    let task = of_task(&lines, "ResolveImage").expect("a line of the task");
    let id = task["trace_id"].as_str().expect("an id");
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    assert_eq!(task["generation"], 1);
    let publication = lines.iter().find(|line| line["reason"] == "Published").expect("a line");
    assert_eq!(publication["image"], format!("{}/web", world.namespace));
    assert_ne!(publication["trace_id"], id, "another round has another id");
}

#[tokio::test]
async fn a_collector_that_is_away_keeps_nothing_from_being_done() {
    let world = World::new().await;
    let nowhere =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let mut operator = Start::new(&world).with(&["--otlp-endpoint", &format!("http://{nowhere}")]).run();
    world.apply("web", spec(&world, "web").await).await;
    world.until_ready("web").await;
    operator.until_log("traces are lost").await;
    operator.terminate();
    assert!(operator.ended().await.success(), "{}", operator.log());
    assert_eq!(operator.log().matches("traces are lost").count(), 1, "{}", operator.log());
}

#[tokio::test]
async fn the_log_filter_is_changed_by_a_file_and_a_bad_one_changes_nothing() {
    let world = World::new().await;
    let folder = Folder::new();
    let file = folder.path().join("filter");
    let arguments = ["--log-filter", "warn", "--log-filter-file", &file.display().to_string()];
    let operator = Start::new(&world).with(&arguments).run();
    world.apply("web", spec(&world, "web").await).await;
    world.until_ready("web").await;
    assert!(!operator.log().contains(" INFO ") && !operator.log().contains("DEBUG"), "{}", operator.log());
    folder.write("filter", "info\nmultiarch=debug\n");
    operator.until_log("the log filter is \"info,multiarch=debug\" from now on").await;
    ask_for_a_look(&world, "web").await;
    operator.until_log("DEBUG").await;
    folder.write("filter", "multiarch=loud");
    operator.until_log("the log filter stays \"info,multiarch=debug\"").await;
    std::fs::remove_file(&file).expect("it can go");
    operator.until_log("the log filter is \"warn\" from now on").await;

    let mut bad = Start::new(&world).with(&["--log-filter", "multiarch=loud"]).run();
    assert!(!bad.ended().await.success());
    assert!(bad.log().contains("multiarch=loud"), "{}", bad.log());
}

#[tokio::test]
async fn no_filter_makes_the_log_tell_a_secret() {
    let world = World::new().await;
    let registry = &world.rig.private_registry;
    let auth = STANDARD.encode(format!("{}:{}", registry.username, registry.password));
    let config = json!({"auths": {registry.host.as_str(): {"auth": auth}}}).to_string();
    secret(&world, "regcred", &[(".dockerconfigjson", &config)]).await;
    let kubeconfig = kubeconfig_of(&world, "operator").await;
    let granted = grant(&world, &roles_of("README.md")[0], "operator").await;
    let operator = Start::new(&world).kubeconfig(&kubeconfig).with(&["--log-filter", "trace"]).run();
    let mut spec = spec(&world, "web").await;
    spec["target"]["repository"] = json!(format!("{}/{}/web", registry.host, world.namespace));
    spec["registrySecrets"] = json!([{"name": "regcred"}]);
    world.apply("web", spec).await;
    let ready = world.until("web", "ready", is_ready).await;
    assert!(ready.status.is_some());
    let log = operator.log();
    assert!(log.contains("TRACE"), "nothing was logged");
    for (what, words) in [
        ("the password", registry.password.as_str()),
        ("the credentials", auth.as_str()),
        ("the Secret", &STANDARD.encode(&config)),
        ("the operator's own token", &token(&kubeconfig)),
    ] {
        let found = log.lines().find(|line| line.contains(words));
        assert!(found.is_none(), "{what}: {}", found.unwrap_or_default());
    }
    take_back(granted).await;
}
