//! The entries of a layout's `index.json`: what they are called, and how one is found by a name.

use std::collections::HashSet;

use super::error::LayoutError;
use crate::registry::{Descriptor, Reference};

/// OCI image spec, annotations.md: the tag, or whatever else the writer calls the image.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// containerd, BuildKit and Docker: the whole reference.
pub(super) const IMAGE_NAME: &str = "io.containerd.image.name";

/// One entry of a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it points at.
    pub descriptor: Descriptor,
}

impl Entry {
    /// Its names: the one of the specification first, then containerd's.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        [REF_NAME, IMAGE_NAME]
            .into_iter()
            .filter_map(|key| self.descriptor.annotations.get(key))
            .map(String::as_str)
    }

    /// Whether somebody who writes `name` means this entry: one of its names, its digest, the whole reference
    /// however spelt, or the tag of it.
    fn is_called(&self, name: &str) -> bool {
        let wanted: Option<Reference> = name.parse().ok();
        self.descriptor.digest.as_str() == name
            || self.names().any(|own| {
                let reference: Option<Reference> = own.parse().ok();
                own == name
                    || (own.contains('/') && reference.as_ref().and_then(Reference::tag) == Some(name))
                    || (own.contains(['/', ':']) && reference.is_some() && reference == wanted)
            })
    }

    fn in_words(&self) -> String {
        let names: Vec<&str> = self.names().collect();
        let name = if names.is_empty() { "(no name)".to_owned() } else { names.join(", ") };
        let platform = match self.descriptor.runnable_platform() {
            Some(_) => format!(", {}", self.descriptor.platform_in_words()),
            None => String::new(),
        };
        let kind = if self.descriptor.media_type.is_index() { "index" } else { "image" };
        format!("{name}: {kind}{platform} {}", self.descriptor.digest)
    }
}

/// The entry that is meant: the one of that name, or the only one.
pub(super) fn choose<'a>(
    place: &str,
    entries: &'a [Entry],
    name: Option<&str>,
) -> Result<&'a Entry, LayoutError> {
    let named: Vec<&Entry> =
        entries.iter().filter(|entry| name.is_none_or(|name| entry.is_called(name))).collect();
    // An image with two tags stands there twice, and an image's attestations are not what anybody means.
    let images = named.iter().filter(|entry| name.is_some() || !entry.descriptor.is_attestation());
    let distinct: HashSet<_> = images.clone().map(|entry| &entry.descriptor.digest).collect();
    let reason = match (distinct.len(), name) {
        (1, _) => return images.into_iter().next().copied().ok_or_else(|| none(place)),
        (0, None) => return Err(none(place)),
        (0, Some(name)) => format!("nothing is called {name:?}"),
        (count, None) => format!("it has {count} images; name one of them by --ref"),
        (count, Some(name)) => format!("{count} images are called {name:?}; name one by its digest"),
    };
    let shown = if named.is_empty() { entries.iter().collect() } else { named };
    let entries = shown.iter().map(|entry| entry.in_words()).collect();
    Err(LayoutError::Choice { place: place.to_owned(), reason, entries })
}

fn none(place: &str) -> LayoutError {
    LayoutError::invalid(place, "the layout has no image")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Digest, MediaType};

    fn entry(content: &str, names: &[(&str, &str)]) -> Entry {
        let descriptor = Descriptor::new(MediaType::OCI_INDEX, Digest::sha256(content.as_bytes()), 1);
        let annotations = names.iter().map(|(key, name)| ((*key).to_owned(), (*name).to_owned())).collect();
        Entry { descriptor: Descriptor { annotations, ..descriptor } }
    }

    fn chosen<'a>(entries: &'a [Entry], name: Option<&str>) -> Result<&'a Entry, String> {
        choose("layout", entries, name).map_err(|error| error.to_string())
    }

    #[test]
    fn the_only_image_needs_no_name_also_under_two_tags() {
        let one = [entry("a", &[])];
        assert_eq!(chosen(&one, None), Ok(&one[0]));
        let twice = [entry("a", &[(REF_NAME, "1")]), entry("a", &[(REF_NAME, "latest")])];
        assert_eq!(chosen(&twice, None), Ok(&twice[0]));
    }

    #[test]
    fn of_several_images_one_is_named_and_all_are_listed_otherwise() {
        let entries = [entry("a", &[(REF_NAME, "1")]), entry("b", &[(REF_NAME, "2")])];
        assert_eq!(chosen(&entries, Some("2")), Ok(&entries[1]));
        assert_eq!(chosen(&entries, Some(entries[0].descriptor.digest.as_str())), Ok(&entries[0]));
        let error = chosen(&entries, None).unwrap_err();
        assert!(
            error.starts_with(
                "layout: it has 2 images; name one of them by --ref; it has:\n  1: index sha256:"
            )
        );
        assert!(error.contains("\n  2: index sha256:"), "{error}");
        let error = chosen(&entries, Some("3")).unwrap_err();
        assert!(
            error.starts_with(r#"layout: nothing is called "3"; it has:"#) && error.contains("  2: "),
            "{error}"
        );
    }

    #[test]
    fn names_of_other_tools_are_understood() {
        let buildkit = entry("a", &[(REF_NAME, "latest"), (IMAGE_NAME, "docker.io/library/web:latest")]);
        let skopeo = entry("b", &[(REF_NAME, "registry.example.com/team/web:1")]);
        let entries = [buildkit, skopeo, entry("c", &[(REF_NAME, "web:1")])];
        for (name, index) in [
            ("latest", 0),
            ("web:latest", 0),
            ("web", 0),
            ("docker.io/library/web:latest", 0),
            ("registry.example.com/team/web:1", 1),
            ("1", 1),
            ("web:1", 2),
        ] {
            assert_eq!(chosen(&entries, Some(name)), Ok(&entries[index]), "{name}");
        }
        assert!(chosen(&entries, Some("library")).is_err());
    }

    #[test]
    fn two_images_of_one_name_are_told_apart_by_digest() {
        let entries = [entry("a", &[(REF_NAME, "1")]), entry("b", &[(REF_NAME, "1")])];
        assert!(chosen(&entries, Some("1")).unwrap_err().contains("name one by its digest"));
    }

    #[test]
    fn an_empty_layout_has_nothing_to_choose() {
        assert_eq!(chosen(&[], None).unwrap_err(), "layout: the layout has no image");
    }
}
