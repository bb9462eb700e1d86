//! The hosts that a spec names, against those that its namespace may speak to.

use reqwest::Url;

use crate::api::{Build, Cache, MultiArchImageSpec, RemoteBuilder};
use crate::git;
use crate::network::{Access, HostDenied};
use crate::registry::{Reference, Repository};

/// Why a spec names a host that must not be spoken to: the field, its value, and the rule.
pub(super) fn denial(access: &Access, spec: &MultiArchImageSpec) -> Option<String> {
    named(spec).into_iter().find_map(|Named { field, text, host, ours }| {
        let (name, port) = host?;
        let denied = match ours {
            true => access.check_written(&name, port).err(),
            // What the builder reaches from its own pod, or does not, is the network's business there.
            false => access.check_rules(&name, port).err(),
        };
        denied.map(|denied: HostDenied| format!("{field} is {text}, and {denied}"))
    })
}

/// One place where a spec names a host.
struct Named {
    field: String,
    text: String,
    /// With its port where one is written or its protocol has one. None if it cannot be made out; whoever uses the field
    /// tells of that.
    host: Option<(String, Option<u16>)>,
    /// Whether the operator itself speaks to it, and not the builder only.
    ours: bool,
}

fn named(spec: &MultiArchImageSpec) -> Vec<Named> {
    let mut named = vec![repository("spec.target.repository".to_owned(), &spec.target.repository)];
    named.extend(spec.target.mirrors.iter().enumerate().map(|(position, mirror)| {
        repository(format!("spec.target.mirrors[{position}].repository"), &mirror.repository)
    }));
    for (position, entry) in spec.platforms.iter().enumerate() {
        let place = format!("spec.platforms[{position}]");
        named.extend(entry.image.iter().map(|text| image(format!("{place}.image"), text, true)));
        if let Some(own) = &entry.build {
            named.extend(cache(&format!("{place}.build"), own.cache.as_ref()));
            named.extend(remote(&format!("{place}.build"), own.remote.as_ref()));
            named.extend(
                own.contexts.iter().map(|(name, at)| context(&format!("{place}.build"), name, &at.0)),
            );
        }
    }
    named.extend(spec.build_in_use().into_iter().flat_map(of_build));
    named
}

fn of_build(build: &Build) -> Vec<Named> {
    let place = "spec.build";
    let of = |field: &str| format!("{place}.context.{field}");
    let mut named = Vec::new();
    named.extend(build.context.git.iter().map(|git| address(of("git.url"), &git.url, true)));
    named.extend(build.context.http.iter().map(|http| address(of("http.url"), &http.url, false)));
    named.extend(build.context.oci.iter().map(|oci| image(of("oci.image"), &oci.image, true)));
    named.extend(build.contexts.iter().map(|(name, at)| context(place, name, &at.0)));
    named.extend(cache(place, build.cache.as_ref()));
    named.extend(remote(place, build.remote.as_ref()));
    named
}

fn repository(field: String, text: &str) -> Named {
    let host = text.parse::<Repository>().ok().map(|repository| owned(repository.host_and_port()));
    Named { field, text: text.to_owned(), host, ours: true }
}

fn image(field: String, text: &str, ours: bool) -> Named {
    let host = text.parse::<Reference>().ok().map(|reference| owned(reference.repository().host_and_port()));
    Named { field, text: text.to_owned(), host, ours }
}

fn address(field: String, text: &str, ours: bool) -> Named {
    let host = git::host_and_port(text).map(|(host, port)| (host, Some(port)));
    Named { field, text: git::shown(text), host, ours }
}

/// `docker-image://…`, or the address of a file or of a git repository.
fn context(place: &str, name: &str, text: &str) -> Named {
    let field = format!("{place}.contexts[{name:?}]");
    match text.strip_prefix("docker-image://") {
        Some(reference) => image(field, reference, false),
        None => address(field, text, false),
    }
}

fn cache(place: &str, cache: Option<&Cache>) -> Vec<Named> {
    let Some(cache) = cache else { return Vec::new() };
    let own = cache.repository.iter().map(|text| {
        // The builder alone reads and writes it.
        Named { ours: false, ..repository(format!("{place}.cache.repository"), text) }
    });
    let others = cache.from.iter().enumerate();
    own.chain(others.map(|(position, text)| image(format!("{place}.cache.from[{position}]"), text, false)))
        .collect()
}

fn remote(place: &str, remote: Option<&RemoteBuilder>) -> Option<Named> {
    let endpoint = &remote?.endpoint;
    let parsed = Url::parse(endpoint).ok();
    let host = parsed.and_then(|url| Some((url.host_str()?.to_owned(), Some(url.port()?))));
    Some(Named { field: format!("{place}.remote.endpoint"), text: endpoint.clone(), host, ours: false })
}

