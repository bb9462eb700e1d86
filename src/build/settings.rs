//! How the operator runs builds, whoever asks for them.

use super::registries::BuildkitRegistry;
use crate::glob;

/// The operator's settings for builds. All but the image and the registries stand in the file of `--builds`
/// ([`BuilderSettings::read_file`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuilderSettings {
    /// An image of the shape of `moby/buildkit:*-rootless`.
    pub image: String,
    /// How BuildKit reaches registries.
    pub buildkit_registries: Vec<BuildkitRegistry>,
    /// What a builder may do on its node, in namespaces of which nothing else is said.
    pub profile: Profile,
    /// The image that lists the software of an image for `attestations.sbom`.
    pub sbom_scanner: String,
    /// The most builds that the operator runs at once; unlimited when absent.
    pub max_running: Option<usize>,
    /// The most builds that a namespace runs at once, where nothing else is said of it; unlimited when absent.
    pub max_running_per_namespace: Option<usize>,
    /// What is particular to some namespaces; the first whose pattern matches counts alone.
    pub namespaces: Vec<NamespaceSettings>,
}

/// What is particular to the namespaces of a pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceSettings {
    /// The names of namespaces; `*` stands for any text, `?` for one character.
    pub namespace: String,
    /// What a builder may do on its node; as everywhere when absent.
    pub profile: Option<Profile>,
    /// The most builds that each of these namespaces runs at once; as everywhere when absent.
    pub max_running: Option<usize>,
}

/// What a builder may do on its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// A user without privileges who makes user namespaces of its own (seccomp and AppArmor unconfined).
    #[default]
    Rootless,
    /// Privileged within a user namespace that the kubelet makes (`hostUsers: false`, KEP-127).
    UserNamespace,
    /// Privileged on the node.
    Privileged,
}

impl Profile {
    /// Every profile and its name in the file of settings.
    pub const ALL: [(&str, Profile); 3] = [
        ("Rootless", Profile::Rootless),
        ("UserNamespace", Profile::UserNamespace),
        ("Privileged", Profile::Privileged),
    ];
}

impl Default for BuilderSettings {
    fn default() -> Self {
        BuilderSettings {
            image: Self::IMAGE.to_owned(),
            buildkit_registries: Vec::new(),
            profile: Profile::default(),
            sbom_scanner: Self::SBOM_SCANNER.to_owned(),
            max_running: None,
            max_running_per_namespace: None,
            namespaces: Vec::new(),
        }
    }
}

impl BuilderSettings {
    /// The builder image that is used unless another is named; pinned by digest, so that builds do not change by
    /// themselves.
    pub const IMAGE: &str = concat!(
        "docker.io/moby/buildkit:v0.33.0-rootless",
        "@sha256:80b15f0735e87bab7bf59ec4d695dfb4a7cfb25521cf56dc75d6f256285b63ef"
    );

    /// The image that BuildKit's documentation names for SBOMs, at the version that its tag `stable-1` had; pinned as well.
    pub const SBOM_SCANNER: &str = concat!(
        "docker.io/docker/buildkit-syft-scanner:1.12.0",
        "@sha256:ae4f3b554449e7e25548e7d8ccc029d17357348e30c6e3df01b92bc93654d6a9"
    );

    /// What builds of a namespace may do. A resource cannot ask for more.
    pub fn profile(&self, namespace: &str) -> Profile {
        self.of(namespace).and_then(|particular| particular.profile).unwrap_or(self.profile)
    }

    /// The most builds that a namespace runs at once; unlimited when `None`.
    pub fn max_running_in(&self, namespace: &str) -> Option<usize> {
        self.of(namespace).and_then(|particular| particular.max_running).or(self.max_running_per_namespace)
    }

    /// Whether a registry, host or host:port, is known to speak plain HTTP.
    pub fn speaks_plain_http(&self, host: &str) -> bool {
        self.buildkit_registries.iter().any(|registry| registry.plain_http && registry.host == host)
    }

    /// Whether anything limits how many builds run at once.
    pub fn has_limits(&self) -> bool {
        self.max_running.is_some()
            || self.max_running_per_namespace.is_some()
            || self.namespaces.iter().any(|particular| particular.max_running.is_some())
    }

    fn of(&self, namespace: &str) -> Option<&NamespaceSettings> {
        self.namespaces.iter().find(|particular| glob::matches(&particular.namespace, namespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Reference;

    fn particular(
        namespace: &str,
        profile: Option<Profile>,
        max_running: Option<usize>,
    ) -> NamespaceSettings {
        NamespaceSettings { namespace: namespace.to_owned(), profile, max_running }
    }

    #[test]
    fn the_first_pattern_that_matches_decides_alone() {
        let settings = BuilderSettings {
            max_running_per_namespace: Some(5),
            namespaces: vec![
                particular("team-a-ci", Some(Profile::UserNamespace), None),
                particular("team-a-*", Some(Profile::Privileged), Some(2)),
            ],
            ..BuilderSettings::default()
        };
        let of = |namespace: &str| (settings.profile(namespace), settings.max_running_in(namespace));
        assert_eq!(of("team-a-ci"), (Profile::UserNamespace, Some(5)));
        assert_eq!(of("team-a-x"), (Profile::Privileged, Some(2)));
        for others in ["team-a", "x-team-a-x", "default", ""] {
            assert_eq!(of(others), (Profile::Rootless, Some(5)), "{others}");
        }
    }

    #[test]
    fn what_runs_unless_another_image_is_named_is_pinned_by_digest() {
        for image in [BuilderSettings::IMAGE, BuilderSettings::SBOM_SCANNER] {
            let reference: Reference = image.parse().expect("an image");
            assert!(reference.tag().is_some() && reference.digest().is_some(), "{image}");
        }
    }

    #[test]
    fn without_settings_nothing_is_limited_and_nobody_is_privileged() {
        let settings = BuilderSettings::default();
        assert!(!settings.has_limits());
        assert_eq!(
            (settings.profile("team-a"), settings.max_running_in("team-a")),
            (Profile::Rootless, None)
        );
    }
}
