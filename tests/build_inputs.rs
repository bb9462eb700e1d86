//! What builds are made of: contexts of every kind, arguments, secrets and times. Real BuildKit in Jobs on real nodes.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::ListParams;
use multiarch::api::{MultiArchImage, Phase};
use serde_json::{Value, json};
use support::World;
use support::builds::{digest, image, layers, log, run_on, secret, spec};
use support::git::GitRepository;
use support::images::{OCI_MANIFEST, Push};
use support::nodes::needs_nodes;
use support::operator::Operator;
use support::tools::run;

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a file of the rig")
}

/// Secrets for the rig's git servers.
async fn git_secrets(world: &World) {
    let (https, ssh) = (&world.rig.git.https, &world.rig.git.ssh);
    let authority = read(&https.ca_file);
    secret(
        world,
        "https",
        &[("username", &https.username), ("password", &https.password), ("ca.crt", &authority)],
    )
    .await;
    secret(world, "bearer", &[("bearerToken", &https.token), ("ca.crt", &authority)]).await;
    secret(world, "ssh", &[("identity", &read(&ssh.identity_file)), ("known_hosts", &ssh.known_hosts)]).await;
}

#[tokio::test]
async fn private_repositories_with_submodules_are_contexts_and_what_is_ignored_stays_out() {
    needs_nodes!("private_repositories_with_submodules_are_contexts_and_what_is_ignored_stays_out");
    let world = World::new().await;
    git_secrets(&world).await;
    let library = GitRepository::create(&world, "library");
    library.commit("main", &[("inner.txt", "from the submodule\n")]);
    let app = GitRepository::create(&world, "app");
    let relative = format!("../{}-library.git", world.namespace);
    app.git(&["-c", "protocol.file.allow=always", "submodule", "add", "--quiet", &relative, "app/lib"]);
    let base = &world.rig.images["busybox"];
    let dockerfile =
        format!("FROM {base}\nCOPY . /app\nRUN find /app -type f; cat /app/lib/inner.txt; ls -ld /app\n");
    app.commit(
        "main",
        &[("app/Dockerfile", &dockerfile), ("app/.dockerignore", "*.tmp\n"), ("app/x.tmp", "")],
    );
    let _operator = Operator::start(&world);
    for (name, url, secret) in
        [("https", &app.https, "https"), ("bearer", &app.https, "bearer"), ("ssh", &app.ssh, "ssh")]
    {
        let git = json!({"url": url, "ref": "main", "subPath": "app", "secretRef": {"name": secret}});
        world.apply(name, spec(&world, name, &["linux/amd64"], json!({"context": {"git": git}}))).await;
    }
    for name in ["https", "bearer", "ssh"] {
        world.until_ready(name).await;
        let said = log(&world, name, "linux/amd64").await;
        assert!(said.contains("from the submodule") && said.contains("/app/lib/inner.txt"), "{said}");
        assert!(!said.contains("x.tmp") && !said.contains("/.git"), "{said}");
        assert!(said.contains("drwxr-xr-x"), "the folder shows nothing of the volume it was in: {said}");
    }
}

#[tokio::test]
async fn a_link_in_a_repository_does_not_lead_the_context_to_the_credentials() {
    needs_nodes!("a_link_in_a_repository_does_not_lead_the_context_to_the_credentials");
    let world = World::new().await;
    git_secrets(&world).await;
    let repository = GitRepository::create(&world, "evil");
    std::os::unix::fs::symlink("/git", repository.path("evil")).expect("a link");
    let commit = repository.commit("main", &[("Dockerfile", "FROM scratch\nCOPY . /\n")]);
    let _operator = Operator::start(&world);
    let git =
        json!({"url": repository.https, "commit": commit, "subPath": "evil", "secretRef": {"name": "https"}});
    world.apply("evil", spec(&world, "evil", &["linux/amd64"], json!({"context": {"git": git}}))).await;
    let failed = world.until_platform("evil", "linux/amd64", Phase::Failed, "ContextNotFound").await;
    let said = failed.message.expect("a message");
    assert!(said.contains("evil leads out of the repository"), "{said}");
}

/// A folder with a context, as archives of several kinds.
struct Archives(PathBuf);

impl Archives {
    fn new(world: &World, dockerfile: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("{}-context", world.namespace));
        std::fs::create_dir_all(folder.join("files/sub")).expect("a folder");
        for (name, content) in [
            ("Dockerfile", dockerfile),
            (".dockerignore", "*.tmp\n"),
            ("x.tmp", ""),
            ("sub/kept.txt", "kept"),
        ] {
            std::fs::write(folder.join("files").join(name), content).expect("a file");
        }
        Archives(folder)
    }

    fn tar(&self, option: &str) -> Vec<u8> {
        let (path, files) = (self.0.join("archive"), self.0.join("files"));
        let words = [&*path.to_string_lossy(), "-C", &*files.to_string_lossy(), "."].map(str::to_owned);
        run("tar".as_ref(), &[&["-c", option, "-f"], &words.each_ref().map(String::as_str)[..]].concat());
        std::fs::read(path).expect("an archive")
    }
}

