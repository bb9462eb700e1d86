//! The operator's own image: its Dockerfile and its sample belong together, and the operator builds it with itself.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use kube::runtime::wait::await_condition;
use multiarch::api::MultiArchImage;
use multiarch::dockerfile::{BaseImage, BuildParameters, base_images};
use object::Object as _;
use object::ObjectSection as _;
use object::read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _};
use serde_json::{Value, json};
use support::builds::{self, inline};
use support::chart;
use support::git::GitRepository;
use support::images::Push;
use support::nodes::needs_nodes;
use support::operator::Start;
use support::release::{self, Release};
use support::{World, devcluster, entry, has_condition, is_ready, message, root};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// The image that is shipped is no larger than this, compressed, in bytes.
const LARGEST_IMAGE: u64 = 25 << 20;
/// What the Dockerfile takes from the context.
const CONTEXT: [&str; 5] = ["Cargo.lock", "Cargo.toml", "LICENSE", "benches", "src"];

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn sample() -> MultiArchImage {
    serde_saphyr::from_str(&read("config/samples/self.yaml")).expect("a MultiArchImage")
}

/// What a build of the Dockerfile on an amd64 machine pulls.
fn pulled(platform: &str, target: Option<&str>, contexts: &[(&str, &str)]) -> Vec<BaseImage> {
    let contexts =
        contexts.iter().map(|(name, address)| ((*name).to_owned(), (*address).to_owned())).collect();
    let build = BuildParameters {
        arguments: &BTreeMap::new(),
        target,
        target_platform: &platform.parse().expect("a platform"),
        build_platform: Some(&"linux/amd64".parse().expect("a platform")),
        contexts: &contexts,
    };
    base_images(read("Dockerfile").as_bytes(), &build).expect("a Dockerfile that can be built")
}

/// The value of a variable of the Dockerfile, or what it says after a word.
fn said<'a>(dockerfile: &'a str, before: &str) -> &'a str {
    let line = dockerfile.lines().find_map(|line| line.trim_start().strip_prefix(before));
    let rest = line.unwrap_or_else(|| panic!("the Dockerfile has no line with {before}"));
    rest.split('"').next().expect("a value").trim()
}

#[test]
fn whatever_the_image_is_for_only_the_builders_own_platform_is_pulled_and_nothing_emulated() {
    for platform in ["linux/amd64", "linux/arm64", "linux/ppc64le", "linux/s390x"] {
        let images = pulled(platform, Some("operator"), &[]);
        let [rust] = images.as_slice() else { panic!("{platform}: {images:?}") };
        assert!(rust.reference.starts_with("docker.io/library/rust:"), "{}", rust.reference);
        assert_eq!((rust.stage.as_str(), rust.platform.to_string().as_str()), ("toolchain", "linux/amd64"));
    }
    assert_eq!(pulled("linux/arm64", None, &[]), pulled("linux/arm64", Some("operator"), &[]));
}

#[test]
fn where_there_is_no_network_named_contexts_take_the_place_of_everything_that_is_fetched() {
    let contexts = [
        ("toolchain", "docker-image://registry.example.com/toolchain:1"),
        ("vendor", "docker-image://registry.example.com/vendor:1"),
    ];
    let images = pulled("linux/arm64", Some("operator"), &contexts);
    let references: BTreeSet<_> = images.iter().map(|image| image.reference.as_str()).collect();
    assert_eq!(
        references,
        ["registry.example.com/toolchain:1", "registry.example.com/vendor:1"].into(),
        "{images:?}"
    );
    assert!(images.iter().all(|image| image.platform.to_string() == "linux/amd64"), "{images:?}");
}

#[test]
fn the_rust_that_is_installed_is_pinned_and_new_enough() {
    let images = pulled("linux/amd64", None, &[]);
    let version =
        images[0].reference.rsplit(':').next().and_then(|tag| tag.split('-').next()).expect("a tag");
    let numbers =
        |version: &str| version.split('.').map(|it| it.parse().expect("a number")).collect::<Vec<u32>>();
    assert_eq!(numbers(version).len(), 3, "{version} is not one version");
    assert!(numbers(version) >= numbers(env!("CARGO_PKG_RUST_VERSION")), "{version}");
}

