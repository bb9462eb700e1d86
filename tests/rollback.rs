//! Going back to an earlier index, as docs/rollback.md says.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use multiarch::api::MultiArchImage;
use serde_json::json;
use support::builds::{inline, jobs_ever_created};
use support::examples::yaml_blocks;
use support::images::Push;
use support::nodes::needs_nodes;
use support::operator::Operator;
use support::{World, root};

fn history(image: &MultiArchImage) -> Vec<String> {
    let status = image.status.as_ref().expect("a status");
    status.history.iter().map(|entry| entry.digest.clone()).collect()
}

#[tokio::test]
async fn pinning_the_platforms_to_an_earlier_index_gives_the_same_index_back_and_builds_nothing() {
    needs_nodes!("pinning_the_platforms_to_an_earlier_index_gives_the_same_index_back_and_builds_nothing");
    let world = World::new().await;
    let _operator = Operator::start(&world);
    let repository = world.repository("web");
    let guide = std::fs::read_to_string(root().join("docs/rollback.md")).expect("the page");
    let [pinned] = yaml_blocks(&guide).try_into().expect("one example on the page");
    let tags = pinned["spec"]["target"]["tags"].clone();
    let version = |commands: &str| {
        let mut spec = inline(&world, "web", &["linux/amd64", "linux/arm64"], commands);
        spec["build"]["attestations"] = json!({"provenance": "Max"});
        spec["target"]["tags"] = tags.clone();
        spec
    };
    world.apply("web", version("RUN echo first > /version")).await;
    let first = history(&world.until_ready("web").await);
    world.apply("web", version("RUN echo second > /version")).await;
    let second = history(&world.until_ready("web").await);
    let [newest, earlier] = second.as_slice() else { panic!("two publications: {second:?}") };
    assert_eq!(first, [earlier.as_str()]);

    let example = pinned["spec"].to_string();
    let digest = example.split('@').nth(1).and_then(|rest| rest.split('"').next()).expect("a digest");
    let spec = example.replace(digest, earlier).replace("registry.example.com/team-a/web", &repository);
    let built = jobs_ever_created(&world);
    world.apply("web", serde_json::from_str(&spec).expect("JSON")).await;
    let back = world.until_ready("web").await;
    assert_eq!(back.status.as_ref().and_then(|status| status.digest.clone()).as_ref(), Some(earlier));
    assert_eq!(history(&back), [earlier, newest, earlier].map(String::as_str), "going back is a publication");
    for tag in tags.as_array().expect("tags") {
        let tagged = Push::to(&repository).read(tag.as_str().expect("a tag")).await;
        assert!(tagged.is_some() && tagged == Push::to(&repository).read(earlier).await, "{tag}");
    }
    assert_eq!(jobs_ever_created(&world), built, "nothing is built");
}
