//! The values of the Helm chart: what is refused, what is documented, and what the operator makes of them.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use multiarch::build::BuilderSettings;
use multiarch::policy::Policies;
use multiarch::registry::RegistrySettings;
use serde_json::{Value, json};
use support::chart::{
    NAME, case, container, folder, helm, kustomized, object, objects, read, render, try_render, values,
    words, yaml,
};
use support::examples::yaml_blocks;
use support::root;

#[test]
fn a_typo_in_the_values_is_refused_with_its_place() {
    for (values, told) in [
        ("replicas: 2", "additional properties 'replicas' not allowed"),
        ("image: {tagg: x}", "at '/image': additional properties 'tagg' not allowed"),
        ("logging: {format: xml}", "at '/logging/format': value must be one of 'json', 'text'"),
        ("replicaCount: two", "at '/replicaCount': got string, want integer"),
        ("image: {digest: latest}", "at '/image/digest'"),
        (
            "registries: [{plainHttp: true, host: a}]",
            "at '/registries/0': additional properties 'plainHttp' not allowed",
        ),
        (
            "builds: {profile: Root}",
            "at '/builds/profile': value must be one of 'Rootless', 'UserNamespace', 'Privileged'",
        ),
        (
            "policies: {publish: [{namespaces: [a]}]}",
            "at '/policies/publish/0': missing property 'repositories'",
        ),
        ("certificates: [{name: a}]", "at '/certificates/0'"),
        ("emulation: {architectures: [x86]}", "at '/emulation/architectures/0'"),
        ("policies: {publish: []}", "at '/policies/publish': minItems: got 0, want 1"),
        ("policies: {hosts: [{namespaces: [a]}]}", "at '/policies/hosts/0'"),
        (
            "policies: {publish: [{namespaces: [a], repositories: [r.example.com/a/]}]}",
            "at '/policies/publish/0/repositories/0'",
        ),
        ("livenessProbe: {successThreshold: 2}", "at '/livenessProbe/successThreshold'"),
        (
            "readinessProbe: {terminationGracePeriodSeconds: 5}",
            "additional properties 'terminationGracePeriodSeconds' not allowed",
        ),
        ("terminationGracePeriodSeconds: 15", "at '/terminationGracePeriodSeconds'"),
    ] {
        let error = try_render(NAME, "x", values).expect_err("it is refused");
        assert!(error.contains(told), "{values}: {error}");
    }
}

#[test]
fn values_that_exclude_each_other_are_refused_with_what_to_do() {
    for (values, told) in [
        ("{replicaCount: 2, leaderElection: {enabled: false}}", "one replica only"),
        (
            "{watchNamespace: a, metrics: {authorization: Kubernetes}}",
            "watchNamespace means Roles only; write None",
        ),
        ("{watchNamespace: a, rbac: {aggregateToView: true}}", "watchNamespace means Roles only"),
        ("{watchNamespace: a, admission: {advice: {enabled: true}}}", "install config/admission instead"),
        (
            "admission: {repositories: {enabled: true}}",
            "policies.publish has no rule, so everything would be refused; write one",
        ),
        ("podDisruptionBudget: {enabled: true, maxUnavailable: 1}", "set minAvailable to null"),
        (
            "podDisruptionBudget: {enabled: true, minAvailable: null}",
            "it needs minAvailable or maxUnavailable",
        ),
        ("metrics: {readers: [{name: a, namespace: b}]}", "everybody may read; remove one of the two"),
        (
            "certificates: [{name: a, secret: b}, {name: a, configMap: c}]",
            "two are named a; each is mounted below its name",
        ),
        ("fullnameOverride: '123'", "that of a Service must begin with a letter"),
    ] {
        let error = try_render(NAME, "x", values).expect_err("it is refused");
        assert!(error.contains(told), "{values}: {error}");
    }
}

