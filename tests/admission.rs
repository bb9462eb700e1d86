//! The admission policies of `config/admission`, on the real API server.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use multiarch::api::MultiArchImage;
use multiarch::policy::{Policies, PublishRule};
use serde_json::{Value, json};
use support::images::Push;
use support::operator::Start;
use support::{PATIENCE, World, has_condition, message, root};
use tokio::sync::{Mutex, MutexGuard};

fn documents(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_documentation_shows_the_rules_as_they_are() {
    let page = std::fs::read_to_string(root().join("docs/policies.md")).expect("the page");
    let shown = page.split("```yaml\n").filter_map(|rest| rest.split("```").next());
    let shown: Vec<Value> = shown.filter_map(|block| serde_saphyr::from_str(block).ok()).collect();
    let [rules] = documents("config/admission/repositories.yaml").try_into().expect("the rules alone");
    assert!(shown.contains(&rules), "{shown:#?}");
    assert!(page.contains("kubectl apply -f config/admission/repositories.yaml && kubectl apply -f config/admission/repositories-binding.yaml"));
}

#[test]
fn the_kustomization_refuses_nothing_and_leaves_the_rules_and_their_namespace_alone() {
    let kustomization = &documents("config/admission/kustomization.yaml")[0];
    let mut listed: Vec<&str> =
        kustomization["resources"].as_array().expect("resources").iter().filter_map(Value::as_str).collect();
    let policies = listed.iter().flat_map(|file| documents(&format!("config/admission/{file}")));
    for document in policies {
        let kind = document["kind"].as_str().expect("a kind");
        match kind {
            "ValidatingAdmissionPolicy" => {}
            "ValidatingAdmissionPolicyBinding" => {
                assert_eq!(document["spec"]["validationActions"], json!(["Warn"]), "{document:#}");
            }
            _ => panic!("{kind}: somebody else's"),
        }
    }
    // By hand, in this order.
    listed.extend(["repositories.yaml", "repositories-binding.yaml", "kustomization.yaml"]);
    listed.sort_unstable();
    let files = std::fs::read_dir(root().join("config/admission")).expect("a folder");
    let mut files: Vec<String> =
        files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned()).collect();
    files.sort_unstable();
    assert_eq!(listed, files);
}

/// The API server starts its watch of parameters anew when a policy goes, and for a while knows none of the others'.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// A policy of `config/admission` for one test's namespace alone; it goes with the test.
struct Installed {
    name: String,
    policies: Api<ValidatingAdmissionPolicy>,
    bindings: Api<ValidatingAdmissionPolicyBinding>,
    _alone: MutexGuard<'static, ()>,
}

impl Installed {
    async fn repositories(world: &World) -> Self {
        let files = ["repositories-policy.yaml", "repositories-binding.yaml"];
        Self::new(world, files.iter().flat_map(|file| documents(&format!("config/admission/{file}")))).await
    }

    async fn new(world: &World, documents: impl IntoIterator<Item = Value>) -> Self {
        let documents = Vec::from_iter(documents);
        let [mut policy, mut binding] = documents.try_into().expect("a policy and its binding");
        let name = format!("{}.{}", world.namespace, policy["metadata"]["name"].as_str().expect("a name"));
        policy["metadata"]["name"] = json!(name);
        binding["metadata"]["name"] = json!(name);
        binding["spec"]["policyName"] = json!(name);
        if binding["spec"]["paramRef"].is_object() {
            binding["spec"]["paramRef"]["namespace"] = json!(world.namespace);
        }
        binding["spec"]["matchResources"] =
            json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}}});
        let (policies, bindings) = (Api::all(world.client.clone()), Api::all(world.client.clone()));
        let _alone = ONE_AT_A_TIME.lock().await;
        let installed = Installed { name, policies, bindings, _alone };
        let policy = serde_json::from_value(policy).expect("a policy");
        installed.policies.create(&PostParams::default(), &policy).await.expect("the policy is accepted");
        let binding = serde_json::from_value(binding).expect("a binding");
        installed.bindings.create(&PostParams::default(), &binding).await.expect("the binding is accepted");
        installed
    }

    /// What the API server finds in the expressions that no object of the kind can have.
    async fn type_errors(&self) -> Vec<String> {
        let checked = |policy: Option<&ValidatingAdmissionPolicy>| {
            policy.and_then(|policy| policy.status.as_ref()?.observed_generation).is_some()
        };
        let wait = kube::runtime::wait::await_condition(self.policies.clone(), &self.name, checked);
        let policy = tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("in time")
            .expect("a watch")
            .expect("the policy");
        let found =
            policy.status.and_then(|status| status.type_checking?.expression_warnings).unwrap_or_default();
        found.into_iter().map(|warning| format!("{}: {}", warning.field_ref, warning.warning)).collect()
    }

    async fn remove(self) {
        self.bindings.delete(&self.name, &DeleteParams::default()).await.expect("the binding goes");
        self.policies.delete(&self.name, &DeleteParams::default()).await.expect("the policy goes");
    }
}

