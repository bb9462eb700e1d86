//! Images, and one image by platform, as tables: pure.

use anstyle::Style;
use jiff::Timestamp;
use kube::ResourceExt as _;

use super::super::age;
use super::super::state::{self, State};
use crate::api::{MultiArchImage, Phase, PlatformStatus};
use crate::cli::output::{BOLD, Cell, GREEN, PLAIN, RED, Table, YELLOW, readable};

/// How many hexadecimal digits tell digests apart.
const SHORT: usize = 12;

/// A row for every image. The namespace is told where there may be several.
pub(super) fn of_images<'a>(
    images: impl IntoIterator<Item = &'a MultiArchImage>,
    with_namespace: bool,
    now: Timestamp,
) -> String {
    let mut table = Table::new(["NAMESPACE", "NAME", "READY", "REASON", "PLATFORMS", "TAG", "DIGEST", "AGE"]);
    for image in images {
        let ready = state::ready(image);
        let (done, all) = state::ready_platforms(image);
        let state = State::of(image);
        let reason = match state {
            State::Unseen | State::Deleting => format!("{state:?}"),
            _ => ready.map(|ready| ready.reason.clone()).unwrap_or_default(),
        };
        let digest = image.status.as_ref().and_then(|status| status.digest.as_deref()).unwrap_or_default();
        table.row([
            if with_namespace { image.namespace().unwrap_or_default() } else { String::new() }.into(),
            image.name_any().into(),
            ready.map(|ready| ready.status.clone()).unwrap_or_default().into(),
            Cell::styled(reason, of_state(state)),
            format!("{done}/{all}").into(),
            image.spec.target.tags.first().cloned().unwrap_or_default().into(),
            short(digest).into(),
            age_of(image, now).into(),
        ]);
    }
    table.render()
}

/// One image: where it goes, what is published of it, and a row for every platform.
pub(super) fn of_image(image: &MultiArchImage, now: Timestamp) -> String {
    let state = State::of(image);
    let style = of_state(state);
    let message = state::own_message(image).map(readable).unwrap_or_default();
    let message = match state {
        State::Unseen => "the operator has not looked at the latest spec or request yet".to_owned(),
        _ => message,
    };
    let name = image.name_any();
    let target = &image.spec.target;
    let heading = format!("{BOLD}{name}{BOLD:#}  {style}{state:?}{style:#}  {message}");
    let mut text = format!("{}\n", heading.trim_end());
    text += &format!("target  {}:{}\n", target.repository, target.tags.join(", "));
    if let Some(status) = &image.status {
        let line = |label: &str, value: &Option<String>| {
            value.as_ref().map(|value| format!("{label}  {}\n", readable(value))).unwrap_or_default()
        };
        text += &line("digest", &status.digest);
        text += &line("source", &status.source_revision);
    }
    format!("{text}\n{}", of_platforms(image, now))
}

fn of_platforms(image: &MultiArchImage, now: Timestamp) -> String {
    let mut table = Table::new(["PLATFORM", "PHASE", "REASON", "NODE", "TIME", "TRY", "DIGEST", "MESSAGE"]);
    for platform in state::platforms(image) {
        let is_ready = platform.phase == Phase::Ready;
        table.row([
            platform.platform.as_str().into(),
            Cell::styled(platform.phase.as_str(), of_phase(platform.phase)),
            platform.reason.map(|reason| reason.to_string()).unwrap_or_default().into(),
            node(platform).into(),
            time(platform, now).unwrap_or_default().into(),
            tries(image, platform).unwrap_or_default().into(),
            short(platform.digest.as_deref().unwrap_or_default()).into(),
            if is_ready { "" } else { platform.message.as_deref().unwrap_or_default() }.into(),
        ]);
    }
    table.render()
}

/// The node of a platform's build, and whether it has to emulate.
pub(super) fn node(platform: &PlatformStatus) -> String {
    let node = platform.node.clone().unwrap_or_default();
    if platform.emulated { format!("{node} (emulated)").trim_start().to_owned() } else { node }
}