impl Drop for Archives {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn archives_images_and_artifacts_are_contexts_and_what_is_ignored_stays_out() {
    needs_nodes!("archives_images_and_artifacts_are_contexts_and_what_is_ignored_stays_out");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let base = &world.rig.images["busybox"];
    let archives = Archives::new(&world, &format!("FROM {base}\nCOPY . /app\nRUN find /app -type f\n"));
    let repository = world.repository("context");
    let push = Push::to(&repository);
    let (plain, _) = push.blob(archives.tar("-z")).await;
    let address = format!("http://{}", repository.replacen('/', "/v2/", 1));
    let http = |digest: &str, sum: &str| json!({"http": {"url": format!("{address}/blobs/{digest}"), "sha256": sum}});
    let sum = plain.trim_start_matches("sha256:");
    let artifact = artifact(&push, archives.tar("--zstd")).await;
    let image = context_image(&push, &archives).await;
    let contexts = [
        ("http", http(&plain, sum)),
        ("artifact", json!({"oci": {"image": format!("{repository}@{artifact}")}})),
        ("image", json!({"oci": {"image": format!("{repository}@{image}")}})),
    ];
    for (name, context) in &contexts {
        world.apply(name, spec(&world, name, &["linux/amd64"], json!({"context": context}))).await;
    }
    let gone = format!("sha256:{}", "0".repeat(64));
    for (name, context) in [("other", http(&plain, &"0".repeat(64))), ("gone", http(&gone, sum))] {
        world.apply(name, spec(&world, name, &["linux/amd64"], json!({"context": context}))).await;
    }
    for (name, _) in &contexts {
        world.until_ready(name).await;
        let said = log(&world, name, "linux/amd64").await;
        assert!(said.contains("/app/sub/kept.txt") && !said.contains("/app/x.tmp"), "{said}");
    }
    let failed = world.until_platform("other", "linux/amd64", Phase::Failed, "DigestMismatch").await;
    assert_eq!(failed.attempts, Some(1));
    let failed = world.until_platform("gone", "linux/amd64", Phase::Failed, "ContextNotFound").await;
    assert!(failed.message.expect("a message").contains("status 404"));
}

/// An artifact as `flux push artifact` makes them.
async fn artifact(push: &Push, archive: Vec<u8>) -> String {
    let (config, config_size) = push.blob(b"{}".to_vec()).await;
    let (layer, size) = push.blob(archive).await;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.cncf.flux.config.v1+json", "digest": config, "size": config_size},
        "layers": [{"mediaType": "application/vnd.cncf.flux.content.v1.tar+gzip", "digest": layer, "size": size}],
    });
    push.manifest("artifact", OCI_MANIFEST, &manifest).await
}

/// An image with the context's files.
async fn context_image(push: &Push, archives: &Archives) -> String {
    let archive = archives.tar("--format=posix");
    let config = json!({
        "os": "linux", "architecture": "amd64", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [multiarch::registry::Digest::sha256(&archive).to_string()]},
    });
    let (config, config_size) = push.blob(config.to_string().into_bytes()).await;
    let (layer, size) = push.blob(archive).await;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": size}],
    });
    push.manifest("image", OCI_MANIFEST, &manifest).await
}

