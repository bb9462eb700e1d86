//! Advice about where platforms come from.

use serde_json::Value;

use super::finding::{Advice, Rule};
use crate::api::{Build, MultiArchImageSpec, PlatformSource, WhenNoNode};
use crate::build;
use crate::platform::Platform;
use crate::registry::{Reference, Repository};

/// `written` is the spec as it stands in the file, without what the schema adds.
pub(super) fn advise(spec: &MultiArchImageSpec, written: &Value) -> Vec<Advice> {
    let mut advice = Vec::new();
    for (number, entry) in spec.platforms.iter().enumerate() {
        let path = format!("spec.platforms[{number}]");
        match &entry.image {
            Some(image) => {
                let written = written.pointer(&format!("/platforms/{number}"));
                advice.extend(source(spec, image, &path));
                advice.extend(unused_of(spec, entry, written, &path));
            }
            None => {
                let build = spec.build.as_ref().map(|build| build::for_platform(build, entry.build.as_ref()));
                advice.extend(build.and_then(|build| placement(entry, &build, &path)));
            }
        }
    }
    if spec.build.is_some() && spec.platforms.iter().all(|entry| entry.image.is_some()) {
        let message = "every platform has an image, so nothing is built; leave spec.build out";
        advice.push(Advice::new(Rule::Unused, "spec.build", message));
    }
    advice
}

fn source(spec: &MultiArchImageSpec, image: &str, path: &str) -> Option<Advice> {
    if let Some(advice) = super::target::localhost(image, &format!("{path}.image")) {
        return Some(advice);
    }
    let reference: Reference = image.parse().ok().filter(|image: &Reference| image.digest().is_none())?;
    let tag = reference.tag()?;
    let repository: Option<Repository> = spec.target.repository.parse().ok();
    let path = format!("{path}.image");
    if repository.as_ref() == Some(reference.repository())
        && spec.target.tags.iter().any(|published| published == tag)
    {
        return Some(Advice::new(
            Rule::SourceIsTarget,
            path,
            format!(
                "{image} is what this resource publishes: it would read its own index back; name the image that the platform \
                 really comes from, by a tag of its own or by digest"
            ),
        ));
    }
    (tag == "latest").then(|| {
        Advice::new(
            Rule::SourceLatest,
            path,
            format!("{image} is whatever latest is by then; name a version's tag or a digest"),
        )
    })
}

/// What has no effect beside `image`.
fn unused_of(
    spec: &MultiArchImageSpec,
    entry: &PlatformSource,
    written: Option<&Value>,
    path: &str,
) -> Vec<Advice> {
    // An image that exists is run on a node, too.
    let is_run = spec.verify.as_ref().is_some_and(|verify| verify.run.is_some());
    let has_policy = !is_run && written.is_some_and(|written| written.get("whenNoNode").is_some());
    let unused = [("build", entry.build.is_some()), ("whenNoNode", has_policy)];
    let unused = unused.into_iter().filter(|(_, is_written)| *is_written);
    unused
        .map(|(field, _)| {
            let message = format!("the platform has an image and is not built; leave {field} out");
            Advice::new(Rule::Unused, format!("{path}.{field}"), message)
        })
        .collect()
}

fn placement(entry: &PlatformSource, build: &Build, path: &str) -> Option<Advice> {
    let platform: Platform = entry.platform.parse().ok().filter(|_| build.remote.is_none())?;
    // Those of other systems are the schema's business.
    let is_common = platform.os() != "linux" || matches!(platform.architecture(), "amd64" | "arm64");
    let waits = entry.when_no_node == WhenNoNode::Wait && build.scheduling_timeout.is_none();
    (!is_common && waits).then(|| {
        Advice::new(
            Rule::ScarcePlatform,
            format!("{path}.platform"),
            format!(
                "few clusters have nodes whose kubernetes.io/arch is {}, and without one this waits for ever; write whenNoNode: \
                 Emulate, Fail or Skip, or say in build.schedulingTimeout how long to wait",
                platform.architecture()
            ),
        )
    })
}
