//! What must be true whatever the input is. One function a fuzz target; `tests/corpus.rs` runs them on the corpus.
#![allow(dead_code, reason = "every fuzz target uses one of them")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use multiarch::dockerfile::{BaseImage, BuildParameters, DockerfileError, base_images, frontend};
use multiarch::fuzzing;
use multiarch::image::{AssembledIndex, ImageConfig, ImageManifest, Index, ProgramFinding};
use multiarch::platform::Platform;
use multiarch::registry::{
    Challenge, Credential, Descriptor, Digest, Keyring, LARGEST_MANIFEST, MediaType, Reference, Repository,
};
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde_json::{Value, json};

/// A reference is written as it is read, and leads to no other address than the one it names.
pub fn reference(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string().parse(), Ok(reference.clone()));
        let json = serde_json::to_string(&reference).unwrap();
        assert_eq!(serde_json::from_str::<Reference>(&json).unwrap(), reference);
        let repository = reference.repository();
        assert_eq!(repository.to_string().parse(), Ok(repository.clone()));
        check_address(repository);
        if let (Some(tag), None) = (reference.tag(), reference.digest()) {
            assert_eq!(repository.with_tag(tag), Ok(reference.clone()));
        }
        if let (Some(digest), None) = (reference.digest(), reference.tag()) {
            assert_eq!(repository.with_digest(digest), reference);
        }
    }
    if let Ok(repository) = text.parse::<Repository>() {
        assert_eq!(repository.to_string().parse(), Ok(repository.clone()));
        check_address(&repository);
        let whole: Reference = text.parse().unwrap();
        assert_eq!(*whole.repository(), repository);
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
        assert!(digest.hex().bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}

fn check_address(repository: &Repository) {
    let path = format!("/v2/{}/manifests/latest", repository.path());
    // Not every name is a host in a URL: the address 1.2.3.400 has a number out of range.
    let Ok(url) = Url::parse(&format!("https://{}{path}", repository.host())) else { return };
    assert_eq!(url.path(), path);
    assert!(url.username().is_empty() && url.query().is_none() && url.fragment().is_none());
}

/// What is normalised stays as it is, and every platform is written as it is read.
pub fn platform(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut words = text.splitn(3, '/');
    let (os, architecture) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let normalised = Platform::normalised(os, architecture, words.next());
    check_normalised(&normalised);
    if let Ok(platform) = text.parse::<Platform>() {
        assert_eq!(platform, normalised);
        assert_eq!(platform.to_string().parse(), Ok(platform.clone()));
        let json = serde_json::to_string(&platform).unwrap();
        assert_eq!(serde_json::from_str::<Platform>(&json).unwrap(), platform);
        let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let slug = platform.slug();
        assert!(slug.len() <= 63 && slug.bytes().all(valid), "{slug} is in names of Jobs and in tags");
    }
}

fn check_normalised(platform: &Platform) {
    let again = Platform::normalised(platform.os(), platform.architecture(), platform.variant());
    assert_eq!(again, *platform);
    assert!(platform.matches(&again));
}

/// A manifest is an index or an image and never both, and what is read of it is written without loss.
pub fn manifest(input: &[u8]) {
    let content_types =
        [MediaType::OCI_INDEX, MediaType::OCI_MANIFEST, MediaType::DOCKER_LIST, MediaType::DOCKER_MANIFEST];
    let unaided = fuzzing::media_type(input, None);
    for content_type in content_types {
        let Some(found) = fuzzing::media_type(input, Some(content_type.clone())) else { continue };
        assert_ne!(found.is_index(), found.is_manifest());
        // The header may say more than the body, and not the opposite.
        assert_eq!(unaided.as_ref().map(MediaType::is_index), Some(found.is_index()));
        assert_eq!(found.is_index(), content_type.is_index());
    }
    if let Ok(index) = serde_json::from_slice::<Index>(input) {
        index.manifests.iter().for_each(check_descriptor);
        check_assembled(&index);
    }
    if let Ok(manifest) = serde_json::from_slice::<ImageManifest>(input) {
        std::iter::once(&manifest.config).chain(&manifest.layers).for_each(check_descriptor);
    }
    if let Ok(config) = serde_json::from_slice::<ImageConfig>(input) {
        config.platform().iter().for_each(check_normalised);
    }
}

fn check_descriptor(descriptor: &Descriptor) {
    let json = serde_json::to_vec(descriptor).unwrap();
    assert_eq!(serde_json::from_slice::<Descriptor>(&json).unwrap(), *descriptor);
    descriptor.runnable_platform().iter().for_each(check_normalised);
}

/// An index that is published has the entries that it was made of, and is what it says.
fn check_assembled(index: &Index) {
    let annotations = BTreeMap::new();
    let Ok(assembled) = AssembledIndex::assemble(None, &annotations, &index.manifests) else { return };
    assert_eq!(AssembledIndex::assemble(None, &annotations, &index.manifests).unwrap(), assembled);
    assert!(assembled.bytes.len() as u64 <= LARGEST_MANIFEST);
    assert!(assembled.descriptor.digest.verifies(&assembled.bytes));
    assert_eq!(fuzzing::media_type(&assembled.bytes, None).as_ref(), Some(&assembled.descriptor.media_type));
    let read: Index = serde_json::from_slice(&assembled.bytes).unwrap();
    assert_eq!(read.manifests, index.manifests);
}

/// What a Dockerfile needs is told once and in order, and who knows less of the builder refuses nothing more.
pub fn dockerfile(input: &[u8]) {
    let amd64: Platform = "linux/amd64".parse().unwrap();
    let known = needed(input, Some(&amd64));
    let frontend = frontend(input);
    match &known {
        Ok(images) => check_told(input, images),
        Err(DockerfileError { line, reason }) => {
            assert!(line.is_none_or(|line| (1..=lines(input)).contains(&line)), "{line:?}");
            assert!(
                !reason.is_empty() && reason.chars().count() <= 401 && !reason.contains(char::is_control)
            );
        }
    }
    if let Ok(images) = &known {
        let pairs = |images: &[BaseImage]| -> BTreeSet<(String, Platform)> {
            images.iter().map(|image| (image.reference.clone(), image.platform.clone())).collect()
        };
        let unknown = needed(input, None).expect("nothing is refused for want of knowledge");
        check_told(input, &unknown);
        assert!(pairs(&unknown).is_subset(&pairs(images)));
    }
    if !input.contains(&b'\r') {
        let lines: Vec<&[u8]> = input.split(|&byte| byte == b'\n').collect();
        let windows = lines.join(&b"\r\n"[..]);
        assert_eq!(needed(&windows, Some(&amd64)), known, "with the ends of lines of Windows");
        assert_eq!(multiarch::dockerfile::frontend(&windows), frontend);
    }
}

fn needed(input: &[u8], build_platform: Option<&Platform>) -> Result<Vec<BaseImage>, DockerfileError> {
    let arguments = [("VERSION", "1.2"), ("EMPTY", "")];
    let arguments = arguments.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let contexts = [("context".to_owned(), "docker-image://alpine".to_owned())].into();
    let arm: Platform = "linux/arm/v7".parse().unwrap();
    let build = BuildParameters {
        arguments: &arguments,
        target: None,
        target_platform: &arm,
        build_platform,
        contexts: &contexts,
    };
    base_images(input, &build)
}

fn lines(input: &[u8]) -> usize {
    input.split(|&byte| byte == b'\n').count()
}

fn check_told(input: &[u8], images: &[BaseImage]) {
    assert!(images.is_sorted_by_key(|image| image.line));
    assert!(images.iter().all(|image| (1..=lines(input)).contains(&image.line)));
    assert!(images.iter().all(|image| !image.reference.is_empty() && !image.stage.is_empty()));
    let each: BTreeSet<_> = images.iter().map(|image| (&image.reference, &image.platform)).collect();
    assert_eq!(each.len(), images.len(), "each once");
}

/// A challenge says the same when it is written properly. Every line is a header of its own.
pub fn www_authenticate(input: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in input.split(|&byte| byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(WWW_AUTHENTICATE, value);
        }
    }
    let challenge = Challenge::from_headers(&headers);
    let Some(Challenge::Bearer { realm, service, scope }) = &challenge else { return };
    let parameter =
        |name: &str, value: &str| format!(r#"{name}="{}""#, value.replace('\\', r"\\").replace('"', r#"\""#));
    let mut written = format!("Bearer {}", parameter("realm", realm));
    for (name, value) in [("service", service), ("scope", scope)] {
        if let Some(value) = value {
            written += &format!(", {}", parameter(name, value));
        }
    }
    let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, HeaderValue::from_str(&written).unwrap())]);
    assert_eq!(Challenge::from_headers(&headers), challenge);
}

