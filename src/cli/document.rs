//! YAML documents, and the lines that their fields stand in.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

/// A document of a file.
#[derive(Debug)]
pub(super) struct Document {
    /// What it says.
    pub value: Value,
    /// Where each field and entry begins, by its path: `spec.target.tags[1]`.
    lines: BTreeMap<String, u64>,
}

impl Document {
    /// The line that a path stands in, or what is nearest around it; the first is 1.
    pub fn line(&self, path: &str) -> Option<u64> {
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return Some(*line);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }

    /// What stands at a path of this document, as a document of its own.
    pub fn part(&self, path: &str, value: &Value) -> Self {
        let within = |(key, line): (&String, &u64)| {
            let rest = key.strip_prefix(path)?.strip_prefix('.')?;
            Some((rest.to_owned(), *line))
        };
        Self { value: value.clone(), lines: self.lines.iter().filter_map(within).collect() }
    }
}

/// All documents of a text; those that have nothing in them are none.
///
/// # Errors
/// When it is no YAML.
pub(super) fn read(text: &str) -> Result<Vec<Document>, serde_saphyr::Error> {
    let documents: Vec<Spanned<Content>> = serde_saphyr::from_multiple(text)?;
    let documents = documents.into_iter().map(|content| {
        let mut lines = BTreeMap::new();
        let value = content.value.into_value("", &mut lines);
        Document { value, lines }
    });
    Ok(documents.filter(|document| !document.value.is_null()).collect())
}

/// A value that knows where it stands.
#[derive(Debug)]
enum Content {
    Scalar(Value),
    List(Vec<Spanned<Content>>),
    Map(Vec<(Spanned<String>, Spanned<Content>)>),
}

impl Content {
    fn into_value(self, path: &str, lines: &mut BTreeMap<String, u64>) -> Value {
        match self {
            Self::Scalar(value) => value,
            Self::List(items) => Value::Array(
                items
                    .into_iter()
                    .enumerate()
                    .map(|(number, item)| {
                        let path = format!("{path}[{number}]");
                        lines.insert(path.clone(), item.referenced.line());
                        item.value.into_value(&path, lines)
                    })
                    .collect(),
            ),
            Self::Map(fields) => Value::Object(
                fields
                    .into_iter()
                    .map(|(name, content)| {
                        let path = match path {
                            "" => name.value.clone(),
                            path => format!("{path}.{}", name.value),
                        };
                        lines.insert(path.clone(), name.referenced.line());
                        (name.value, content.value.into_value(&path, lines))
                    })
                    .collect(),
            ),
        }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("YAML")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        Content::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Content::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Content, A::Error> {
        let mut map = Vec::new();
        while let Some(field) = fields.next_entry()? {
            map.push(field);
        }
        Ok(Content::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# A comment.
kind: Web
spec:
  tags:
  - '1.0'
  - 2
  at: {deep: [true, null, 1.5]}
---
---
386: x
";

    #[test]
    fn documents_say_what_serde_json_makes_of_them() {
        let documents = read(TEXT).unwrap();
        let values: Vec<Value> = serde_saphyr::from_multiple(TEXT).unwrap();
        let values: Vec<Value> = values.into_iter().filter(|value| !value.is_null()).collect();
        assert_eq!(documents.into_iter().map(|document| document.value).collect::<Vec<_>>(), values);
    }

    #[test]
    fn a_path_stands_in_its_line_and_one_that_is_missing_in_what_is_around_it() {
        let documents = read(TEXT).unwrap();
        let line = |path: &str| documents[0].line(path);
        assert_eq!(
            [
                "kind",
                "spec",
                "spec.tags",
                "spec.tags[1]",
                "spec.at.deep[2]",
                "spec.tags[1].name",
                "spec.missing"
            ]
            .map(line),
            [2, 3, 4, 6, 7, 6, 3].map(Some)
        );
        assert_eq!(line("metadata.name"), None);
        assert_eq!(documents[1].line("386"), Some(10));
    }

    #[test]
    fn a_part_knows_its_lines() {
        let documents = read(TEXT).unwrap();
        let part = documents[0].part("spec", &documents[0].value["spec"]);
        assert_eq!((part.line("tags[1]"), part.value["tags"][1].as_i64()), (Some(6), Some(2)));
    }
}