fn to(repository: &str) -> Value {
    json!({
        "target": {"repository": repository, "tags": ["1"]},
        "platforms": [{"platform": "linux/amd64", "image": "registry.test/web:amd64"}],
    })
}

/// Applies without storing: whether the API server accepts it, what it says, and its warnings.
async fn dry_run(world: &World, spec: Value) -> (bool, String, Vec<String>) {
    let object = json!({
        "apiVersion": "multiarch.dev/v1alpha1", "kind": "MultiArchImage", "metadata": {"name": "tried"}, "spec": spec,
    });
    let parameters = PatchParams { dry_run: true, ..PatchParams::apply("test").force() };
    let request = kube::api::Request::new(format!(
        "/apis/multiarch.dev/v1alpha1/namespaces/{}/multiarchimages",
        world.namespace
    ));
    let request = request.patch("tried", &parameters, &Patch::Apply(object)).expect("a request");
    let response = world.client.send(request.map(Body::from)).await.expect("an answer");
    let accepted = response.status().is_success();
    let warnings = response.headers().get_all("warning").iter();
    let warnings =
        warnings.filter_map(|value| value.to_str().ok()).map(|value| value.replace("\\\"", "\"")).collect();
    let body = response.into_body().collect_bytes().await.expect("the whole answer");
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    (accepted, body["message"].as_str().unwrap_or_default().to_owned(), warnings)
}

/// Whether the rules are known and refuse a repository.
async fn refuses(world: &World, repository: &str) -> bool {
    dry_run(world, to(repository)).await.1.contains("may not publish to")
}

/// Asks until the API server has taken notice of a policy.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let asked = async { while !is_so().await {} };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("{what}: not in time"));
}

async fn set_rules(world: &World, data: Value) {
    let parameters = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "multiarch-repositories"}, "data": data,
    });
    let (apply, patch) = (PatchParams::apply("test").force(), Patch::Apply(parameters));
    let applied = world.api::<ConfigMap>().patch("multiarch-repositories", &apply, &patch).await;
    applied.expect("the parameters");
}

