//! `multiarch index export` and `import`, as people type them.

#[path = "support/fault_server.rs"]
mod fault_server;
#[path = "support/layouts.rs"]
mod layouts;
#[path = "support/program.rs"]
mod program;
#[path = "support/registry.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use fault_server::{Answer, Asked, FaultServer};
use layouts::{blob_files, children_of, push_real_image, push_web, raw, temporary};
use multiarch::registry::{Descriptor, Digest, MediaType};
use program::Multiarch;
use serde_json::{Value, json};
use support::Registry;

#[tokio::test]
async fn an_index_goes_through_a_pipe_from_registry_to_registry() {
    let (from, to) = (Registry::anonymous(), Registry::anonymous());
    let digest = push_web(&from, "team/web", "1").await;
    let (source, target) = (format!("{}/team/web:1", from.host), format!("{}/web:1", to.host));
    let exported = Multiarch::new(&from).run_raw(&["index", "export", &source, "-"]);
    assert_eq!(exported.status.code(), Some(0), "{}", String::from_utf8_lossy(&exported.stderr));
    let imported = Multiarch::new(&to).with_input(exported.stdout).run(&["index", "import", "-", &target]);
    assert_eq!(imported.code, 0, "{}", imported.errors);
    assert_eq!(imported.output, format!("{target}@{digest}\n"));
    assert_eq!(raw(&to, "web", "1").await, raw(&from, "team/web", "1").await);
}

#[tokio::test]
async fn a_layout_is_written_and_read_by_commands_that_say_what_they_did() {
    let registry = Registry::anonymous();
    let digest = push_web(&registry, "team/web", "1").await;
    let second = push_real_image(&registry, "team/web", "2", "linux/s390x").await.digest;
    let command = Multiarch::new(&registry);
    let folder = temporary();
    let layout = folder.path().join("web").display().to_string();
    let [one, two] = ["1", "2"].map(|tag| format!("{}/team/web:{tag}", registry.host));

    let exported = command.run(&["index", "export", &one, &layout, "-o", "json"]);
    let report: Value = serde_json::from_str(&exported.output).unwrap();
    assert_eq!((&report["digest"], &report["fetched"]), (&json!(digest), &json!(7)), "{}", exported.errors);
    let again = command.run(&["index", "export", &two, &layout]);
    assert_eq!(again.output, format!("{layout}@{second}\n"));
    assert!(again.errors.contains("1 there already"), "{}", again.errors);

    let target = format!("{}/other/web:1", registry.host);
    let refused = command.run(&["index", "import", &layout, &target]);
    assert_eq!(refused.code, 2);
    assert!(refused.errors.contains("it has 2 images; name one of them by --ref"), "{}", refused.errors);
    let imported = command.run(&["index", "import", &layout, &target, "--ref", "2"]);
    assert_eq!(imported.output, format!("{target}@{second}\n"), "{}", imported.errors);
    let part =
        command.run(&["index", "import", &layout, &target, "--ref", &one, "--platform", "linux/arm64"]);
    assert!(part.errors.contains(&format!("instead of {digest}")), "{}", part.errors);
    assert_eq!(children_of(&raw(&registry, "other/web", "1").await).len(), 1);

    let absent = command.run(&["index", "export", &two.replace(":2", ":3"), &layout]);
    assert_eq!(absent.code, 3, "{}", absent.errors);
}

