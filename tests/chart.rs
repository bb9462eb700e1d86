//! The Helm chart and the kustomizations, rendered: what they hold together, and what they never contain.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;

use clap::Parser as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionSpec;
use multiarch::build::BuilderSettings;
use multiarch::cli::Cli;
use serde_json::{Value, json};
use support::chart::{
    CASES, NAME, case, comparable, container, folder, helm, kustomize, object, objects, of_kind, read,
    render, try_render, values, words, yaml,
};
use support::root;

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[test]
fn helm_lint_finds_nothing() {
    for (name, values) in CASES {
        let linted = helm(&["lint", "--strict", &folder().to_string_lossy()], values);
        assert!(linted.status.success(), "{name}: {}", String::from_utf8_lossy(&linted.stderr));
    }
}

#[test]
fn chart_image_and_operator_have_one_version_and_one_builder() {
    let chart = yaml("charts/multiarch-operator/Chart.yaml");
    assert_eq!((&chart["version"], &chart["appVersion"]), (&json!(VERSION), &json!(VERSION)));
    let rendered = render("{}");
    let image = format!("ghcr.io/multiarch-operator/multiarch-operator:{VERSION}");
    assert_eq!(container(&rendered)["image"], image.as_str());
    let images = chart["annotations"]["artifacthub.io/images"].as_str().expect("images");
    let values = values();
    assert_eq!(values["builder"]["image"], BuilderSettings::IMAGE);
    for used in [&image, BuilderSettings::IMAGE, values["emulation"]["image"].as_str().expect("an image")] {
        assert!(images.contains(used), "{used} is not among the images that Artifact Hub is told");
    }
    for installs in ["config/operator/operator.yaml", "examples/demo/lib/cluster.sh", "README.md"] {
        assert!(read(installs).contains(BuilderSettings::IMAGE), "{installs} has another builder");
    }
    for annotation in ["artifacthub.io/crdsExamples", "artifacthub.io/links", "artifacthub.io/crds"] {
        let text = chart["annotations"][annotation].as_str().expect("text");
        serde_saphyr::from_str::<Value>(text).unwrap_or_else(|error| panic!("{annotation}: {error}"));
    }
}

fn spec(definition: &Value) -> CustomResourceDefinitionSpec {
    serde_json::from_value(definition["spec"].clone()).expect("a definition")
}

