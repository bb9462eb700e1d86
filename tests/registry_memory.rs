//! What servers can make us hold in memory, at once and for long.

#[path = "support/fault_server.rs"]
mod fault_server;

use std::collections::HashMap;
use std::sync::Arc;

use fault_server::{Answer, FaultServer};
use multiarch::image::{PlatformCheck, ResolveError, ResolvedImage, resolve};
use multiarch::registry::{Client, Digest, Keyring, MediaType, Session, Settings};
use serde_json::{Value, json};

const CONFIG: &str = r#"{"os":"linux","architecture":"amd64"}"#;

/// What a registry has, by the last part of its address.
#[derive(Default)]
struct Content(HashMap<String, Vec<u8>>);

impl Content {
    /// Adds bytes, and describes them.
    fn add(&mut self, media_type: &MediaType, bytes: impl Into<Vec<u8>>) -> Value {
        let bytes = bytes.into();
        let digest = Digest::sha256(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        self.0.insert(digest.to_string(), bytes);
        descriptor
    }

    /// Adds an image, and describes it as an entry of an index.
    fn add_image(&mut self, config: &str, annotations: Value) -> Value {
        let config = self.add(&MediaType::OCI_CONFIG, config);
        let manifest =
            json!({"schemaVersion": 2, "config": config, "layers": [], "annotations": annotations});
        let mut entry = self.add(&MediaType::OCI_MANIFEST, manifest.to_string());
        entry["platform"] = json!({"os": "linux", "architecture": "amd64"});
        entry
    }

    /// Gives something a tag.
    fn tag(&mut self, tag: &str, bytes: impl Into<Vec<u8>>) {
        self.0.insert(tag.to_owned(), bytes.into());
    }

    fn tag_index(&mut self, tag: &str, entries: &[Value]) {
        self.tag(tag, json!({"schemaVersion": 2, "manifests": entries}).to_string());
    }

    async fn serve(self) -> FaultServer {
        FaultServer::start(move |asked| {
            let name = asked.target.rsplit('/').next().unwrap_or_default();
            self.0
                .get(name)
                .map_or_else(|| Answer::status(404), |bytes| Answer::status(200).body(bytes.clone()))
        })
        .await
    }
}

fn anonymous() -> Session {
    let mut settings = Settings::default();
    settings.retry.attempts = 1;
    Client::new(&settings).unwrap().session(Arc::new(Keyring::default()))
}

async fn resolved(session: &Session, server: &FaultServer, tag: &str) -> Result<ResolvedImage, ResolveError> {
    let reference = server.repository("team/web").with_tag(tag).unwrap();
    resolve(session, &reference, &"linux/amd64".parse().unwrap(), PlatformCheck::Enforce).await
}

async fn refusal(content: Content) -> String {
    let server = content.serve().await;
    let error = resolved(&anonymous(), &server, "1").await.unwrap_err().to_string();
    assert!(error.len() < 10_000 && !error.contains(char::is_control), "{error}");
    error
}

fn text(length: usize) -> String {
    "x".repeat(length)
}

#[tokio::test]
async fn large_manifests_are_kept_as_long_as_there_is_room_and_attestations_never() {
    let mut content = Content::default();
    for tag in 1..=6 {
        let mut image = content.add_image(CONFIG, json!({"large": text(3 << 20), "tag": tag.to_string()}));
        let mut about = content.add_image(CONFIG, json!({"large": text(1 << 20), "about": tag.to_string()}));
        image["annotations"] = json!({});
        about["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        about["annotations"] = json!({
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": image["digest"],
        });
        content.tag_index(&tag.to_string(), &[image, about]);
    }
    let (server, session) = (content.serve().await, anonymous());
    let mut images = Vec::new();
    for tag in 1..=5 {
        images.push(resolved(&session, &server, &tag.to_string()).await.unwrap());
    }
    assert!(images.iter().all(|image| image.attestations.len() == 1));
    let ResolveError::Registry(error) = resolved(&session, &server, "6").await.unwrap_err() else {
        panic!("it is not the image that is wrong")
    };
    assert!(error.is_transient(), "{error}");
    images.clear();
    resolved(&session, &server, "6").await.unwrap();
}

