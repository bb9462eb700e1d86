//! Which containers of which pods have something to read: pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use kube::ResourceExt as _;

use super::super::state::{self, State};
use crate::api::{LABEL_PLATFORM, LABEL_VERIFICATION, MultiArchImage, Phase, PlatformStatus};
use crate::platform::Platform;

/// The platforms whose logs are wanted, as the spec writes them, by the labels of their pods.
pub(super) struct Wanted {
    by_slug: BTreeMap<String, String>,
    /// In the order of the spec.
    pub platforms: Vec<String>,
    is_all: bool,
}

impl Wanted {
    /// Those of `chosen`, or all of the image.
    ///
    /// # Errors
    /// When the image has none of that name; what it has instead.
    pub fn new(image: &MultiArchImage, chosen: &[Platform]) -> Result<Self, String> {
        let declared = image
            .spec
            .platforms
            .iter()
            .filter_map(|entry| Some((entry.platform.clone(), entry.platform.parse::<Platform>().ok()?)));
        let declared: Vec<(String, Platform)> = declared.collect();
        if let Some(unknown) =
            chosen.iter().find(|chosen| declared.iter().all(|(_, platform)| platform != *chosen))
        {
            let names: Vec<&str> = declared.iter().map(|(name, _)| name.as_str()).collect();
            return Err(format!("{}: no platform {unknown}; it has {}", image.name_any(), names.join(", ")));
        }
        let wanted = declared.iter().filter(|(_, platform)| chosen.is_empty() || chosen.contains(platform));
        Ok(Self {
            by_slug: wanted.clone().map(|(name, platform)| (platform.slug(), name.clone())).collect(),
            platforms: wanted.map(|(name, _)| name.clone()).collect(),
            is_all: chosen.is_empty(),
        })
    }

    /// The platform of a pod, if it is wanted.
    pub fn platform_of(&self, pod: &Pod) -> Option<&String> {
        self.by_slug.get(pod.labels().get(LABEL_PLATFORM)?)
    }

    /// The entries of the wanted platforms.
    pub fn entries<'a>(&'a self, image: &'a MultiArchImage) -> impl Iterator<Item = &'a PlatformStatus> {
        state::platforms(image).iter().filter(|entry| self.platforms.contains(&entry.platform))
    }

    /// Whether no more is to be expected of the wanted platforms' builds.
    pub fn is_over(&self, image: &MultiArchImage) -> bool {
        let state = State::of(image);
        let rests = |entry: &PlatformStatus| match entry.phase {
            Phase::Ready | Phase::Failed | Phase::Skipped => true,
            // A pod that has a node is followed by another attempt; without one it may wait forever.
            Phase::Waiting => state == State::Stalled && entry.node.is_none(),
            Phase::Pending | Phase::Resolving | Phase::Building | Phase::Verifying => false,
        };
        match state {
            State::Unseen => false,
            State::Deleting | State::Suspended => true,
            State::Ready => state::is_published(image),
            State::Stalled => self.entries(image).all(rests),
            State::Working => !self.is_all && self.entries(image).all(rests),
        }
    }
}

/// What a pod does for its platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// It builds the image.
    Build,
    /// It runs the image, as `spec.verify.run` says.
    Run,
}

impl Work {
    pub fn of(pod: &Pod) -> Self {
        if pod.labels().contains_key(LABEL_VERIFICATION) { Work::Run } else { Work::Build }
    }
}