fn owned((host, port): (&str, Option<u16>)) -> (String, Option<u16>) {
    (host.to_owned(), port)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::network::{HostPolicy, HostRule};

    const BAD: &str = "denied.test";

    fn of(spec: Value, deny: &str) -> Option<String> {
        let deny = vec![deny.parse().expect("a selector")];
        let rule = HostRule { namespaces: vec!["*".to_owned()], allow: vec![], deny };
        let policy = Arc::new(HostPolicy { rules: vec![rule], ..HostPolicy::default() });
        denial(&policy.access("team-a"), &serde_json::from_value(spec).expect("a spec"))
    }

    fn spec(build: Value, platform: Value) -> Value {
        let mut entry = json!({"platform": "linux/amd64"});
        entry.as_object_mut().expect("an entry").extend(platform.as_object().expect("fields").clone());
        let mut whole = json!({"context": {"inline": {"dockerfile": "FROM scratch"}}});
        whole.as_object_mut().expect("a build").extend(build.as_object().expect("fields").clone());
        json!({
            "target": {"repository": "registry.test/web", "tags": ["1"]},
            "platforms": [entry, {"platform": "linux/arm64"}],
            "build": whole,
        })
    }

    #[test]
    fn every_host_that_a_spec_names_counts() {
        let commit = "0123456789012345678901234567890123456789";
        for (field, build, platform) in [
            ("spec.platforms[0].image", json!({}), json!({"image": format!("{BAD}/web:1")})),
            (
                "spec.build.context.git.url",
                json!({"context": {"git": {"url": format!("https://{BAD}/web.git")}}}),
                json!({}),
            ),
            (
                "spec.build.context.git.url",
                json!({"context": {"git": {"url": format!("git@{BAD}:web.git")}}}),
                json!({}),
            ),
            (
                "spec.build.context.http.url",
                json!({"context": {"http": {"url": format!("http://{BAD}/web.tar"), "sha256": "0".repeat(64)}}}),
                json!({}),
            ),
            (
                "spec.build.context.oci.image",
                json!({"context": {"oci": {"image": format!("{BAD}/web:1")}}}),
                json!({}),
            ),
            (
                "spec.build.contexts[\"a\"]",
                json!({"contexts": {"a": format!("docker-image://{BAD}/web:1")}}),
                json!({}),
            ),
            (
                "spec.build.contexts[\"a\"]",
                json!({"contexts": {"a": format!("https://{BAD}/a.git#{commit}")}}),
                json!({}),
            ),
            (
                "spec.build.cache.repository",
                json!({"cache": {"type": "Registry", "repository": format!("{BAD}/web")}}),
                json!({}),
            ),
            (
                "spec.build.cache.from[0]",
                json!({"cache": {"type": "Registry", "from": [format!("{BAD}/web:1")]}}),
                json!({}),
            ),
            (
                "spec.build.remote.endpoint",
                json!({"remote": {"endpoint": format!("tcp://{BAD}:1234")}}),
                json!({}),
            ),
            (
                "spec.platforms[0].build.remote.endpoint",
                json!({}),
                json!({"build": {"remote": {"endpoint": format!("tcp://{BAD}:1234")}}}),
            ),
            (
                "spec.platforms[0].build.cache.repository",
                json!({}),
                json!({"build": {"cache": {"type": "Registry", "repository": format!("{BAD}/web")}}}),
            ),
            (
                "spec.platforms[0].build.contexts[\"a\"]",
                json!({}),
                json!({"build": {"contexts": {"a": format!("https://{BAD}/a.tar")}}}),
            ),
        ] {
            let told = of(spec(build.clone(), platform.clone()), BAD).expect(field);
            assert!(told.starts_with(&format!("{field} is ")), "{told}");
            assert!(told.contains("hosts[0].deny"), "{told}");
            assert_eq!(of(spec(build, platform), "other.test"), None, "{field}");
        }
        let mut target = spec(json!({}), json!({}));
        target["target"]["mirrors"] = json!([{"repository": format!("{BAD}:5000/web")}]);
        assert!(
            of(target.clone(), BAD)
                .is_some_and(|told| told.starts_with("spec.target.mirrors[0].repository is "))
        );
        assert!(
            of(target, "registry.test").is_some_and(|told| told.starts_with("spec.target.repository is "))
        );
    }

    #[test]
    fn a_literal_address_that_is_always_refused_is_refused_before_anything_is_asked() {
        let repository = |text: &str| json!({"target": {"repository": text, "tags": ["1"]}, "platforms": []});
        for text in [
            "169.254.169.254/latest",
            "2852039166:80/latest",
            "[::ffff:169.254.169.254]/latest",
            "localhost:5000/web",
        ] {
            let told = of(repository(text), BAD).unwrap_or_else(|| panic!("{text}"));
            assert!(told.starts_with(&format!("spec.target.repository is {text}, and ")), "{told}");
        }
        assert_eq!(of(repository("10.77.0.1:5000/web"), BAD), None);
        // Whether it is spoken to in plain HTTP, a spec does not say.
        let told = of(repository("registry.test/web"), "registry.test:80").expect("a denial");
        assert!(told.contains("hosts[0].deny") && told.contains("registry.test:80"), "{told}");
        let builders = spec(json!({"remote": {"endpoint": "tcp://127.0.0.1:1234"}}), json!({}));
        assert_eq!(of(builders, BAD), None, "that is the builder's own pod");
    }
}