#[tokio::test]
async fn an_index_that_says_too_much_of_an_image_is_refused() {
    let mut content = Content::default();
    let mut image = content.add_image(CONFIG, json!({}));
    image["annotations"] = json!({"large": text(40_000)});
    content.tag_index("1", &[image]);
    let error = refusal(content).await;
    assert!(error.contains("32768 is the most"), "{error}");
}

#[tokio::test]
async fn a_config_that_says_too_much_of_the_system_is_refused() {
    let mut content = Content::default();
    let config = json!({"os": "linux", "architecture": "amd64", "os.features": [text(40_000)]});
    let image = content.add_image(&config.to_string(), json!({}));
    content.tag_index("1", &[image]);
    let error = refusal(content).await;
    assert!(error.contains("32768 is the most"), "{error}");
}

#[tokio::test]
async fn large_indexes_within_an_index_are_not_looked_into() {
    let mut content = Content::default();
    let mut image = content.add_image(CONFIG, json!({}));
    image["annotations"] = json!({"large": text(30_000)});
    let entries: Vec<Value> = (0..5).map(|_| image.clone()).collect();
    let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
    let nested = content.add(&MediaType::OCI_INDEX, index);
    content.tag_index("1", &[nested]);
    let error = refusal(content).await;
    assert!(error.contains("is the most"), "{error}");
}

#[tokio::test]
async fn documents_of_nothing_but_values_are_refused_before_they_are_read() {
    let flood = |text: &str| vec![text; 1_000_000].join(",");
    for document in [
        format!(r#"{{"manifests":[{}]}}"#, flood("{}")),
        format!(r#"{{"manifests":[],"schemaVersion":[{}]}}"#, flood("0")),
        format!(r#"{{"manifests":[{{"platform":{{"x":[{}]}}}}]}}"#, flood("0")),
        format!(r#"{{"config":{{}},"layers":[{}]}}"#, flood("{}")),
    ] {
        let mut content = Content::default();
        content.tag("1", document);
        let error = refusal(content).await;
        assert!(error.contains("values; 65536 is the most"), "{error}");
    }
    let mut content = Content::default();
    let config = format!(r#"{{"os":"linux","config":{{"x":[{}]}}}}"#, flood("0"));
    let image = content.add_image(&config, json!({}));
    content.tag_index("1", &[image]);
    let error = refusal(content).await;
    assert!(error.contains("values; 65536 is the most"), "{error}");
}

#[tokio::test]
async fn an_index_of_more_entries_than_anybody_needs_is_refused() {
    let mut content = Content::default();
    content.tag("1", format!(r#"{{"manifests":[{}]}}"#, vec!["{}"; 1001].join(",")));
    let error = refusal(content).await;
    assert!(error.contains("it lists more than 1000 entries"), "{error}");
}

#[tokio::test]
async fn what_an_index_says_of_its_platforms_is_told_in_part() {
    let mut content = Content::default();
    let mut image = content.add_image(CONFIG, json!({}));
    let entries: Vec<Value> = (0..100)
        .map(|number| {
            image["platform"] = json!({
                "os": "windows", "architecture": "amd64", "os.version": format!("{number}\n\u{1b}[2J{}", text(5000)),
            });
            image.clone()
        })
        .collect();
    content.tag_index("1", &entries);
    let error = refusal(content).await;
    assert!(error.contains("no image for linux/amd64; the index has windows/amd64 0 [2Jxxx"), "{error}");
    assert!(error.ends_with("and 76 more"), "{error}");

    let mut content = Content::default();
    let config = json!({"os": format!("linux\n{}", text(5000)), "architecture": "amd64"});
    let image = content.add_image(&config.to_string(), json!({}));
    content.tag_index("1", &[image]);
    let error = refusal(content).await;
    assert!(error.contains("the image is for linux xxx"), "{error}");
}
