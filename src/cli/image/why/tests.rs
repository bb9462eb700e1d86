use clap::Parser as _;
use serde_json::{Value, json};

use super::super::state::tests::image;
use super::place::Present;
use super::*;
use crate::api::Reason;
use crate::cli::Cli;

const POD: &str = "pod/web-linux-arm64-5f2c-x";

fn explained(image: &MultiArchImage, evidence: &Evidence) -> Explanation {
    let (flags, cluster_flags) = (" --context east -n team-a".to_owned(), " --context east".to_owned());
    explain(image, evidence, &Typed { program: "multiarch", flags, cluster_flags })
}

fn plain(image: &MultiArchImage) -> String {
    let explanation = explained(image, &Evidence::default());
    anstream::adapter::strip_str(&text(&explanation, false)).to_string()
}

fn arm64(phase: &str, reason: &str, message: &str) -> Value {
    json!({"platform": "linux/arm64", "phase": phase, "reason": reason, "message": message,
        "job": "web-linux-arm64-5f2c", "pod": "web-linux-arm64-5f2c-x", "node": "arm-1"})
}

/// An image whose conditions say what the operator's would.
fn told(ready: &str, stalled: bool, platforms: Value, reason: &str, message: &str) -> MultiArchImage {
    let mut image = image(ready, stalled, platforms);
    for condition in &mut image.status.as_mut().unwrap().conditions {
        condition.reason = reason.to_owned();
        condition.message = message.to_owned();
    }
    image
}

/// An image that one platform has stalled.
fn stalled(reason: &str, message: &str) -> MultiArchImage {
    let platforms = json!([{"platform": "linux/amd64", "phase": "Ready"}, arm64("Failed", reason, message)]);
    told("False", true, platforms, reason, &format!("linux/arm64: {reason}: {message}"))
}

#[test]
fn a_healthy_image_says_so_in_one_line() {
    let ready = json!([{"platform": "linux/amd64", "phase": "Ready"}]);
    let healthy =
        told("True", false, ready, "Published", "sha256:abc at registry.example.com/team-a/web:1.4.2");
    assert_eq!(
        plain(&healthy),
        "web: Ready: sha256:abc at registry.example.com/team-a/web:1.4.2; 1/1 platforms are ready\n"
    );
    assert!(is_well(&healthy) && !is_well(&stalled("BuildFailed", "no")));
    let with_namespace = text(&explained(&healthy, &Evidence::default()), true);
    assert!(anstream::adapter::strip_str(&with_namespace).to_string().contains("/web: Ready: "));
}

#[test]
fn a_failed_build_is_told_with_its_pod_and_the_end_of_its_log() {
    let mut image = stalled("BuildFailed", "Dockerfile:5: RUN make: exit code: 2 (job/web-linux-arm64-5f2c)");
    image.status.as_mut().unwrap().platforms[1].log_tail = Some("#5 cc\n#5 \u{1b}[31merror".to_owned());
    assert_eq!(
        plain(&image),
        "\
web: Stalled: it does not become ready unless somebody acts; 1/2 platforms are ready

linux/arm64: Failed: BuildFailed
  says     Dockerfile:5: RUN make: exit code: 2 (job/web-linux-arm64-5f2c)
  means    A build step failed.
  look at  pod/web-linux-arm64-5f2c-x
  do       Mend the step that the log ends with, then push or apply the change.
  type     multiarch logs web --platform linux/arm64 --context east -n team-a
           kubectl describe pod/web-linux-arm64-5f2c-x --context east -n team-a
           multiarch reconcile web --context east -n team-a
  log      #5 cc
           #5  [31merror
"
    );
}

#[test]
fn for_every_reason_there_is_something_to_look_at_and_commands_that_exist() {
    for reason in Reason::ALL {
        let explanation = explained(
            &stalled(reason.as_str(), "registry.example.com/team-a/web: no (HEAD)"),
            &Evidence::default(),
        );
        let [cause] = explanation.causes.as_slice() else { panic!("{reason}: {explanation:?}") };
        // What has failed is not pending.
        let told = if *reason == Reason::Pending { "Unknown" } else { reason.as_str() };
        assert_eq!(cause.reason, told);
        let is_settled = matches!(reason, Reason::SecretNotFound | Reason::SecretInvalid);
        // What the message does not name cannot be named.
        assert!(is_settled || !cause.objects.is_empty() || cause.reason.starts_with("Context"), "{reason}");
        assert!(is_settled || !cause.next.is_empty(), "{reason}");
        for command in cause.next.iter().filter(|command| command.starts_with("multiarch ")) {
            Cli::try_parse_from(command.split(' '))
                .unwrap_or_else(|error| panic!("{reason}: {command}: {error}"));
        }
    }
}

