//! The tags of a repository: listed, and taken away. Manifests are deleted here as well, since the two are easily
//! taken for one another.

use std::collections::BTreeSet;

use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use serde::Deserialize;

use super::descriptor::null_as_default;
use super::digest::Digest;
use super::error::{Error, Kind, Operation};
use super::pages::Pages;
use super::reference::{Reference, Repository};
use super::scope::Scopes;
use super::session::{Content, Request, Session};

/// How many tags a page is asked for: the most that Amazon's registry gives.
const PAGE: usize = 1000;

/// Distribution spec, "Listing tags".
#[derive(Deserialize)]
struct Page {
    #[serde(default, deserialize_with = "null_as_default")]
    tags: Vec<String>,
}

impl Session {
    /// The tags of a repository, each once and in the order of bytes; `limit` of them at most.
    ///
    /// Pages are read until there are enough. What is no tag by the specification is left out. A repository that has
    /// lost all its tags has none; most registries say so with a 404, which is [`Kind::NotFound`].
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such repository, [`Kind::Malformed`] if the pages do not end.
    pub async fn list_tags(&self, repository: &Repository, limit: usize) -> Result<Vec<String>, Error> {
        let operation = Operation::new(repository, "listing the tags");
        let url = self.url(&operation, repository, &format!("tags/list?n={}", limit.min(PAGE)))?;
        let request = Request {
            operation: operation.clone(),
            repository,
            method: Method::GET,
            url,
            headers: HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]),
            content: Content::Empty,
            scopes: Scopes::pull(repository),
        };
        let mut pages = Pages::new(self, request);
        let mut tags = BTreeSet::new();
        while tags.len() < limit
            && let Some((_, page)) = pages.next().await?
        {
            let page: Page = serde_json::from_slice(&page).map_err(|error| {
                operation.error(Kind::Malformed, format!("this is no list of tags: {error}"))
            })?;
            tags.extend(page.tags.into_iter().filter(|tag| repository.with_tag(tag).is_ok()));
        }
        Ok(tags.into_iter().take(limit).collect())
    }

    /// Deletes a manifest by its digest, and with it **every tag** that leads to it. An index that lists it is broken
    /// from then on. Whoever wants only a tag to go uses [`delete_tag`](Self::delete_tag).
    ///
    /// The result is whether it was there: one that is gone already is no error.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if the registry deletes no manifests, [`Kind::Denied`] if these credentials may not.
    pub async fn delete_manifest(&self, repository: &Repository, digest: &Digest) -> Result<bool, Error> {
        let operation = Operation::new(repository.with_digest(digest), "deleting the manifest");
        self.delete(operation, repository, digest.as_str()).await
    }

    /// Takes a tag away and leaves the manifest where it is, with the other tags that lead to it.
    ///
    /// Not every registry can: some delete by digest only. There this fails, and is **not** made up for by deleting
    /// the manifest, since other tags or an index may need it; see [`delete_manifest`](Self::delete_manifest).
    ///
    /// The result is whether it was there: a tag that is gone already is no error.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if the registry takes no tags away, or if the reference has no tag.
    pub async fn delete_tag(&self, reference: &Reference) -> Result<bool, Error> {
        let operation = Operation::new(reference, "deleting the tag");
        let Some(tag) = reference.tag() else {
            return Err(operation.error(Kind::Unsupported, "the reference has no tag to delete"));
        };
        let deleted = self.delete(operation.clone(), reference.repository(), tag).await;
        deleted.map_err(|error| match error.kind() {
            // Older registries take the tag for a digest that is none.
            Kind::Rejected => {
                operation.error(Kind::Unsupported, format!("the tag cannot be deleted: {error}"))
            }
            _ => error,
        })
    }

    /// Distribution spec, "Content management".
    async fn delete(
        &self,
        operation: Operation,
        repository: &Repository,
        identifier: &str,
    ) -> Result<bool, Error> {
        let url = self.url(&operation, repository, &format!("manifests/{identifier}"))?;
        let request = Request {
            operation,
            repository,
            method: Method::DELETE,
            url,
            headers: HeaderMap::new(),
            content: Content::Empty,
            scopes: Scopes::push(repository).and(&format!("repository:{}:delete", repository.path())),
        };
        match self.send(&request).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
