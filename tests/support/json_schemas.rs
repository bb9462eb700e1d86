//! JSON schemas of everything that an API server serves, for tools that check files without one.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

const DEFINITIONS: &str = "#/definitions/";

/// Where kubeconform finds the schemas that [`write`] has written into a folder.
pub fn location(folder: &Path) -> String {
    format!("{}/{{{{.Group}}}}_{{{{.ResourceAPIVersion}}}}_{{{{.ResourceKind}}}}.json", folder.display())
}

/// Writes a schema for every kind of an API server's OpenAPI document (version 2). What a schema does not name it refuses.
pub fn write(openapi: &Value, folder: &Path) {
    let mut definitions = openapi["definitions"].as_object().expect("definitions").clone();
    definitions.values_mut().for_each(make_strict);
    // Two types that the document calls strings may be numbers in files.
    definitions.insert(
        "io.k8s.apimachinery.pkg.api.resource.Quantity".to_owned(),
        json!({"type": ["string", "number"]}),
    );
    definitions.insert(
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString".to_owned(),
        json!({"type": ["string", "integer"]}),
    );
    for (name, definition) in &definitions {
        for kind in definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
            let word = |key: &str| kind[key].as_str().expect("a word");
            // kubeconform takes the version of core kinds for their group.
            let group = if word("group").is_empty() { word("version") } else { word("group") };
            let file = format!("{group}_{}_{}.json", word("version"), word("kind").to_lowercase());
            let mut used = BTreeMap::new();
            collect(name, &definitions, &mut used);
            let schema = json!({"$ref": format!("{DEFINITIONS}{name}"), "definitions": used});
            std::fs::write(folder.join(file), schema.to_string()).expect("a schema");
        }
    }
}

fn make_strict(schema: &mut Value) {
    let Value::Object(keys) = schema else { return };
    let open = keys.contains_key("additionalProperties")
        || keys.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true));
    if keys.contains_key("properties") && !open {
        keys.insert("additionalProperties".to_owned(), json!(false));
    }
    // Formats of OpenAPI are no formats of JSON schema; int-or-string is a type of its own.
    if keys.remove("format") == Some(json!("int-or-string")) {
        keys.insert("type".to_owned(), json!(["string", "integer"]));
    }
    if let Some(Value::Object(properties)) = keys.get_mut("properties") {
        properties.values_mut().for_each(make_strict);
    }
    for key in ["items", "additionalProperties"] {
        keys.get_mut(key).into_iter().for_each(make_strict);
    }
}

/// A definition and all that it refers to.
fn collect(name: &str, all: &Map<String, Value>, used: &mut BTreeMap<String, Value>) {
    if used.contains_key(name) {
        return;
    }
    let definition = all.get(name).unwrap_or_else(|| panic!("no definition {name}"));
    used.insert(name.to_owned(), definition.clone());
    references(definition).iter().for_each(|name| collect(name, all, used));
}

fn references(schema: &Value) -> Vec<String> {
    match schema {
        Value::Object(keys) => {
            let own =
                keys.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix(DEFINITIONS));
            own.map(str::to_owned).into_iter().chain(keys.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => vec![],
    }
}
