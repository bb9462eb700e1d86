//! What to do about every reason, where to look, and who has to act. There is no wildcard here: a reason that is new does
//! not compile until it has its advice.

use crate::api::Reason;

/// Where a reason is seen best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// What the build printed.
    Log,
    /// The build's pod, and what the cluster says of it.
    Pod,
    /// The build's Job, and what the cluster says of it.
    Job,
    /// The nodes, beside the pod that found none.
    Nodes,
    /// The Secret or ConfigMap that the message names.
    Named,
    /// The image, index or repository that the message names.
    Registry,
    /// Where the build's files come from.
    Context,
    /// The `MultiArchImage` itself.
    Spec,
}

/// Who has to do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nobody: the operator is at work, or tries again by itself.
    Operator,
    /// Somebody; the operator then notices by itself, at once if it is asked to reconcile.
    Reconcile,
    /// Somebody, by asking for another build.
    Rebuild,
    /// Somebody, by an edit; the operator notices at once.
    Edit,
    /// Somebody, by letting go what is suspended.
    Resume,
}

/// Where a reason is seen best.
pub(super) fn place(reason: Reason) -> Place {
    match reason {
        Reason::Building
        | Reason::BuildFailed
        | Reason::BuildDiskFull
        | Reason::BuildTimeout
        | Reason::BuildResultLost
        | Reason::RemoteBuilderUnavailable
        | Reason::VerifyRunning
        | Reason::VerifyRunFailed
        | Reason::InternalError => Place::Log,
        Reason::BuildOutOfMemory
        | Reason::BuildEvicted
        | Reason::ContainerStarting
        | Reason::ImagePullFailed
        | Reason::EmulationUnavailable => Place::Pod,
        Reason::PodNotCreated | Reason::JobConflict | Reason::Queued => Place::Job,
        Reason::NoNodeForPlatform | Reason::Unschedulable => Place::Nodes,
        Reason::SecretNotFound | Reason::SecretInvalid => Place::Named,
        Reason::SourceNotFound
        | Reason::SourceInvalid
        | Reason::AuthenticationFailed
        | Reason::RateLimited
        | Reason::RegistryUnavailable
        | Reason::PlatformMismatch
        | Reason::BaseImagePlatformMissing
        | Reason::BaseImageNotFound
        | Reason::PushDenied
        | Reason::TagExists
        | Reason::TagConflict
        | Reason::TagMoved
        | Reason::DriftCorrected
        | Reason::TagsKept
        | Reason::DigestMismatch
        | Reason::BinaryMismatch
        | Reason::Verified
        | Reason::Verifying
        | Reason::Copying
        | Reason::Publishing
        | Reason::Published => Place::Registry,
        Reason::ContextNotFound | Reason::ContextChanged | Reason::ContextUnavailable => Place::Context,
        Reason::Pending
        | Reason::Resolving
        | Reason::Suspended
        | Reason::InvalidSpec
        | Reason::PolicyDenied
        | Reason::HostDenied
        | Reason::ClusterError => Place::Spec,
    }
}

/// Who has to act.
pub(super) fn turn(reason: Reason) -> Turn {
    match reason {
        Reason::Published
        | Reason::Verified
        | Reason::Pending
        | Reason::Resolving
        | Reason::Verifying
        | Reason::Building
        | Reason::VerifyRunning
        | Reason::Copying
        | Reason::Publishing
        | Reason::Queued
        | Reason::ContainerStarting
        | Reason::RateLimited
        | Reason::DriftCorrected
        | Reason::TagsKept
        | Reason::BuildEvicted => Turn::Operator,
        Reason::SourceNotFound
        | Reason::SourceInvalid
        | Reason::AuthenticationFailed
        | Reason::RegistryUnavailable
        | Reason::PlatformMismatch
        | Reason::BaseImagePlatformMissing
        | Reason::BaseImageNotFound
        | Reason::PushDenied
        | Reason::TagExists
        | Reason::TagMoved
        | Reason::DigestMismatch
        | Reason::BinaryMismatch
        | Reason::VerifyRunFailed
        | Reason::NoNodeForPlatform
        | Reason::Unschedulable
        | Reason::EmulationUnavailable
        | Reason::PodNotCreated
        | Reason::ImagePullFailed
        | Reason::JobConflict
        | Reason::ClusterError
        | Reason::SecretNotFound
        | Reason::SecretInvalid
        | Reason::BuildFailed
        | Reason::BuildDiskFull
        | Reason::RemoteBuilderUnavailable
        | Reason::ContextNotFound
        | Reason::ContextChanged
        | Reason::ContextUnavailable
        | Reason::InternalError => Turn::Reconcile,
        Reason::BuildResultLost => Turn::Rebuild,
        Reason::BuildOutOfMemory
        | Reason::BuildTimeout
        | Reason::InvalidSpec
        | Reason::TagConflict
        | Reason::PolicyDenied
        | Reason::HostDenied => Turn::Edit,
        Reason::Suspended => Turn::Resume,
    }
}

