//! `MultiArchImage`s in files, understood as the API server would.

use std::sync::LazyLock;

use kube::CustomResourceExt as _;
use kube_cel::{CompiledSchema, ErrorKind, ValidationError, Validator};
use serde_json::Value;

use super::document;
use super::exit::Failure;
use super::schema::{self, Problem, Problems};
use crate::api::{MultiArchImage, MultiArchImageStatus};
use crate::platform::Platform;

pub(super) const API_VERSION: &str = "multiarch.dev/v1alpha1";
pub(super) const KIND: &str = "MultiArchImage";

/// All `MultiArchImage`s of a file called `file`.
///
/// # Errors
/// When it is no YAML, has nothing in it, or the API server would refuse a document: all of that at once.
pub(super) fn read_all(file: &str, text: &str) -> Result<Vec<MultiArchImage>, Failure> {
    let documents = document::read(text)
        .map_err(|error| Failure::usage(format!("{file}: not YAML: {}", error.without_snippet())))?;
    if documents.is_empty() {
        return Err(Failure::usage(format!("{file}: there is nothing in it")));
    }
    let (mut images, mut problems) = (Vec::new(), Vec::new());
    for (number, document) in documents.iter().enumerate() {
        let place = if documents.len() > 1 { format!("document {}: ", number + 1) } else { String::new() };
        match check(&document.value) {
            Ok(image) => images.push(image),
            Err(found) => problems.extend(found.into_iter().map(|problem| format!("{place}{problem}"))),
        }
    }
    match problems.as_slice() {
        [] => Ok(images),
        [problem] => Err(Failure::usage(format!("{file}: {problem}"))),
        _ => Err(Failure::usage(format!("{file}:\n  {}", problems.join("\n  ")))),
    }
}

/// A document that the API server would accept and whose platforms the operator knows; all that is wrong with it
/// otherwise.
pub(super) fn check(value: &Value) -> Result<MultiArchImage, Problems> {
    fits_schema(value)?;
    let value = &without_nulls(value);
    let mut problems: Problems = bad_name(value).into_iter().collect();
    problems.extend(unknown_platforms(value));
    for refusal in refused_by_rules(value) {
        // What is wrong with a platform's name is told once.
        if !problems.iter().any(|problem| problem.path == refusal.path) {
            problems.push(refusal);
        }
    }
    if problems.is_empty() { typed(value) } else { Err(problems) }
}

/// A document that fits the schema, CEL rules aside; all that is wrong with it otherwise.
pub(super) fn read(value: &Value) -> Result<MultiArchImage, Problems> {
    fits_schema(value)?;
    typed(&without_nulls(value))
}

/// What is written without a value is not written, and gets its default.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let written = fields.iter().filter(|(_, value)| !value.is_null());
            written.map(|(name, value)| (name.clone(), without_nulls(value))).collect()
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        value => value.clone(),
    }
}