#[test]
fn the_image_is_described_as_the_program_is() {
    let dockerfile = read("Dockerfile");
    assert_eq!(said(&dockerfile, "ARG VERSION="), env!("CARGO_PKG_VERSION"));
    assert_eq!(said(&dockerfile, "org.opencontainers.image.description=\""), env!("CARGO_PKG_DESCRIPTION"));
    assert_eq!(said(&dockerfile, "org.opencontainers.image.licenses=\""), env!("CARGO_PKG_LICENSE"));
    let sample = sample();
    assert_eq!(sample.spec.target.tags, [env!("CARGO_PKG_VERSION")]);
    let annotations = &sample.spec.target.annotations;
    assert_eq!(annotations["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        annotations["org.opencontainers.image.source"],
        said(&dockerfile, "org.opencontainers.image.source=\"")
    );
}

#[test]
fn what_the_dockerfile_copies_is_there_and_is_all_that_a_builder_is_sent() {
    let dockerfile = read("Dockerfile");
    let copied: BTreeSet<&str> = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
        .filter(|arguments| !arguments.starts_with("--from"))
        .flat_map(|arguments| arguments.rsplit_once(' ').expect("a source and a destination").0.split(' '))
        .collect();
    assert_eq!(copied, CONTEXT.into());
    let ignored = read(".dockerignore");
    let sent: BTreeSet<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert_eq!(sent, CONTEXT.into());
    assert!(ignored.lines().any(|line| line == "*"));
    assert!(CONTEXT.iter().all(|path| root().join(path).exists()));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "compiles all dependencies for two platforms, 20 minutes on 2 cores and 15 with PROFILE=dev: make image-test"]
async fn the_operator_builds_its_own_image_for_two_platforms_and_works_from_it() {
    needs_nodes!("the_operator_builds_its_own_image_for_two_platforms_and_works_from_it");
    let world = World::new().await;
    let toolchain = devcluster::run(&["image", "toolchain"]);
    let vendor = devcluster::run(&["image", "vendor"]);
    let sources = sources(&world);
    let scanner = Start::new(&world).builds(&format!("sbomScanner: {}:1.0\n", world.repository("scanner")));
    let operator = scanner.run();
    world.apply("scanner", inline(&world, "scanner", &["linux/amd64", "linux/arm64"], SCANNER)).await;
    world.until_ready("scanner").await;

    let mut spec = serde_json::to_value(sample().spec).expect("JSON");
    let repository = world.repository("multiarch-operator");
    spec["target"]["repository"] = json!(repository);
    spec["build"]["context"] = json!({"git": {"url": sources.url, "ref": "main"}});
    spec["build"]["contexts"] = json!({
        "toolchain": format!("docker-image://{}", toolchain.trim()),
        "vendor": format!("docker-image://{}", vendor.trim()),
    });
    spec.as_object_mut().expect("a spec").remove("registrySecrets");
    if let Ok(profile) = std::env::var("PROFILE") {
        spec["build"]["args"]["PROFILE"] = json!(profile);
    }
    world.apply("multiarch-operator", spec).await;
    let image = until_built(&world, "multiarch-operator").await;
    drop(operator);

    let index = Push::to(&repository).read(env!("CARGO_PKG_VERSION")).await.expect("the index");
    let index: Value = serde_json::from_slice(&index).expect("JSON");
    for (platform, node, machine) in [
        ("linux/amd64", "node-amd64", object::elf::EM_X86_64),
        ("linux/arm64", "node-arm64", object::elf::EM_AARCH64),
    ] {
        let entry = entry(&image, platform).expect("the platform's entry");
        assert_eq!(entry.node.as_deref(), Some(node), "{platform}");
        let digest = builds::digest(&image, platform);
        holds_one_static_program(&repository, &digest, machine).await;
        has_statements(&repository, &index, &digest).await;
        works(&world, platform, &format!("{repository}@{digest}")).await;
        is_installed_by_the_chart(platform, &repository, &digest).await;
    }
}

/// BuildKit shows a scanner the image below a folder; this one lists its files.
const SCANNER: &str = r#"COPY --chmod=755 <<'END' /scan
#!/bin/sh
cd "$BUILDKIT_SCAN_SOURCE"
files=$(find . -type f | sed 's/.*/{"fileName": "&"}/' | paste -sd,)
echo "{\"_type\": \"https://in-toto.io/Statement/v0.1\", \"predicateType\": \"https://spdx.dev/Document\",
  \"predicate\": {\"files\": [$files]}}" > "$BUILDKIT_SCAN_DESTINATION/files.spdx.json"
END
ENTRYPOINT ["/scan"]"#;

/// A repository with what this checkout builds the image from, changes that are not committed included.
fn sources(world: &World) -> GitRepository {
    let repository = GitRepository::create(world, "multiarch-operator");
    for path in CONTEXT.iter().chain(&["Dockerfile"]) {
        copy(&root().join(path), &repository.path(path));
    }
    repository.commit("main", &[]);
    repository
}

fn copy(from: &Path, to: &Path) {
    if from.is_file() {
        std::fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        return;
    }
    std::fs::create_dir_all(to).expect("a folder");
    for file in std::fs::read_dir(from).expect("a folder") {
        let file = file.expect("a file");
        copy(&file.path(), &to.join(file.file_name()));
    }
}

/// Waits for what takes longer than the patience of other tests, and gives up as soon as it has failed.
async fn until_built(world: &World, name: &str) -> MultiArchImage {
    let ended = await_condition(world.api::<MultiArchImage>(), name, |image: Option<&MultiArchImage>| {
        image.is_some_and(|image| is_ready(image) || has_condition(image, "Stalled", "True"))
    });
    let longest = Duration::from_secs(2 * 60 * 60);
    let image = tokio::time::timeout(longest, ended).await.expect("in time").expect("it is watched");
    let image = image.expect("the image");
    assert!(is_ready(&image), "{}; {:#?}", message(&image, "Ready"), image.status);
    image
}

/// One layer with a program that needs no other file to start, small enough, for an ordinary user, and labelled.
async fn holds_one_static_program(repository: &str, digest: &str, machine: u16) {
    let (manifest, config) = builds::image(repository, digest).await;
    let size: u64 = manifest["layers"]
        .as_array()
        .expect("layers")
        .iter()
        .filter_map(|layer| layer["size"].as_u64())
        .sum();
    println!("{repository}@{digest}: {size} bytes compressed");
    assert!(size <= LARGEST_IMAGE, "{size} bytes");
    let settings = &config["config"];
    assert_eq!(settings["User"], "65532:65532");
    assert_eq!(settings["Entrypoint"], json!(["/multiarch"]));
    assert_eq!(settings["Labels"]["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(settings["Labels"]["org.opencontainers.image.licenses"], env!("CARGO_PKG_LICENSE"));

    let layers = builds::layers(repository, &manifest).await;
    let files: BTreeMap<String, Vec<u8>> = layers.iter().flat_map(|layer| files_of(layer)).collect();
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    let expected = [
        "etc/group",
        "etc/nsswitch.conf",
        "etc/passwd",
        "etc/ssl/certs/ca-certificates.crt",
        "licenses/LICENSE",
        "multiarch",
    ];
    assert_eq!(names, expected);
    let program = ElfFile64::<object::Endianness>::parse(files["multiarch"].as_slice()).expect("an ELF file");
    let endian = program.endian();
    assert_eq!(program.elf_header().e_machine(endian), machine);
    let interpreted =
        program.elf_program_headers().iter().any(|header| header.p_type(endian) == object::elf::PT_INTERP);
    assert!(!interpreted, "the program wants a loader that is not there");
    let crates = program.section_by_name(".dep-v0").expect("the list of crates").data().expect("its content");
    let mut list = String::new();
    flate2::read::ZlibDecoder::new(crates).read_to_string(&mut list).expect("zlib");
    let list: Value = serde_json::from_str(&list).expect("JSON");
    let named =
        |name: &str| list["packages"].as_array().is_some_and(|all| all.iter().any(|it| it["name"] == name));
    assert!(named("kube") && named("multiarch-operator"), "{list}");
    assert!(
        !String::from_utf8_lossy(&files["multiarch"]).contains("/cargo/registry/src/"),
        "a path of the builder"
    );
}

fn files_of(layer: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(layer);
    let entries = archive.entries().expect("an archive").map(|entry| entry.expect("an entry"));
    let files = entries.filter(|entry| entry.header().entry_type().is_file()).map(|mut entry| {
        let path = entry.path().expect("a path").to_string_lossy().into_owned();
        let mut content = vec![];
        entry.read_to_end(&mut content).expect("its content");
        (path, content)
    });
    files.collect()
}

/// What the builder states about an image stands in the index beside it.
async fn has_statements(repository: &str, index: &Value, digest: &str) {
    let entries = index["manifests"].as_array().expect("entries");
    let about = entries.iter().find(|entry| entry["annotations"]["vnd.docker.reference.digest"] == digest);
    let about = about.unwrap_or_else(|| panic!("nothing is stated about {digest}: {index}"));
    let (manifest, _) = builds::image(repository, about["digest"].as_str().expect("a digest")).await;
    let mut statements = BTreeMap::new();
    for layer in manifest["layers"].as_array().expect("layers") {
        let kind = layer["annotations"]["in-toto.io/predicate-type"].as_str().expect("a predicate");
        statements.insert(
            kind.to_owned(),
            builds::blob(repository, layer["digest"].as_str().expect("a digest")).await,
        );
    }
    let sbom = statements.get("https://spdx.dev/Document").expect("an SBOM");
    let sbom: Value = serde_json::from_slice(sbom).expect("JSON");
    assert!(sbom.to_string().contains("./multiarch"), "{sbom}");
    assert!(
        statements.keys().any(|kind| kind.starts_with("https://slsa.dev/provenance/")),
        "{:?}",
        statements.keys()
    );
}

/// A pod of the image, which finds one registry by its name server and another in /etc/hosts, speaks TLS with the API
/// server and publishes an image.
async fn works(world: &World, platform: &str, image: &str) {
    let architecture = platform.trim_start_matches("linux/");
    let (address, port) = world.rig.registry.split_once(':').expect("host:port");
    let names = NameServer::start(address, "named.test").await;
    let from = world.repository("from");
    Push::to(&from).image("v1", "linux/s390x", "content").await;
    let path = |repository: &str| repository.split_once('/').expect("host/path").1.to_owned();
    let access = Access::grant(world, &format!("{}-{architecture}", world.namespace)).await;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": format!("operator-{architecture}")},
        "spec": {
            "serviceAccountName": access.account,
            "nodeSelector": {"kubernetes.io/arch": architecture},
            "dnsPolicy": "None", "dnsConfig": {"nameservers": [address]},
            "hostAliases": [{"ip": address, "hostnames": ["aliased.test"]}],
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "operator", "image": image,
                "args": ["operator", "--namespace", world.namespace, "--leader-election=false", "--plain-http", format!("named.test:{port},aliased.test:{port}")],
                "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    }))
    .expect("a pod");
    let pods = world.api::<Pod>();
    pods.create(&PostParams::default(), &pod).await.expect("the pod");
    let name = format!("web-{architecture}");
    let target = world.repository(&name);
    let spec = json!({
        "target": {"repository": format!("aliased.test:{port}/{}", path(&target)), "tags": ["1.0"]},
        "platforms": [{"platform": "linux/s390x", "image": format!("named.test:{port}/{}:v1", path(&from))}],
    });
    world.apply(&name, spec).await;
    world.until_ready(&name).await;
    assert!(Push::to(&target).read("1.0").await.is_some(), "{platform}: nothing was published");
    assert!(names.asked(), "{platform}: the name server was not asked");
    let gone = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    pods.delete(&format!("operator-{architecture}"), &gone).await.expect("the pod goes");
    access.revoke().await;
}

/// The chart brings the image onto a node of its platform, for a namespace of its own, where it publishes and passes
/// `helm test`.
async fn is_installed_by_the_chart(platform: &str, repository: &str, digest: &str) {
    let world = World::new().await;
    let mut values = release::values(&world, repository, platform.trim_start_matches("linux/"));
    values["image"]["digest"] = json!(digest);
    values["watchNamespace"] = json!(world.namespace);
    values["crds"] = json!({"enabled": false});
    let release = Release { namespace: world.namespace.clone(), world: &world, user: None };
    release.apply(&values, &[]);
    let from = world.repository("from");
    Push::to(&from).image("v1", "linux/s390x", "content").await;
    let spec = json!({
        "target": {"repository": world.repository("web"), "tags": ["1.0"]},
        "platforms": [{"platform": "linux/s390x", "image": format!("{from}:v1")}],
    });
    world.apply("web", spec).await;
    world.until_ready("web").await;
    let tested = release.ok(&["test", chart::NAME, "--logs", "--timeout", "4m"]);
    assert!(tested.contains("web"), "{platform}: {tested}");
}

/// A service account with the operator's permissions.
struct Access {
    account: String,
    roles: Api<ClusterRole>,
    bindings: Api<ClusterRoleBinding>,
}

impl Access {
    async fn grant(world: &World, name: &str) -> Access {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let account = ServiceAccount { metadata: metadata.clone(), ..ServiceAccount::default() };
        world
            .api::<ServiceAccount>()
            .create(&PostParams::default(), &account)
            .await
            .expect("a ServiceAccount");
        let documents: Vec<Value> = serde_saphyr::from_multiple(&read("config/default/rbac.yaml"))
            .expect("the operator's permissions");
        let of_kind =
            |kind: &str| documents.iter().find(|document| document["kind"] == kind).expect("it is there");
        let mut role: ClusterRole =
            serde_json::from_value(of_kind("ClusterRole").clone()).expect("a ClusterRole");
        role.metadata = metadata;
        let binding: ClusterRoleBinding = serde_json::from_value(json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": world.namespace}],
        }))
        .expect("a binding");
        let (roles, bindings) = (Api::all(world.client.clone()), Api::all(world.client.clone()));
        roles.create(&PostParams::default(), &role).await.expect("a ClusterRole");
        bindings.create(&PostParams::default(), &binding).await.expect("a ClusterRoleBinding");
        Access { account: name.to_owned(), roles, bindings }
    }

    async fn revoke(self) {
        self.bindings.delete(&self.account, &DeleteParams::default()).await.expect("it can be deleted");
        self.roles.delete(&self.account, &DeleteParams::default()).await.expect("it can be deleted");
    }
}

/// A name server that knows one name: RFC 1035, as much of it as a resolver asks for.
struct NameServer {
    task: JoinHandle<()>,
    asked: Arc<AtomicBool>,
}

impl NameServer {
    async fn start(address: &str, name: &str) -> NameServer {
        let socket = UdpSocket::bind((address, 53)).await.expect("the port of name servers");
        let address: Ipv4Addr = address.parse().expect("an address");
        let mut known = vec![];
        for label in name.split('.') {
            known.push(u8::try_from(label.len()).expect("a short label"));
            known.extend_from_slice(label.as_bytes());
        }
        known.push(0);
        let asked = Arc::new(AtomicBool::new(false));
        let (answered, mut query) = (Arc::clone(&asked), [0; 512]);
        let task = tokio::spawn(async move {
            loop {
                let (length, from) = socket.recv_from(&mut query).await.expect("a query");
                let Some(answer) = answer(&query[..length], &known, address) else { continue };
                answered.store(true, Ordering::Relaxed);
                socket.send_to(&answer, from).await.expect("an answer");
            }
        });
        NameServer { task, asked }
    }

    fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The address for the one name, no address of another type, and that there is no other name.
fn answer(query: &[u8], known: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    let question = query.get(12..)?;
    let end = question.iter().position(|&byte| byte == 0)? + 1;
    let (name, rest) = question.split_at(end);
    let is_known = name.eq_ignore_ascii_case(known);
    let has_address = is_known && rest.get(..4)? == [0, 1, 0, 1];
    let mut answer = query[..2].to_vec();
    // A response without errors, or "no such name"; one question, none or one answer.
    answer.extend([0x81, if is_known { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(has_address), 0, 0, 0, 0]);
    answer.extend(name);
    answer.extend(&rest[..4]);
    if has_address {
        // The name above, type A, class IN, a minute, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
