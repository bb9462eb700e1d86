//! `multiarch lint`: what is said about files, and what is not.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/command.rs"]
mod command;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::ValueEnum as _;
use command::{Ran, command, multiarch, run};
use multiarch::cli::lint::{Rule, Severity};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

/// Nothing is to be said about it.
const GOOD: &str = "\
apiVersion: multiarch.dev/v1alpha1
kind: MultiArchImage
metadata:
  name: web
spec:
  target:
    repository: registry.example.com/team-a/web
    tags: ['1.4.2', latest]
  platforms:
  - platform: linux/amd64
  - platform: linux/arm64
    image: ghcr.io/acme/web:1.4.2-arm64
  build:
    context: {git: {url: 'https://github.com/acme/web', ref: v1.4.2}}
";

/// The same with its last line, the context, replaced.
fn with_context(context: &str) -> String {
    let (before, _) = GOOD.split_once("    context:").expect("a context");
    format!("{before}    context: {context}\n")
}

fn and(more: &str) -> String {
    format!("{GOOD}{more}\n")
}

fn changed(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    GOOD.replace(from, to)
}

struct Files {
    folder: TempDir,
}

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        }
        Files { folder }
    }

    fn path(&self) -> &str {
        self.folder.path().to_str().expect("a path")
    }

    async fn lint(&self, arguments: &[&str]) -> Ran {
        multiarch(&[&["lint", self.path()], arguments].concat()).await
    }
}

/// The findings of one file, whatever the exit code.
async fn findings(text: &str) -> Vec<Value> {
    let ran = Files::new(&[("image.yaml", text)]).lint(&["-o", "json"]).await;
    let report: Value =
        serde_json::from_slice(&ran.bytes).unwrap_or_else(|error| panic!("{error}: {ran:#?}"));
    report["findings"].as_array().expect("findings").clone()
}