#[test]
fn the_definition_in_the_chart_is_that_of_the_code_and_is_kept_unless_told_otherwise() {
    let file = "multiarch.dev_multiarchimages.yaml";
    assert_eq!(
        read(&format!("charts/multiarch-operator/files/crds/{file}")),
        read(&format!("crds/{file}")),
        "make crds writes both"
    );
    let name = "multiarchimages.multiarch.dev";
    let definition = yaml(&format!("crds/{file}"));
    let kept = |values: &str| {
        let rendered = render(values);
        let rendered = object(&rendered, "CustomResourceDefinition", name);
        // As the API server reads it: 10 and 10.0 are one number.
        assert_eq!(spec(rendered), spec(&definition));
        rendered["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    };
    assert!(kept("{}"));
    assert!(!kept(case("a-crd-that-goes")));
    assert!(of_kind(&render(case("no-crd")), "CustomResourceDefinition").is_empty());
}

#[test]
fn the_admission_policies_of_the_chart_are_those_of_config_admission() {
    for file in ["advice-policy", "repositories-policy", "repositories-binding"] {
        let file = format!("admission/{file}.yaml");
        assert_eq!(read(&format!("charts/multiarch-operator/files/{file}")), read(&format!("config/{file}")));
    }
    let rendered =
        try_render(NAME, "builds", case("admission")).map(|text| objects(&text)).expect("it renders");
    let binding = object(&rendered, "ValidatingAdmissionPolicyBinding", "repositories.multiarch.dev");
    assert_eq!(binding["spec"]["paramRef"]["namespace"], "builds");
    let rules = object(&rendered, "ConfigMap", "multiarch-repositories");
    assert_eq!(rules["data"]["rules"], "# namespace   repositories\n* registry.example.com/shared\n");
    assert_eq!(rules["metadata"]["namespace"], "builds");
}

#[test]
fn the_chart_as_it_comes_is_what_config_default_installs() {
    let mut installed = comparable(&kustomize("config/default"));
    installed.remove("Namespace/multiarch-system").expect("the namespace, which Helm makes itself");
    let mut rendered = comparable(&render("{}"));
    rendered.remove("Pod/multiarch-operator-test").expect("the pod of `helm test`");
    assert_eq!(rendered.keys().collect::<Vec<_>>(), installed.keys().collect::<Vec<_>>());
    for (name, object) in rendered {
        let mut object = object;
        let mut other = installed.remove(&name).expect("it is there");
        sort_rules(&mut object);
        sort_rules(&mut other);
        assert_eq!(object, other, "{name}");
    }
}

#[test]
fn the_chart_for_one_namespace_is_what_config_namespaced_installs() {
    let values = "{watchNamespace: team-a, crds: {enabled: false}}";
    let rendered = try_render(NAME, "team-a", values).map(|text| objects(&text)).expect("it renders");
    let mut rendered = comparable(&rendered);
    let mut installed = comparable(&kustomize("config/namespaced"));
    rendered.remove("Pod/multiarch-operator-test").expect("the pod of `helm test`");
    // Both say the namespace, each in its way.
    let args = &mut rendered.get_mut("Deployment/multiarch-operator").expect("the operator")["spec"]["template"]
        ["spec"]["containers"][0]["args"];
    args.as_array_mut().expect("a list").retain(|word| word != "--namespace=team-a");
    let container = &mut installed.get_mut("Deployment/multiarch-operator").expect("the operator")["spec"]["template"]
        ["spec"]["containers"][0];
    let environment = container.as_object_mut().expect("a container").remove("env").expect("its environment");
    assert_eq!(environment[0]["name"], "MULTIARCH_NAMESPACE");
    assert_eq!(rendered, installed);
}

/// Rules mean the same in any order.
fn sort_rules(object: &mut Value) {
    if let Some(Value::Array(rules)) = object.get_mut("rules") {
        rules.sort_by_key(ToString::to_string);
    }
}

#[test]
fn the_monitors_of_the_chart_are_those_of_config_prometheus() {
    let installed = comparable(&kustomize("config/prometheus"));
    let values = "metrics: {serviceMonitor: {enabled: true}, prometheusRule: {enabled: true}}";
    let mut rendered = comparable(&render(values));
    rendered.retain(|name, _| installed.contains_key(name));
    assert_eq!(rendered, installed);
}

#[test]
fn every_argument_that_the_chart_gives_is_one_that_the_operator_knows() {
    for (name, values) in CASES {
        let rendered = render(values);
        let mut arguments = vec!["multiarch"];
        arguments.extend(words(&container(&rendered)["args"]));
        Cli::try_parse_from(arguments).unwrap_or_else(|error| panic!("{name}: {error}"));
        let test = object(&rendered, "Pod", "multiarch-operator-test");
        let mut arguments = vec!["multiarch"];
        arguments.extend(words(&test["spec"]["containers"][0]["args"]));
        Cli::try_parse_from(arguments).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// Which objects a role is about, by its kind and its namespace: those of the images, of the release, or of the cluster.
fn scope(role: &Value, watched: Option<&str>, bindings: &[&Value]) -> &'static str {
    let name = &role["metadata"]["name"];
    let bound: Vec<&Value> = bindings
        .iter()
        .filter(|binding| binding["roleRef"]["name"] == *name && binding["roleRef"]["kind"] == role["kind"])
        .copied()
        .collect();
    let namespace = role["metadata"]["namespace"].as_str();
    match (role["kind"].as_str(), namespace) {
        (Some("ClusterRole"), None) => {
            assert!(bound.iter().all(|binding| binding["kind"] == "ClusterRoleBinding"), "{name}");
            "Cluster"
        }
        (Some("Role"), Some(namespace)) => {
            let here = |binding: &&Value| {
                binding["kind"] == "RoleBinding" && binding["metadata"]["namespace"] == namespace
            };
            assert!(!bound.is_empty() && bound.iter().all(here), "{name} is bound where it counts");
            if watched == Some(namespace) { "Images" } else { "Release" }
        }
        _ => panic!("neither a Role of a namespace nor a ClusterRole: {role}"),
    }
}

/// The rules of a role as the page of permissions has them: role, groups, resources, verbs.
fn rules(role: &Value) -> Vec<String> {
    let name = role["metadata"]["name"].as_str().expect("a name");
    let title = match name.trim_start_matches(NAME).trim_start_matches('-') {
        "" => "operator".to_owned(),
        suffix => suffix.replace('-', " "),
    };
    let line = |rule: &Value| {
        let groups: Vec<&str> = words(&rule["apiGroups"])
            .into_iter()
            .map(|group| if group.is_empty() { "core" } else { group })
            .collect();
        let mut resources = [words(&rule["resources"]), words(&rule["nonResourceURLs"])].concat().join(" ");
        if rule.get("resourceNames").is_some() {
            assert_eq!(words(&rule["resourceNames"]), [NAME]);
            resources += ", of the operator's name";
        }
        format!("{title} | {} | {resources} | {}", groups.join(" "), words(&rule["verbs"]).join(" "))
    };
    role["rules"].as_array().expect("rules").iter().map(line).collect()
}

#[test]
fn every_rule_of_every_role_stands_with_its_reason_in_the_page_of_permissions() {
    let page = read("docs/rbac.md");
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| role |"));
    let mut documented = BTreeSet::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [role, scope, group, resource, verbs, why] = cells.as_slice() else { panic!("{row}") };
        assert!(why.len() > 10, "no reason: {row}");
        let scopes: &[&str] = match scope.split(',').next() {
            // A ClusterRole for all namespaces, a Role in the one that is watched.
            Some("Images") => &["Cluster", "Images"],
            Some("Release") => &["Release"],
            Some("Cluster") => &["Cluster"],
            _ => panic!("no scope: {row}"),
        };
        documented
            .extend(scopes.iter().map(|scope| format!("{scope} | {role} | {group} | {resource} | {verbs}")));
    }
    let mut rendered = BTreeSet::new();
    for (name, values) in CASES {
        let objects = render(values);
        let values: Value = serde_saphyr::from_str(values).expect("values");
        let watched = values["watchNamespace"].as_str();
        let bindings = [of_kind(&objects, "RoleBinding"), of_kind(&objects, "ClusterRoleBinding")].concat();
        for role in [of_kind(&objects, "Role"), of_kind(&objects, "ClusterRole")].concat() {
            let scope = scope(role, watched, &bindings);
            // What is of the namespace that is watched is of the whole cluster only where all are.
            let is_of_operator = role["metadata"]["name"] == NAME;
            assert!(!(is_of_operator && scope == "Cluster" && watched.is_some()), "{name}: {role}");
            rendered.extend(rules(role).iter().map(|rule| format!("{scope} | {rule}")));
        }
    }
    assert_eq!(documented, rendered);
}

#[test]
fn no_role_reads_secrets_but_one_by_one_or_could_give_itself_more() {
    for (name, values) in CASES {
        let objects = render(values);
        for role in [of_kind(&objects, "Role"), of_kind(&objects, "ClusterRole")].concat() {
            for rule in role["rules"].as_array().expect("rules") {
                let said = format!("{name}: {rule}");
                assert!(!said.contains('*'), "{said}");
                let (resources, verbs) = (words(&rule["resources"]), words(&rule["verbs"]));
                if resources.iter().any(|resource| resource.starts_with("secrets")) {
                    assert_eq!(verbs, ["get", "create", "patch"], "{said}");
                }
                assert!(
                    !verbs.iter().any(|verb| ["bind", "escalate", "impersonate"].contains(verb)),
                    "{said}"
                );
                let of_others = ["roles", "clusterroles", "rolebindings", "serviceaccounts", "pods/exec"];
                assert!(!resources.iter().any(|resource| of_others.contains(resource)), "{said}");
            }
        }
    }
}

#[test]
fn what_is_added_to_the_roles_of_people_is_of_multiarchimages_alone() {
    let aggregated = |values: &str| {
        let objects = render(values);
        let roles = of_kind(&objects, "ClusterRole").into_iter().cloned();
        roles
            .filter(|role| role["metadata"]["labels"].to_string().contains("aggregate-to"))
            .collect::<Vec<_>>()
    };
    assert!(aggregated("{}").is_empty(), "only where it is asked for");
    let roles = aggregated(case("aggregated-roles"));
    assert_eq!(roles.len(), 2);
    for rule in roles.iter().flat_map(|role| role["rules"].as_array().expect("rules")) {
        assert_eq!(words(&rule["resources"]), ["multiarchimages"], "{rule}");
    }
}

#[test]
fn for_one_namespace_nothing_is_of_the_cluster_but_the_definition() {
    let of_namespaces = [
        "Deployment",
        "Service",
        "ConfigMap",
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "Pod",
        "PodDisruptionBudget",
        "NetworkPolicy",
        "ServiceMonitor",
        "PrometheusRule",
        "DaemonSet",
    ];
    let values = "{watchNamespace: team-a, replicaCount: 2, podDisruptionBudget: {enabled: true}, networkPolicy: {enabled: true}, \
                   metrics: {serviceMonitor: {enabled: true}, prometheusRule: {enabled: true}, dashboard: {enabled: true}}}";
    for object in render(values) {
        let kind = object["kind"].as_str().expect("a kind");
        if kind != "CustomResourceDefinition" {
            assert!(of_namespaces.contains(&kind), "{kind}");
            assert!(object["metadata"]["namespace"].is_string(), "{object}");
        }
    }
    assert!(of_kind(&render(case("one-namespace-without-crd")), "CustomResourceDefinition").is_empty());
    let rendered = render("watchNamespace: team-a");
    assert_eq!(object(&rendered, "Role", NAME)["metadata"]["namespace"], "team-a");
    assert!(!rules(object(&rendered, "Role", NAME)).join("\n").contains("nodes"));
}

#[test]
fn settings_replace_the_pod_when_they_change_and_the_filter_of_the_log_does_not() {
    let pod = |values: &str| object(&render(values), "Deployment", NAME)["spec"]["template"].clone();
    assert_eq!(pod("{}"), pod("logging: {filter: debug}"));
    assert_ne!(pod("builds: {maxRunning: 1}"), pod("builds: {maxRunning: 2}"));
    assert_ne!(pod("registries: [{host: a}]"), pod("registries: [{host: b}]"));
}

#[test]
fn the_strategy_is_always_said_so_that_an_upgrade_can_change_it() {
    let strategy = |values: &str| object(&render(values), "Deployment", NAME)["spec"]["strategy"].clone();
    let rolling =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}});
    assert_eq!(strategy("{}"), rolling);
    assert_eq!(strategy(case("without-leader-election")), json!({"type": "Recreate"}));
}

