//! Checks a document against a structural schema, as an API server does, but names the nearest field too.
//!
//! Of OpenAPI v3 what structural schemas of Kubernetes have, CEL rules aside.

use std::fmt;

use serde_json::{Map, Value};

/// Longest edit distance at which a known field is still offered as the one that was meant.
const NEAR: usize = 3;

/// Everything that is wrong.
pub(super) type Problems = Vec<Problem>;

/// What is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// `spec.target.tags[1]`; empty for the document.
    pub path: String,
    /// What is wrong there, and what to write instead.
    pub reason: String,
}

impl Problem {
    /// What is wrong at a path.
    pub(super) fn at(path: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { path: path.into(), reason: reason.to_string() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => formatter.write_str(&self.reason),
            path => write!(formatter, "{path}: {}", self.reason),
        }
    }
}

/// Checks `value`, which stands at `path`.
pub(super) fn check(schema: &Value, value: &Value, path: &str, problems: &mut Problems) {
    let mut fail = |reason: String| problems.push(Problem::at(path, reason));
    if schema.get("x-kubernetes-int-or-string").is_some_and(|both| both == true) {
        if !value.is_string() && !value.is_i64() {
            fail(format!("{} where text or a whole number is expected", kind(value)));
        }
        return;
    }
    match (schema.get("type").and_then(Value::as_str), value) {
        (Some("object"), Value::Object(object)) => check_object(schema, object, path, problems),
        (Some("array"), Value::Array(items)) => check_array(schema, items, path, problems),
        (Some("string"), Value::String(text)) => {
            bounds(schema, ["minLength", "maxLength"], text.chars().count(), "characters")
                .into_iter()
                .for_each(fail);
            check_choice(schema, value)
                .into_iter()
                .for_each(|reason| problems.push(Problem::at(path, reason)));
        }
        (Some("string"), Value::Number(_) | Value::Bool(_)) => {
            fail(format!("{} where text is expected; write it in quotes, as in \"{value}\"", kind(value)));
        }
        (Some("integer"), Value::Number(number)) if number.is_i64() => {
            let at = |name: &str| schema.get(name).and_then(Value::as_f64);
            let number = number.as_f64().unwrap_or_default();
            if at("minimum").is_some_and(|least| number < least)
                || at("maximum").is_some_and(|most| number > most)
            {
                let [least, most] =
                    ["minimum", "maximum"].map(|name| at(name).map_or("…".into(), |n| n.to_string()));
                fail(format!("{value} is not between {least} and {most}"));
            }
        }
        (Some("number"), Value::Number(_)) | (Some("boolean"), Value::Bool(_)) | (None, _) => {}
        (Some(expected), _) => fail(format!("{} where {} is expected", kind(value), in_words(expected))),
    }
}

fn check_object(schema: &Value, object: &Map<String, Value>, path: &str, problems: &mut Problems) {
    let at = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let known = schema.get("properties").and_then(Value::as_object);
    let others = schema.get("additionalProperties").filter(|others| others.is_object());
    let anything = schema.get("x-kubernetes-preserve-unknown-fields").is_some_and(|keep| keep == true);
    for (name, value) in object {
        // What is written without a value is not written.
        match known.and_then(|known| known.get(name)).or(others) {
            Some(_) if value.is_null() => {}
            Some(schema) => check(schema, value, &at(name), problems),
            None if anything => {}
            None => problems.push(Problem::at(at(name), format!("unknown field{}", nearest(name, known)))),
        }
    }
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    for name in required.filter_map(Value::as_str) {
        if object.get(name).is_none_or(Value::is_null) {
            problems.push(Problem::at(at(name), "missing"));
        }
    }
    let most = schema.get("maxProperties").and_then(Value::as_u64);
    if most.is_some_and(|most| object.len() as u64 > most) {
        let reason = format!("{} entries, more than {}", object.len(), most.unwrap_or_default());
        problems.push(Problem::at(path, reason));
    }
}

fn check_array(schema: &Value, items: &[Value], path: &str, problems: &mut Problems) {
    let bad = bounds(schema, ["minItems", "maxItems"], items.len(), "entries");
    problems.extend(bad.map(|reason| Problem::at(path, reason)));
    check_distinct(schema, items, path, problems);
    let Some(item) = schema.get("items") else { return };
    for (number, value) in items.iter().enumerate() {
        check(item, value, &format!("{path}[{number}]"), problems);
    }
}

/// Sets have no value twice, and maps no key (`x-kubernetes-list-type`).
fn check_distinct(schema: &Value, items: &[Value], path: &str, problems: &mut Problems) {
    let keys: Vec<&str> = match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => Vec::new(),
        Some("map") => {
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
            keys.into_iter().flatten().filter_map(Value::as_str).collect()
        }
        _ => return,
    };
    let key = |item: &Value| match keys.as_slice() {
        [] => vec![item.clone()],
        keys => keys.iter().map(|key| item.get(key).cloned().unwrap_or_default()).collect(),
    };
    for (number, item) in items.iter().enumerate() {
        if items[..number].iter().any(|earlier| key(earlier) == key(item)) {
            let twice: Vec<String> = key(item).iter().map(Value::to_string).collect();
            problems.push(Problem::at(
                format!("{path}[{number}]"),
                format!("{} is there twice (duplicate entries); keep one", twice.join(", ")),
            ));
        }
    }
}

