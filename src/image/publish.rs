//! An assembled index under its tags.

use futures::future::join_all;

use super::index::AssembledIndex;
use crate::registry::{Error, Kind, Operation, Reference, Repository, Session};

/// Writes the index under the first tag and, when that has worked, under all others at once.
///
/// No tag is asked first whether it has the digest already: asking costs the same round trip as writing, and
/// writing the same bytes again changes nothing. So the first publication takes two round trips whatever the number
/// of tags; a caller that watches its tags names only those that are to change. Only where the registry refuses the
/// write, as registries with immutable tags do, is the tag read: if it has these bytes, all is well.
///
/// Everything that the index lists must be in the repository already. Without tags the index is written by its
/// digest. All tags are tried; the first failure is returned.
///
/// # Errors
/// [`Kind::Rejected`] if an immutable tag has other content, or if a tag is none; else whatever the registry says.
pub async fn publish(
    session: &Session,
    repository: &Repository,
    index: &AssembledIndex,
    tags: &[impl AsRef<str>],
) -> Result<(), Error> {
    let operation = Operation::new(repository, "publishing the index");
    let tag =
        |tag| repository.with_tag(tag).map_err(|error| operation.error(Kind::Rejected, error.to_string()));
    let tags: Vec<Reference> = tags.iter().map(|name| tag(name.as_ref())).collect::<Result<_, _>>()?;
    let Some((first, others)) = tags.split_first() else {
        return put(session, &repository.with_digest(&index.descriptor.digest), index).await;
    };
    put(session, first, index).await?;
    // None is cut short by the failure of another.
    join_all(others.iter().map(|tag| put(session, tag, index))).await.into_iter().collect()
}

async fn put(session: &Session, reference: &Reference, index: &AssembledIndex) -> Result<(), Error> {
    let refused = match session.put_manifest(reference, &index.descriptor.media_type, &index.bytes).await {
        Err(error) if matches!(error.kind(), Kind::Rejected | Kind::Denied) => error,
        other => return other,
    };
    match session.get_manifest(reference).await {
        Ok(found) if found.bytes == index.bytes => Ok(()),
        _ => Err(refused),
    }
}