/// No message shows a secret, and what builders are given is the credential that we would use.
pub fn dockerconfigjson(input: &[u8]) {
    let targets = ["docker.io/library/busybox", "registry.example.com:5000/team/web", "ghcr.io/acme/web"];
    let targets = targets.map(|target| target.parse::<Repository>().unwrap());
    let mut keyring = Keyring::default();
    if let Err(error) = keyring.add("secret test", input) {
        check_secrecy(input, &format!("{error} {error:?}"));
        assert!(targets.iter().all(|target| keyring.for_repository(target).is_empty()), "added in part");
        return;
    }
    check_secrecy(input, &keyring.warnings().concat());
    let shown = format!("{keyring:?}");
    let count = shown.strip_prefix("Keyring(").and_then(|rest| rest.strip_suffix(" credentials)"));
    assert!(count.is_some_and(|count| count.parse::<usize>().is_ok()), "{shown}");
    for target in &targets {
        let credentials = keyring.for_repository(target);
        for shown in credentials.iter().map(|credential| format!("{credential:?}")) {
            let kind = shown.strip_suffix("([redacted])");
            assert!(matches!(kind, Some("Basic" | "IdentityToken" | "RegistryToken")), "{shown}");
        }
        let mut builder = Keyring::default();
        builder.add("secret of the builder", keyring.docker_config(target).as_bytes()).unwrap();
        let Some(best) = credentials.into_iter().next().filter(is_writable) else { continue };
        assert_eq!(builder.for_repository(target).first(), Some(&best));
    }
}