#[tokio::test]
async fn every_rule_finds_what_it_is_there_for_in_its_line() {
    let other = GOOD.replace("name: web", "name: other").replace("'1.4.2', latest", "'1.4', '1.4.2'");
    let two = format!("{GOOD}---\n{other}");
    let pod = |resources: &str| and(&format!("    pod: {{resources: {{{resources}}}}}"));
    let inline = "{inline: {dockerfile: 'FROM alpine'}}";
    let cases: Vec<(Rule, String, u64, &str)> = vec![
        (Rule::Yaml, GOOD.replace("linux/amd64", "{{ .Values.platform }}"), 10, "helm template"),
        (Rule::Schema, changed("    tags", "    tagpolicy: x\n    tags"), 8, "did you mean tagPolicy?"),
        (Rule::Schema, changed("team-a/web", "team-a/Web"), 7, "in lower case"),
        (Rule::TagConflict, two, 23, "image.yaml:8"),
        (Rule::DockerFormat, changed("    tags", "    format: Docker\n    tags"), 8, "write format: OCI"),
        (Rule::LatestOnly, changed("'1.4.2', latest", "latest"), 8, "add a tag for each version"),
        (
            Rule::ImmutableLatest,
            changed("    tags", "    tagPolicy: IfAbsent\n    tags"),
            9,
            "leave latest out",
        ),
        (Rule::ReservedTag, changed("latest]", "buildcache-x]"), 8, "choose another"),
        (Rule::VersionFromBranch, changed("ref: v1.4.2", "ref: main"), 14, "under the tag 1.4.2"),
        (Rule::SourceLatest, changed("web:1.4.2-arm64", "web"), 12, "name a version's tag or a digest"),
        (
            Rule::SourceIsTarget,
            changed("ghcr.io/acme/web:1.4.2-arm64", "registry.example.com/team-a/web:latest"),
            12,
            "read its own index",
        ),
        (
            Rule::Localhost,
            changed("registry.example.com", "localhost:5000"),
            7,
            "write a name that both reach",
        ),
        (
            Rule::Localhost,
            changed("ghcr.io", "127.0.0.1:5000"),
            12,
            "127.0.0.1:5000 is the operator's own pod",
        ),
        (
            Rule::Localhost,
            changed("    tags", "    mirrors: [{repository: 'localhost:5000/web'}]\n    tags"),
            8,
            "write a name that both reach",
        ),
        (Rule::ScarcePlatform, changed("linux/amd64", "linux/s390x"), 10, "kubernetes.io/arch is s390x"),
        (
            Rule::Unused,
            changed("    image", "    whenNoNode: Emulate\n    image"),
            12,
            "leave whenNoNode out",
        ),
        (Rule::Unused, and("    emulatedTimeout: 3h"), 15, "no platform is emulated"),
        (Rule::Unused, and("    cache: {type: Inline, mode: Max}"), 15, "mode is for type: Registry"),
        (
            Rule::Unused,
            changed("linux/amd64", "linux/amd64\n    image: ghcr.io/acme/web:1"),
            14,
            "leave spec.build",
        ),
        (
            Rule::Unused,
            with_context("{inline: {dockerfile: FROM scratch}}") + "    dockerfile: x\n",
            15,
            "has one file",
        ),
        (
            Rule::DefaultBranch,
            with_context("{git: {url: 'https://github.com/acme/web'}}"),
            14,
            "write ref or commit",
        ),
        (Rule::PlainHttpGit, changed("https://", "http://"), 14, "write https:// or ssh://"),
        (Rule::BaseLatest, with_context(inline), 14, "line 1 takes alpine"),
        (Rule::BaseLatest, and("    contexts: {base: 'docker-image://alpine'}"), 15, "name a version's tag"),
        (Rule::ContextUnpinned, and("    contexts: {data: 'https://x.test/data.json'}"), 15, "at a commit"),
        (Rule::SecretInArgs, and("    args: {NPM_TOKEN: abc}"), 15, "spec.build.secrets"),
        (
            Rule::SecretInArgs,
            changed("linux/amd64", "linux/amd64\n    build: {args: {DB_PASSWORD: abc}}"),
            11,
            "RUN --mount=type=secret",
        ),
        (Rule::MemoryLimit, pod("requests: {memory: 1Gi}"), 15, "write limits:"),
        (Rule::RemoteWithoutTls, and("    remote: {endpoint: 'tcp://builder.test:1234'}"), 15, "write tls:"),
    ];
    for rule in Rule::value_variants() {
        assert!(cases.iter().any(|(found, ..)| found == rule), "{rule:?} has no case");
    }
    for (rule, text, line, words) in cases {
        let found = findings(&text).await;
        assert_eq!(found.len(), 1, "{rule:?}: {found:#?}\n{text}");
        assert_eq!(found[0]["rule"], rule.name(), "{found:#?}");
        assert_eq!(found[0]["line"], line, "{found:#?}\n{text}");
        assert!(found[0]["message"].as_str().is_some_and(|said| said.contains(words)), "{found:#?}");
        let severity = if rule.severity() == Severity::Error { "error" } else { "warning" };
        assert_eq!(found[0]["severity"], severity);
    }
}

#[tokio::test]
async fn nothing_is_said_where_nothing_is_wrong() {
    let quiet = [
        GOOD.to_owned(),
        and("    pod: {resources: {requests: {cpu: 500m}, limits: {cpu: 2, memory: 1Gi}}}"),
        and("    args: {TOKEN_URL: 'https://x.test', SOURCE_DATE_EPOCH: context}"),
        and("    contexts: {base: 'docker-image://alpine:3.22'}"),
        and("    cache: {type: Registry, mode: Min}"),
        with_context(
            "{inline: {dockerfile: \"ARG V=3.22\\nFROM alpine:$V AS a\\nFROM scratch\\nCOPY --from=a / /\"}}",
        ),
        changed("linux/amd64", "linux/s390x\n    whenNoNode: Emulate"),
        changed("linux/amd64", "linux/arm/v7\n    build: {schedulingTimeout: 1h}"),
        changed(
            "linux/amd64",
            "linux/riscv64\n    build: {remote: {endpoint: 'tcp://x.test:1', tls: {secretRef: {name: x}}}}",
        ),
        // An image that exists is run on a node as well.
        changed("    image", "    whenNoNode: Emulate\n    image")
            .replace("  build:", "  verify: {run: {command: [/app]}}\n  build:"),
        // A branch is fine for tags that are there to be moved.
        changed("'1.4.2', latest", "main, latest").replace("ref: v1.4.2", "ref: main"),
    ];
    for text in quiet {
        let found = findings(&text).await;
        assert!(found.is_empty(), "{found:#?}\n{text}");
    }
}

