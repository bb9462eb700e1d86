//! Publishing to registries that have their own opinion of tags.

#[path = "support/fault_server.rs"]
mod fault_server;

use std::collections::BTreeMap;
use std::sync::Arc;

use fault_server::{Answer, Asked, FaultServer};
use multiarch::image::{AssembledIndex, PublishError, TagChange, TagPolicy, publish};
use multiarch::registry::{
    Client, Descriptor, DescriptorPlatform, Digest, Error, Keyring, Kind, MediaType, Reference, Session,
    Settings,
};

fn index() -> AssembledIndex {
    let platform =
        DescriptorPlatform { os: "linux".into(), architecture: "amd64".into(), ..Default::default() };
    let image = Descriptor::new(MediaType::OCI_MANIFEST, Digest::sha256(b"image"), 5);
    let image = Descriptor { platform: Some(platform), ..image };
    AssembledIndex::assemble(None, &BTreeMap::new(), &[image]).unwrap()
}

type Changes = Vec<(Reference, TagChange)>;

fn session() -> Session {
    Client::new(&Settings::default()).unwrap().session(Arc::new(Keyring::default()))
}

async fn published(server: &FaultServer, tags: &[&str]) -> Result<Changes, PublishError> {
    publish_with(&session(), server, tags, TagPolicy::Overwrite).await
}

async fn publish_with(
    session: &Session,
    server: &FaultServer,
    tags: &[&str],
    policy: TagPolicy,
) -> Result<Changes, PublishError> {
    publish(session, &format!("{}/team/web", server.host).parse().unwrap(), &index(), tags, policy).await
}

fn refused(error: PublishError) -> Error {
    match error {
        PublishError::Registry(error) => error,
        other => panic!("{other}"),
    }
}

/// Has nothing and takes everything.
fn empty(asked: &Asked) -> Answer {
    Answer::status(if asked.method == "PUT" { 201 } else { 404 })
}

/// Has `content` under every tag.
fn holding(asked: &Asked, content: &[u8]) -> Answer {
    match asked.method.as_str() {
        "PUT" => Answer::status(201),
        _ => Answer::status(200)
            .header("Content-Type", MediaType::OCI_INDEX.as_str())
            .header("Docker-Content-Digest", Digest::sha256(content).as_str())
            .body(content),
    }
}

