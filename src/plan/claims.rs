//! Which image publishes under which tag. Of two that name the same tag the older one has it.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;

use super::{Conflict, destinations};
use crate::api::MultiArchImage;
use crate::registry::Reference;

type Object = ObjectRef<MultiArchImage>;

/// Orders by age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    created: Timestamp,
    uid: String,
    namespace: String,
    name: String,
}

impl Claim {
    fn of(image: &MultiArchImage) -> Self {
        Claim {
            created: image.creation_timestamp().map_or(Timestamp::MAX, |created| created.0),
            uid: image.uid().unwrap_or_default(),
            namespace: image.namespace().unwrap_or_default(),
            name: image.name_any(),
        }
    }

    fn object(&self) -> Object {
        Object::new(&self.name).within(&self.namespace)
    }
}

/// Every tag that an image names, and who names it. A tag is known by the identity of its repository, however that is written.
#[derive(Debug, Default)]
pub struct Claims {
    by_tag: HashMap<Reference, BTreeSet<Claim>>,
    by_image: HashMap<Object, (Claim, BTreeSet<Reference>)>,
    /// The images that a new list has had so far.
    listed: Option<HashSet<Object>>,
}

impl Claims {
    /// A new list of all images begins.
    pub fn begin_list(&mut self) {
        self.listed = Some(HashSet::new());
    }

    /// The list has ended: images that were not in it are gone. Returns those that may now be served.
    pub fn end_list(&mut self) -> HashSet<Object> {
        let Some(listed) = self.listed.take() else { return HashSet::new() };
        let gone: Vec<Object> =
            self.by_image.keys().filter(|object| !listed.contains(object)).cloned().collect();
        gone.iter().flat_map(|object| self.remove(object)).collect()
    }

    /// An image is there, perhaps with other tags than before; one that may not publish claims none. Returns the others that
    /// this concerns.
    pub fn set(&mut self, image: &MultiArchImage, may_publish: bool) -> HashSet<Object> {
        let claim = Claim::of(image);
        let object = claim.object();
        if let Some(listed) = &mut self.listed {
            listed.insert(object.clone());
        }
        let named = destinations(&image.spec).into_iter().flatten().filter(|_| may_publish);
        let tags: BTreeSet<Reference> = named
            .flat_map(|destination| destination.references().map(identity).collect::<Vec<_>>())
            .collect();
        if self.by_image.get(&object).is_some_and(|known| *known == (claim.clone(), tags.clone())) {
            return HashSet::new();
        }
        let mut concerned = self.remove(&object);
        for tag in &tags {
            let claims = self.by_tag.entry(tag.clone()).or_default();
            concerned.extend(claims.iter().map(Claim::object));
            claims.insert(claim.clone());
        }
        self.by_image.insert(object.clone(), (claim, tags));
        concerned.remove(&object);
        concerned
    }

    /// An image is gone. Returns those that may now be served.
    pub fn remove(&mut self, object: &Object) -> HashSet<Object> {
        let Some((claim, tags)) = self.by_image.remove(object) else { return HashSet::new() };
        let mut concerned = HashSet::new();
        for tag in tags {
            let Some(claims) = self.by_tag.get_mut(&tag) else { continue };
            claims.remove(&claim);
            concerned.extend(claims.iter().map(Claim::object));
            if claims.is_empty() {
                self.by_tag.remove(&tag);
            }
        }
        concerned
    }

    /// The first of an image's tags that an older one has.
    pub fn conflict(&self, object: &Object) -> Option<Conflict> {
        let (claim, tags) = self.by_image.get(object)?;
        tags.iter().find_map(|tag| {
            let holder = self.by_tag.get(tag)?.first().filter(|first| *first != claim)?;
            Some(Conflict { tag: tag.clone(), holder: format!("{}/{}", holder.namespace, holder.name) })
        })
    }

    /// Whether an image other than this one names the tag.
    pub fn is_named_by_another(&self, object: &Object, tag: &Reference) -> bool {
        self.by_tag
            .get(&identity(tag.clone()))
            .is_some_and(|claims| claims.iter().any(|claim| claim.object() != *object))
    }
}

fn identity(tag: Reference) -> Reference {
    tag.in_repository(&tag.repository().identity())
}
