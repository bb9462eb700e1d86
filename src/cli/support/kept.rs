//! What is kept of an object: of those that people write what they wrote but for what may be secret, of others what tells
//! how they stand.

use serde_json::{Map, Value, json};

use crate::api::Reason;
use crate::build::ExitCause;

/// Whose annotations are kept.
const GROUP: &str = "multiarch.dev";
/// What stands where something was left out.
const LEFT_OUT: &str = "(left out)";
/// What the operator's log says its events as, in front of their messages.
const TELLS: &str = "multiarch::controller::status: ";

/// A `MultiArchImage`: all of it, but for values of build arguments, inline Dockerfiles, the command of `verify.run` and the
/// copy that kubectl keeps; and, unless `printed`, for what its programs have printed.
pub fn image(mut object: Value, printed: bool) -> Value {
    metadata(&mut object);
    if let Some(command) = object.pointer_mut("/spec/verify/run/command") {
        *command = json!(LEFT_OUT);
    }
    if !printed {
        let platforms = object.pointer_mut("/status/platforms").and_then(Value::as_array_mut);
        for platform in platforms.into_iter().flatten().filter_map(Value::as_object_mut) {
            platform.remove("logTail");
        }
        if runs_containers(&object["spec"])
            && let Some(status) = object.get_mut("status")
        {
            hide_printed_messages(status);
        }
    }
    let spec = &mut object["spec"];
    hide_build(&mut spec["build"]);
    for platform in spec["platforms"].as_array_mut().into_iter().flatten() {
        hide_build(&mut platform["build"]);
        if platform["build"].is_null() {
            platform.as_object_mut().map(|platform| platform.remove("build"));
        }
    }
    if spec["build"].is_null() {
        spec.as_object_mut().map(|spec| spec.remove("build"));
    }
    urls(&mut object);
    object
}

/// Whether any of an image's messages may come from a container.
fn runs_containers(spec: &Value) -> bool {
    !spec["build"].is_null() || spec.pointer("/verify/run").is_some()
}

/// Whether messages of a reason may repeat what a container has printed: with an error, BuildKit prints the line of the
/// Dockerfile that it is about, and `verify.run` its command and its last line.
fn is_printed(reason: Reason) -> bool {
    reason == Reason::VerifyRunFailed || ExitCause::ALL.iter().any(|cause| cause.reason() == reason)
}

fn is_printed_reason(reason: &Value) -> bool {
    Reason::ALL.iter().any(|known| reason == known.as_str() && is_printed(*known))
}

/// Wherever a reason stands with its message: of a condition, of a platform and of its run.
fn hide_printed_messages(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(hide_printed_messages),
        Value::Object(fields) => {
            let is_printed = fields.get("reason").is_some_and(is_printed_reason);
            if let Some(message) = fields.get_mut("message").filter(|_| is_printed) {
                *message = json!(LEFT_OUT);
            }
            fields.values_mut().for_each(hide_printed_messages);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn hide_build(build: &mut Value) {
    for value in build.get_mut("args").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        *value = json!(LEFT_OUT);
    }
    if let Some(dockerfile) = build.pointer_mut("/context/inline/dockerfile") {
        let lines = dockerfile.as_str().unwrap_or_default().lines().count();
        *dockerfile = json!(format!("({lines} lines left out)"));
    }
}

/// A Job, pod or Deployment: where it may run, in which images, and how it stands; no command, variable or volume, and,
/// unless `printed`, nothing that its containers have printed.
pub fn workload(mut object: Value, printed: bool) -> Value {
    const SPEC: [&str; 12] = [
        "nodeName",
        "nodeSelector",
        "tolerations",
        "affinity",
        "priorityClassName",
        "runtimeClassName",
        "schedulerName",
        "suspend",
        "backoffLimit",
        "activeDeadlineSeconds",
        "replicas",
        "securityContext",
    ];
    const CONTAINER: [&str; 4] = ["name", "image", "resources", "securityContext"];
    metadata(&mut object);
    if !printed {
        hide_last_words(&mut object);
    }
    let mut spec = only(&object["spec"], &SPEC);
    let pod = match object.pointer("/spec/template/spec") {
        Some(pod) => {
            spec["template"] = only(pod, &SPEC);
            pod
        }
        None => &object["spec"],
    };
    let containers = pod["containers"].as_array().into_iter().flatten();
    spec["containers"] = containers.map(|container| only(container, &CONTAINER)).collect();
    object["spec"] = spec;
    urls(&mut object);
    object
}

/// With `FallbackToLogsOnError`, the message of a container that has ended is the end of its log.
fn hide_last_words(pod: &mut Value) {
    for field in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        let statuses = pod.pointer_mut(&format!("/status/{field}")).and_then(Value::as_array_mut);
        for status in statuses.into_iter().flatten() {
            for state in ["/state/terminated", "/lastState/terminated"] {
                if let Some(end) = status.pointer_mut(state).and_then(Value::as_object_mut) {
                    end.remove("message");
                }
            }
        }
    }
}

