//! The operator as it runs, between namespaces and against servers that mean harm. Needs no nodes.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/fault_server.rs"]
mod fault_server;
mod support;

use std::io::Write as _;
use std::sync::Arc;

use fault_server::{Answer, FaultServer};
use multiarch::api::Phase;
use multiarch::git;
use multiarch::network::HostPolicy;
use serde_json::{Value, json};
use support::builds::secret;
use support::operator::{Operator, Start};
use support::{World, has_condition, message};
use tokio::net::TcpListener;

const PLATFORM: &str = "linux/amd64";

fn source(world: &World, image: &str) -> Value {
    json!({
        "target": {"repository": world.repository("web"), "tags": ["1.0"]},
        "platforms": [{"platform": PLATFORM, "image": image}],
    })
}

/// What opens the private registry, as a file of docker's.
fn docker_config(world: &World) -> String {
    let private = &world.rig.private_registry;
    let account = json!({"username": private.username, "password": private.password});
    json!({"auths": {private.host.as_str(): account}}).to_string()
}

#[tokio::test]
async fn a_secret_of_another_namespace_is_not_used() {
    let (world, other) = (World::new().await, World::new().await);
    secret(&other, "pull", &[(".dockerconfigjson", &docker_config(&other))]).await;
    let _operator = Operator::start(&world);
    let mut spec = source(&world, &format!("{}/web:1.0", world.rig.private_registry.host));
    for name in ["pull", &format!("{}/pull", other.namespace)] {
        spec["registrySecrets"] = json!([{"name": name}]);
        if world.try_apply("web", spec.clone()).await.is_err() {
            assert!(name.contains('/'), "only names of objects are accepted");
            continue;
        }
        let platform = world.until_platform("web", PLATFORM, Phase::Waiting, "SecretNotFound").await;
        assert!(platform.message.unwrap().contains("secret/pull does not exist"));
    }
}

