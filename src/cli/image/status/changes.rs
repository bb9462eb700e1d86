//! What has changed about an image, one line for each change: for logs and pipes, where a table cannot be redrawn. Pure.

use super::super::state::{self, State};
use super::table;
use crate::api::{MultiArchImage, PlatformStatus};
use crate::cli::output::readable;
use kube::ResourceExt as _;

/// The lines that tell how `after` differs from what was there before it; all of it where nothing was.
pub(super) fn lines(before: Option<&MultiArchImage>, after: &MultiArchImage) -> Vec<String> {
    let name = format!("{}/{}", after.namespace().unwrap_or_default(), after.name_any());
    let mut lines: Vec<String> = state::platforms(after)
        .iter()
        .filter(|platform| {
            let before = before.map(state::platforms).unwrap_or_default();
            let before = before.iter().find(|before| before.platform == platform.platform);
            before.is_none_or(|before| is_told_otherwise(before, platform))
        })
        .map(|platform| format!("{name} {}", of_platform(platform)))
        .collect();
    let image = of_image(after);
    if before.map(of_image).as_ref() != Some(&image) {
        lines.push(format!("{name} {image}"));
    }
    lines
}

/// The line of an image that is gone.
pub(super) fn gone(image: &MultiArchImage) -> String {
    format!("{}/{} deleted", image.namespace().unwrap_or_default(), image.name_any())
}

fn is_told_otherwise(before: &PlatformStatus, after: &PlatformStatus) -> bool {
    of_platform(before) != of_platform(after)
}

fn of_platform(platform: &PlatformStatus) -> String {
    let reason = platform.reason.map(|reason| format!(" {reason}")).unwrap_or_default();
    let reason = if reason.trim() == platform.phase.as_str() { String::new() } else { reason };
    let node = table::node(platform);
    let node = if node.is_empty() { node } else { format!(" on {node}") };
    let message = platform.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
    readable(&format!("{} {}{reason}{node}{message}", platform.platform, platform.phase.as_str()))
}

fn of_image(image: &MultiArchImage) -> String {
    let state = State::of(image);
    let (ready, all) = state::ready_platforms(image);
    let message = match state {
        State::Unseen | State::Deleting => String::new(),
        _ => state::ready(image).map(|ready| format!(": {}", ready.message)).unwrap_or_default(),
    };
    readable(&format!("{state:?} {ready}/{all}{message}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::state::tests::image;
    use super::*;

    #[test]
    fn only_what_has_changed_is_told() {
        let before = image(
            "Unknown",
            false,
            json!([{"platform": "linux/amd64", "phase": "Building", "reason": "Building", "node": "amd-1"},
                {"platform": "linux/arm64", "phase": "Waiting", "reason": "NoNodeForPlatform", "message": "0/2 nodes"}]),
        );
        assert_eq!(
            lines(None, &before),
            [
                "team-a/web linux/amd64 Building on amd-1",
                "team-a/web linux/arm64 Waiting NoNodeForPlatform: 0/2 nodes",
                "team-a/web Working 0/2: message",
            ]
        );
        assert!(lines(Some(&before), &before).is_empty());
        let mut after = before.clone();
        after.status.as_mut().unwrap().platforms[0].phase = crate::api::Phase::Ready;
        assert_eq!(
            lines(Some(&before), &after),
            ["team-a/web linux/amd64 Ready Building on amd-1", "team-a/web Working 1/2: message"]
        );
    }
}