#[tokio::test]
async fn our_own_samples_and_documents_are_clean() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = vec![root.join("config/samples")];
    // The demo's are templates, filled in by its script.
    let examples = std::fs::read_dir(root.join("examples")).expect("the examples");
    let examples = examples.map(|entry| entry.expect("an example").path());
    paths.extend(examples.filter(|path| !path.ends_with("demo")));
    let documents = Files::new(
        &blocks(&[root.join("README.md"), root.join("docs/builds.md")])
            .iter()
            .enumerate()
            .map(|(number, text)| (format!("{number}/image.yaml"), text.as_str()))
            .collect::<Vec<_>>()
            .iter()
            .map(|(name, text)| (name.as_str(), *text))
            .collect::<Vec<_>>(),
    );
    // Those of the documents show one resource in several ways.
    paths.push(documents.folder.path().to_owned());
    for path in paths {
        let ran =
            multiarch(&["lint", "--strict", "--allow", "tag-conflict", path.to_str().expect("a path")]).await;
        assert_eq!(ran.code, Some(0), "{ran:#?}");
    }
    let samples = root.join("config/samples");
    multiarch(&["lint", "--strict", samples.to_str().expect("a path")]).await.ok();
}

/// The `MultiArchImage`s of Markdown files.
fn blocks(files: &[PathBuf]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).expect("a document");
        let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
        found.extend(blocks.filter(|block| block.contains("kind: MultiArchImage")).map(str::to_owned));
    }
    assert!(found.len() > 1, "only {}", found.len());
    found
}

#[tokio::test]
async fn errors_fail_and_warnings_only_when_they_are_to() {
    let unwise = changed("'1.4.2', latest", "latest");
    let files = Files::new(&[("a.yaml", &unwise)]);
    let ran = files.lint(&[]).await.ok();
    let line = format!("{}/a.yaml:8: warning: spec.target.tags: nobody can name", files.path());
    assert!(ran.stdout.starts_with(&line), "{}", ran.stdout);
    assert!(ran.stdout.trim_end().ends_with("[latest-only]"), "{}", ran.stdout);
    assert_eq!(ran.stderr, "0 errors, 1 warning in 1 MultiArchImage\n");
    let said = files.lint(&["--strict"]).await.failed(5);
    assert!(said.contains("0 errors, 1 warning in 1 MultiArchImage"), "{said}");
    assert_eq!(files.lint(&["--strict", "--allow", "latest-only"]).await.ok().stdout, "");

    let refused = Files::new(&[("a.yaml", &changed("linux/amd64", "linux/amd46"))]);
    let ran = refused.lint(&[]).await;
    assert!(ran.stdout.contains("a.yaml:10: error: spec.platforms[0].platform: "), "{ran:#?}");
    ran.failed(5);
    let said = refused.lint(&["--allow", "schema"]).await.failed(2);
    assert!(said.contains("what the API server refuses is refused"), "{said}");
    let said = refused.lint(&["--allow", "latest-onyl"]).await.failed(2);
    assert!(said.contains("latest-only"), "{said}");
}

#[tokio::test]
async fn other_kinds_and_files_that_have_none_of_ours_are_passed_over() {
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80, anything: 1}]}\n";
    let files = Files::new(&[
        ("all.yml", &format!("{service}---\n{GOOD}---\n")),
        ("chart/templates/service.yaml", "name: {{ .Values.name }}"),
        (".git/image.yaml", "multiarch.dev/ {{"),
        ("notes.txt", "kind: MultiArchImage"),
        ("image.json", r#"{"apiVersion": "v1", "kind": "List", "items": []}"#),
    ]);
    let ran = files.lint(&["--strict"]).await.ok();
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("", "0 errors, 0 warnings in 1 MultiArchImage\n")
    );
}

