//! What `helm --wait` makes of an image in a chart.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::process::Output;

use multiarch::api::MultiArchImage;
use serde_json::json;
use support::images::Push;
use support::operator::Operator;
use support::{PATIENCE, World, devcluster, has_condition, is_ready};
use tokio::process::Command;

/// A chart of one image, whose source and tags are values.
fn chart(world: &World) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |path: &str, content: String| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, content).expect("a file");
    };
    write("Chart.yaml", json!({"apiVersion": "v2", "name": "web", "version": "1.0.0"}).to_string());
    write("values.yaml", "source: v1\ntag: '1.0'\n".to_owned());
    let image = json!({
        "apiVersion": "multiarch.dev/v1alpha1", "kind": "MultiArchImage", "metadata": {"name": "{{ .Release.Name }}"},
        "spec": {
            "target": {"repository": world.repository("web"), "tags": ["{{ .Values.tag }}"]},
            "platforms": [{
                "platform": "linux/s390x",
                "image": format!("{}:{{{{ .Values.source }}}}", world.repository("from")),
            }],
        },
    });
    write("templates/image.yaml", serde_saphyr::to_string(&image).expect("YAML"));
    folder
}

/// Runs helm, which may wait for an hour; this test does not.
async fn helm(world: &World, arguments: &[&str], chart: &Path) -> Output {
    let program = devcluster::run(&["tool", "helm"]);
    let mut helm = Command::new(program.trim());
    helm.args(arguments)
        .arg(chart)
        .args(["--wait", "--timeout", "1h", "--namespace", &world.namespace])
        .env("KUBECONFIG", &world.rig.kubeconfig)
        .env("HELM_CACHE_HOME", chart.join(".cache"))
        .kill_on_drop(true);
    tokio::time::timeout(PATIENCE, helm.output()).await.expect("helm ends in time").expect("helm runs")
}

async fn image(world: &World) -> MultiArchImage {
    world.api::<MultiArchImage>().get("web").await.expect("the image")
}

#[tokio::test]
async fn helm_waits_until_the_image_is_ready_and_upgrading_to_the_same_writes_nothing() {
    let world = World::new().await;
    Push::to(&world.repository("from")).image("v1", "linux/s390x", "content").await;
    let chart = chart(&world);
    let installing = helm(&world, &["install", "web"], chart.path());
    // The operator comes when helm has something to wait for.
    let operator = async {
        world.until("web", "created", |_| true).await;
        Operator::start(&world)
    };
    let (installed, operator) = tokio::join!(installing, operator);
    assert!(installed.status.success(), "{installed:?}");
    let published = image(&world).await;
    assert!(is_ready(&published), "{published:#?}");

    let upgraded = helm(&world, &["upgrade", "web"], chart.path()).await;
    assert!(upgraded.status.success(), "{upgraded:?}");
    let after = image(&world).await;
    assert_eq!(published.metadata.resource_version, after.metadata.resource_version, "{}", operator.log());

    let upgraded = helm(&world, &["upgrade", "web", "--set-string", "tag=1.1"], chart.path()).await;
    assert!(upgraded.status.success(), "{upgraded:?}");
    assert!(is_ready(&image(&world).await), "helm did not take the old Ready for the new");
}

#[tokio::test]
async fn helm_fails_as_soon_as_the_image_is_stalled() {
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let chart = chart(&world);
    let failed = helm(&world, &["install", "web", "--set", "source=missing"], chart.path()).await;
    assert!(!failed.status.success(), "{failed:?}");
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(said.contains("linux/s390x: SourceNotFound: "), "the leaf cause: {said}");
    assert!(has_condition(&image(&world).await, "Stalled", "True"));
}
