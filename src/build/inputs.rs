//! What the containers of a build's pod are given: arguments, variables and files.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, EmptyDirVolumeSource, KeyToPath, PersistentVolumeClaimVolumeSource,
    SecretVolumeSource, Volume, VolumeMount,
};

use sha2::{Digest as _, Sha256};

use super::pod::Builder;
use super::{BuildRequest, BuilderSettings, PinnedContext, arguments, cache, daemon, hexadecimal};
use crate::api::CacheType;

/// Where the daemon keeps what it knows.
const STATE: &str = "/home/user/.local/share/buildkit";
const DOCKER_CONFIG: &str = "/registry";
/// The bytes that one variable is given; Linux takes 128 KiB, its name included.
pub(super) const VARIABLE_LIMIT: usize = 100_000;
/// Only its owner reads what a Secret gives.
const SECRET_MODE: i32 = 0o400;

/// What one container is given.
#[derive(Default)]
pub(super) struct Inputs {
    pub arguments: Vec<String>,
    pub environment: Vec<(&'static str, String)>,
    pub mounts: Vec<VolumeMount>,
    volumes: Vec<Volume>,
    /// Files whose values must not be printed, as the shell's patterns.
    secret_files: Vec<String>,
}

impl Inputs {
    fn variable(&mut self, name: &'static str, value: impl Into<String>) {
        self.environment.push((name, value.into()));
    }

    fn mount(&mut self, volume: Volume, path: &str, read_only: bool) {
        self.mounts.push(VolumeMount {
            name: volume.name.clone(),
            mount_path: path.to_owned(),
            read_only: read_only.then_some(true),
            ..VolumeMount::default()
        });
        self.volumes.push(volume);
    }

    /// A Secret's keys as files; all of them, or one under another name.
    fn secret(&mut self, name: &str, secret: &str, key: Option<(&str, &str)>) {
        let path = format!("/{name}");
        let items =
            key.map(|(key, path)| vec![KeyToPath { key: key.to_owned(), path: path.to_owned(), mode: None }]);
        let source = SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            default_mode: Some(SECRET_MODE),
            items,
            ..SecretVolumeSource::default()
        };
        let volume = Volume { name: name.replace('/', "-"), secret: Some(source), ..Volume::default() };
        self.mount(volume, &path, true);
        self.secret_files.push(format!("{path}/{}", key.map_or("*", |(_, file)| file)));
    }

    fn finished(mut self) -> Self {
        if !self.secret_files.is_empty() {
            let files = self.secret_files.join(" ");
            self.variable("SECRET_FILES", files);
        }
        self
    }
}

/// The volumes of both containers, each once.
pub(super) fn volumes(build: &Inputs, context: Option<&Inputs>) -> Vec<Volume> {
    let mut volumes = build.volumes.clone();
    for volume in context.iter().flat_map(|context| &context.volumes) {
        if !volumes.iter().any(|known| known.name == volume.name) {
            volumes.push(volume.clone());
        }
    }
    volumes
}

fn empty(name: &str) -> Volume {
    Volume { name: name.to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() }
}

/// What the container that fetches a git repository is given: it alone has git's credentials.
pub(super) fn of_context(request: &BuildRequest<'_>, settings: &BuilderSettings) -> Option<Inputs> {
    let PinnedContext::Git { url, commit, sub_path, secret } = request.context else { return None };
    let mut inputs = Inputs::default();
    inputs.variable("TMPDIR", "/tmp");
    inputs.variable("GIT_URL", url);
    inputs.variable("GIT_COMMIT", commit);
    if let Some(sub_path) = sub_path {
        inputs.variable("GIT_SUB_PATH", sub_path);
    }
    // As buildx has it. strconv.ParseBool reads it there.
    let keep = request.build.args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR").map(|value| value.0.as_str());
    if matches!(keep, Some("1" | "t" | "T" | "true" | "TRUE" | "True")) {
        inputs.variable("GIT_KEEP_DIR", "true");
    }
    let host = url.strip_prefix("http://").and_then(|rest| rest.split('/').next());
    if host.is_some_and(|host| settings.speaks_plain_http(host)) {
        inputs.variable("GIT_PLAIN_HTTP", "true");
    }
    inputs.mount(empty("context"), "/context", false);
    if let Some(secret) = secret {
        inputs.secret("git", secret, None);
    }
    Some(inputs.finished())
}

