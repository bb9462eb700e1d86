//! Objects and schemas as other versions left them: what is stored stays readable, and the schema only ever grows.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
};
use kube::core::CustomResourceExt as _;
use kube::runtime::wait::{await_condition, conditions};
use multiarch::api::{MANAGER, MultiArchImage, Phase};
use serde_json::{Map, Value, json};
use support::{PATIENCE, World, root};

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The objects of `tests/recorded-objects`, by the name of their file.
fn recorded() -> BTreeMap<String, Value> {
    let files = std::fs::read_dir(root().join("tests/recorded-objects")).expect("the recorded objects");
    let paths = files.map(|file| file.expect("a file").path()).filter(|path| path.is_file());
    let object = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(&path).expect("text");
        let object =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path.file_stem().expect("a name").to_string_lossy().into_owned(), object)
    };
    let found: BTreeMap<String, Value> = paths.map(object).collect();
    assert!(found.len() >= 6, "only {:?}", found.keys());
    found
}

#[test]
fn what_any_version_has_stored_is_read_and_nothing_known_is_lost() {
    for (name, object) in recorded() {
        let image: MultiArchImage =
            serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let status = image.status.expect("a status");
        assert_eq!(status.observed_generation, object["metadata"]["generation"].as_i64(), "{name}");
        assert_eq!(
            Some(status.conditions.len()),
            object["status"]["conditions"].as_array().map(Vec::len),
            "{name}"
        );
        assert_eq!(status.digest.as_deref(), object["status"]["digest"].as_str(), "{name}");
        let digests: Vec<Option<&str>> =
            status.platforms.iter().map(|platform| platform.digest.as_deref()).collect();
        let written = object["status"]["platforms"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert_eq!(
            digests,
            written.iter().map(|platform| platform["digest"].as_str()).collect::<Vec<_>>(),
            "{name}"
        );
        let is_ready = |platform: &&Value| platform["phase"] == "Ready";
        let ready = status.platforms.iter().filter(|platform| platform.phase == Phase::Ready).count();
        assert_eq!(ready, written.iter().filter(is_ready).count(), "{name}");
    }
}

/// The places at which something is written, by their paths.
fn places(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    found.insert(path.to_owned());
    match value {
        Value::Object(keys) => {
            keys.iter().for_each(|(key, value)| places(value, &format!("{path}.{key}"), found))
        }
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(number, value)| places(value, &format!("{path}[{number}]"), found));
        }
        _ => {}
    }
}