/// Arguments of the operator. They are settings; what is secret never stands in them, but in a URL.
pub fn arguments(mut arguments: Value) -> Value {
    urls(&mut arguments);
    arguments
}

/// A node: what it is, what it takes and how it is; neither addresses nor images.
pub fn node(object: &Value) -> Value {
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    let labels: Map<String, Value> = labels
        .filter(|(name, _)| name.split('/').next().is_some_and(|prefix| prefix.ends_with("kubernetes.io")))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    json!({
        "metadata": {"name": object["metadata"]["name"], "labels": labels},
        "spec": only(&object["spec"], &["taints", "unschedulable"]),
        "status": only(&object["status"], &["conditions", "capacity", "allocatable", "nodeInfo"]),
    })
}

/// An event: what happened to what; unless `printed`, not what a run has printed.
pub fn event(object: &Value, printed: bool) -> Value {
    const KEPT: [&str; 9] = [
        "type",
        "reason",
        "note",
        "action",
        "regarding",
        "eventTime",
        "series",
        "deprecatedCount",
        "reportingController",
    ];
    let mut event = only(object, &KEPT);
    event["created"] = object["metadata"]["creationTimestamp"].clone();
    if !printed && is_printed_reason(&event["reason"]) {
        event["note"] = json!(LEFT_OUT);
    }
    urls(&mut event);
    event
}

/// Lines of a log; unless `printed`, without the messages of the operator that repeat what a container has printed.
pub fn text(text: &str, printed: bool) -> String {
    let kept = |line: &str| match line.split_once(' ') {
        Some((time, said)) if !printed => {
            format!("{time} {}\n", without_secrets_of_urls(&without_printed(said)))
        }
        _ => without_secrets_of_urls(line) + "\n",
    };
    text.lines().map(kept).collect()
}

/// A line of the operator's log, as text or as JSON, without its message if that may repeat what was printed.
fn without_printed(said: &str) -> String {
    let mut printed = Reason::ALL.iter().filter(|reason| is_printed(**reason));
    let Some(reason) = printed.find(|reason| said.contains(reason.as_str())) else { return said.to_owned() };
    if let Ok(Value::Object(mut fields)) = serde_json::from_str(said) {
        fields.insert("message".to_owned(), json!(LEFT_OUT));
        return Value::Object(fields).to_string();
    }
    let known = said.find(TELLS).map_or("", |at| &said[..at + TELLS.len()]);
    format!("{known}{reason} {LEFT_OUT}")
}

fn only(object: &Value, fields: &[&str]) -> Value {
    let kept = fields.iter().filter_map(|field| Some(((*field).to_owned(), object.get(*field)?.clone())));
    Value::Object(kept.collect())
}

fn metadata(object: &mut Value) {
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    metadata.remove("managedFields");
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.retain(|name, _| name.split('/').next().is_some_and(|prefix| prefix == GROUP));
    }
}