/// What the container that builds is given.
pub(super) fn of_build(
    request: &BuildRequest<'_>,
    settings: &BuilderSettings,
    credentials: Option<&str>,
    builder: Builder,
) -> Inputs {
    let mut inputs = Inputs { arguments: arguments::of(request, settings), ..Inputs::default() };
    inputs.variable("BUILD_TIMEOUT", request.timeout().as_secs().to_string());
    inputs.variable("PLATFORM", request.platform.to_string());
    add_builder(&mut inputs, request, settings, builder);
    add_context(&mut inputs, request);
    if let Some(secret) = credentials {
        inputs.secret("registry", secret, Some((".dockerconfigjson", "config.json")));
        inputs.variable("DOCKER_CONFIG", DOCKER_CONFIG);
    }
    for (at, secret) in request.build.secrets.iter().enumerate() {
        let reference = &secret.secret_ref;
        inputs.secret(
            &arguments::secret_folder(at),
            &reference.name,
            Some((&reference.key, arguments::SECRET_FILE)),
        );
    }
    if let Some(ssh) = &request.build.ssh {
        inputs.secret("ssh", &ssh.secret_ref.name, None);
        inputs.variable("SSH_SECRET", &ssh.secret_ref.name);
    }
    if arguments::epoch_of_context(request) {
        inputs.variable("EPOCH_OF_CONTEXT", "true");
    }
    inputs.finished()
}

