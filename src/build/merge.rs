//! `spec.build` and what is different about one platform.

use crate::api::{Build, BuildPod, PlatformBuild, Resources};

/// The build of one platform: maps of the platform are merged over those of `spec.build` key by key, all else replaces.
pub fn for_platform(build: &Build, platform: Option<&PlatformBuild>) -> Build {
    let mut merged = build.clone();
    let Some(platform) = platform.cloned() else { return merged };
    merged.dockerfile = platform.dockerfile.unwrap_or(merged.dockerfile);
    merged.target = platform.target.or(merged.target);
    merged.args.extend(platform.args);
    merged.contexts.extend(platform.contexts);
    merged.cache = platform.cache.or(merged.cache);
    merged.remote = platform.remote.or(merged.remote);
    merged.timeout = platform.timeout.unwrap_or(merged.timeout);
    merged.scheduling_timeout = platform.scheduling_timeout.or(merged.scheduling_timeout);
    merged.pod = match (merged.pod, platform.pod) {
        (Some(build), Some(platform)) => Some(merge_pod(build, platform)),
        (build, platform) => platform.or(build),
    };
    merged
}

fn merge_pod(mut pod: BuildPod, platform: BuildPod) -> BuildPod {
    pod.resources = match (pod.resources, platform.resources) {
        (Some(build), Some(platform)) => Some(merge_resources(build, platform)),
        (build, platform) => platform.or(build),
    };
    pod.node_selector.extend(platform.node_selector);
    if !platform.tolerations.is_empty() {
        pod.tolerations = platform.tolerations;
    }
    pod.affinity = platform.affinity.or(pod.affinity);
    pod.priority_class_name = platform.priority_class_name.or(pod.priority_class_name);
    pod.runtime_class_name = platform.runtime_class_name.or(pod.runtime_class_name);
    pod.labels.extend(platform.labels);
    pod.annotations.extend(platform.annotations);
    pod
}

fn merge_resources(mut resources: Resources, platform: Resources) -> Resources {
    resources.requests.extend(platform.requests);
    resources.limits.extend(platform.limits);
    resources
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn maps_of_a_platform_are_merged_and_all_else_replaces() {
        let build: Build = serde_json::from_value(json!({
            "context": {"inline": {"dockerfile": "FROM scratch"}}, "target": "all", "timeout": "1h",
            "args": {"A": "1", "B": "2"},
            "pod": {"nodeSelector": {"disk": "fast"}, "resources": {"limits": {"cpu": 1, "memory": "1Gi"}},
                "tolerations": [{"key": "build", "operator": "Exists"}]},
        }))
        .expect("a build");
        let platform: PlatformBuild = serde_json::from_value(json!({
            "dockerfile": "Dockerfile.arm", "args": {"B": "3"}, "timeout": "2h",
            "pod": {"nodeSelector": {"zone": "a"}, "resources": {"limits": {"memory": "2Gi"}}},
        }))
        .expect("what differs");
        let merged = for_platform(&build, Some(&platform));
        assert_eq!(merged.timeout, platform.timeout.expect("its own"));
        let merged = serde_json::to_value(merged).expect("JSON");
        assert_eq!(merged["dockerfile"], "Dockerfile.arm");
        assert_eq!(merged["target"], "all");
        assert_eq!(merged["args"], json!({"A": "1", "B": "3"}));
        assert_eq!(merged["pod"]["nodeSelector"], json!({"disk": "fast", "zone": "a"}));
        assert_eq!(merged["pod"]["resources"]["limits"], json!({"cpu": 1, "memory": "2Gi"}));
        assert_eq!(merged["pod"]["tolerations"], json!([{"key": "build", "operator": "Exists"}]));
    }

    #[test]
    fn a_platform_without_anything_of_its_own_is_built_like_every_other() {
        let build: Build = serde_json::from_value(json!({
            "context": {"inline": {"dockerfile": "FROM scratch"}},
        }))
        .expect("a build");
        assert_eq!(for_platform(&build, None), build);
        assert_eq!(for_platform(&build, Some(&PlatformBuild::default())), build);
    }
}
