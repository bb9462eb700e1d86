//! `docs/reference.md`, made of the schema of the CustomResourceDefinition and of the words on its enumerations.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use kube::CustomResourceExt as _;
use multiarch::api::{MultiArchImage, MultiArchImageSpec, MultiArchImageStatus};
use schemars::schema_for;
use serde_json::{Map, Value};

use super::markdown::root;

const PATH: &str = "docs/reference.md";
/// What the page begins with.
const HEAD: &str = "\
# Reference: every field

<!-- Written by `make crds` from the code; edit the comments in src/api/ instead. -->

Group `multiarch.dev`, version `v1alpha1`, kind `MultiArchImage`, short name `mai`. The same is told by
`kubectl explain mai.spec --recursive`. Fields that are not required may be left out. What the API server refuses
beyond types and lengths is told as *Refused*, in its own words. What the reasons in `status` mean, and what to do about
them, is in [Troubleshooting](troubleshooting.md).

";

#[test]
fn the_reference_on_the_page_is_that_of_the_code() {
    let path = root().join(PATH);
    let rendered = render();
    if std::env::var_os("MULTIARCH_WRITE_REFERENCE").is_some() {
        std::fs::write(&path, &rendered).expect("the page can be written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == rendered, "{PATH} is out of date: run `make crds` and commit it");
}

#[test]
fn every_field_of_the_schema_has_words() {
    let rendered = render();
    assert!(!rendered.contains("no description"), "a field without a doc comment:\n{rendered}");
}

fn render() -> String {
    let definition = serde_json::to_value(MultiArchImage::crd()).expect("JSON");
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let values = enumerations();
    let mut page = Reference { text: HEAD.to_owned(), values, shown: vec![] };
    page.annotations();
    page.object("spec", &schema["properties"]["spec"]);
    page.object("status", &schema["properties"]["status"]);
    page.text.truncate(page.text.trim_end().len());
    page.text.push('\n');
    page.text
}

/// What the values of each enumeration mean, by the list of its values.
fn enumerations() -> BTreeMap<Vec<String>, Vec<String>> {
    let schemas = [schema_for!(MultiArchImageSpec), schema_for!(MultiArchImageStatus)];
    let mut found = BTreeMap::new();
    for schema in &schemas {
        for definition in schema.get("$defs").and_then(Value::as_object).into_iter().flat_map(Map::values) {
            let Some(variants) = definition["oneOf"].as_array() else { continue };
            let text = |variant: &Value, field| variant[field].as_str().map(str::to_owned);
            let names: Option<Vec<String>> = variants.iter().map(|variant| text(variant, "const")).collect();
            let meanings = variants.iter().map(|variant| text(variant, "description").unwrap_or_default());
            found.extend(names.map(|names| (names, meanings.collect())));
        }
    }
    found
}

struct Reference {
    text: String,
    values: BTreeMap<Vec<String>, Vec<String>>,
    /// The objects that have a section, each with its path.
    shown: Vec<(Value, String)>,
}

impl Reference {
    fn annotations(&mut self) {
        self.text.push_str(
            "\
## Annotations that ask for something

Each asks once for every new value; `multiarch reconcile` and `multiarch rebuild` set them ([kubectl multiarch](kubectl.md)).

- **`multiarch.dev/reconcile-requested-at`**, or Flux's `reconcile.fluxcd.io/requestedAt`: look at every source, ref and
  published tag now, and try what has failed once more.
- **`multiarch.dev/rebuild-requested-at`**: build every built platform again.

",
        );
    }

    /// The section of an object, and after it those of the objects in it.
    fn object(&mut self, path: &str, schema: &Value) {
        self.shown.push((schema.clone(), path.to_owned()));
        let level = if path.contains('.') { "###" } else { "##" };
        let _ = write!(self.text, "{level} `{path}`\n\n{}\n\n", plain(schema));
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut below = vec![];
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let (inner, inner_path) = innermost(field, &format!("{path}.{name}"));
            let section = self.section(inner, &inner_path);
            self.field(name, field, required.contains(&name.as_str()), section.as_deref());
            if section.as_deref() == Some(&inner_path)
                && !self.shown.iter().any(|(_, shown)| *shown == inner_path)
            {
                self.shown.push((inner.clone(), inner_path.clone()));
                below.push((inner, inner_path));
            }
        }
        self.text.push('\n');
        self.refusals(schema, "");
        for (inner, inner_path) in below {
            self.object(&inner_path, inner);
        }
    }

    /// Where the fields of an object are told: in its own section, or in that of one that is the same.
    fn section(&self, schema: &Value, path: &str) -> Option<String> {
        schema["properties"].as_object()?;
        if is_kubernetes_own(path) || is_name(schema) {
            return None;
        }
        let fields = |schema: &Value| schema["properties"].clone();
        let same = self.shown.iter().find(|(shown, _)| fields(shown) == fields(schema));
        Some(same.map_or_else(|| path.to_owned(), |(_, shown)| shown.clone()))
    }

    fn field(&mut self, name: &str, field: &Value, required: bool, section: Option<&str>) {
        let (inner, _) = innermost(field, name);
        let mut facts = vec![kind(field, name)];
        facts.extend(required.then(|| "required".to_owned()));
        facts.extend(default(field));
        facts.extend(limits(field));
        let _ = writeln!(self.text, "- **`{name}`** ({})  ", facts.join(", "));
        let _ = write!(self.text, "  {}", plain(field).replace('\n', "\n  "));
        if let Some(section) = section {
            let anchor: String = section.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
            let _ = write!(self.text, " Its fields: [`{section}`](#{anchor}).");
        }
        self.text.push('\n');
        self.values_of(inner);
        // What an object refuses is told in its section.
        if section.is_none() || !std::ptr::eq(inner, field) {
            self.refusals(field, "  ");
        }
        if section.is_none() && !std::ptr::eq(inner, field) {
            self.refusals(inner, "  ");
        }
        if is_name(inner) {
            self.refusals(&inner["properties"]["name"], "  ");
        }
    }

    /// The values of an enumeration, each with what it means.
    fn values_of(&mut self, schema: &Value) {
        let Some(names) = schema["enum"].as_array() else { return };
        let names: Vec<String> = names.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let meanings = self.values.get(&names).cloned().unwrap_or_default();
        for (number, name) in names.iter().enumerate() {
            let meaning =
                meanings.get(number).map(|meaning| format!(": {}", joined(meaning))).unwrap_or_default();
            let _ = writeln!(self.text, "  - `{name}`{meaning}");
        }
    }

    fn refusals(&mut self, schema: &Value, indent: &str) {
        let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
        let messages: Vec<String> = rules.filter_map(|rule| rule["message"].as_str()).map(escaped).collect();
        if indent.is_empty() && !messages.is_empty() {
            let _ = writeln!(self.text, "Of all of it together:\n");
        }
        for message in &messages {
            let _ = writeln!(self.text, "{indent}- *Refused:* {message}");
        }
        if indent.is_empty() && !messages.is_empty() {
            self.text.push('\n');
        }
    }
}

/// What lists and maps are of, and its path: `spec.platforms` → `spec.platforms[]`.
fn innermost<'a>(schema: &'a Value, path: &str) -> (&'a Value, String) {
    if schema["items"].is_object() {
        return innermost(&schema["items"], &format!("{path}[]"));
    }
    (schema, path.to_owned())
}

