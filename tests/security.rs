//! What docs/security.md promises is tried: every line names tests that exist. And what no single module can show.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kube::CustomResourceExt as _;
use multiarch::api::MultiArchImage;
use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below a folder whose name ends so.
fn files(folder: &str, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.to_string_lossy().ends_with(end) => found.push(path),
                false => {}
            }
        }
    }
    found
}

/// The rows of the page's tables, each cell trimmed, heads and rules left out.
fn rows(page: &str) -> Vec<Vec<String>> {
    let lines: Vec<&str> = page.lines().collect();
    let is_rule = |line: &str| line.starts_with("|--");
    let is_row = |number: &usize| {
        lines[*number].starts_with('|')
            && !is_rule(lines[*number])
            && !lines.get(number + 1).is_some_and(|next| is_rule(next))
    };
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
    (0..lines.len()).filter(is_row).map(|number| cells(lines[number])).collect()
}

/// The tests that a cell names, each a link whose text is the test and whose target is its file.
fn tests_of(cell: &str) -> Vec<(String, String)> {
    let links = cell.split("[`").skip(1);
    let parts = links.map(|link| link.split_once("`](../").expect("[`test`](../file)"));
    parts
        .map(|(name, rest)| (name.to_owned(), rest.split(')').next().unwrap_or_default().to_owned()))
        .collect()
}

/// Whether a file has a test of that name, and not only a function.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let position = lines
        .iter()
        .position(|line| line.strip_prefix("async ").unwrap_or(line).starts_with(&format!("fn {name}()")));
    position.is_some_and(|position| {
        let attributes = lines[..position].iter().rev().take_while(|line| line.starts_with("#["));
        attributes.into_iter().any(|line| matches!(*line, "#[test]") || line.starts_with("#[tokio::test"))
    })
}

#[test]
fn every_line_of_the_threat_model_is_shown_by_tests_that_exist() {
    let page = read("docs/security.md");
    let (defended, accepted) = page.split_once("## What remains").expect("the risks that remain");
    let rows = rows(defended.split_once("## What is defended").expect("the threats").1);
    assert!(rows.len() > 40, "only {} lines", rows.len());
    for row in &rows {
        let [threat, _, shown] = row.as_slice() else { panic!("three columns: {row:?}") };
        let tests = tests_of(shown);
        assert!(!tests.is_empty(), "{threat}: no test");
        for (name, file) in tests {
            assert!(has_test(&read(&file), &name), "{threat}: {file} has no test {name}");
        }
    }
    assert!(accepted.lines().filter(|line| line.starts_with("- ")).count() > 5, "risks are told");
    assert!(!has_test("fn a_function() {}", "a_function") && !has_test("#[test]\nfn a_test() {}", "another"));
}

/// The schema of a field of the spec.
fn field(path: &[&str]) -> Value {
    let definition = serde_json::to_value(MultiArchImage::crd()).expect("JSON");
    let mut schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    for name in path {
        let schema_of = |schema: &'_ Value| schema["properties"].get(*name).is_some();
        schema = if schema_of(schema) {
            &schema["properties"][name]
        } else {
            &schema["items"]["properties"][name]
        };
    }
    schema.clone()
}

#[test]
fn a_spec_can_set_these_fields_of_pods_and_no_others() {
    let of_builds = [
        "affinity",
        "annotations",
        "labels",
        "nodeSelector",
        "priorityClassName",
        "resources",
        "runtimeClassName",
        "tolerations",
    ];
    for (path, allowed) in [
        (&["build", "pod"][..], &of_builds[..]),
        (&["platforms", "build", "pod"], &of_builds),
        (&["verify", "run", "pod"], &["nodeSelector", "resources", "tolerations"]),
    ] {
        let schema = field(path);
        let fields: BTreeSet<&str> =
            schema["properties"].as_object().expect("fields").keys().map(String::as_str).collect();
        assert_eq!(fields, allowed.iter().copied().collect(), "{path:?}");
        let text = schema.to_string();
        for word in ["x-kubernetes-preserve-unknown-fields", "hostPath", "privileged", "serviceAccount"] {
            assert!(!text.contains(word), "{path:?} has {word}");
        }
    }
}

/// Every Role and ClusterRole in the manifests of the repository.
fn roles() -> Vec<Value> {
    let texts = files("config", ".yaml").into_iter().map(read);
    let documents: Vec<Value> = texts
        .flat_map(|text| text.split("\n---").map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|text| serde_saphyr::from_str(&text).ok())
        .collect();
    let is_role = |document: &Value| document["kind"].as_str().is_some_and(|kind| kind.ends_with("Role"));
    documents.into_iter().filter(is_role).collect()
}