/// Refuses to write what it answers with `content` to who reads it.
fn immutable(asked: &Asked, content: &[u8]) -> Answer {
    match asked.method.as_str() {
        "PUT" => Answer::status(412)
            .body(r#"{"errors":[{"code":"PRECONDITION","message":"the tag is immutable"}]}"#),
        // Nobody has seen the tag when it is looked for first.
        "HEAD" => Answer::status(404),
        _ => holding(asked, content),
    }
}

#[tokio::test]
async fn every_tag_is_looked_at_once_and_written_once() {
    let server = FaultServer::start(empty).await;
    let changes = published(&server, &["1.4.2", "1.4", "latest", "1.4"]).await.unwrap();
    assert_eq!(changes.len(), 3);
    assert!(changes.iter().all(|(_, change)| *change == TagChange::Created));
    let lines = server.lines();
    let (mut asked, mut written) = (lines[..3].to_vec(), lines[3..].to_vec());
    asked.sort();
    written.sort();
    let at = |line: &str| line.replace('@', "/v2/team/web/manifests/");
    assert_eq!(asked, ["GET @1.4.2", "HEAD @1.4", "HEAD @latest"].map(at));
    assert_eq!(written, ["PUT @1.4", "PUT @1.4.2", "PUT @latest"].map(at));
}

#[tokio::test]
async fn tags_that_hold_the_index_are_not_written() {
    let server = FaultServer::start(|asked| holding(asked, &index().bytes)).await;
    let changes = published(&server, &["1.4.2", "latest"]).await.unwrap();
    assert!(changes.iter().all(|(_, change)| *change == TagChange::Unchanged), "{changes:?}");
    assert!(server.lines().iter().all(|line| !line.starts_with("PUT")));
}

#[tokio::test]
async fn a_tag_that_holds_something_else_is_moved_and_what_it_held_is_told() {
    let server = FaultServer::start(|asked| holding(asked, br#"{"manifests":[]}"#)).await;
    let changes = published(&server, &["1.4.2"]).await.unwrap();
    assert_eq!(changes[0].1, TagChange::Moved { from: Digest::sha256(br#"{"manifests":[]}"#) });
}

#[tokio::test]
async fn a_tag_that_is_not_to_be_moved_keeps_all_from_being_written() {
    let server = FaultServer::start(|asked| match asked.target.ends_with("/1.4") {
        true => holding(asked, br#"{"manifests":[]}"#),
        false => empty(asked),
    })
    .await;
    let error = publish_with(&session(), &server, &["1.4.2", "1.4"], TagPolicy::IfAbsent).await.unwrap_err();
    assert!(
        error.to_string().contains("/team/web:1.4: the tag exists with other content (sha256:"),
        "{error}"
    );
    assert!(server.lines().iter().all(|line| !line.starts_with("PUT")));
    let server = FaultServer::start(|asked| holding(asked, &index().bytes)).await;
    publish_with(&session(), &server, &["1.4.2", "1.4"], TagPolicy::IfAbsent).await.unwrap();
}

#[tokio::test]
async fn a_tag_that_may_not_be_seen_is_overwritten_only_if_tags_may_be_moved() {
    let denying = |asked: &Asked| Answer::status(if asked.method == "PUT" { 201 } else { 403 });
    for tags in [&["1.4"][..], &["1.4.2", "1.4"]] {
        let server = FaultServer::start(denying).await;
        let error = refused(publish_with(&session(), &server, tags, TagPolicy::IfAbsent).await.unwrap_err());
        assert_eq!(error.kind(), Kind::Denied);
        assert!(error.to_string().contains("does not let us see the tag"), "{error}");
        assert!(server.lines().iter().all(|line| !line.starts_with("PUT")));
        publish_with(&session(), &server, tags, TagPolicy::Overwrite).await.unwrap();
        assert_eq!(server.lines().iter().filter(|line| line.starts_with("PUT")).count(), tags.len());
    }
}

#[tokio::test]
async fn a_registry_that_confirms_several_tags_gets_them_in_one_request_from_the_second_time_on() {
    let server = FaultServer::start(|asked| match asked.target.split_once("?tag=") {
        Some((_, tags)) => Answer::status(201).header("OCI-Tag", tags.replace("&tag=", ", ")),
        None => empty(asked),
    })
    .await;
    let session = session();
    let mut puts = Vec::new();
    for _ in 0..3 {
        publish_with(&session, &server, &["1.4.2", "1.4"], TagPolicy::Overwrite).await.unwrap();
        puts.push(server.lines().iter().filter(|line| line.starts_with("PUT")).count());
    }
    assert_eq!(puts, [2, 3, 4]);
    let digest = index().descriptor.digest;
    assert_eq!(
        server.lines().last().unwrap(),
        &format!("PUT /v2/team/web/manifests/{digest}?tag=1.4.2&tag=1.4")
    );
}

#[tokio::test]
async fn a_registry_that_confirms_no_tags_gets_them_one_by_one() {
    let server = FaultServer::start(empty).await;
    let session = session();
    let mut puts = Vec::new();
    for _ in 0..3 {
        publish_with(&session, &server, &["1.4.2", "1.4"], TagPolicy::Overwrite).await.unwrap();
        puts.push(server.lines().iter().filter(|line| line.starts_with("PUT")).count());
    }
    assert_eq!(puts, [2, 5, 7], "found out once, in the second");
}

#[tokio::test]
async fn an_immutable_tag_that_has_the_index_already_is_as_good_as_written() {
    // The first tag is only looked for after the refusal.
    let server = FaultServer::start(|asked| match asked.target.ends_with("/1.4") {
        true => immutable(asked, &index().bytes),
        false => empty(asked),
    })
    .await;
    published(&server, &["1.4.2", "1.4"]).await.unwrap();
}

#[tokio::test]
async fn an_immutable_tag_with_other_content_is_told() {
    let server = FaultServer::start(|asked| immutable(asked, br#"{"manifests":[]}"#)).await;
    let error = refused(published(&server, &["1.4.2"]).await.unwrap_err());
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
        false => empty(asked),
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