#[tokio::test]
async fn every_input_of_buildx_reaches_the_build() {
    needs_nodes!("every_input_of_buildx_reaches_the_build");
    let world = World::new().await;
    git_secrets(&world).await;
    secret(&world, "npm", &[(".npmrc", "a secret of two words"), ("unrelated", "x")]).await;
    let _operator = Operator::start(&world);
    let repository = world.repository("file");
    let (file, _) = Push::to(&repository).blob(b"from an address".to_vec()).await;
    let address = format!("http://{}/blobs/{file}", repository.replacen('/', "/v2/", 1));
    let dockerfile = "FROM tools AS wanted
ARG VERSION
ARG TARGETPLATFORM
ARG TARGETOS
ARG TARGETARCH
ARG TARGETVARIANT
COPY --from=file context /file
RUN --mount=type=secret,id=npmrc,required --mount=type=ssh,required \\
  echo \"version=$VERSION for=$TARGETPLATFORM $TARGETOS/$TARGETARCH/$TARGETVARIANT\" && cat /file && \\
  test -S \"$SSH_AUTH_SOCK\" && echo \"$(wc -w </run/secrets/npmrc) words\"
FROM wanted AS unwanted
RUN false
";
    let build = json!({
        "context": {"inline": {"dockerfile": dockerfile}}, "target": "wanted",
        "args": {"VERSION": "1 $(HOME) $$"},
        "labels": {"org.example.label": "one, \"two\""}, "annotations": {"org.example.note": "three, \"four\""},
        "contexts": {"tools": format!("docker-image://{}", world.rig.images["busybox"]), "file": address},
        "secrets": [{"id": "npmrc", "secretRef": {"name": "npm", "key": ".npmrc"}}],
        "ssh": {"secretRef": {"name": "ssh"}},
    });
    let platforms = ["linux/amd64", "linux/arm64"];
    world.apply("web", spec(&world, "web", &platforms, build)).await;
    let ready = world.until_ready("web").await;
    for platform in platforms {
        let said = log(&world, "web", platform).await;
        assert!(said.contains(&format!("version=1 $(HOME) $$ for={platform} {platform}/")), "{said}");
        assert!(said.contains("from an address") && said.contains("5 words"), "{said}");
        let (manifest, config) = image(&world.repository("web"), &digest(&ready, platform)).await;
        assert_eq!(config["config"]["Labels"]["org.example.label"], "one, \"two\"");
        assert_eq!(manifest["annotations"]["org.example.note"], "three, \"four\"");
    }
}

#[tokio::test]
async fn the_same_commit_twice_is_the_same_image_when_its_time_is_that_of_the_commit() {
    needs_nodes!("the_same_commit_twice_is_the_same_image_when_its_time_is_that_of_the_commit");
    let world = World::new().await;
    let repository = GitRepository::create(&world, "app");
    let base = &world.rig.images["busybox"];
    let dockerfile =
        format!("FROM {base}\nWORKDIR /made\nCOPY . /app\nRUN date > /dev/null; echo x > /made/file\n");
    repository.commit("main", &[("Dockerfile", &dockerfile), ("folder/file", "x")]);
    let time: i64 = repository.git(&["log", "-1", "--format=%ct"]).parse().expect("a time");
    let _operator = Operator::start(&world);
    let build = json!({
        "context": {"git": {"url": repository.url}}, "args": {"SOURCE_DATE_EPOCH": "context"},
    });
    let mut digests = vec![];
    for name in ["one", "two"] {
        world.apply(name, spec(&world, name, &["linux/amd64"], build.clone())).await;
        let ready = world.until_ready(name).await;
        digests.push(digest(&ready, "linux/amd64"));
    }
    assert_eq!(digests[0], digests[1]);
    let (_, config) = image(&world.repository("one"), &digests[0]).await;
    let created: jiff::Timestamp = config["created"].as_str().expect("a time").parse().expect("a time");
    assert_eq!(created.as_second(), time);

    let inline = json!({
        "context": {"inline": {"dockerfile": "FROM scratch\nCOPY Dockerfile /\n"}},
        "args": {"SOURCE_DATE_EPOCH": "context"},
    });
    let refused = world.try_apply("timeless", spec(&world, "timeless", &["linux/amd64"], inline)).await;
    let refused = refused.expect_err("it is refused").to_string();
    assert!(refused.contains("context is the time of a git commit"), "{refused}");
}