fn add_builder(
    inputs: &mut Inputs,
    request: &BuildRequest<'_>,
    settings: &BuilderSettings,
    builder: Builder,
) {
    add_user(inputs, builder);
    if let Some(remote) = &request.build.remote {
        inputs.variable("BUILDKIT_HOST", &remote.endpoint);
        if let Some(tls) = &remote.tls {
            inputs.secret("tls", &tls.secret_ref.name, None);
        }
        return;
    }
    inputs.variable("BUILDKITD_CONFIG", daemon::configuration(settings));
    if let Some(authorities) = daemon::authorities(settings) {
        inputs.variable("AUTHORITIES", authorities);
    }
    inputs.variable("STATE", STATE);
    let cache = request.build.cache.as_ref().filter(|cache| cache.r#type == CacheType::Volume);
    if let Some(volume) = cache.and_then(|cache| cache.volume.as_ref()) {
        inputs.variable("CACHE_MEGABYTES", (cache::volume_limit(&volume.size) / 1_000_000).to_string());
        inputs.mount(claim(cache::cache_claim_name(request.image_name, request.platform)), STATE, false);
    } else {
        inputs.mount(empty("state"), STATE, false);
    }
}

/// Who the builder is, and where it may write.
fn add_user(inputs: &mut Inputs, builder: Builder) {
    let (name, home) = match builder {
        Builder::Rootless => ("rootless", "/home/user"),
        Builder::Root { .. } => ("root", "/root"),
        Builder::Remote => ("remote", "/home/user"),
    };
    inputs.variable("BUILDER", name);
    if builder == (Builder::Root { in_user_namespace: true }) {
        inputs.variable("USER_NAMESPACE", "true");
    }
    inputs.variable("HOME", home);
    inputs.variable("TMPDIR", "/tmp");
    if builder == Builder::Rootless {
        inputs.variable("USER", "user");
        inputs.variable("XDG_RUNTIME_DIR", "/run/user/1000");
    }
}

/// What the container that asks a node is given: a builder that builds nothing.
pub(super) fn of_probe(builder: Builder) -> Inputs {
    let mut inputs = Inputs::default();
    add_user(&mut inputs, builder);
    inputs.variable("BUILDKITD_CONFIG", "");
    inputs.variable("STATE", STATE);
    inputs.mount(empty("state"), STATE, false);
    inputs
}

fn claim(claim_name: String) -> Volume {
    Volume {
        name: "state".to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name,
            ..PersistentVolumeClaimVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn add_context(inputs: &mut Inputs, request: &BuildRequest<'_>) {
    let kind = match request.context {
        PinnedContext::Git { .. } => "git",
        PinnedContext::Http { .. } | PinnedContext::Oci { archive: Some(_), .. } => "archive",
        PinnedContext::Oci { archive: None, .. } => "image",
        PinnedContext::ConfigMap { .. } => "configmap",
        PinnedContext::Inline { .. } => "inline",
    };
    inputs.variable("CONTEXT_KIND", kind);
    inputs.mount(empty("context"), "/context", false);
    match request.context {
        PinnedContext::Git { .. } => {}
        PinnedContext::Http { url, sha256 } => {
            inputs.variable("CONTEXT_SOURCE", url);
            inputs.variable("CONTEXT_POLICY", archive_policy(url, Some(sha256)));
        }
        PinnedContext::Oci { repository, digest, archive } => {
            inputs.variable("CONTEXT_SOURCE", format!("{repository}@{digest}"));
            if let Some(archive) = archive {
                let blob = format!("docker-image+blob://{repository}@{archive}");
                inputs.variable("CONTEXT_POLICY", archive_policy(&blob, None));
            }
        }
        PinnedContext::ConfigMap { name, files } => {
            // As sha256sum tells it, once more summed up: a ConfigMap may have more keys than a variable has room for.
            let sums: String = files.iter().map(|(file, sum)| format!("{sum}  {file}\n")).collect();
            inputs.variable("CONTEXT_SUM", hexadecimal(&Sha256::digest(sums)));
            let source = ConfigMapVolumeSource { name: name.clone(), ..ConfigMapVolumeSource::default() };
            let volume =
                Volume { name: "configmap".to_owned(), config_map: Some(source), ..Volume::default() };
            inputs.mount(volume, "/configmap", true);
        }
        PinnedContext::Inline { dockerfile } => add_dockerfile(inputs, dockerfile),
    }
}

/// The schema counts characters, of which the longest have four bytes: three variables hold what it admits.
fn add_dockerfile(inputs: &mut Inputs, dockerfile: &str) {
    let (first, rest) = split_at_limit(dockerfile);
    let (second, third) = split_at_limit(rest);
    inputs.variable("INLINE_DOCKERFILE", first);
    for (name, part) in [("INLINE_DOCKERFILE_2", second), ("INLINE_DOCKERFILE_3", third)] {
        if !part.is_empty() {
            inputs.variable(name, part);
        }
    }
}

/// As much as a variable has room for, and the rest.
fn split_at_limit(text: &str) -> (&str, &str) {
    text.split_at(text.floor_char_boundary(VARIABLE_LIMIT))
}

/// A source policy that puts an archive in the place of the one that the script's Dockerfile adds: a blob of a
/// registry has no other way into a Dockerfile, and no address needs quoting in one.
fn archive_policy(identifier: &str, sha256: Option<&str>) -> String {
    let mut updates = serde_json::json!({ "identifier": identifier });
    if let Some(sha256) = sha256 {
        updates["attrs"] = serde_json::json!({ "http.checksum": format!("sha256:{sha256}") });
    }
    serde_json::json!({"rules": [{
        "action": "CONVERT",
        "selector": {"identifier": "https://context.invalid/archive", "matchType": "EXACT"},
        "updates": updates,
    }]})
    .to_string()
}