/// Whether Docker's own form can say it: a colon ends the name, and ends of lines after the password are dropped.
fn is_writable(credential: &Credential) -> bool {
    match credential {
        Credential::Basic { username, password } => {
            !username.contains(':') && !password.ends_with(['\0', '\r', '\n'])
        }
        Credential::IdentityToken { username, .. } => !username.contains(':'),
        Credential::RegistryToken(_) => true,
    }
}

/// That `shown` has none of the secrets of a docker configuration, where they are long enough to be told from words.
fn check_secrecy(document: &[u8], shown: &str) {
    let Ok(document) = serde_json::from_slice::<Value>(document) else { return };
    let auths = document.get("auths").unwrap_or(&document);
    let Some(auths) = auths.as_object() else { return };
    // The name of an entry is no secret, whatever it is.
    let names: String = auths.keys().map(|name| format!("{name} {name:?} ")).collect();
    let names = format!("{names}{:?}", document.get("credHelpers"));
    for auth in auths.values() {
        for field in ["auth", "password", "identitytoken", "registrytoken"] {
            let Some(secret) = auth.get(field).and_then(Value::as_str) else { continue };
            let decoded = STANDARD.decode(secret).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let decoded =
                decoded.as_deref().and_then(|text| text.split_once(':')).map(|(_, password)| password);
            for secret in [Some(secret), decoded].into_iter().flatten() {
                let shows = secret.len() >= 6 && shown.contains(secret) && !names.contains(secret);
                assert!(!shows || FIXED_WORDS.contains(secret), "{shown:?} has {secret:?}");
            }
        }
    }
}