#[test]
fn the_operator_and_its_pods_are_labelled_as_a_part_of_it_however_they_are_called() {
    let renamed = render("{nameOverride: other, fullnameOverride: multiarch-operator}");
    for objects in [render("{}"), renamed, kustomize("config/default")] {
        let operator = object(&objects, "Deployment", NAME);
        for labelled in [operator, &operator["spec"]["template"]] {
            assert_eq!(labelled["metadata"]["labels"]["app.kubernetes.io/part-of"], "multiarch-operator");
        }
    }
}

#[test]
fn every_mount_has_its_volume_and_certificates_are_where_settings_look_for_them() {
    for (name, values) in CASES {
        let rendered = render(values);
        let pod = &object(&rendered, "Deployment", NAME)["spec"]["template"]["spec"];
        let names = |list: &Value| {
            let all = list.as_array().map(Vec::as_slice).unwrap_or_default().iter();
            all.map(|item| item["name"].as_str().expect("a name").to_owned()).collect::<BTreeSet<String>>()
        };
        assert_eq!(names(&container(&rendered)["volumeMounts"]), names(&pod["volumes"]), "{name}");
    }
    let rendered = render(case("certificates"));
    let settings = object(&rendered, "ConfigMap", "multiarch-operator-settings").to_string();
    let mounts = container(&rendered)["volumeMounts"].to_string();
    for name in ["corp", "client"] {
        assert!(settings.contains(&format!("../certificates/{name}/")), "{settings}");
        assert!(mounts.contains(&format!("/etc/multiarch/certificates/{name}\"")), "{mounts}");
    }
}

#[test]
fn the_samples_are_all_in_their_kustomization() {
    let files = std::fs::read_dir(root().join("config/samples")).expect("the samples");
    let files = files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned());
    // The operator's own image is built for its project, not from these.
    let others = ["kustomization.yaml", "self.yaml"];
    let files: BTreeSet<String> = files.filter(|name| !others.contains(&name.as_str())).collect();
    let listed = yaml("config/samples/kustomization.yaml");
    let listed: BTreeSet<String> = words(&listed["resources"]).into_iter().map(str::to_owned).collect();
    assert_eq!(listed, files);
}