#[tokio::test]
async fn a_namespace_publishes_only_where_the_rules_say_and_the_operator_agrees() {
    let world = World::new().await;
    let namespace = &world.namespace;
    let rules = format!(
        "# namespace  repositories\n\
         {namespace} registry.test/team-a   # and all that is below\n\
         {}?\tRegistry.Test:443/vague\r\n\
         t* index.docker.io/acme\n\
         * registry.test:5000\n\
         {namespace}x registry.test/other\n\
         default registry.test/default\n\
         {namespace} two words.test\n\
         .* registry.test/pattern\n",
        &namespace[..namespace.len() - 1]
    );
    set_rules(&world, json!({"rules": rules})).await;
    let installed = Installed::repositories(&world).await;
    until("the policy", async || refuses(&world, "evil.test/web").await).await;

    let rule = |namespaces: &str, prefix: &str| PublishRule {
        namespaces: vec![namespaces.to_owned()],
        repositories: vec![prefix.parse().expect("a prefix")],
    };
    let operator = Policies {
        publish: Some(vec![
            rule(namespace, "registry.test/team-a"),
            rule("t*", "registry.test/vague"),
            rule("t*", "docker.io/acme"),
            rule("*", "registry.test:5000"),
        ]),
        ..Policies::default()
    };
    let table = [
        (true, "registry.test/team-a"),
        (true, "registry.test/team-a/web"),
        (true, "registry.test/team-a/x/y"),
        (true, "REGISTRY.test/team-a/web"),
        (true, "registry.test:443/team-a/web"),
        (true, "registry.test/vague/web"),
        (true, "registry.test:5000/anything"),
        (true, "docker.io/acme/web"),
        (true, "index.docker.io/acme/web"),
        (true, "registry-1.docker.io/acme/web"),
        (true, "acme/web"),
        (false, "registry.test/team-ab"),
        (false, "registry.test/team"),
        (false, "registry.test/other/web"),
        (false, "registry.test/default/web"),
        (false, "registry.test/pattern/web"),
        (false, "words.test/web"),
        (false, "registry.test:5001/team-a/web"),
        (false, "registry.test:50001/anything"),
        (false, "registry.test.evil.test/team-a/web"),
        (false, "evil.test/registry.test/team-a/web"),
        (false, "evil.registry.test/team-a/web"),
        (false, "registry.test/x/registry.test/team-a"),
        (false, "docker.io/acme"),
        (false, "docker.io/acmes/web"),
        (false, "acmes/web"),
        (false, "docker.io/library/acme"),
        (false, "localhost/team-a/web"),
        (false, "registryxtest/team-a/web"),
    ];
    let mut wrong = Vec::new();
    for (allowed, repository) in table {
        let (accepted, message, _) = dry_run(&world, to(repository)).await;
        let mut image = MultiArchImage::new("tried", serde_json::from_value(to(repository)).expect("a spec"));
        image.metadata.namespace = Some(namespace.clone());
        let denial = operator.denial(&image);
        if accepted != allowed || denial.is_none() != allowed {
            wrong.push(format!("{repository}: accepted {accepted} {message}; the operator: {denial:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let (_, message, _) = dry_run(&world, to("registry.test/team-ab")).await;
    assert!(
        message.contains(&format!(
            "namespace {namespace} may not publish to registry.test/team-ab; write a repository below"
        )),
        "{message}"
    );
    assert!(
        message.contains("registry.test/team-a, registry.test/vague, docker.io/acme, registry.test:5000"),
        "{message}"
    );
    installed.remove().await;
}

#[tokio::test]
async fn every_repository_that_is_written_to_counts() {
    let world = World::new().await;
    set_rules(&world, json!({"rules": format!("{} registry.test/team-a", world.namespace)})).await;
    let installed = Installed::repositories(&world).await;
    until("the policy", async || refuses(&world, "evil.test/web").await).await;
    let cache = |repository: &str| json!({"type": "Registry", "repository": repository});
    let spec = |mirror: &str, shared: &str, own: &str| {
        json!({
            "target": {"repository": "registry.test/team-a/web", "tags": ["1"], "mirrors": [{"repository": mirror}]},
            "build": {"context": {"inline": {"dockerfile": "FROM scratch"}}, "cache": cache(shared)},
            "platforms": [{"platform": "linux/amd64"}, {"platform": "linux/arm64", "build": {"cache": cache(own)}}],
        })
    };
    let (good, bad) = ("registry.test/team-a/cache", "registry.test/team-b/cache");
    assert!(dry_run(&world, spec(good, good, good)).await.0);
    for spec in [spec(bad, good, good), spec(good, bad, good), spec(good, good, bad)] {
        let (accepted, message, _) = dry_run(&world, spec).await;
        assert!(!accepted && message.contains("may not publish to registry.test/team-b/cache;"), "{message}");
    }
    assert_eq!(installed.type_errors().await, [""; 0]);
    // The largest spec and more rules than anybody has stay within what the API server lets a policy cost.
    let others: String =
        (0..1000).map(|number| format!("team-{number}-* registry.test/team-{number}\n")).collect();
    set_rules(&world, json!({"rules": format!("{others}{} registry.test/team-z", world.namespace)})).await;
    let mut largest = spec("registry.test/team-z/mirror", good, good);
    largest["target"]["repository"] = json!("registry.test/team-z/web");
    largest["build"]["cache"] = cache("registry.test/team-z/cache");
    let architectures = ["amd64", "arm64", "arm", "386", "s390x", "ppc64le", "riscv64", "mips64le"];
    let platforms =
        ["linux", "windows", "freebsd", "openbsd"].map(|os| architectures.map(|name| format!("{os}/{name}")));
    let platforms = platforms.iter().flatten();
    let remote = json!({"endpoint": "tcp://10.0.0.1:1234"});
    largest["platforms"] = platforms
        .map(|name| json!({"platform": name, "build": {"remote": remote, "cache": cache("registry.test/team-z/cache")}}))
        .collect();
    until("the rules", async || dry_run(&world, largest.clone()).await.0).await;
    installed.remove().await;
}

#[tokio::test]
async fn rules_that_become_stricter_hold_for_new_specs_and_not_for_what_is_stored() {
    let world = World::new().await;
    set_rules(&world, json!({"rules": "* registry.test/team-a"})).await;
    let installed = Installed::repositories(&world).await;
    until("the policy", async || refuses(&world, "evil.test/web").await).await;
    world.apply("web", to("registry.test/team-a/web")).await;
    for nothing in [json!({"rules": ""}), json!({"other": "* registry.test"})] {
        set_rules(&world, nothing).await;
        until("no rule", async || !dry_run(&world, to("registry.test/team-a/web")).await.0).await;
        let (_, message, _) = dry_run(&world, to("registry.test/team-a/web")).await;
        assert!(message.contains("no rule is for it: whoever runs the cluster can add one to the ConfigMap multiarch-repositories"), "{message}");
    }
    let images = world.api::<MultiArchImage>();
    let label = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    images.patch("web", &PatchParams::default(), &label).await.expect("a label");
    let edit = Patch::Merge(json!({"spec": {"target": {"tags": ["2"]}}}));
    let refused = images.patch("web", &PatchParams::default(), &edit).await.expect_err("another spec");
    assert!(refused.to_string().contains("may not publish to"), "{refused}");
    let suspend = Patch::Merge(json!({"spec": {"suspend": true}}));
    images.patch("web", &PatchParams::default(), &suspend).await.expect("it can be suspended");
    world
        .api::<ConfigMap>()
        .delete("multiarch-repositories", &DeleteParams::default())
        .await
        .expect("the parameters go");
    let without = "no params found";
    until("no parameters", async || {
        dry_run(&world, to("registry.test/team-a/web")).await.1.contains(without)
    })
    .await;
    images.delete("web", &DeleteParams::default()).await.expect("it can be deleted");
    installed.remove().await;
}

#[tokio::test]
async fn what_is_hardly_meant_is_warned_of_and_accepted() {
    let world = World::new().await;
    let installed = Installed::new(&world, documents("config/admission/advice-policy.yaml")).await;
    let inline = json!({"inline": {"dockerfile": "FROM scratch"}});
    let git = |change: Value| {
        let mut git = json!({"url": "https://git.test/web.git"});
        git.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        json!({"git": git})
    };
    let with = |platforms: Value, build: Value| {
        let mut spec = to("registry.test/team-a/web");
        spec["platforms"] = platforms;
        spec["build"] = build;
        spec
    };
    let built = |build: Value| with(json!([{"platform": "linux/amd64"}]), build);
    let copied = |change: Value| {
        let mut entry = json!({"platform": "linux/arm64", "image": "registry.test/web:arm64"});
        entry.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        with(json!([{"platform": "linux/amd64"}, entry]), json!({"context": inline}))
    };
    let mut latest = to("registry.test/team-a/web");
    latest["target"]["tags"] = json!(["1", "latest"]);
    latest["target"]["tagPolicy"] = json!("IfAbsent");
    let mut mirrored = to("registry.test/team-a/web");
    mirrored["target"]["mirrors"] = json!([{"repository": "localhost:5000/mirror"}]);
    let mut run = copied(json!({"whenNoNode": "Emulate"}));
    run["verify"] = json!({"run": {"command": ["/app"]}});
    let table = [
        (
            with(
                json!([{"platform": "linux/amd64", "image": "registry.test/web:1"}]),
                json!({"context": inline}),
            ),
            "spec.build is not used",
        ),
        (copied(json!({"build": {"target": "x"}})), "linux/arm64: build is not used beside image"),
        (copied(json!({"whenNoNode": "Emulate"})), "linux/arm64: whenNoNode is not used beside image"),
        (
            built(json!({"context": inline, "args": {"NPM_TOKEN": "x", "VERSION": "1"}})),
            "and NPM_TOKEN sounds like a secret",
        ),
        (
            with(
                json!([{"platform": "linux/amd64", "build": {"args": {"DB_PASSWORD": "x"}}}]),
                json!({"context": inline}),
            ),
            "and DB_PASSWORD sounds like a secret",
        ),
        (
            built(json!({"context": inline, "remote": {"endpoint": "tcp://10.0.0.1:1234"}})),
            "tcp://10.0.0.1:1234: without tls",
        ),
        (
            built(json!({"context": git(json!({"url": "http://git.test/web.git"}))})),
            "git.url is not encrypted",
        ),
        (
            built(json!({"context": git(json!({"ref": "main", "commit": "a".repeat(40)}))})),
            "ref is not used beside commit",
        ),
        (
            built(json!({"context": inline, "dockerfile": "other"})),
            "dockerfile is not used beside context.inline",
        ),
        (
            built(json!({"context": inline, "cache": {"type": "Inline", "mode": "Min"}})),
            "cache.mode belongs to",
        ),
        (latest, "the tag latest stays at what was published first"),
        (to("localhost:5000/web"), "localhost:5000/web: localhost is the operator's own pod"),
        (mirrored, "localhost:5000/mirror: localhost is the operator's own pod"),
    ];
    let first = table[0].0.clone();
    until("the policy", async || !dry_run(&world, first.clone()).await.2.is_empty()).await;
    for (spec, expected) in table {
        let (accepted, message, warnings) = dry_run(&world, spec.clone()).await;
        assert!(accepted, "{message}");
        assert!(warnings.len() == 1 && warnings[0].contains(expected), "{spec}: {warnings:#?}");
    }
    for wise in [
        to("registry.test/team-a/web"),
        built(json!({"context": inline, "cache": {"type": "Registry", "mode": "Min"}})),
        built(
            json!({"context": git(json!({"ref": "main"})), "args": {"VERSION": "1"}, "dockerfile": "other"}),
        ),
        copied(json!({})),
        run,
    ] {
        let (accepted, message, warnings) = dry_run(&world, wise).await;
        assert!(accepted && warnings.is_empty(), "{message} {warnings:?}");
    }
    assert_eq!(installed.type_errors().await, [""; 0]);
    installed.remove().await;
}

#[tokio::test]
async fn the_operator_denies_what_no_admission_policy_has_refused() {
    let world = World::new().await;
    let from = world.repository("from");
    Push::to(&from).image("v1", "linux/amd64", "content").await;
    let spec = |repository: &str| {
        json!({
            "target": {"repository": repository, "tags": ["1"]},
            "platforms": [{"platform": "linux/amd64", "image": format!("{from}:v1")}],
        })
    };
    let (allowed, denied) = (world.repository("allowed/web"), world.repository("allowed-not/web"));
    let prefix = world.repository("allowed");
    let policies = format!("publish:\n- namespaces: [{}]\n  repositories: [\"{prefix}\"]\n", world.namespace);
    let _operator = Start::new(&world).policies(&policies).run();
    world.apply("web", spec(&denied)).await;
    let image = world.until("web", "denied", |image| has_condition(image, "Stalled", "True")).await;
    let words = format!(
        "spec.target.repository is {denied}, and namespace {} may publish to {prefix} and below",
        world.namespace
    );
    assert!(message(&image, "Ready").starts_with(&words), "{}", message(&image, "Ready"));
    let status = image.status.expect("a status");
    assert_eq!(status.condition("Ready").map(|ready| ready.reason.as_str()), Some("PolicyDenied"));
    assert!(status.platforms.is_empty(), "it was not even looked up: {:?}", status.platforms);
    world.apply("web", spec(&allowed)).await;
    world.until_ready("web").await;
}
