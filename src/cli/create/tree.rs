//! A document in the order in which people write it.

use serde::ser::{Serialize, SerializeMap as _, Serializer};

/// A value of a document.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tree {
    Text(String),
    Flag(bool),
    List(Vec<Tree>),
    Map(Map),
}

/// Fields in the order in which they were set.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Map(Vec<(String, Tree)>);

impl Map {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// With one more field, unless there is nothing in it.
    pub(super) fn with(mut self, name: &str, value: impl Into<Tree>) -> Self {
        let value = value.into();
        if !value.is_empty() {
            self.0.push((name.to_owned(), value));
        }
        self
    }

    /// With one more field, if it is given at all.
    pub(super) fn with_given(self, name: &str, value: Option<impl Into<Tree>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

impl Tree {
    /// What says nothing. A text that is empty says that it is.
    fn is_empty(&self) -> bool {
        match self {
            Self::Text(_) => false,
            Self::Flag(flag) => !flag,
            Self::List(items) => items.is_empty(),
            Self::Map(map) => map.is_empty(),
        }
    }
}

impl From<String> for Tree {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&String> for Tree {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<&str> for Tree {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<bool> for Tree {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<Map> for Tree {
    fn from(map: Map) -> Self {
        Self::Map(map)
    }
}

impl<T: Into<Tree>> From<Vec<T>> for Tree {
    fn from(items: Vec<T>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}

/// Later values of a name take the place of earlier ones, as on every command line.
impl From<&[(String, String)]> for Tree {
    fn from(pairs: &[(String, String)]) -> Self {
        let mut map = Map::default();
        for (name, value) in pairs {
            map.0.retain(|(earlier, _)| earlier != name);
            map = map.with(name, value);
        }
        Self::Map(map)
    }
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Flag(flag) => serializer.serialize_bool(*flag),
            Self::List(items) => serializer.collect_seq(items),
            Self::Map(map) => map.serialize(serializer),
        }
    }
}

impl Serialize for Map {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            fields.serialize_entry(name, value)?;
        }
        fields.end()
    }
}