fn check_choice(schema: &Value, value: &Value) -> Option<String> {
    let choices = schema.get("enum")?.as_array()?;
    let names: Vec<&str> = choices.iter().filter_map(Value::as_str).collect();
    (!choices.contains(value)).then(|| format!("{value} is none of {}", names.join(", ")))
}

fn bounds(schema: &Value, names: [&str; 2], count: usize, of: &str) -> Option<String> {
    let [least, most] = names.map(|name| schema.get(name).and_then(Value::as_u64));
    if least.is_some_and(|least| (count as u64) < least) {
        return Some(match count {
            0 => "empty".to_owned(),
            _ => format!("{count} {of}, fewer than {}", least.unwrap_or_default()),
        });
    }
    most.filter(|most| count as u64 > *most).map(|most| format!("{count} {of}, more than {most}"))
}

fn nearest(name: &str, known: Option<&Map<String, Value>>) -> String {
    let Some(known) = known else { return String::new() };
    let distance = |candidate: &&String| strsim::damerau_levenshtein(name, candidate);
    match known.keys().min_by_key(distance) {
        Some(meant) if distance(&meant) <= NEAR.min(name.len() / 2 + 1) => format!("; did you mean {meant}?"),
        _ => format!("; known are {}", known.keys().map(String::as_str).collect::<Vec<_>>().join(", ")),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

fn in_words(expected: &str) -> &str {
    match expected {
        "string" => "text",
        "array" => "a list",
        "object" => "a mapping",
        "integer" => "a whole number",
        "boolean" => "true or false",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(schema: Value, value: Value) -> Vec<String> {
        let mut problems = Vec::new();
        check(&schema, &value, "spec", &mut problems);
        problems.iter().map(Problem::to_string).collect()
    }

    fn target() -> Value {
        json!({
            "type": "object",
            "properties": {
                "repository": {"type": "string", "maxLength": 5},
                "tags": {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
                "policy": {"type": "string", "enum": ["Keep", "Drop"]},
                "retries": {"type": "integer", "minimum": 0, "maximum": 10},
                "free": {"type": "object", "additionalProperties": {"type": "string"}},
                "amount": {"x-kubernetes-int-or-string": true},
            },
            "required": ["repository"],
        })
    }

    #[test]
    fn what_fits_is_accepted() {
        let fits = json!({
            "repository": "a/b", "tags": ["1"], "policy": "Keep", "retries": 3, "free": {"x": "y"}, "amount": 3,
        });
        assert!(problems(target(), fits).is_empty());
        assert!(problems(target(), json!({"repository": "a/b", "tags": null})).is_empty());
    }

    #[test]
    fn a_misspelt_field_is_told_with_the_one_that_was_meant() {
        let value = json!({"repository": "a/b", "tag": [], "colour": 1});
        assert_eq!(
            problems(target(), value),
            [
                "spec.colour: unknown field; known are amount, free, policy, repository, retries, tags",
                "spec.tag: unknown field; did you mean tags?",
            ]
        );
    }

    #[test]
    fn every_mistake_is_told_with_its_place() {
        let value = json!({
            "tags": ["", 1.4], "policy": "Kept", "retries": 11, "free": {"x": true}, "amount": 1.5,
        });
        assert_eq!(
            problems(target(), value),
            [
                "spec.amount: a number where text or a whole number is expected",
                "spec.free.x: true or false where text is expected; write it in quotes, as in \"true\"",
                r#"spec.policy: "Kept" is none of Keep, Drop"#,
                "spec.retries: 11 is not between 0 and 10",
                "spec.tags[0]: empty",
                "spec.tags[1]: a number where text is expected; write it in quotes, as in \"1.4\"",
                "spec.repository: missing",
            ]
        );
        assert_eq!(problems(target(), json!([])), ["spec: a list where a mapping is expected"]);
        let long = json!({"repository": "123456", "tags": []});
        assert_eq!(
            problems(target(), long),
            ["spec.repository: 6 characters, more than 5", "spec.tags: empty"]
        );
    }

    #[test]
    fn sets_and_maps_have_nothing_twice() {
        let set = json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}});
        assert_eq!(
            problems(set, json!(["a", "b", "a"])),
            [r#"spec[2]: "a" is there twice (duplicate entries); keep one"#]
        );
        let map = json!({
            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
            "items": {"type": "object", "properties": {"id": {"type": "string"}, "key": {"type": "string"}}},
        });
        let entries = json!([{"id": "a", "key": "x"}, {"id": "a", "key": "y"}, {"id": "b", "key": "y"}]);
        assert_eq!(problems(map, entries), [r#"spec[1]: "a" is there twice (duplicate entries); keep one"#]);
    }
}
