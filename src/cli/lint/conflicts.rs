//! Tags that more than one resource publishes.

use std::collections::BTreeMap;

use super::finding::{Advice, Rule};
use crate::api::MultiArchImage;
use crate::plan::{self, Destination};

/// Whoever publishes a tag first, and where that stands.
#[derive(Default)]
pub(super) struct Publishers {
    by_tag: BTreeMap<(String, String), (String, String)>,
}

impl Publishers {
    /// Adds a resource called `name`, and gives what it has in common with earlier ones of other names. Files for several
    /// clusters may have the same resource more than once. `place` says where a path of it stands.
    pub(super) fn add(
        &mut self,
        name: &str,
        image: &MultiArchImage,
        place: impl Fn(&str) -> String,
    ) -> Vec<Advice> {
        let destinations = match plan::destinations(&image.spec) {
            Ok(destinations) => destinations,
            Err(refusal) => return vec![of_refusal(&refusal)],
        };
        let mut advice: Vec<Advice> = Vec::new();
        for (number, destination) in destinations.iter().enumerate() {
            for (path, tag) in tags(number, destination) {
                let repository = destination.repository.to_string();
                let key = (destination.repository.identity().to_string(), tag.to_owned());
                let (first, at) = self.by_tag.entry(key).or_insert_with(|| (name.to_owned(), place(&path)));
                // One word for all tags that stand in one place.
                if first != name && !advice.iter().any(|advice| advice.path == path) {
                    let message = format!(
                        "{repository}:{tag} is published by {first} too ({at}), and a tag has one content; give one of them \
                         another tag"
                    );
                    advice.push(Advice::new(Rule::TagConflict, path, message));
                }
            }
        }
        advice
    }
}

/// What is published in the repository of this number, mirrors after the target, each with where it is written.
fn tags(number: usize, destination: &Destination) -> impl Iterator<Item = (String, &str)> {
    let of_index = destination.tags.iter().enumerate().map(move |(tag_number, tag)| {
        let path = match number.checked_sub(1) {
            None => format!("spec.target.tags[{tag_number}]"),
            Some(mirror) => format!("spec.target.mirrors[{mirror}].repository"),
        };
        (path, tag.as_str())
    });
    let of_platforms = destination.platform_tags.iter().map(move |(_, tag)| {
        let path = match number.checked_sub(1) {
            None => "spec.target.platformTag".to_owned(),
            Some(mirror) => format!("spec.target.mirrors[{mirror}].repository"),
        };
        (path, tag.as_str())
    });
    of_index.chain(of_platforms)
}

/// What the operator refuses, since one tag would have two contents, or two names mean one repository.
fn of_refusal(refusal: &str) -> Advice {
    let (path, message) = refusal.split_once(": ").unwrap_or(("spec", refusal));
    Advice::new(Rule::TagConflict, path, message)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn image(target: Value) -> MultiArchImage {
        let spec = json!({"target": target, "platforms": [
            {"platform": "linux/amd64", "image": "r.test/a:1"}, {"platform": "linux/arm64", "image": "r.test/a:1"},
        ]});
        MultiArchImage::new("", serde_json::from_value(spec).unwrap())
    }

    fn conflicts(second: Value) -> Vec<(String, String)> {
        let first = image(json!({
            "repository": "r.test/web", "tags": ["1"], "platformTag": "{tag}-{arch}", "mirrors": [{"repository": "m.test/web"}],
        }));
        let mut publishers = Publishers::default();
        assert_eq!(publishers.add("first", &first, str::to_owned), []);
        let found = publishers.add("second", &image(second), str::to_owned);
        found.into_iter().map(|advice| (advice.path, advice.message)).collect()
    }

    #[test]
    fn tags_of_mirrors_and_platforms_conflict_too() {
        for (target, path, tag) in [
            (json!({"repository": "r.test/web", "tags": ["1"]}), "spec.target.tags[0]", "r.test/web:1 is"),
            (json!({"repository": "m.test/web", "tags": ["1"]}), "spec.target.tags[0]", "m.test/web:1 is"),
            (
                json!({"repository": "r.test:443/web", "tags": ["1"]}),
                "spec.target.tags[0]",
                "r.test:443/web:1 is",
            ),
            (
                json!({"repository": "r.test/web", "tags": ["1-arm64"]}),
                "spec.target.tags[0]",
                "web:1-arm64 is",
            ),
            (
                json!({"repository": "x.test/web", "tags": ["1"], "mirrors": [{"repository": "r.test/web"}]}),
                "spec.target.mirrors[0].repository",
                "r.test/web:1 is",
            ),
        ] {
            let found = conflicts(target);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].0, path);
            assert!(found[0].1.contains(tag) && found[0].1.contains("by first too"), "{found:?}");
        }
        assert_eq!(conflicts(json!({"repository": "x.test/web", "tags": ["1"]})), []);
    }

    #[test]
    fn a_tag_that_a_resource_would_give_two_contents_is_told() {
        let found = conflicts(json!({
            "repository": "x.test/web", "tags": ["1", "1-arm64"], "platformTag": "{tag}-{arch}",
        }));
        assert_eq!((found.len(), found[0].0.as_str()), (1, "spec.target.platformTag"), "{found:?}");
    }
}
