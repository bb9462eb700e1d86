//! What is kept of an object: of those that people write what they wrote but for what may be secret, of others what tells
//! how they stand.

use serde_json::{Map, Value, json};

/// Whose annotations are kept.
const GROUP: &str = "multiarch.dev";
/// What stands where something was left out.
const LEFT_OUT: &str = "(left out)";
/// The reason whose messages repeat the command of `verify.run` and the last line that it printed.
const RUN_FAILED: &str = "VerifyRunFailed";

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
        if let Some(status) = object.get_mut("status") {
            hide_messages_of_runs(status);
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

/// Wherever a reason stands with its message: of a condition, of a platform and of its run.
fn hide_messages_of_runs(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(hide_messages_of_runs),
        Value::Object(fields) => {
            let is_of_run = fields.get("reason").and_then(Value::as_str) == Some(RUN_FAILED);
            if let Some(message) = fields.get_mut("message").filter(|_| is_of_run) {
                *message = json!(LEFT_OUT);
            }
            fields.values_mut().for_each(hide_messages_of_runs);
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
    if !printed && event["reason"] == RUN_FAILED {
        event["note"] = json!(LEFT_OUT);
    }
    urls(&mut event);
    event
}

/// Lines of a log; unless `printed`, without those of the operator that repeat what a run has printed.
pub fn text(text: &str, printed: bool) -> String {
    let kept = |line: &str| match line.split_once(' ') {
        Some((time, said)) if !printed && said.contains(RUN_FAILED) => {
            format!("{time} {RUN_FAILED} {LEFT_OUT}\n")
        }
        _ => without_secrets_of_urls(line) + "\n",
    };
    text.lines().map(kept).collect()
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
                }, {"platform": "linux/arm64", "reason": "BuildFailed", "message": "exit code 1", "logTail": "hunter2"}],
                "conditions": [{"type": "Ready", "reason": "VerifyRunFailed", "message": said}],
            },
        });
        let kept = image(object.clone(), false);
        assert!(!kept.to_string().contains("hunter"), "{kept}");
        assert_eq!(kept["spec"]["verify"]["run"], json!({"command": LEFT_OUT, "timeout": "1m"}));
        assert_eq!(kept["status"]["conditions"][0]["message"], LEFT_OUT);
        assert_eq!(kept["status"]["platforms"][1]["message"], "exit code 1");
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

        let log = "2026-01-02 WARN: x: hunter2 reason=\"VerifyRunFailed\"\n2026-01-03 INFO: published\n";
        assert_eq!(text(log, false), "2026-01-02 VerifyRunFailed (left out)\n2026-01-03 INFO: published\n");
        assert_eq!(text(log, true), log);
        let told = json!({"metadata": {}, "reason": "VerifyRunFailed", "note": said});
        assert_eq!(event(&told, false)["note"], LEFT_OUT);
        assert_eq!(event(&told, true)["note"], said);
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
