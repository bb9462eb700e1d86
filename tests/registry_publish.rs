//! Publishing to registries that have their own opinion of tags.

#[path = "support/fault_server.rs"]
mod fault_server;

use std::collections::BTreeMap;
use std::sync::Arc;

use fault_server::{Answer, Asked, FaultServer};
use multiarch::image::{AssembledIndex, publish};
use multiarch::registry::{
    Client, Descriptor, DescriptorPlatform, Digest, Error, Keyring, Kind, MediaType, Settings,
};

fn index() -> AssembledIndex {
    let platform =
        DescriptorPlatform { os: "linux".into(), architecture: "amd64".into(), ..Default::default() };
    let image = Descriptor::new(MediaType::OCI_MANIFEST, Digest::sha256(b"image"), 5);
    let image = Descriptor { platform: Some(platform), ..image };
    AssembledIndex::assemble(None, &BTreeMap::new(), &[image]).unwrap()
}

async fn published(server: &FaultServer, tags: &[&str]) -> Result<(), Error> {
    let session = Client::new(&Settings::default()).unwrap().session(Arc::new(Keyring::default()));
    publish(&session, &format!("{}/team/web", server.host).parse().unwrap(), &index(), tags).await
}

/// Refuses to write what it answers with `content` to who reads it.
fn immutable(asked: &Asked, content: &[u8]) -> Answer {
    match asked.method.as_str() {
        "PUT" => Answer::status(412)
            .body(r#"{"errors":[{"code":"PRECONDITION","message":"the tag is immutable"}]}"#),
        _ => Answer::status(200).header("Content-Type", MediaType::OCI_INDEX.as_str()).body(content),
    }
}

#[tokio::test]
async fn every_tag_costs_one_request() {
    let server = FaultServer::start(|_| Answer::status(201)).await;
    published(&server, &["1.4.2", "1.4", "latest"]).await.unwrap();
    let mut lines = server.lines();
    assert_eq!(lines[0], "PUT /v2/team/web/manifests/1.4.2");
    lines[1..].sort();
    assert_eq!(lines[1..], ["PUT /v2/team/web/manifests/1.4", "PUT /v2/team/web/manifests/latest"]);
}

#[tokio::test]
async fn an_immutable_tag_that_has_the_index_already_is_as_good_as_written() {
    let server = FaultServer::start(|asked| immutable(asked, &index().bytes)).await;
    published(&server, &["1.4.2"]).await.unwrap();
}

#[tokio::test]
async fn an_immutable_tag_with_other_content_is_told() {
    let server = FaultServer::start(|asked| immutable(asked, br#"{"manifests":[]}"#)).await;
    let error = published(&server, &["1.4.2"]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Rejected);
    assert!(
        error.to_string().contains("/team/web:1.4.2: refused by the registry: the tag is immutable"),
        "{error}"
    );
}

#[tokio::test]
async fn one_tag_that_fails_keeps_no_other_from_being_written() {
    let server = FaultServer::start(|asked| match asked.target.ends_with("/1.4") {
        true => immutable(asked, br#"{"manifests":[]}"#),
        false => Answer::status(201),
    })
    .await;
    let error = published(&server, &["1.4.2", "1.4", "latest"]).await.unwrap_err();
    assert!(error.to_string().contains("/team/web:1.4: "), "{error}");
    assert!(server.lines().contains(&"PUT /v2/team/web/manifests/latest".to_owned()));
}

#[tokio::test]
async fn what_is_no_tag_is_refused_before_anything_is_sent() {
    let server = FaultServer::start(|_| Answer::status(201)).await;
    let error = published(&server, &["1.4.2", "no/tag"]).await.unwrap_err();
    assert!(error.to_string().contains(r#""no/tag" is not a tag"#), "{error}");
    assert!(server.asked().is_empty());
}