#[test]
fn no_role_grows_by_aggregation_or_has_a_wildcard() {
    let roles = roles();
    assert!(!roles.is_empty());
    for role in roles {
        let name = &role["metadata"]["name"];
        assert!(role.get("aggregationRule").is_none(), "{name} is made of others");
        let labels = role["metadata"]["labels"].to_string();
        // Whoever may edit or administer a namespace gets nothing of the operator's by it.
        assert!(
            !labels.contains("rbac.authorization.k8s.io/aggregate-to-"),
            "{name} becomes a part of others"
        );
        assert!(!role["rules"].to_string().contains("\"*\""), "{name} has a wildcard");
    }
}

#[test]
fn secrets_are_never_listed_or_watched_and_no_role_lets_anybody_become_more() {
    let rules: Vec<Value> =
        roles().iter().flat_map(|role| role["rules"].as_array().cloned().unwrap_or_default()).collect();
    let names = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let mut seen = false;
    for rule in &rules {
        let (resources, verbs) = (names(&rule["resources"]), names(&rule["verbs"]));
        if resources.iter().any(|name| name == "secrets") {
            seen = true;
            assert!(verbs.iter().all(|verb| matches!(verb.as_str(), "get" | "create" | "patch")), "{rule}");
        }
        for resource in
            ["pods/exec", "pods/attach", "pods/ephemeralcontainers", "serviceaccounts/token", "nodes/proxy"]
        {
            assert!(!resources.iter().any(|name| name == resource), "{rule}");
        }
        let groups = names(&rule["apiGroups"]);
        assert!(!groups.iter().any(|group| group == "rbac.authorization.k8s.io"), "{rule}");
        for verb in ["bind", "escalate", "impersonate"] {
            assert!(!verbs.iter().any(|name| name == verb), "{rule}");
        }
    }
    assert!(seen, "no rule is about secrets");
    // Secrets are spoken of in one file of the whole program, which asks for one by its name.
    let speaks = files("src", ".rs").into_iter().filter(|file| {
        let text = read(file);
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        code.contains("core::v1::Secret;") || code.contains("Api<Secret>") || code.contains("::<Secret>")
    });
    let speaks: Vec<PathBuf> = speaks.filter(|file| !is_of_tests(file)).collect();
    assert_eq!(speaks, [root().join("src/controller/secrets.rs")]);
    let code = read("src/controller/secrets.rs");
    for listing in
        [".list(", ".list_metadata(", ".watch(", "watcher", "reflector", "Store<", "delete_collection"]
    {
        assert!(!code.contains(listing), "{listing}");
    }
}

fn is_of_tests(file: &Path) -> bool {
    file.strip_prefix(root()).unwrap_or(file).to_string_lossy().contains("test")
}

#[test]
fn what_serves_tenants_starts_no_program_and_has_no_unsafe_code() {
    assert!(read("src/lib.rs").contains("#![forbid(unsafe_code)]"));
    assert!(read("Cargo.toml").contains("unsafe_code = \"forbid\""));
    // The commands for people start credential helpers; the operator starts nothing, so there is no command line
    // to smuggle an option into.
    for folder in [
        "api",
        "build",
        "controller",
        "dockerfile",
        "git",
        "image",
        "layout",
        "network",
        "plan",
        "policy",
        "registry",
    ] {
        for file in files(&format!("src/{folder}"), ".rs") {
            let text = std::fs::read_to_string(&file).expect("a source file");
            // Scripts of builds are tried by their tests.
            let is_test = file.to_string_lossy().contains("test");
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            assert!(is_test || !code.contains("Command::new"), "{}", file.display());
        }
    }
}

#[test]
fn dependencies_are_checked_by_every_test_run_and_every_exception_has_its_reason() {
    let makefile = read("Makefile");
    let test = makefile.lines().find(|line| line.starts_with("test:")).expect("a target");
    assert!(test.split_whitespace().any(|word| word == "deny"), "{test}");
    assert!(makefile.contains("check bans licenses sources") && makefile.contains("check advisories"));
    let workflow: Value = serde_saphyr::from_str(&read(".github/workflows/audit.yaml")).expect("YAML");
    assert!(workflow["on"]["schedule"][0]["cron"].is_string());
    assert_eq!(workflow["jobs"]["audit"]["steps"][1]["run"], "make audit");
    let deny = read("deny.toml");
    for name in ["ring", "openssl", "openssl-sys", "native-tls"] {
        assert!(deny.contains(&format!("{{ name = \"{name}\", reason = ")), "{name}");
    }
    let ignored: Vec<&str> = deny.split("[[advisories.ignore]]").skip(1).collect();
    assert!(!ignored.is_empty() && !deny.contains("ignore = ["), "each in a table of its own");
    for ignore in ignored {
        let id = ignore.split('"').nth(1).expect("an id");
        let (_, reason) = ignore.split_once("reason = ").expect(id);
        assert!(reason.len() > 100, "{id}");
        assert!(read("docs/security.md").contains(id), "docs/security.md tells of {id}");
    }
}