fn fits_schema(value: &Value) -> Result<(), Problems> {
    let mut problems = Problems::new();
    for (name, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        match value.get(name).and_then(Value::as_str) {
            Some(found) if found == expected => {}
            Some(found) => problems.push(Problem::at(name, format!("{found:?}, not {expected}"))),
            None => problems.push(Problem::at(name, format!("missing; write {name}: {expected}"))),
        }
    }
    // What is something else needs no look at its fields.
    if problems.is_empty() {
        schema::check(&SCHEMA, value, "", &mut problems);
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn typed(value: &Value) -> Result<MultiArchImage, Problems> {
    let field = |name: &str| value.get(name).cloned().unwrap_or_default();
    let spec = serde_json::from_value(field("spec")).map_err(|error| vec![Problem::at("spec", error)])?;
    let mut image = MultiArchImage::new("", spec);
    image.metadata =
        serde_json::from_value(field("metadata")).map_err(|error| vec![Problem::at("metadata", error)])?;
    // Of a status that another version wrote nothing is needed.
    image.status = serde_json::from_value::<Option<MultiArchImageStatus>>(field("status")).ok().flatten();
    Ok(image)
}

fn bad_name(value: &Value) -> Option<Problem> {
    let reason = match value.pointer("/metadata/name").and_then(Value::as_str) {
        None => "missing".to_owned(),
        Some(name) if is_dns_subdomain(name) => return None,
        Some(name) => format!(
            "{name:?}: a name has small letters, digits, '-' and '.', and begins and ends with a letter or digit"
        ),
    };
    Some(Problem::at("metadata.name", reason))
}

/// Names of objects (RFC 1123); how long they may be is a rule of the schema.
pub(super) fn is_dns_subdomain(name: &str) -> bool {
    name.split('.').all(is_dns_word)
}

/// Names of namespaces (RFC 1123).
pub(super) fn is_dns_label(name: &str) -> bool {
    name.len() <= 63 && is_dns_word(name)
}

fn is_dns_word(word: &str) -> bool {
    !word.starts_with('-')
        && !word.ends_with('-')
        && !word.is_empty()
        && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn unknown_platforms(value: &Value) -> Problems {
    let platforms = value.pointer("/spec/platforms").and_then(Value::as_array);
    let platforms = platforms.into_iter().flatten().enumerate();
    platforms
        .filter_map(|(number, entry)| {
            let error = entry.get("platform")?.as_str()?.parse::<Platform>().err()?;
            Some(Problem::at(format!("spec.platforms[{number}].platform"), error))
        })
        .collect()
}

/// The CEL rules of the schema.
static RULES: LazyLock<CompiledSchema> = LazyLock::new(|| kube_cel::compile_schema(&SCHEMA));

/// What the CEL rules of the schema refuse, in their words. A rule that cannot be evaluated here refuses nothing: the
/// API server will.
fn refused_by_rules(value: &Value) -> Problems {
    let errors = evaluate(value).into_iter().filter(|error| error.kind == ErrorKind::ValidationFailure);
    errors.map(|error| Problem::at(error.field_path, error.message)).collect()
}

fn evaluate(value: &Value) -> Vec<ValidationError> {
    Validator::new().validate_compiled(&RULES, value, None).err().into_iter().flatten().collect()
}

static SCHEMA: LazyLock<Value> = LazyLock::new(schema);

/// The schema of the custom resource, and what the API server adds to it.
fn schema() -> Value {
    let crd = serde_json::to_value(MultiArchImage::crd()).unwrap_or_default();
    let mut schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema").cloned().unwrap_or_default();
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        // Whatever the cluster has written there is its own.
        properties.insert("status".to_owned(), Value::default());
        for (name, kind) in [("apiVersion", "string"), ("kind", "string"), ("metadata", "object")] {
            let anything = serde_json::json!({"type": kind, "x-kubernetes-preserve-unknown-fields": true});
            properties.insert(name.to_owned(), anything);
        }
    }
    schema
}

#[cfg(test)]
mod tests {
    use kube_cel::cel::{Context, Program};
    use serde_json::json;

    use super::*;

    fn document() -> Value {
        json!({
            "apiVersion": "multiarch.dev/v1alpha1", "kind": "MultiArchImage", "metadata": {"name": "web"},
            "spec": {
                "target": {"repository": "registry.test/web", "tags": ["1.0"]},
                "platforms": [{"platform": "linux/amd64"}],
                "build": {"context": {"inline": {"dockerfile": "FROM scratch"}}},
            },
        })
    }

    fn problems(pointer: &str, value: Value) -> Vec<String> {
        let mut document = document();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        document.pointer_mut(parent).unwrap()[key] = value;
        check(&document).unwrap_err().iter().map(Problem::to_string).collect()
    }

    fn rules_of(schema: &Value) -> Vec<String> {
        let own = schema.get("x-kubernetes-validations").and_then(Value::as_array);
        let own = own.into_iter().flatten().filter_map(|rule| Some(rule.get("rule")?.as_str()?.to_owned()));
        let within: Vec<&Value> = match schema {
            Value::Object(fields) => fields.values().collect(),
            Value::Array(items) => items.iter().collect(),
            _ => Vec::new(),
        };
        own.chain(within.into_iter().flat_map(rules_of)).collect()
    }

    #[test]
    fn every_rule_of_the_schema_is_understood_here() {
        let rules = rules_of(&SCHEMA);
        assert!(rules.len() > 20, "{}", rules.len());
        for rule in rules {
            Program::compile(&rule).unwrap_or_else(|error| panic!("{rule}: {error}"));
        }
        check(&document()).unwrap();
    }

    /// The regular expressions of a rule, as CEL writes them.
    fn patterns_of(rule: &str) -> impl Iterator<Item = &str> {
        rule.split(".matches('").skip(1).filter_map(|rest| rest.split('\'').next())
    }

    #[test]
    fn every_regular_expression_of_a_rule_is_understood_here() {
        let rules = rules_of(&SCHEMA);
        let patterns: Vec<&str> = rules.iter().flat_map(|rule| patterns_of(rule)).collect();
        assert!(patterns.len() > 20, "{}", patterns.len());
        for pattern in patterns {
            let program = Program::compile(&format!("''.matches('{pattern}')")).unwrap();
            program.execute(&Context::default()).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        }
    }

    #[test]
    fn every_rule_comes_to_a_result_whatever_it_is_asked() {
        let texts = [
            "",
            "web",
            "r.test/web",
            "r.test/Web:1",
            "[::1]:5000/web",
            "[::1",
            "/",
            "tcp://[::1]:1",
            "10m",
            "-1",
        ];
        for text in texts.map(Value::from) {
            let mut written = document();
            for pointer in [
                "/spec/target/repository",
                "/spec/target/tags/0",
                "/spec/platforms/0/platform",
                "/spec/platforms/0/image",
                "/spec/build/timeout",
                "/spec/build/target",
                "/spec/build/context/git/url",
                "/spec/build/context/git/ref",
                "/spec/build/args/SOURCE_DATE_EPOCH",
                "/spec/build/cache/repository",
                "/spec/build/cache/from/0",
                "/spec/build/remote/endpoint",
                "/spec/target/mirrors/0/repository",
                "/spec/target/platformTag",
                "/spec/interval",
                "/spec/build/pod/resources/limits/memory",
                "/spec/verify/run/pod/nodeSelector/pool",
                "/spec/verify/run/command/0",
            ] {
                place(&mut written, pointer, text.clone());
            }
            written["spec"]["build"]["cache"]["type"] = json!("Registry");
            for error in evaluate(&written) {
                assert_eq!(error.kind, ErrorKind::ValidationFailure, "{text}: {error:?}");
            }
        }
        assert_eq!(evaluate(&document()).len(), 0);
    }

    /// Writes a value, and whatever is missing on the way to it.
    fn place(document: &mut Value, pointer: &str, value: Value) {
        let parts = pointer.split('/').skip(1);
        let at = parts.fold(document, |at, part| match part.parse::<usize>() {
            Err(_) => &mut at[part],
            Ok(number) => {
                if !at.is_array() {
                    *at = json!([]);
                }
                let items = at.as_array_mut().unwrap();
                items.resize(items.len().max(number + 1), Value::Null);
                &mut items[number]
            }
        });
        *at = value;
    }

    #[test]
    fn amounts_are_refused_whether_they_are_texts_or_numbers() {
        let of =
            |amount: Value| problems("/spec/build/pod", json!({"resources": {"limits": {"memory": amount}}}));
        for amount in [json!("much"), json!(-1), json!("-1")] {
            assert!(of(amount.clone())[0].contains("write amounts of cpu, memory"), "{amount}");
        }
        let mut document = document();
        document["spec"]["build"]["pod"] = json!({"resources": {"limits": {"cpu": 2, "memory": "1Gi"}}});
        check(&document).unwrap();
    }

    #[test]
    fn names_of_images_and_repositories_are_refused_as_the_api_server_does() {
        for name in ["registry.test/Web", "web", "registry.test/web 1.0", "[::1/web"] {
            assert!(
                problems("/spec/target/repository", json!(name))[0].contains("write registry/repository"),
                "{name}"
            );
        }
        assert!(
            problems("/spec/platforms/0/image", json!("registry.test/Web"))[0].contains("image reference")
        );
        for name in ["[::1]:5000/web", "localhost:5000/web", "registry.test/a/b"] {
            let mut document = document();
            document["spec"]["target"]["repository"] = json!(name);
            check(&document).unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
        }
    }

    #[test]
    fn what_a_rule_refuses_is_told_with_its_place_and_before_what_makes_no_sense_to_read() {
        assert_eq!(
            problems("/spec/build/timeout", json!("soon")),
            [
                "spec.build.timeout: timeout is a duration of at least one second, for example 90s, 45m or 1h30m"
            ]
        );
        let platform = problems("/spec/platforms/0/platform", json!("linux/amd46"));
        assert_eq!(platform.len(), 1, "{platform:?}");
        assert!(platform[0].ends_with("did you mean amd64?"), "{platform:?}");
    }

    #[test]
    fn what_is_written_without_a_value_is_not_written() {
        let mut document = document();
        document["spec"]["build"]["dockerfile"] = Value::Null;
        assert_eq!(check(&document).unwrap().spec.build.unwrap().dockerfile, "Dockerfile");
        assert_eq!(problems("/spec/build", Value::Null).len(), 1, "there is nothing to build from");
    }

    #[test]
    fn names_are_those_of_objects() {
        assert!(
            problems("/metadata/name", json!("Web"))[0].starts_with("metadata.name: \"Web\": a name has")
        );
        assert!(problems("/metadata/name", json!("a".repeat(64)))[0].contains("at most 63"));
        assert_eq!(problems("/metadata", json!({"labels": {}})), ["metadata.name: missing"]);
    }
}