/// Objects whose fields Kubernetes' documentation explains.
fn is_kubernetes_own(path: &str) -> bool {
    ["affinity", "tolerations[]"].iter().any(|own| path.ends_with(own))
}

/// Whether it is an object that names another and says nothing else.
fn is_name(schema: &Value) -> bool {
    schema["properties"].as_object().is_some_and(|fields| fields.len() == 1 && fields.contains_key("name"))
}

fn kind(schema: &Value, name: &str) -> String {
    let own = match name {
        "affinity" => Some("Kubernetes' Affinity"),
        "tolerations" => Some("list of Kubernetes' Tolerations"),
        _ => None,
    };
    if let Some(own) = own {
        return own.to_owned();
    }
    let known = match schema["type"].as_str() {
        Some("array") => return format!("list of {}", plural(&kind(&schema["items"], ""))),
        Some("object") if schema["additionalProperties"].is_object() => {
            return format!("map of {}", plural(&kind(&schema["additionalProperties"], "")));
        }
        Some("string") if schema["enum"].is_array() => "one of the values below",
        Some("string") if schema["format"] == "date-time" => "time",
        Some("string") => "text",
        Some("boolean") => "true or false",
        Some("integer") => "number",
        Some("object") if is_name(schema) => "object with a `name`",
        Some("object") => "object",
        _ if schema["x-kubernetes-int-or-string"] == true => "number or text",
        _ => panic!("a schema of no known kind: {schema}"),
    };
    known.to_owned()
}

fn plural(kind: &str) -> String {
    match kind {
        "text" => "texts".to_owned(),
        "object" => "objects".to_owned(),
        "object with a `name`" => "objects with a `name`".to_owned(),
        kind => kind.to_owned(),
    }
}

fn default(schema: &Value) -> Option<String> {
    let default = schema.get("default").filter(|default| !default.is_null())?;
    Some(format!("default `{}`", default.as_str().map_or_else(|| default.to_string(), str::to_owned)))
}

/// How long and how large it may be.
fn limits(schema: &Value) -> Vec<String> {
    let number = |field: &str| schema[field].as_u64();
    let between = |least: Option<u64>, most: Option<u64>, what: &str| match (least, most) {
        (Some(least), Some(most)) => Some(format!("{least} to {most}{what}")),
        (None, Some(most)) => Some(format!("at most {most}{what}")),
        (Some(least), None) => Some(format!("at least {least}{what}")),
        (None, None) => None,
    };
    let all = [
        between(number("minItems"), number("maxItems"), ""),
        between(number("minProperties"), number("maxProperties"), ""),
        between(number("minLength"), number("maxLength"), " characters"),
        between(number("minimum"), number("maximum"), ""),
    ];
    let of_items = schema.get("items").map(|items| {
        between(number_of(items, "minLength"), number_of(items, "maxLength"), " characters each")
    });
    all.into_iter().chain(of_items).flatten().collect()
}

fn number_of(schema: &Value, field: &str) -> Option<u64> {
    schema[field].as_u64()
}

/// The words on a schema, as Markdown.
fn plain(schema: &Value) -> String {
    schema["description"]
        .as_str()
        .map_or_else(|| "(no description)".to_owned(), |words| escaped(&joined(words)))
}

/// Lines of a comment as one.
fn joined(words: &str) -> String {
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What Markdown would take for markup, outside of what is code already.
fn escaped(words: &str) -> String {
    let piece = |(number, piece): (usize, &str)| match number % 2 {
        0 => piece.replace('<', "&lt;").replace('*', "\\*").replace('[', "\\["),
        _ => piece.to_owned(),
    };
    words.split('`').enumerate().map(piece).collect::<Vec<_>>().join("`")
}
