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
    list: Option<List>,
}

/// A new list of all images, as far as it is known.
#[derive(Debug, Default)]
struct List {
    listed: HashSet<Object>,
    /// Those that are another resource of the same name than before.
    replaced: HashSet<Object>,
}

/// What a new list has told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Relisted {
    /// Images that are there no more, and those in whose place there is another of the same name.
    pub gone: HashSet<Object>,
    /// Images that may now be served.
    pub concerned: HashSet<Object>,
}

impl Claims {
    /// A new list of all images begins.
    pub fn begin_list(&mut self) {
        self.list = Some(List::default());
    }

    /// The list has ended: images that were not in it are gone.
    pub fn end_list(&mut self) -> Relisted {
        let Some(List { listed, replaced }) = self.list.take() else { return Relisted::default() };
        let missing: Vec<Object> =
            self.by_image.keys().filter(|object| !listed.contains(object)).cloned().collect();
        let concerned = missing.iter().flat_map(|object| self.remove(object)).collect();
        Relisted { gone: replaced.into_iter().chain(missing).collect(), concerned }
    }

    /// An image is there, perhaps with other tags than before; one that may not publish claims none. Returns the others that
    /// this concerns.
    pub fn set(&mut self, image: &MultiArchImage, may_publish: bool) -> HashSet<Object> {
        let claim = Claim::of(image);
        let object = claim.object();
        let is_another = self.by_image.get(&object).is_some_and(|(known, _)| known.uid != claim.uid);
        if let Some(list) = &mut self.list {
            list.replaced.extend(is_another.then(|| object.clone()));
            list.listed.insert(object.clone());
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