/// Takes from every URL of a document what may be secret.
fn urls(value: &mut Value) {
    match value {
        Value::String(text) => *text = without_secrets_of_urls(text),
        Value::Array(values) => values.iter_mut().for_each(urls),
        Value::Object(fields) => fields.values_mut().for_each(urls),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The user of a URL, and what follows its `?`, are where passwords and signatures stand. Nearly every character may be in
/// them, so both reach as far as they can: the user to the last `@` before a `/`, the query to the end of the word.
fn without_secrets_of_urls(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        kept.push_str(before);
        let word = after.find(|c: char| c.is_whitespace() || c == '"').unwrap_or(after.len());
        let word = &after[..word];
        let authority = word.find('/').unwrap_or(word.len());
        let host = word[..authority].rfind('@').map_or(0, |at| at + 1);
        if host > 0 {
            kept.push_str("(left out)@");
        }
        // Another URL may follow in the same word.
        let end = word[host..].find("://").map_or(word.len(), |next| host + next);
        let (url, query) =
            word[host..end].split_once('?').map_or((&word[host..end], false), |(url, _)| (url, true));
        kept.push_str(url);
        rest = &after[end..];
        if query {
            kept.push_str("?(left out)");
            // What closes a parenthesis around the URL is hardly part of it.
            rest = &after[word.trim_end_matches(')').len()..];
        }
    }
    kept.push_str(rest);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_in_an_image_is_left_out_and_the_rest_is_kept() {
        let object = json!({
            "metadata": {
                "name": "web",
                "managedFields": [{"manager": "kubectl"}],
                "annotations": {
                    "kubectl.kubernetes.io/last-applied-configuration": "hunter2",
                    "multiarch.dev/rebuild-requested-at": "now",
                },
            },
            "spec": {
                "platforms": [
                    {"platform": "linux/amd64", "build": {"args": {"TOKEN": "hunter2"}}},
                    {"platform": "linux/arm64"},
                ],
                "build": {
                    "args": {"TOKEN": "hunter2", "VERSION": "1"},
                    "context": {"inline": {"dockerfile": "FROM scratch\nENV PASSWORD=hunter2"}},
                },
            },
            "status": {"message": "GET https://me:hunter2@host.test/x?sig=hunter2: 403, see (https://host.test/y)"},
        });
        let kept = image(object, true);
        assert!(!kept.to_string().contains("hunter2"), "{kept}");
        assert_eq!(kept["spec"]["build"]["args"]["VERSION"], LEFT_OUT);
        assert_eq!(kept["spec"]["build"]["context"]["inline"]["dockerfile"], "(2 lines left out)");
        assert_eq!(kept["spec"]["platforms"][1], json!({"platform": "linux/arm64"}));
        assert_eq!(kept["metadata"]["annotations"], json!({"multiarch.dev/rebuild-requested-at": "now"}));
        let said = "GET https://(left out)@host.test/x?(left out) 403, see (https://host.test/y)";
        assert_eq!(kept["status"]["message"], said);
    }

    #[test]
    fn of_a_workload_neither_commands_nor_variables_are_kept() {
        let container = json!({
            "name": "build", "image": "buildkit", "command": ["sh", "-c", "hunter2"],
            "env": [{"name": "TOKEN", "value": "hunter2"}], "resources": {"limits": {"memory": "1Gi"}},
        });
        let job = json!({
            "metadata": {"name": "web-linux-amd64-1"},
            "spec": {"backoffLimit": 2, "template": {"spec": {"nodeSelector": {"a": "b"}, "containers": [container]}}},
            "status": {"failed": 1},
        });
        let kept = workload(job, true);
        assert!(!kept.to_string().contains("hunter2"), "{kept}");
        assert_eq!(kept["spec"]["backoffLimit"], 2);
        assert_eq!(kept["spec"]["template"]["nodeSelector"]["a"], "b");
        assert_eq!(kept["spec"]["containers"][0]["resources"]["limits"]["memory"], "1Gi");
        assert_eq!(kept["status"]["failed"], 1);
    }

    #[test]
    fn what_programs_have_printed_is_kept_only_where_it_is_asked_for() {
        let said = "sh -c x ended with exit code 1: hunter2";
        let object = json!({
            "metadata": {"name": "web"},
            "spec": {"platforms": [], "verify": {"run": {"command": ["sh", "-c", "hunter3"], "timeout": "1m"}}},
            "status": {
                "platforms": [{
                    "platform": "linux/amd64", "reason": "VerifyRunFailed", "message": said, "logTail": "hunter2",
                    "verification": {"run": {"passed": false, "reason": "VerifyRunFailed", "message": said}},
                }, {"platform": "linux/arm64", "reason": "BuildEvicted", "message": "evicted", "logTail": "hunter2"}],
                "conditions": [{"type": "Ready", "reason": "VerifyRunFailed", "message": said}],
            },
        });
        let kept = image(object.clone(), false);
        assert!(!kept.to_string().contains("hunter"), "{kept}");
        assert_eq!(kept["spec"]["verify"]["run"], json!({"command": LEFT_OUT, "timeout": "1m"}));
        assert_eq!(kept["status"]["conditions"][0]["message"], LEFT_OUT);
        assert_eq!(kept["status"]["platforms"][1]["message"], "evicted");
        let kept = image(object, true);
        assert_eq!(kept["spec"]["verify"]["run"]["command"], LEFT_OUT);
        assert_eq!(kept["status"]["platforms"][0]["logTail"], "hunter2");

        let ended = json!({"terminated": {"exitCode": 1, "message": "hunter2"}});
        let statuses = json!([{"name": "build", "state": ended, "lastState": ended}]);
        let pod = json!({
            "metadata": {"name": "web-1"}, "spec": {"containers": []},
            "status": {"containerStatuses": statuses, "initContainerStatuses": statuses, "message": "evicted"},
        });
        let kept = workload(pod.clone(), false);
        assert!(!kept.to_string().contains("hunter2"), "{kept}");
        assert_eq!(
            kept["status"]["initContainerStatuses"][0]["lastState"]["terminated"],
            json!({"exitCode": 1})
        );
        assert_eq!(kept["status"]["message"], "evicted");
        let kept = workload(pod, true);
        assert_eq!(kept["status"]["containerStatuses"][0]["state"]["terminated"]["message"], "hunter2");

        let told = json!({"metadata": {}, "reason": "VerifyRunFailed", "note": said});
        assert_eq!(event(&told, false)["note"], LEFT_OUT);
        assert_eq!(event(&told, true)["note"], said);
    }

    #[test]
    fn the_line_of_a_dockerfile_that_failed_is_kept_only_where_what_was_printed_is_asked_for() {
        let said =
            "Dockerfile:5: RUN curl -u admin:hunter2 host.test: did not complete successfully: exit code: 6";
        // Of any cause that a build's container finds: the step may mount an image that is not there.
        for cause in ExitCause::ALL.map(ExitCause::reason) {
            let object = json!({
                "metadata": {"name": "web"},
                "spec": {"platforms": [], "build": {"context": {"inline": {"dockerfile": "FROM scratch"}}}},
                "status": {
                    "platforms": [{"platform": "linux/amd64", "reason": cause, "message": said}],
                    "conditions": [
                        {"type": "Ready", "reason": cause, "message": format!("linux/amd64: {cause}: {said}")},
                    ],
                },
            });
            let kept = image(object.clone(), false);
            assert!(!kept.to_string().contains("hunter"), "{kept}");
            assert_eq!(kept["status"]["conditions"][0]["reason"], cause.as_str());
            assert!(image(object, true).to_string().contains("hunter2"));
            let told = json!({"metadata": {}, "reason": cause, "note": format!("linux/amd64: {said}")});
            assert_eq!(event(&told, false)["note"], LEFT_OUT);
        }
        let kept = image(
            json!({
                "metadata": {"name": "web"},
                "spec": {"platforms": [{"platform": "linux/amd64", "image": "r.test/web"}]},
                "status": {"platforms": [{"reason": "RegistryUnavailable", "message": "no such host"}]},
            }),
            false,
        );
        assert_eq!(kept["status"]["platforms"][0]["message"], "no such host", "nothing of it is built");
    }

    #[test]
    fn the_operators_log_tells_which_image_and_why_without_what_was_printed() {
        let log = "2026-01-02 2026-01-02 WARN round{image=team-a/web}: multiarch::controller::status: linux/amd64: \
                   hunter2 reason=\"BuildFailed\"\n2026-01-03 INFO: published\n";
        let kept = "2026-01-02 2026-01-02 WARN round{image=team-a/web}: multiarch::controller::status: BuildFailed \
                    (left out)\n2026-01-03 INFO: published\n";
        assert_eq!(text(log, false), kept);
        assert_eq!(text(log, true), log);
        let log = r#"2026-01-02 {"level":"WARN","message":"hunter2","image":"team-a/web","reason":"VerifyRunFailed"}"#;
        let kept = text(log, false);
        let (_, object) = kept.split_once(' ').unwrap();
        let object: Value = serde_json::from_str(object).unwrap();
        assert_eq!(
            object,
            json!({"level": "WARN", "message": LEFT_OUT, "image": "team-a/web", "reason": "VerifyRunFailed"})
        );
        assert_eq!(
            text("2026-01-02 x VerifyRunFailed hunter2\n", false),
            "2026-01-02 VerifyRunFailed (left out)\n"
        );
    }

    #[test]
    fn no_password_ends_what_is_left_out_of_a_url_too_early() {
        for (url, kept) in [
            ("https://me:pa,ss@host/x?sig=a,b", "https://(left out)@host/x?(left out)"),
            ("(see https://me:it's)1@host/x?sig=a'b)c)", "(see https://(left out)@host/x?(left out))"),
            ("https://me:a@b@host and me@host", "https://(left out)@host and me@host"),
            ("https://me:a>b`c@host", "https://(left out)@host"),
            ("https://host/@scope/x", "https://host/@scope/x"),
            ("https://a.test/x,https://me:pw@b.test/y", "https://a.test/x,https://(left out)@b.test/y"),
            ("https://a.test/x?to=https://me:pw@b.test/y z", "https://a.test/x?(left out) z"),
            (
                r#"{"url":"https://me:pw@a.test/x?y=z","b":1}"#,
                r#"{"url":"https://(left out)@a.test/x?(left out)","b":1}"#,
            ),
            ("a://", "a://"),
        ] {
            assert_eq!(without_secrets_of_urls(url), kept);
        }
    }

    #[test]
    fn a_password_in_the_operators_arguments_is_left_out() {
        let given = json!([
            "operator",
            "--listen=0.0.0.0:8080",
            "--otlp-endpoint=https://me:hunter2@otlp.test:4318",
            "--x",
            "http://me:hunter2@a.test/?token=hunter2"
        ]);
        let kept = json!([
            "operator",
            "--listen=0.0.0.0:8080",
            "--otlp-endpoint=https://(left out)@otlp.test:4318",
            "--x",
            "http://(left out)@a.test/?(left out)"
        ]);
        assert_eq!(arguments(given), kept);
    }

    #[test]
    fn of_a_node_what_it_is_is_kept_and_not_where() {
        let object = json!({
            "metadata": {"name": "n1", "labels": {"kubernetes.io/arch": "arm64", "team": "secret"}},
            "spec": {"taints": [{"key": "arm"}], "podCIDR": "10.0.0.0/24"},
            "status": {"addresses": ["10.0.0.1"], "capacity": {"cpu": "2"}},
        });
        assert_eq!(
            node(&object),
            json!({
                "metadata": {"name": "n1", "labels": {"kubernetes.io/arch": "arm64"}},
                "spec": {"taints": [{"key": "arm"}]},
                "status": {"capacity": {"cpu": "2"}},
            })
        );
    }
}