#[test]
fn what_a_message_names_is_what_to_look_at() {
    for (reason, message, object, command) in [
        (
            "SecretNotFound",
            "secret/npm.rc does not exist in namespace team-a; create it",
            "secret/npm.rc",
            "kubectl get secret/npm.rc --context east -n team-a",
        ),
        (
            "ContextNotFound",
            "configmap/files has no key \"Dockerfile\"; it has: none",
            "configmap/files",
            "kubectl get configmap/files --context east -n team-a",
        ),
        (
            "SourceNotFound",
            "ghcr.io/acme/web:9: not found (404 Not Found, HEAD the manifest)",
            "ghcr.io/acme/web:9",
            "multiarch index inspect ghcr.io/acme/web:9",
        ),
        (
            "BaseImageNotFound",
            "Dockerfile line 3: there is no image docker.io/library/alpin:3; correct its name: docker.io/…: not found",
            "docker.io/library/alpin:3",
            "multiarch index inspect docker.io/library/alpin:3",
        ),
        (
            "BaseImagePlatformMissing",
            "Dockerfile line 1: 10.0.0.1:5000/base:1 has no image for linux/arm64; it has linux/amd64",
            "10.0.0.1:5000/base:1",
            "multiarch index inspect 10.0.0.1:5000/base:1",
        ),
        (
            "TagExists",
            "10.0.0.1:5000/team-a/web:1: the tag exists with other content (sha256:a, not sha256:b) and is not to be moved",
            "10.0.0.1:5000/team-a/web:1",
            "multiarch index inspect 10.0.0.1:5000/team-a/web:1",
        ),
        (
            "Unschedulable",
            "0/3 nodes are available: 3 Insufficient memory (job/web-linux-arm64-5f2c)",
            POD,
            "kubectl get nodes -L kubernetes.io/os -L kubernetes.io/arch --context east",
        ),
    ] {
        let explanation = explained(&stalled(reason, message), &Evidence::default());
        assert_eq!(explanation.causes[0].objects[0], object, "{message}");
        assert!(
            explanation.causes[0].next.iter().any(|next| next == command),
            "{:?}",
            explanation.causes[0].next
        );
    }
}

#[test]
fn an_address_of_a_git_server_is_no_image_to_inspect() {
    let image = stalled(
        "AuthenticationFailed",
        "https://git.example.com/acme/web: access denied (401); put it there",
    );
    let explanation = explained(&image, &Evidence::default());
    assert_eq!(explanation.causes[0].objects, ["https://git.example.com/acme/web"]);
    assert_eq!(explanation.causes[0].next, ["multiarch reconcile web --context east -n team-a"]);
}

#[test]
fn what_is_gone_is_not_to_be_looked_at() {
    let present = Present { objects: Some(vec!["job/web-linux-arm64-5f2c".to_owned()]) };
    let evidence = Evidence { present, ..Evidence::default() };
    let cause = &explained(&stalled("BuildFailed", "no"), &evidence).causes[0];
    assert_eq!(cause.objects, ["job/web-linux-arm64-5f2c"]);
    assert!(!cause.next.iter().any(|next| next.contains(POD) || next.contains("logs")), "{:?}", cause.next);
}

#[test]
fn what_the_cluster_warned_of_is_told_with_the_platform_it_is_about() {
    let waiting = arm64("Waiting", "PodNotCreated", "the cluster makes no pod for it");
    let image = told("Unknown", false, json!([waiting]), "PodNotCreated", "linux/arm64: PodNotCreated: none");
    let warnings = vec![
        ("job/web-linux-arm64-5f2c".to_owned(), "FailedCreate: violates PodSecurity".to_owned()),
        ("pod/of-another".to_owned(), "Failed: no".to_owned()),
        // What the operator says already.
        ("job/web-linux-arm64-5f2c".to_owned(), "Repeated: the cluster makes no pod".to_owned()),
    ];
    let cause = &explained(&image, &Evidence { warnings, ..Evidence::default() }).causes[0];
    assert_eq!(cause.events, ["job/web-linux-arm64-5f2c: FailedCreate: violates PodSecurity"]);
}