/// The pods of each wanted platform by what they do, the latest first.
pub(super) fn by_platform<'a>(
    wanted: &'a Wanted,
    pods: &'a [Pod],
) -> BTreeMap<(&'a String, Work), Vec<&'a Pod>> {
    let mut found: BTreeMap<(&String, Work), Vec<&Pod>> = BTreeMap::new();
    for pod in pods {
        if let Some(platform) = wanted.platform_of(pod) {
            found.entry((platform, Work::of(pod))).or_default().push(pod);
        }
    }
    for pods in found.values_mut() {
        pods.sort_by_key(|pod| {
            std::cmp::Reverse((pod.metadata.creation_timestamp.clone(), pod.metadata.name.clone()))
        });
    }
    found
}

/// The containers of a pod that have printed something or may do so by now, in the order in which they run.
pub(in crate::cli) fn started(pod: &Pod) -> Vec<String> {
    let Some(status) = &pod.status else { return vec![] };
    // One that fails again and again waits in between for its next start.
    let has_started = |container: &&ContainerStatus| {
        let states = [&container.state, &container.last_state];
        states.into_iter().flatten().any(|state| state.running.is_some() || state.terminated.is_some())
    };
    statuses(status).filter(has_started).map(|container| container.name.clone()).collect()
}

/// Whether a container may print more.
pub(super) fn is_running(pod: &Pod, name: &str) -> bool {
    let mut containers = pod.status.iter().flat_map(statuses);
    containers.any(|status| {
        status.name == name && status.state.as_ref().is_some_and(|state| state.running.is_some())
    })
}

fn statuses(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status.init_container_statuses.iter().chain(&status.container_statuses).flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::state::tests::image;
    use super::*;

    fn platforms(phases: [&str; 2]) -> Value {
        json!([{"platform": "linux/arm/v7", "phase": phases[0]}, {"platform": "linux/arm64", "phase": phases[1]}])
    }

    fn pod(name: &str, slug: &str, created: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {
            "name": name, "labels": {LABEL_PLATFORM: slug}, "creationTimestamp": created,
        }}))
        .unwrap()
    }

    #[test]
    fn pods_are_of_platforms_by_their_label_and_the_latest_comes_first() {
        let image = image("Unknown", false, platforms(["Building", "Building"]));
        let wanted = Wanted::new(&image, &["linux/arm/v7".parse().unwrap()]).unwrap();
        let mut run = pod("run", "linux-arm-v7", "2026-01-01T00:02:00Z");
        run.labels_mut().insert(LABEL_VERIFICATION.to_owned(), "1".to_owned());
        let pods = [
            pod("first", "linux-arm-v7", "2026-01-01T00:00:00Z"),
            pod("second", "linux-arm-v7", "2026-01-01T00:01:00Z"),
            run,
            pod("another", "linux-arm64", "2026-01-01T00:00:00Z"),
        ];
        let found = by_platform(&wanted, &pods);
        let names: Vec<Vec<String>> =
            found.values().map(|pods| pods.iter().map(|pod| pod.name_any()).collect()).collect();
        assert_eq!(names, [vec!["second".to_owned(), "first".to_owned()], vec!["run".to_owned()]]);
        assert!(found.keys().all(|(platform, _)| *platform == "linux/arm/v7"));
    }

    #[test]
    fn a_platform_that_the_image_has_not_is_refused_with_those_it_has() {
        let image = image("Unknown", false, platforms(["Building", "Building"]));
        let error = Wanted::new(&image, &["linux/s390x".parse().unwrap()]).err().unwrap();
        assert_eq!(error, "web: no platform linux/s390x; it has linux/arm/v7, linux/arm64");
    }

    #[test]
    fn following_is_over_when_the_image_is_settled_and_nothing_is_built_any_more() {
        for (ready, stalled, phases, over) in [
            ("True", false, ["Ready", "Ready"], true),
            ("True", false, ["Ready", "Resolving"], false),
            ("False", true, ["Failed", "Building"], false),
            ("False", true, ["Failed", "Waiting"], true),
            ("Unknown", false, ["Ready", "Waiting"], false),
            // The index is being published, which may still fail.
            ("Unknown", false, ["Ready", "Ready"], false),
        ] {
            let image = image(ready, stalled, platforms(phases));
            assert_eq!(Wanted::new(&image, &[]).unwrap().is_over(&image), over, "{ready} {phases:?}");
        }
        let image = image("Unknown", false, platforms(["Ready", "Building"]));
        assert!(Wanted::new(&image, &["linux/arm/v7".parse().unwrap()]).unwrap().is_over(&image));
    }

    #[test]
    fn containers_that_have_not_started_are_left_for_later() {
        let mut pod = pod("web", "linux-arm64", "2026-01-01T00:00:00Z");
        pod.status = serde_json::from_value(json!({
            "initContainerStatuses": [{"name": "context", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"terminated": {"exitCode": 0}}}],
            "containerStatuses": [{"name": "build", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "PodInitializing"}}}],
        }))
        .unwrap();
        assert_eq!(started(&pod), ["context"]);
        pod.status = serde_json::from_value(json!({
            "containerStatuses": [{"name": "operator", "image": "", "imageID": "", "ready": false, "restartCount": 3,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 1}}}],
        }))
        .unwrap();
        assert_eq!(started(&pod), ["operator"]);
    }
}