/// What messages say of every document.
const FIXED_WORDS: &str = "secret test: the entry for has an \"auth\" that is not base64 text without a colon \
    credential helper for all registries was ignored, as helpers are programs on somebody's machine; put the credential \
    itself in the secret CredentialsError { document: reason: is empty and was ignored not a docker configuration; expected";

/// The program of an image is found the same way however its layers are packed, and what is said of it can be shown.
///
/// The input is one layer or two, with an empty line between them. As mutations make wrong check sums of headers,
/// which every reader refuses, they are made right before a second try.
pub fn layer(input: &[u8]) {
    let separator = input.windows(16).position(|window| window == b"\n\nsecond layer\n\n");
    let layers: Vec<&[u8]> = match separator {
        Some(position) => vec![&input[..position], &input[position + 16..]],
        None => vec![input],
    };
    inspect(&layers);
    let repaired: Vec<Vec<u8>> = layers.iter().map(|layer| repaired(layer)).collect();
    inspect(&repaired.iter().map(Vec::as_slice).collect::<Vec<_>>());
}

fn inspect(layers: &[&[u8]]) {
    let packed: Vec<Vec<u8>> = layers.iter().map(|layer| gzip(layer)).collect();
    let packed: Vec<&[u8]> = packed.iter().map(Vec::as_slice).collect();
    let is_packed = |layer: &&[u8]| {
        layer.starts_with(b"\x1f\x8b")
            || layer.get(1..3) == Some(b"\xb5\x2f")
            || layer.get(1..4) == Some(b"\x2a\x4d\x18")
    };
    for (command, platform) in [("/app", "linux/amd64"), ("sh", "linux/arm64"), (r"C:\app", "windows/amd64")]
    {
        let config = json!({"config": {"Entrypoint": [command], "WorkingDir": "/work"}});
        let config: ImageConfig = serde_json::from_value(config).unwrap();
        let platform: Platform = platform.parse().unwrap();
        let finding = fuzzing::inspect_layers(layers, &config, &platform);
        let shown = finding.to_string();
        assert!(!shown.is_empty() && !shown.contains(char::is_control), "{shown:?}");
        assert_eq!(fuzzing::inspect_layers(layers, &config, &platform), finding);
        if !layers.iter().any(is_packed) {
            let finding_packed = fuzzing::inspect_layers(&packed, &config, &platform);
            assert_eq!(way(&finding_packed), way(&finding), "packed or not");
        }
        if let Some(steps) = way(&finding) {
            assert_eq!(steps.first().map(String::as_str), Some(command));
            assert!(steps.last().unwrap().starts_with('/'));
        }
    }
}

/// How the program was found, if it was.
fn way(finding: &ProgramFinding) -> Option<&[String]> {
    match finding {
        ProgramFinding::Matches { program, .. }
        | ProgramFinding::Compatible { program, .. }
        | ProgramFinding::Mismatch { program, .. } => Some(&program.steps),
        ProgramFinding::Unknown { .. } => None,
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    flate2::read::GzEncoder::new(bytes, flate2::Compression::fast()).read_to_end(&mut packed).unwrap();
    packed
}

/// The archive with the check sums that its headers should have: POSIX, pax, "ustar Interchange Format".
fn repaired(archive: &[u8]) -> Vec<u8> {
    let mut archive = archive.to_vec();
    let mut position = 0;
    while let Some(header) = archive.get_mut(position..).and_then(|rest| rest.get_mut(..512)) {
        position += 512;
        if header.iter().all(|&byte| byte == 0) {
            continue;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = std::str::from_utf8(&header[124..136]).unwrap_or_default().trim_matches(['\0', ' ']);
        let size = usize::from_str_radix(size, 8).unwrap_or_default();
        position = position.saturating_add(size.div_ceil(512).saturating_mul(512));
    }
    archive
}