#[test]
fn nothing_that_is_written_today_is_forgotten_tomorrow() {
    let object = recorded().remove("lifecycle").expect("the recorded object");
    let image: MultiArchImage = serde_json::from_value(object.clone()).expect("it is read");
    let read = serde_json::to_value(&image).expect("JSON");
    let (mut written, mut kept) = (BTreeSet::new(), BTreeSet::new());
    places(&object, "", &mut written);
    places(&read, "", &mut kept);
    assert_eq!(written.difference(&kept).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(read["status"], object["status"], "what the operator writes it reads as it was");
}

/// The definition for a group of the test's own, so that other tests keep theirs.
fn definition(group: &str) -> Value {
    let mut definition = serde_json::to_value(MultiArchImage::crd()).expect("JSON");
    definition["spec"]["group"] = json!(group);
    definition["metadata"]["name"] = json!(format!("multiarchimages.{group}"));
    definition
}

/// A schema without its rules and limits, as the earliest had hardly any.
fn without_rules(schema: &mut Value) {
    match schema {
        Value::Object(keys) => {
            keys.retain(|key, value| {
                key != "x-kubernetes-validations"
                    && !(value.is_number() && (key.starts_with("max") || key.starts_with("min")))
            });
            keys.values_mut().for_each(without_rules);
        }
        Value::Array(items) => items.iter_mut().for_each(without_rules),
        _ => {}
    }
}

async fn install(world: &World, definition: &Value) {
    let definitions: Api<CustomResourceDefinition> = Api::all(world.client.clone());
    let name = definition["metadata"]["name"].as_str().expect("a name");
    let apply = PatchParams::apply("test").force();
    definitions.patch(name, &apply, &Patch::Apply(definition)).await.expect("the definition is accepted");
    let established = await_condition(definitions, name, conditions::is_crd_established());
    tokio::time::timeout(PATIENCE, established).await.expect("in time").expect("it is established");
}

#[tokio::test]
async fn what_an_earlier_schema_let_through_stays_stored_and_can_be_edited_under_todays() {
    let world = World::new().await;
    let group = format!("{}.upgrade.test", world.namespace);
    let today = definition(&group);
    let mut earlier = today.clone();
    without_rules(&mut earlier["spec"]["versions"][0]["schema"]);
    install(&world, &earlier).await;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(&group, "v1alpha1", "MultiArchImage"));
    let images: Api<DynamicObject> = Api::namespaced_with(world.client.clone(), &world.namespace, &kind);
    for (name, mut object) in recorded() {
        object["apiVersion"] = json!(format!("{group}/v1alpha1"));
        object["metadata"] = json!({"name": name});
        let image: DynamicObject = serde_json::from_value(object.clone()).expect("an object");
        images.create(&PostParams::default(), &image).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        // What today's schema lists as the values there are, an operator of then did not write otherwise.
        if name != "newer" {
            let status = json!({"apiVersion": object["apiVersion"], "kind": "MultiArchImage", "status": object["status"]});
            let apply = PatchParams::apply(MANAGER).force();
            let applied = images.patch_status(&name, &apply, &Patch::Apply(status)).await;
            applied.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    install(&world, &today).await;
    let unwanted = Patch::Merge(json!({"spec": {"target": {"tags": ["-x"]}}}));
    let dry_run = PatchParams { dry_run: true, ..PatchParams::default() };
    let refused = async || images.patch("loose", &dry_run, &unwanted).await.is_err();
    // The API server takes a moment to use the new rules.
    let in_force = async { while !refused().await {} };
    tokio::time::timeout(PATIENCE, in_force).await.expect("in time");
    for name in recorded().keys() {
        for edit in [
            json!({"metadata": {"labels": {"a": "b"}}}),
            json!({"spec": {"suspend": true}}),
            json!({"spec": {"target": {"tags": ["2.0"]}}}),
        ] {
            let edited = images.patch(name, &PatchParams::default(), &Patch::Merge(&edit)).await;
            edited.unwrap_or_else(|error| panic!("{name}: {edit}: {error}"));
        }
        let stored = serde_json::to_value(images.get(name).await.expect("it is there")).expect("JSON");
        serde_json::from_value::<MultiArchImage>(stored).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let worse =
        Patch::Merge(json!({"spec": {"target": {"repository": "registry.example.com:99998/team-a/web"}}}));
    let refused = images.patch("loose", &PatchParams::default(), &worse).await.expect_err("it is no better");
    assert!(refused.to_string().contains("write registry/repository in lower case"), "{refused}");

    let definitions: Api<CustomResourceDefinition> = Api::all(world.client.clone());
    let name = today["metadata"]["name"].as_str().expect("a name");
    definitions.delete(name, &DeleteParams::default()).await.expect("it can be removed");
}

/// What a field lets through, by its path: `spec.platforms[].image`; `{}` stands for the values of a map.
type Fields = BTreeMap<String, Map<String, Value>>;

const LIMITS: [&str; 14] = [
    "type",
    "enum",
    "required",
    "maxLength",
    "minLength",
    "maxItems",
    "minItems",
    "maxProperties",
    "minProperties",
    "maximum",
    "minimum",
    "pattern",
    "format",
    "x-kubernetes-int-or-string",
];

fn fields(node: &Value, path: &str, found: &mut Fields) {
    let mut limits: Map<String, Value> = Map::new();
    for limit in LIMITS {
        limits.extend(node.get(limit).map(|value| (limit.to_owned(), value.clone())));
    }
    limits.extend(node.get("default").map(|_| ("default".to_owned(), json!(true))));
    found.insert(path.to_owned(), limits);
    for (name, child) in node["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        fields(child, &path, found);
    }
    for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if node[key].is_object() {
            fields(&node[key], &format!("{path}{mark}"), found);
        }
    }
}

fn todays_fields() -> Fields {
    let definition: Value =
        serde_saphyr::from_str(&read("crds/multiarch.dev_multiarchimages.yaml")).expect("the CRD");
    let mut found = Fields::new();
    fields(&definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"], "", &mut found);
    found
}

/// What a later schema takes away from an earlier one.
fn narrowed(earlier: &Fields, later: &Fields) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, before) in earlier {
        let Some(after) = later.get(path) else {
            wrong.push(format!("{path}: it is gone"));
            continue;
        };
        for limit in LIMITS {
            let (was, is) = (before.get(limit), after.get(limit));
            if was != is && !is_wider(limit, was, is, path, later) {
                wrong.push(format!("{path}: {limit} was {was:?} and is {is:?}"));
            }
        }
    }
    wrong
}

fn is_wider(limit: &str, was: Option<&Value>, is: Option<&Value>, path: &str, later: &Fields) -> bool {
    let words = |value: Option<&Value>| -> BTreeSet<String> {
        value
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|word| word.as_str().map(str::to_owned))
            .collect()
    };
    let number = |value: Option<&Value>| value.and_then(Value::as_f64);
    match limit {
        "type" | "x-kubernetes-int-or-string" => false,
        // A field that must be there and has a default is there.
        "required" => words(is).difference(&words(was)).all(|name| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            later.get(&path).is_some_and(|field| field.contains_key("default"))
        }),
        "enum" => is.is_none() || (was.is_some() && words(was).is_subset(&words(is))),
        _ if is.is_none() => true,
        limit if limit.starts_with("max") => {
            number(was).is_some_and(|was| number(is).is_some_and(|is| was <= is))
        }
        limit if limit.starts_with("min") => {
            number(was).is_some_and(|was| number(is).is_some_and(|is| was >= is))
        }
        _ => false,
    }
}