#[test]
fn several_platforms_are_told_the_most_telling_first() {
    let platforms = json!([
        {"platform": "linux/386", "phase": "Skipped", "reason": "NoNodeForPlatform"},
        {"platform": "linux/amd64", "phase": "Building", "reason": "Building"},
        {"platform": "linux/s390x", "phase": "Waiting", "reason": "NoNodeForPlatform"},
        {"platform": "linux/arm64", "phase": "Failed", "reason": "BuildFailed"},
        {"platform": "linux/ppc64le", "phase": "Ready", "reason": "Verified"},
    ]);
    let image = told("False", true, platforms, "BuildFailed", "linux/arm64: BuildFailed: ");
    let told: Vec<_> = explained(&image, &Evidence::default())
        .causes
        .into_iter()
        .filter_map(|cause| cause.platform)
        .collect();
    assert_eq!(told, ["linux/arm64", "linux/s390x", "linux/amd64", "linux/386"]);
}

#[test]
fn a_publication_that_failed_is_told_of_the_image_as_a_whole() {
    let ready = json!([{"platform": "linux/amd64", "phase": "Ready"}]);
    let message = "registry.example.com/team-a/web:1.4.2: access denied (403 Forbidden, PUT the manifest)";
    let explanation = explained(&told("False", true, ready, "PushDenied", message), &Evidence::default());
    let [cause] = explanation.causes.as_slice() else { panic!("{explanation:?}") };
    assert_eq!((cause.platform.as_ref(), cause.reason.as_str()), (None, "PushDenied"));
    assert_eq!(cause.objects, ["registry.example.com/team-a/web:1.4.2"]);
}

#[test]
fn a_tag_that_somebody_has_moved_is_told_though_the_image_is_ready() {
    let ready = json!([{"platform": "linux/amd64", "phase": "Ready"}]);
    let mut image = told("True", false, ready, "Published", "sha256:abc");
    let conditions = &mut image.status.as_mut().unwrap().conditions;
    let mut drifted = conditions[0].clone();
    drifted.type_ = "Drifted".to_owned();
    drifted.reason = "TagMoved".to_owned();
    drifted.message = "registry.example.com/team-a/web:1.4.2 points at sha256:def".to_owned();
    conditions.push(drifted);
    let explanation = explained(&image, &Evidence::default());
    let [cause] = explanation.causes.as_slice() else { panic!("{explanation:?}") };
    assert_eq!((explanation.state, cause.reason.as_str()), (State::Ready, "TagMoved"));
    assert_eq!(cause.next[0], "multiarch index inspect registry.example.com/team-a/web:1.4.2");
}

#[test]
fn a_suspended_image_tells_how_it_goes_on() {
    let pending = json!([arm64("Pending", "Suspended", "spec.suspend is true")]);
    let mut image = told("Unknown", false, pending, "Suspended", "spec.suspend is true");
    image.spec.suspend = true;
    let explanation = explained(&image, &Evidence::default());
    assert_eq!(explanation.causes.len(), 1);
    assert_eq!(explanation.causes[0].next.last().unwrap(), "multiarch resume web --context east -n team-a");
}

#[test]
fn what_the_operator_has_not_seen_is_not_explained_by_what_was() {
    let mut image = stalled("BuildFailed", "no");
    image.metadata.generation = Some(3);
    let text = plain(&image);
    assert!(text.starts_with("web: Unseen: the operator has not looked at generation 3 yet"), "{text}");
    assert!(!text.contains("BuildFailed"), "{text}");
}

#[test]
fn a_reason_of_a_newer_operator_is_told_in_its_own_words() {
    let ready = json!([{"platform": "linux/amd64", "phase": "Ready"}]);
    let image = told("False", true, ready, "QuotaOfTomorrow", "the quota of tomorrow is used up");
    let explanation = explained(&image, &Evidence::default());
    let [cause] = explanation.causes.as_slice() else { panic!("{explanation:?}") };
    assert_eq!(cause.reason, "QuotaOfTomorrow");
    assert!(cause.remedy.starts_with("Update this command"), "{}", cause.remedy);
    assert!(!plain(&image).contains("Pending"), "{}", plain(&image));
    // Of a platform the word is lost, and it is not waiting for its turn.
    let failed = &explained(&stalled("QuotaOfTomorrow", "no"), &Evidence::default()).causes[0];
    assert!(failed.remedy.starts_with("Update this command"), "{}", failed.remedy);
}