#[tokio::test]
async fn a_kind_by_half_is_not_passed_over() {
    let found = findings(&changed("kind: MultiArchImage", "kind: MultiarchImage")).await;
    assert_eq!((&found[0]["rule"], &found[0]["line"]), (&"schema".into(), &2.into()), "{found:#?}");
    let found = findings(&changed("v1alpha1", "v1")).await;
    assert!(found[0]["message"].to_string().contains("not multiarch.dev/v1alpha1"), "{found:#?}");
}

#[tokio::test]
async fn lists_are_looked_into_and_lines_are_those_of_the_file() {
    let indented: String =
        GOOD.replace("'1.4.2', latest", "latest").lines().map(|line| format!("  {line}\n")).collect();
    let list = format!("apiVersion: v1\nkind: List\nitems:\n-{}", &indented[1..]);
    let found = findings(&list).await;
    assert_eq!((&found[0]["line"], &found[0]["resource"]), (&11.into(), &"web".into()), "{found:#?}");
}

#[tokio::test]
async fn the_same_resource_for_two_clusters_is_no_conflict() {
    let files = Files::new(&[("east/web.yaml", GOOD), ("west/web.yaml", GOOD)]);
    files.lint(&["--strict"]).await.ok();
    let namespaced = GOOD.replace("  name: web", "  name: web\n  namespace: team-b");
    let files = Files::new(&[("a.yaml", GOOD), ("b.yaml", &namespaced)]);
    let ran = files.lint(&[]).await;
    assert!(ran.stdout.contains("b.yaml:9: error: spec.target.tags[0]: registry.example.com/team-a/web:1.4.2 is published by web too"), "{ran:#?}");
    ran.failed(5);
}

#[tokio::test]
async fn standard_input_is_a_file_too() {
    let mut child = command(&["lint", "-f", "-"]);
    let mut child =
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let text = changed("'1.4.2', latest", "latest");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).await.expect("it reads");
    let output = child.wait_with_output().await.expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("standard input:8: warning: "), "{said}");
}

#[tokio::test]
async fn a_file_that_is_named_and_has_nothing_of_ours_is_told() {
    let files = Files::new(&[("service.yaml", "apiVersion: v1\nkind: Service\n"), ("image.yaml", GOOD)]);
    let path = format!("{}/service.yaml", files.path());
    let said = multiarch(&["lint", &path]).await.ok().stderr;
    assert!(said.contains("service.yaml: there is no MultiArchImage in it"), "{said}");
    multiarch(&["lint", "--strict", &path]).await.failed(5);
    // In a folder it is one of many.
    assert!(!files.lint(&["--strict"]).await.ok().stderr.contains("service.yaml"));
}

#[tokio::test]
async fn hints_are_told_as_the_program_was_called() {
    let files = Files::new(&[("image.yaml", &GOOD.replace("linux/amd64", "{{ .Values.platform }}"))]);
    let plugin = files.folder.path().join("kubectl-multiarch");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_multiarch"), &plugin).expect("a link");
    let mut command = tokio::process::Command::new(plugin);
    command.args(["lint", files.path()]).env_clear();
    let ran = run(command).await;
    assert!(ran.stdout.contains("helm template CHART | kubectl multiarch lint -"), "{ran:#?}");
}

#[tokio::test]
async fn what_was_found_fails_though_nobody_reads_it() {
    let files = Files::new(&[("image.yaml", &changed("linux/amd64", "linux/amd46"))]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = command(&["lint", files.path()]);
    let status = command.stdout(writer).stderr(Stdio::null()).status().await.expect("it ends");
    assert_eq!(status.code(), Some(5));
}

#[tokio::test]
async fn what_is_not_there_or_no_yaml_is_told() {
    let said = multiarch(&["lint", "/nonexistent/x.yaml"]).await.failed(2);
    assert!(said.contains("/nonexistent/x.yaml"), "{said}");
    multiarch(&["lint"]).await.failed(2);
    let found = findings("# multiarch.dev/\na: [\n").await;
    assert_eq!(found[0]["rule"], "yaml", "{found:#?}");
    assert!(found[0]["line"].is_number(), "{found:#?}");
}