#[test]
fn the_files_of_settings_are_ones_that_the_operator_reads() {
    let rendered = render(case("settings"));
    let data = &object(&rendered, "ConfigMap", "multiarch-operator-settings")["data"];
    let files: BTreeMap<String, String> = serde_json::from_value(data.clone()).expect("files");
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in &files {
        std::fs::write(folder.path().join(name), text).expect("a file");
    }
    let path = |name: &str| folder.path().join(name);
    let builds = BuilderSettings::read_file(&path("builds.yaml")).expect("build settings");
    assert_eq!((builds.max_running, builds.namespaces.len()), (Some(20), 1));
    Policies::read_file(&path("policies.yaml")).expect("policies");
    let registries = RegistrySettings::read_file(&path("registries.yaml")).expect("registries");
    assert_eq!(registries.len(), 2);
    let arguments = words(&container(&rendered)["args"]).join(" ");
    for name in files.keys() {
        assert!(arguments.contains(&format!("=/etc/multiarch/settings/{name}")), "{arguments}");
    }
}

#[test]
fn what_is_set_to_null_or_given_twice_or_a_number_by_its_looks_makes_valid_objects() {
    let values = "{livenessProbe: null, readinessProbe: null, builds: null, policies: null, podLabels: null, \
                   emulation: {enabled: true, nodeSelector: {multiarch.dev/emulation: null, kubernetes.io/os: linux}}}";
    let rendered = render(values);
    assert!(
        container(&rendered)["livenessProbe"].is_null() && container(&rendered)["readinessProbe"].is_null()
    );
    let emulation = object(&rendered, "DaemonSet", "multiarch-operator-emulation");
    assert_eq!(
        emulation["spec"]["template"]["spec"]["nodeSelector"],
        json!({"kubernetes.io/os": "linux"}),
        "the label of the defaults is taken away"
    );
    notes(values);

    let values = "{commonLabels: {app.kubernetes.io/name: other, team: a}, podLabels: {app.kubernetes.io/part-of: other, team: b}, \
                   deploymentLabels: {app.kubernetes.io/instance: other}, fullnameOverride: ours}";
    let rendered = try_render("123", "456", values).map(|text| objects(&text)).expect("it renders");
    let operator = object(&rendered, "Deployment", "ours");
    assert_eq!(operator["metadata"]["namespace"], "456");
    assert_eq!(operator["metadata"]["labels"]["app.kubernetes.io/instance"], "123");
    let labels = &operator["spec"]["template"]["metadata"]["labels"];
    for (label, value) in operator["spec"]["selector"]["matchLabels"].as_object().expect("labels") {
        assert_eq!(&labels[label], value, "{label}");
    }
    assert_eq!((&labels["app.kubernetes.io/part-of"], &labels["team"]), (&json!(NAME), &json!("b")));
}

/// What the init container that looks at the kernel says, of a node whose kernel has these entries.
fn checked(values: &str, entries: &[(&str, &str)]) -> (bool, String) {
    let rendered = render(values);
    let pod = &object(&rendered, "DaemonSet", "multiarch-operator-emulation")["spec"]["template"]["spec"];
    let check = &pod["initContainers"][1];
    assert_eq!(check["name"], "check");
    let folder = tempfile::tempdir().expect("a folder");
    for (name, content) in [("status", "enabled\n")].iter().chain(entries) {
        std::fs::write(folder.path().join(name), content).expect("a file");
    }
    let command = words(&check["command"]);
    let ran = std::process::Command::new(command[0])
        .args(&command[1..])
        .args(words(&check["args"]))
        .env("BINFMT_MISC", folder.path())
        .output()
        .expect("a shell");
    (ran.status.success(), String::from_utf8(ran.stdout).expect("UTF-8"))
}