#[tokio::test]
async fn credentials_of_the_operator_itself_are_nobodys() {
    let world = World::new().await;
    let folder = std::env::temp_dir().join(format!("operators-own-{}", world.namespace));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.json"), docker_config(&world)).unwrap();
    let start = Start::new(&world)
        .environment("DOCKER_CONFIG", &folder)
        .environment("REGISTRY_AUTH_FILE", folder.join("config.json"));
    let _operator = start.run();
    let image = format!("{}/web:1.0", world.rig.private_registry.host);
    world.apply("web", source(&world, &image)).await;
    let platform = world.until_platform("web", PLATFORM, Phase::Failed, "AuthenticationFailed").await;
    let told = platform.message.unwrap();
    assert!(told.contains("no credential matches"), "{told}");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_registry_that_leads_the_operator_to_its_own_machine_fails_the_image_and_gains_nothing() {
    let world = World::new().await;
    let elsewhere = FaultServer::start(|_| Answer::status(200).body("what nobody else may read")).await;
    let location = format!("http://{}/metrics", elsewhere.host);
    let server = FaultServer::start(move |_| Answer::status(302).header("Location", &*location)).await;
    let _operator = Start::new(&world).plain_http(&server.host).run();
    world.apply("web", source(&world, &format!("{}/team/web:1.0", server.host))).await;
    let platform = world.until_platform("web", PLATFORM, Phase::Failed, "HostDenied").await;
    let told = platform.message.unwrap();
    assert!(told.contains("that is the operator itself") && !told.contains("nobody else"), "{told}");
    let image = world.until("web", "stalled", |image| has_condition(image, "Stalled", "True")).await;
    assert!(message(&image, "Stalled").contains("127.0.0.1"), "{}", message(&image, "Stalled"));
    assert!(elsewhere.asked().is_empty() && !server.asked().is_empty());
}

#[tokio::test]
async fn a_name_that_resolves_to_what_is_refused_is_refused() {
    const TEST: &str = "a_name_that_resolves_to_what_is_refused_is_refused";
    let has_namespaces =
        std::process::Command::new("unshare").args(["--map-root-user", "--mount", "true"]).status();
    if !has_namespaces.is_ok_and(|status| status.success()) {
        let told = writeln!(std::io::stderr(), "SKIPPED {TEST}: it needs user namespaces (unshare)");
        return told.expect("standard error");
    }
    let world = World::new().await;
    let own = FaultServer::start(|_| Answer::status(200)).await;
    let port = own.host.rsplit_once(':').expect("a port").1.to_owned();
    let hosts =
        "127.0.0.1 localhost own.test\n169.254.169.254 metadata.test\n::ffff:169.254.169.254 mapped.test\n";
    let _operator = Start::new(&world).hosts(hosts).run();
    for (name, address) in [
        (format!("own.test:{port}"), "(127.0.0.1)"),
        ("metadata.test".to_owned(), "(169.254.169.254)"),
        ("mapped.test".to_owned(), "169.254.169.254)"),
    ] {
        world.apply("web", source(&world, &format!("{name}/team/web:1.0"))).await;
        let denied = |image: &multiarch::api::MultiArchImage| {
            let entry = support::entry(image, PLATFORM);
            entry
                .and_then(|entry| entry.message.as_deref())
                .is_some_and(|told| told.contains(&name) && told.contains(address))
        };
        let image = world.until("web", address, denied).await;
        let entry = support::entry(&image, PLATFORM).expect("the platform");
        assert_eq!(
            (entry.phase, entry.reason.map(|reason| reason.as_str())),
            (Phase::Failed, Some("HostDenied"))
        );
    }
    assert!(own.asked().is_empty());
}

#[tokio::test]
async fn a_namespace_speaks_to_the_hosts_of_its_rules_only() {
    let world = World::new().await;
    let server = FaultServer::start(|_| Answer::status(404)).await;
    let policies = format!(
        "hosts:\n- namespaces: ['{}']\n  allow: ['{}']\n- namespaces: [other]\n  deny: ['{}']\n",
        world.namespace, world.rig.registry, world.rig.registry
    );
    let _operator = Start::new(&world).plain_http(&server.host).policies(&policies).run();
    let image = format!("{}/team/web:1.0", server.host);
    world.apply("web", source(&world, &image)).await;
    let denied = |image: &multiarch::api::MultiArchImage| has_condition(image, "Stalled", "True");
    let stalled = world.until("web", "stalled", denied).await;
    let told = message(&stalled, "Stalled");
    assert!(told.starts_with(&format!("spec.platforms[0].image is {image}, and ")), "{told}");
    assert!(told.contains("hosts[0].allow"), "{told}");
    assert!(server.asked().is_empty());
    world.apply("web", source(&world, &format!("{}:missing", world.repository("from")))).await;
    world.until_platform("web", PLATFORM, Phase::Failed, "SourceNotFound").await;
}

#[tokio::test]
async fn an_ssh_server_at_an_address_that_is_refused_hears_nothing() {
    let world = World::new().await;
    let ssh = &world.rig.git.ssh;
    let identity = std::fs::read(&ssh.identity_file).unwrap();
    let data = [("identity", identity.as_slice()), ("known_hosts", ssh.known_hosts.as_bytes())];
    let credentials = git::Credentials::new(data).expect("credentials");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = git::Client::new([]).limited_to(Arc::new(HostPolicy::default()).access("team-a"));
    for host in ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]", "169.254.169.254"] {
        let url = format!("ssh://git@{host}:{port}/web.git");
        let error = client.resolve(&url, None, Some(&credentials)).await.expect_err(host);
        assert!(matches!(error, git::Error::HostDenied { .. }), "{error}");
    }
    let heard = tokio::select! { biased; heard = listener.accept() => Some(heard), () = std::future::ready(()) => None };
    assert!(heard.is_none());
}