/// A registry with one image, which does not answer for the last blob before it may.
async fn stalling(asked_for_it: mpsc::Sender<()>, may_answer: Arc<AtomicBool>) -> FaultServer {
    let config = br#"{"os":"linux","architecture":"amd64"}"#;
    let blobs: Vec<Vec<u8>> = vec![config.to_vec(), b"first".to_vec(), b"second".to_vec()];
    let digests: Vec<Digest> = blobs.iter().map(|blob| Digest::sha256(blob)).collect();
    let layer = |number: usize| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digests[number], "size": blobs[number].len()});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
        "config": {"mediaType": MediaType::OCI_CONFIG, "digest": digests[0], "size": config.len()},
        "layers": [layer(1), layer(2)],
    })
    .to_string();
    FaultServer::start(move |asked: &Asked| {
        let name = asked.target.rsplit('/').next().unwrap();
        let Some(number) = digests.iter().position(|digest| digest.as_str() == name) else {
            return Answer::status(200)
                .header("Content-Type", MediaType::OCI_MANIFEST.as_str())
                .body(&*manifest);
        };
        if number == 2 && !may_answer.load(Ordering::SeqCst) {
            let _ = asked_for_it.send(());
            while !may_answer.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
        Answer::status(200).body(&*blobs[number])
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_export_that_is_killed_leaves_a_layout_that_the_next_one_completes() {
    let (sender, asked_for_it) = mpsc::channel();
    let may_answer = Arc::new(AtomicBool::new(false));
    let server = stalling(sender, may_answer.clone()).await;
    let registry = Registry::anonymous();
    push_web(&registry, "team/web", "1").await;
    let folder = temporary();
    let layout = folder.path().display().to_string();
    let command = Multiarch::new(&registry).and_plain_http(&server.host);
    assert_eq!(command.run(&["index", "export", &format!("{}/team/web:1", registry.host), &layout]).code, 0);
    let before = std::fs::read(folder.path().join("index.json")).unwrap();

    let source = format!("{}/team/web:2", server.host);
    let mut child = command.spawn(&["index", "export", &source, &layout]);
    asked_for_it.recv().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    may_answer.store(true, Ordering::SeqCst);

    assert_eq!(std::fs::read(folder.path().join("index.json")).unwrap(), before);
    for file in blob_files(folder.path()) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let whole = Digest::sha256(&std::fs::read(&file).unwrap()).hex() == name;
        assert!(whole || name.starts_with(".multiarch-"), "{name}");
    }
    let completed = command.run(&["index", "export", &source, &layout]);
    assert_eq!(completed.code, 0, "{}", completed.errors);
    let target = format!("{}/other/web:2", registry.host);
    assert_eq!(command.run(&["index", "import", &layout, &target, "--ref", "2"]).code, 0);
}

#[tokio::test]
async fn an_image_that_a_registry_has_collected_is_imported_again_and_nothing_else_is_written() {
    let registry = Registry::anonymous();
    push_web(&registry, "web", "1").await;
    let (inner, size) = {
        let bytes = raw(&registry, "web", "1").await;
        (Digest::sha256(&bytes), bytes.len() as u64)
    };
    let arm64 = children_of(&raw(&registry, "web", "1").await)[1].parse::<Digest>().unwrap();
    let inner = Descriptor::new(MediaType::OCI_INDEX, inner, size);
    registry.push_manifest("web", "outer", &support::index(&[(&inner, json!({}))])).await;
    let command = Multiarch::new(&registry);
    let folder = temporary();
    let layout = folder.path().join("web").display().to_string();
    let view = registry.read_only_view();
    let source = format!("{}/web:outer", registry.host);
    let [target, read_only] = [&registry, &view].map(|to| format!("{}/copy:1", to.host));
    assert_eq!(command.run(&["index", "export", &source, &layout]).code, 0);
    let import = |target: &str| Multiarch::new(&registry).run(&["index", "import", &layout, target]);
    assert_eq!(import(&read_only).code, 1);
    assert_eq!(import(&target).code, 0);
    let unchanged = import(&read_only);
    assert_eq!(unchanged.code, 0, "{}", unchanged.errors);
    registry.delete_manifest("copy", &arm64).await;
    let repaired = import(&target);
    assert!(repaired.errors.contains("unchanged "), "{}", repaired.errors);
    let again = registry.repository("copy").with_digest(&arm64);
    assert!(registry.session().head_manifest(&again).await.unwrap().is_some());
}