#[test]
fn a_pod_of_the_emulation_is_ready_only_if_the_kernel_has_every_emulator_but_its_own() {
    let own = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let values = format!("emulation: {{enabled: true, architectures: [{own}, s390x, mips64le]}}");
    let all = [("qemu-s390x", "enabled\ninterpreter /q\n"), ("qemu-mips64el", "enabled\n")];
    assert_eq!(checked(&values, &all), (true, String::new()));
    let some = [("qemu-s390x", "enabled\n"), ("qemu-mips64el", "disabled\n")];
    let (passed, said) = checked(&values, &some);
    assert!(!passed && said.starts_with("the kernel has no emulator for mips64el;"), "{said}");
    let (passed, said) = checked(&values, &[]);
    assert!(!passed && said.starts_with("the kernel has no emulator for s390x mips64el;"), "{said}");
}

/// What `helm install` says at its end.
fn notes(values: &str) -> String {
    let chart = folder();
    let said =
        helm(&["install", NAME, &chart.to_string_lossy(), "--dry-run=client", "--namespace", "x"], values);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let text = String::from_utf8(said.stdout).expect("UTF-8");
    text.split_once("NOTES:").expect("notes").1.to_owned()
}

#[test]
fn the_notes_say_what_to_do_next_and_warn_of_what_is_risky() {
    let plain = notes("{}");
    assert!(!plain.contains("WARNING"), "{plain}");
    let document =
        plain.split_once("<<'END'\n").expect("a first image").1.split_once("  END").expect("its end").0;
    let image: Value = serde_saphyr::from_str(document).expect("YAML");
    assert_eq!(image, yaml("config/samples/hello.yaml"));
    for (values, told) in [
        ("crds: {keep: false}", "Uninstalling the release deletes"),
        ("leaderElection: {enabled: false}", "Nothing keeps a second operator"),
        ("builds: {profile: Privileged}", "owns the nodes"),
        ("builds: {namespaces: [{namespace: a, profile: Privileged}]}", "owns the nodes"),
        (
            "registries: [{host: a.example.com, insecureSkipVerify: true}]",
            "the certificate of a.example.com is not verified",
        ),
        ("metrics: {authorization: Kubernetes}", "sends its token to the operator without TLS"),
        ("emulation: {enabled: true}", "privileged pod on every node"),
        ("podDisruptionBudget: {enabled: true}", "cannot be drained"),
    ] {
        let said = notes(values).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains("WARNING: ") || values.is_empty(), "{values}: {said}");
        assert!(said.contains(told), "{values}: {said}");
    }
    let with_tls = notes("metrics: {authorization: Kubernetes, tls: {secretName: metrics-tls}}");
    assert!(!with_tls.contains("WARNING"), "{with_tls}");
}

/// The values with their comments, as the README of the chart lists them.
fn table() -> String {
    let defaults = values();
    let mut rows = String::from("| value | default | meaning |\n|---|---|---|\n");
    let (mut path, mut comment) = (Vec::<(usize, String)>::new(), None::<String>);
    for line in read("charts/multiarch-operator/values.yaml").lines() {
        let text = line.trim_start();
        let depth = line.len() - text.len();
        if let Some(words) = text.strip_prefix("# -- ") {
            comment = Some(words.to_owned());
        } else if let (Some(words), Some(comment)) = (text.strip_prefix("# "), comment.as_mut()) {
            *comment = format!("{comment} {words}");
        } else if let Some((key, _)) = text.split_once(':').filter(|_| !text.starts_with(['#', '-', '{'])) {
            path.retain(|(other, _)| *other < depth);
            path.push((depth, key.to_owned()));
            let Some(comment) = comment.take() else { continue };
            let name = path.iter().map(|(_, key)| key.as_str()).collect::<Vec<_>>().join(".");
            let default = defaults.pointer(&format!("/{}", name.replace('.', "/"))).expect("a value");
            rows += &format!("| `{name}` | `{default}` | {comment} |\n");
        }
    }
    rows
}

