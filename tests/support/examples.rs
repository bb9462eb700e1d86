//! The examples as they stand in the repository, with the addresses of the rig in the place of the reader's.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::{World, root};

/// The files of a folder of the checkout: path below it, and content.
pub fn files(folder: &str) -> Vec<(String, String)> {
    let folder = root().join(folder);
    let mut found = vec![];
    walk(&folder, &mut found);
    found.sort();
    let file = |path: PathBuf| {
        let name = path.strip_prefix(&folder).expect("below it").to_string_lossy().into_owned();
        (name, std::fs::read_to_string(&path).expect("text"))
    };
    found.into_iter().map(file).collect()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => walk(&path, found),
            false => found.push(path),
        }
    }
}

/// The files with every `from` replaced, each of which must be there.
pub fn with(mut files: Vec<(String, String)>, changes: &[(&str, &str)]) -> Vec<(String, String)> {
    for (from, to) in changes {
        assert!(files.iter().any(|(_, content)| content.contains(from)), "{from} is nowhere in the example");
        for (_, content) in &mut files {
            *content = content.replace(from, to);
        }
    }
    files
}

/// Writes files below a folder.
pub fn write(folder: &Path, files: &[(String, String)]) {
    for (path, content) in files {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, content).expect("a file");
    }
}

/// The rig's kubectl, with this on standard input.
pub fn kubectl(world: &World, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(&world.rig.kubectl)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    child.stdin.take().expect("standard input").write_all(input.as_bytes()).expect("it reads");
    child.wait_with_output().expect("kubectl ends")
}

/// What kubectl prints when it succeeds.
pub fn kubectl_ok(world: &World, arguments: &[&str], input: &str) -> String {
    let output = kubectl(world, arguments, input);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kubectl {arguments:?}: {said}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Name and resourceVersion of objects, as `kubectl get` names them.
pub fn versions(world: &World, objects: &[&str]) -> String {
    let columns = "-o=custom-columns=KIND:.kind,NAME:.metadata.name,VERSION:.metadata.resourceVersion";
    let get = |object: &&str| {
        kubectl_ok(world, &["get", object, "--no-headers", columns, "--namespace", &world.namespace], "")
    };
    objects.iter().map(get).collect()
}

/// The YAML blocks of a Markdown file.
pub fn yaml_blocks(markdown: &str) -> Vec<Value> {
    let fenced = markdown.split("```yaml\n").skip(1);
    fenced
        .filter_map(|rest| rest.split("```").next())
        .map(|block| serde_saphyr::from_str(block).unwrap_or_else(|error| panic!("{error} in\n{block}")))
        .collect()
}