#[tokio::test]
async fn a_go_project_is_cross_compiled_on_the_builders_own_platform() {
    needs_nodes!("a_go_project_is_cross_compiled_on_the_builders_own_platform");
    let world = World::new().await;
    let module = "golang.org/x/example/hello@v0.0.0-20250915201037-7f05d217867b";
    let told = Command::new("go").args(["mod", "download", "-json", module]).output().expect("go");
    let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    let repository = GitRepository::create(&world, "hello");
    let source = format!("{}/.", told["Dir"].as_str().expect("the module's folder"));
    run("cp".as_ref(), &["-r", "--no-preserve=mode", &source, &repository.path("").to_string_lossy()]);
    let dockerfile = "ARG GO
FROM --platform=$BUILDPLATFORM ${GO} AS build
WORKDIR /src
COPY . .
ARG TARGETOS TARGETARCH
RUN GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags=-s -o /hello .
FROM scratch
COPY --from=build /hello /hello
ENTRYPOINT [\"/hello\"]
";
    repository.commit("main", &[("Dockerfile", dockerfile)]);
    let _operator = Operator::start(&world);
    let build = json!({
        "context": {"git": {"url": repository.url, "ref": "main"}}, "args": {"GO": world.rig.images["go"]},
    });
    world.apply("hello", spec(&world, "hello", &["linux/amd64", "linux/arm64"], build)).await;
    let ready = world.until_ready("hello").await;
    for architecture in ["amd64", "arm64"] {
        let digest = digest(&ready, &format!("linux/{architecture}"));
        let said = run_on(&world, architecture, &format!("{}@{digest}", world.repository("hello"))).await;
        assert!(said.contains("Hello, world!"), "{said}");
    }
}

#[tokio::test]
async fn a_secret_stands_nowhere_but_in_its_file_whatever_the_build_prints() {
    needs_nodes!("a_secret_stands_nowhere_but_in_its_file_whatever_the_build_prints");
    let world = World::new().await;
    git_secrets(&world).await;
    let canary = format!("canary/{}+of=words", world.namespace);
    secret(&world, "canary", &[("value", &canary)]).await;
    let private = world.rig.private_registry.clone();
    let auths =
        json!({"auths": {&private.host: {"username": private.username, "password": private.password}}});
    secret(&world, "registry", &[(".dockerconfigjson", &auths.to_string())]).await;
    let repository = GitRepository::create(&world, "app");
    let dockerfile = format!(
        "FROM {}\nARG END\nRUN --mount=type=secret,id=canary s=/run/secrets/canary; echo printed; cat $s; echo; base64 $s; \
         sed -e 's,/,%2F,g' -e 's,+,%2B,g' -e 's,=,%3D,g' $s; echo; exit $END\n",
        world.rig.images["busybox"]
    );
    repository.commit("main", &[("Dockerfile", &dockerfile)]);
    let operator = Operator::start(&world);
    for (name, end) in [("good", "0"), ("bad", "3")] {
        let build = json!({
            "context": {"git": {"url": repository.https, "secretRef": {"name": "bearer"}}}, "args": {"END": end},
            "secrets": [{"id": "canary", "secretRef": {"name": "canary", "key": "value"}}],
        });
        let mut spec = spec(&world, name, &["linux/amd64"], build);
        spec["registrySecrets"] = json!([{"name": "registry"}]);
        if name == "good" {
            spec["target"]["repository"] = json!(format!("{}/{}/{name}", private.host, world.namespace));
        }
        world.apply(name, spec).await;
    }
    let ready = world.until_ready("good").await;
    let failed = world.until_platform("bad", "linux/amd64", Phase::Failed, "BuildFailed").await;
    assert!(failed.log_tail.expect("a log").contains("printed"));

    let mut told = vec![];
    for name in ["good", "bad"] {
        told.push(log(&world, name, "linux/amd64").await);
    }
    assert!(told.iter().all(|log| log.contains("***")), "{told:?}");
    let list = ListParams::default();
    told.push(serde_json::to_string(&world.api::<Job>().list(&list).await.expect("Jobs")).expect("JSON"));
    told.push(serde_json::to_string(&world.api::<Pod>().list(&list).await.expect("pods")).expect("JSON"));
    told.push(serde_json::to_string(&world.api::<Event>().list(&list).await.expect("events")).expect("JSON"));
    told.push(
        serde_json::to_string(&world.api::<MultiArchImage>().list(&list).await.expect("all")).expect("JSON"),
    );
    told.push(operator.log());
    told.push(private_layers(&world, &digest(&ready, "linux/amd64")).await);
    for secret in [&canary, &world.rig.git.https.token, &private.password] {
        for form in forms(secret) {
            for (at, text) in told.iter().enumerate() {
                assert!(!text.contains(&form), "{form} stands in text {at}: {text}");
            }
        }
    }
}

/// The ways in which a secret may be printed.
fn forms(secret: &str) -> [String; 3] {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(secret);
    // What comes after may change the last group.
    let encoded = encoded.trim_end_matches('=');
    let escaped = secret.replace('/', "%2F").replace('+', "%2B").replace('=', "%3D");
    [secret.to_owned(), encoded[..encoded.len() - 3].to_owned(), escaped]
}

/// What was pushed to the private registry, as text.
async fn private_layers(world: &World, digest: &str) -> String {
    let private = &world.rig.private_registry;
    let from = format!("docker://{}/{}/good@{digest}", private.host, world.namespace);
    let to = world.repository("good");
    let credentials = format!("{}:{}", private.username, private.password);
    let copy =
        ["copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false", "--src-creds", &credentials];
    support::skopeo(&[&copy[..], &["--preserve-digests", &from, &format!("docker://{to}:copy")]].concat());
    let (manifest, config) = image(&to, digest).await;
    let layers = layers(&to, &manifest).await;
    let layers: Vec<_> = layers.iter().map(|layer| String::from_utf8_lossy(layer).into_owned()).collect();
    format!("{manifest}{config}{}", layers.concat())
}