#[test]
fn the_readme_of_the_chart_lists_every_value_with_its_default() {
    let table = table();
    assert!(table.lines().count() > 80, "only {} lines", table.lines().count());
    let path = root().join("charts/multiarch-operator/README.md");
    let readme = std::fs::read_to_string(&path).expect("the README");
    let (before, rest) = readme.split_once("<!-- values -->\n").expect("the place of the table");
    let (found, after) = rest.split_once("<!-- end of values -->").expect("its end");
    if found.trim() != table.trim() && std::env::var_os("WRITE_CHART_README").is_some() {
        let written = format!("{before}<!-- values -->\n{table}<!-- end of values -->{after}");
        return std::fs::write(&path, written).expect("the README is written");
    }
    assert_eq!(found.trim(), table.trim(), "WRITE_CHART_README=1 cargo test --test chart_values writes it");
}

#[test]
fn every_value_has_a_comment_a_schema_and_a_use() {
    let templates = std::fs::read_dir(folder().join("templates")).expect("the templates");
    let templates = templates.map(|file| file.expect("a file").path()).filter(|path| path.is_file());
    let templates: String =
        templates.map(|path| std::fs::read_to_string(path).expect("text")).collect::<Vec<_>>().concat();
    let schema: Value =
        serde_json::from_str(&read("charts/multiarch-operator/values.schema.json")).expect("JSON");
    let (table, defaults) = (table(), values());
    check_values("", &defaults, &schema, &table, &templates);
}

/// Every key of the values that the schema lists too; both have the same ones.
fn check_values(prefix: &str, values: &Value, schema: &Value, table: &str, templates: &str) {
    let known = schema["properties"].as_object().expect("properties");
    let of_parents = ["global", "enabled"];
    let in_schema: BTreeSet<&String> =
        known.keys().filter(|key| !prefix.is_empty() || !of_parents.contains(&key.as_str())).collect();
    assert_eq!(values.as_object().expect("values").keys().collect::<BTreeSet<_>>(), in_schema, "{prefix}");
    for (key, value) in values.as_object().expect("values") {
        let path = format!("{prefix}{key}");
        let is_group =
            known[key]["properties"].is_object() && value.as_object().is_some_and(|all| !all.is_empty());
        if is_group && !table.contains(&format!("| `{path}` |")) {
            check_values(&format!("{path}."), value, &known[key], table, templates);
            continue;
        }
        assert!(table.contains(&format!("| `{path}` |")), "{path} has no comment");
        assert!(templates.contains(&format!(".{key}")), "{path} is used by no template");
    }
}

/// The YAML of the page of installing.
fn of_the_page(is_wanted: fn(&Value) -> bool) -> Value {
    yaml_blocks(&read("docs/install.md")).into_iter().find(is_wanted).expect("it is on the page")
}

#[test]
fn the_values_of_the_page_of_installing_are_values() {
    let values = of_the_page(|block| block["kind"].is_null());
    let rendered = render(&values.to_string());
    assert_eq!(object(&rendered, "Deployment", NAME)["spec"]["replicas"], 2);
    // What it says of certificates is where they are mounted.
    let file = values["registries"][0]["certificateAuthorityFile"].as_str().expect("a file");
    let mounted = container(&rendered)["volumeMounts"].as_array().expect("mounts").iter();
    assert!(
        mounted.filter_map(|mount| mount["mountPath"].as_str()).any(|path| file.starts_with(path)),
        "{file}"
    );
}

#[test]
fn the_overlay_of_the_page_of_installing_builds() {
    let overlay = of_the_page(|block| block["kind"] == "Kustomization");
    let folder = tempfile::tempdir().expect("a folder");
    for (name, below) in [("config", "config"), ("crds", "crds")] {
        support::examples::write(&folder.path().join(name), &support::examples::files(below));
    }
    let mine = folder.path().join("mine");
    std::fs::create_dir(&mine).expect("a folder");
    std::fs::write(mine.join("kustomization.yaml"), overlay.to_string()).expect("a file");
    let built = kustomized(&mine);
    let image =
        format!("image: registry.example.com/platform/multiarch-operator:{}", env!("CARGO_PKG_VERSION"));
    assert!(built.contains(&image), "{built}");
    assert!(built.contains("- --plain-http=registry.example.com:5000"), "{built}");
}