/// Narrower than they once were, since no pod or container was ever made with more.
fn could_never_be_used(problem: &str) -> bool {
    let (path, _) = problem.split_once(": ").expect("a path");
    let pod = path.trim_start_matches("spec.build.pod.").trim_start_matches("spec.platforms[].build.pod.");
    let of_labels = matches!(pod, "nodeSelector{}" | "labels{}") && problem.contains(": maxLength was None");
    let of_resources = matches!(pod, "resources.requests" | "resources.limits")
        && problem.contains(": maxProperties was None");
    let of_amounts = matches!(pod, "resources.requests{}" | "resources.limits{}")
        && problem.contains(": maxLength was None");
    of_labels || of_resources || of_amounts
}

#[test]
fn the_schema_takes_nothing_away_that_an_earlier_one_had() {
    let today = todays_fields();
    let mut schemas = 0;
    for file in
        std::fs::read_dir(root().join("tests/recorded-objects/schemas")).expect("the recorded schemas")
    {
        let path = file.expect("a schema").path();
        let text = std::fs::read_to_string(&path).expect("text");
        let earlier: Fields =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(earlier.len() > 80 && earlier.contains_key("spec.target.tags"), "{}", path.display());
        let wrong: Vec<String> =
            narrowed(&earlier, &today).into_iter().filter(|problem| !could_never_be_used(problem)).collect();
        assert!(wrong.is_empty(), "{}:\n{}", path.display(), wrong.join("\n"));
        schemas += 1;
    }
    assert!(schemas >= 4, "only {schemas} schemas are recorded");
}

#[test]
fn a_schema_that_takes_something_away_is_noticed() {
    let schema = |text: &str| -> Fields { serde_saphyr::from_str(text).expect("a schema") };
    let earlier = schema(
        r#"{"": {"type": "object", "required": ["a"]}, "a": {"type": "string", "maxLength": 9, "enum": ["x", "y"]}, "b": {"type": "array"}}"#,
    );
    for (later, problem) in [
        (r#"{"": {"type": "object"}, "a": {"type": "string"}}"#, Some("b: it is gone")),
        (
            r#"{"": {"type": "object"}, "a": {"type": "integer"}, "b": {"type": "array"}}"#,
            Some("a: type was"),
        ),
        (
            r#"{"": {"type": "object"}, "a": {"type": "string", "maxLength": 8}, "b": {"type": "array"}}"#,
            Some("a: maxLength was"),
        ),
        (
            r#"{"": {"type": "object"}, "a": {"type": "string", "minLength": 1}, "b": {"type": "array"}}"#,
            Some("a: minLength was"),
        ),
        (
            r#"{"": {"type": "object"}, "a": {"type": "string", "enum": ["x", "z"]}, "b": {"type": "array"}}"#,
            Some("a: enum was"),
        ),
        (
            r#"{"": {"type": "object"}, "a": {"type": "string"}, "b": {"type": "array", "maxItems": 3}}"#,
            Some("b: maxItems was"),
        ),
        (
            r#"{"": {"type": "object", "required": ["a", "b"]}, "a": {"type": "string"}, "b": {"type": "array"}}"#,
            Some(": required was"),
        ),
        (
            r#"{"": {"type": "object", "required": ["a", "b"]}, "a": {"type": "string", "maxLength": 10, "enum": ["x", "y", "z"]}, "b": {"type": "array", "default": true}}"#,
            None,
        ),
    ] {
        let found = narrowed(&earlier, &schema(later));
        assert!(found.len() == usize::from(problem.is_some()), "{later}: {found:?}");
        assert!(problem.is_none_or(|problem| found[0].starts_with(problem)), "{later}: {found:?}");
    }
}