/// How long the build took, or takes so far; of one that waits for a node, since when.
pub(super) fn time(platform: &PlatformStatus, now: Timestamp) -> Option<String> {
    match (&platform.started_at, &platform.finished_at, &platform.waiting_since) {
        (_, None, Some(since)) => Some(age::since(since, now)),
        (Some(start), Some(end), _) => Some(age::between(start, end)),
        (Some(start), None, None) => Some(age::since(start, now)),
        (None, ..) => None,
    }
}

/// Which pod this is of how many there may be: nothing while the first one is all it takes.
fn tries(image: &MultiArchImage, platform: &PlatformStatus) -> Option<String> {
    let tries = platform.attempts.filter(|tries| *tries > 1)?;
    let most = image.spec.build.as_ref().map(|build| i64::from(build.retries) + 1);
    // Pods that were evicted come on top of those that the spec allows.
    Some(
        most.filter(|most| i64::from(tries) <= *most)
            .map_or(tries.to_string(), |most| format!("{tries}/{most}")),
    )
}

/// The beginning of a digest.
pub(super) fn short(digest: &str) -> String {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.chars().take(SHORT).collect()
}

fn age_of(image: &MultiArchImage, now: Timestamp) -> String {
    image.metadata.creation_timestamp.as_ref().map(|created| age::since(created, now)).unwrap_or_default()
}

pub(super) fn of_state(state: State) -> Style {
    match state {
        State::Ready => GREEN,
        State::Stalled => RED,
        State::Working | State::Unseen | State::Suspended | State::Deleting => YELLOW,
    }
}

pub(super) fn of_phase(phase: Phase) -> Style {
    match phase {
        Phase::Ready => GREEN,
        Phase::Failed => RED,
        Phase::Waiting | Phase::Skipped => YELLOW,
        Phase::Pending | Phase::Resolving | Phase::Building | Phase::Verifying => PLAIN,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::state::tests::image;
    use super::*;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    fn now() -> Timestamp {
        "2026-01-01T05:00:00Z".parse().unwrap()
    }

    #[test]
    fn images_are_told_one_by_line() {
        let mut published = image("True", false, json!([{"platform": "linux/amd64", "phase": "Ready"}]));
        published.status.as_mut().unwrap().digest = Some(format!("sha256:{}", "ab".repeat(32)));
        let mut edited = image("True", false, json!([{"platform": "linux/amd64", "phase": "Ready"}]));
        edited.metadata.name = Some("edited".to_owned());
        edited.metadata.generation = Some(3);
        assert_eq!(
            plain(&of_images([&published, &edited], false, now())),
            "\
NAME    READY  REASON  PLATFORMS  TAG    DIGEST        AGE
web     True   Reason  1/1        1.4.2  abababababab  5h
edited  True   Unseen  1/1        1.4.2  -             5h
"
        );
        assert!(plain(&of_images([&published], true, now())).contains("team-a     web"));
    }

    #[test]
    fn an_image_is_told_by_platform() {
        let image = image(
            "Unknown",
            false,
            json!([
                {"platform": "linux/amd64", "phase": "Ready", "reason": "Verified", "message": "verified", "node": "amd-1",
                    "digest": "sha256:0123456789abcdef", "startedAt": "2026-01-01T04:00:00Z",
                    "finishedAt": "2026-01-01T04:03:20Z"},
                {"platform": "linux/arm64", "phase": "Building", "reason": "Building", "message": "running on amd-2",
                    "node": "amd-2", "emulated": true, "attempts": 2, "startedAt": "2026-01-01T04:59:00Z"},
                {"platform": "linux/s390x", "phase": "Waiting", "reason": "NoNodeForPlatform",
                    "message": "0/2 nodes\nare available", "waitingSince": "2026-01-01T04:50:00Z"},
            ]),
        );
        assert_eq!(
            plain(&of_image(&image, now())),
            "\
web  Working  message
target  registry.example.com/team-a/web:1.4.2, latest

PLATFORM     PHASE     REASON             NODE              TIME   TRY  DIGEST        MESSAGE
linux/amd64  Ready     Verified           amd-1             3m20s  -    0123456789ab  -
linux/arm64  Building  Building           amd-2 (emulated)  60s    2    -             running on amd-2
linux/s390x  Waiting   NoNodeForPlatform  -                 10m    -    -             0/2 nodes are available
"
        );
    }
}