/// What to do about it.
pub(super) fn remedy(reason: Reason) -> &'static str {
    match reason {
        Reason::Published | Reason::Verified | Reason::DriftCorrected => "Nothing.",
        Reason::TagsKept => "Nothing, or remove those tags by hand: their resource is gone.",
        Reason::Pending | Reason::Resolving | Reason::Verifying => "Wait a moment.",
        Reason::Building => "Wait for it, or follow what it prints.",
        Reason::Copying | Reason::Publishing | Reason::VerifyRunning => "Wait for it.",
        Reason::Queued => {
            "Wait for its turn, or have the limit of the operator (--builds) or the queue's quota raised."
        }
        Reason::ContainerStarting => {
            "Wait a moment. If it stays, what the cluster says of the pod tells what is missing: a volume, an image, a network."
        }
        Reason::Suspended => "Resume it when it shall go on.",
        Reason::SourceNotFound => {
            "Push the image, or name one that exists; some registries answer so where only the credentials are missing."
        }
        Reason::SourceInvalid => {
            "Name an image of today's format, or push it anew with a tool that makes OCI or Docker v2 manifests."
        }
        Reason::AuthenticationFailed => {
            "Put working credentials for exactly this host and path into a Secret that spec.registrySecrets (or the context's \
             secretRef) names."
        }
        Reason::RateLimited => {
            "Nothing: it is tried again when the registry said so. Credentials in spec.registrySecrets raise most limits."
        }
        Reason::RegistryUnavailable => {
            "Nothing if it passes. Otherwise see whether the registry answers, and whether the operator trusts its certificate \
             and speaks its protocol (--registries, --plain-http)."
        }
        Reason::PlatformMismatch => {
            "Name an image for this platform, or declare the platform that the image has."
        }
        Reason::NoNodeForPlatform => {
            "Add a node of this architecture, or choose another way: whenNoNode: Emulate or Skip, or a remote builder."
        }
        Reason::Unschedulable => {
            "Make room on a node of the platform, or ask for less: requests, nodeSelector, affinity, and tolerations for the \
             nodes' taints, of spec.build.pod, or of spec.verify.run.pod where the image is run."
        }
        Reason::BaseImagePlatformMissing => {
            "Base the stage on an image that has the platform, or leave the platform out of the spec."
        }
        Reason::BaseImageNotFound => "Mend the FROM line, or push the image that it names.",
        Reason::EmulationUnavailable => {
            "Register QEMU with binfmt_misc on the nodes (flag F), or add a node of the platform."
        }
        Reason::RemoteBuilderUnavailable => {
            "See whether the remote builder runs, is reached from the cluster, and takes the certificates of its Secret."
        }
        Reason::BuildDiskFull => {
            "Give the build more room: a limit of ephemeral-storage in spec.build.pod.resources, or nodes with larger disks."
        }
        Reason::PodNotCreated => {
            "See what forbids the pod: the namespace's Pod Security level, a quota, a LimitRange or an admission webhook."
        }
        Reason::BuildFailed => "Mend the step that the log ends with, then push or apply the change.",
        Reason::BuildOutOfMemory => {
            "Raise spec.build.pod.resources.limits.memory, or let the build do less at once."
        }
        Reason::BuildEvicted => {
            "Nothing: it is built again elsewhere. If it returns, raise requests and limits of memory and ephemeral-storage."
        }
        Reason::BuildTimeout => {
            "Raise spec.build.timeout (emulatedTimeout where it is emulated), or use a cache."
        }
        Reason::BuildResultLost => {
            "Build it again; whoever cleans up the registry must leave what is not tagged yet."
        }
        Reason::ImagePullFailed => {
            "See whether the node reaches the registry and may pull: for a build the builder's image (the operator's \
             --builder-image), for spec.verify.run the target's own, with the credentials of spec.registrySecrets."
        }
        Reason::ContextNotFound => {
            "Make what the spec names exist: the repository, the ref, the folder, the Dockerfile."
        }
        Reason::ContextChanged => "Leave the files alone while they are built, then ask for it once more.",
        Reason::ContextUnavailable => {
            "Nothing if it passes. Otherwise see whether its server is reached from the cluster."
        }
        Reason::SecretNotFound => {
            "Create the Secret in the namespace of the image, or mend its name in the spec."
        }
        Reason::SecretInvalid => "Give the Secret the key and the content that the message asks for.",
        Reason::PushDenied => {
            "Allow the credentials in spec.registrySecrets to push to the target repository, or name another repository."
        }
        Reason::TagExists => {
            "Publish under a new tag, delete the old one, or set spec.target.tagPolicy: Overwrite."
        }
        Reason::TagConflict => {
            "Name another tag, or delete the older resource that the message names: this one then takes over at once."
        }
        Reason::TagMoved => {
            "Find out who moved the tag. A request to reconcile looks again; spec.target.driftPolicy: Correct publishes it again."
        }
        Reason::PolicyDenied => {
            "Publish to a repository that the namespace may use, or have the operator's policies changed by who runs it."
        }
        Reason::HostDenied => {
            "Name another host. If the operator is to speak to this one, have it allowed by who runs the operator: under hosts in \
             its policies, or for a loopback address in --plain-http or --registries. Link-local and metadata addresses never are."
        }
        Reason::DigestMismatch => {
            "Do not trust that content: a registry, mirror or proxy gives something else than was asked for, or the sha256 in \
             the spec is another file's."
        }
        Reason::BinaryMismatch => {
            "Build the program for this platform: mind GOARCH, --target, and COPY --from= stages of another platform. If it is \
             meant so, spec.verify.binaries: Warn lets it pass."
        }
        Reason::VerifyRunFailed => {
            "Mend what the command's last words tell of, in the image or in spec.verify.run (command, timeout, runAsUser)."
        }
        Reason::InvalidSpec => "Mend the spec as the message says.",
        Reason::JobConflict => "Delete or rename the Job that has the name, or give the image another name.",
        Reason::ClusterError => {
            "Allow the operator what the API server refuses, or mend what it calls invalid; quotas count too."
        }
        Reason::InternalError => "Report it with the operator's log.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_words_of_its_own() {
        for reason in Reason::ALL {
            assert!(reason.meaning().ends_with('.'), "{reason}: {}", reason.meaning());
            assert!(remedy(*reason).ends_with('.'), "{reason}");
        }
    }

    #[test]
    fn the_page_on_troubleshooting_gives_the_same_advice() {
        let page = include_str!("../../../../docs/troubleshooting.md").replace('`', "");
        for reason in Reason::ALL {
            let section =
                page.split("\n### ").find(|section| section.lines().next() == Some(reason.as_str()));
            let words: Vec<&str> = section.unwrap_or_default().split_whitespace().collect();
            assert!(words.join(" ").contains(&format!("**Do:** {}", remedy(*reason))), "{reason}: {words:?}");
        }
    }

    #[test]
    fn what_builds_and_runs_have_in_common_is_advised_for_both() {
        for word in ["--builder-image", "spec.verify.run", "spec.registrySecrets"] {
            assert!(remedy(Reason::ImagePullFailed).contains(word), "{word}");
        }
        for word in ["spec.build.pod", "spec.verify.run.pod"] {
            assert!(remedy(Reason::Unschedulable).contains(word), "{word}");
        }
    }

    #[test]
    fn what_nobody_has_to_act_on_does_not_ask_for_it() {
        let idle = Reason::ALL.iter().filter(|reason| turn(**reason) == Turn::Operator);
        for reason in idle {
            let remedy = remedy(*reason);
            assert!(remedy.starts_with("Nothing") || remedy.starts_with("Wait"), "{reason}: {remedy}");
        }
    }
}
