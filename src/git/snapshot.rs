//! A commit, and the files in it, without a clone.

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::connection::Connection;
use super::error::Error;
use super::object::{CommitObject, EntryKind, Kind, ObjectId, entry};
use super::pack::{LARGEST_OBJECT, Objects};
use super::protocol::Depth;
use super::{TIMEOUT, within};

/// Longest target of a symbolic link, in bytes: Linux' own limit.
const LONGEST_PATH: usize = 4096;

/// A commit of a repository that has been reached. Trees have come with it; a file is fetched when it is asked for.
pub struct Snapshot {
    connection: Connection,
    objects: Objects,
    commit: CommitObject,
    /// So many packs are in memory at once, and no more.
    _permit: OwnedSemaphorePermit,
}

/// Where a path leads in a commit.
enum Found {
    File(ObjectId),
    /// Of a path through a symbolic link: where it leads after the link.
    Elsewhere(Vec<Vec<u8>>),
    Nothing,
}

impl Snapshot {
    pub(super) async fn open(
        mut connection: Connection,
        commit: &str,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, Error> {
        let no_commit = |cause: &str| Error::NoCommit {
            url: connection.url.clone(),
            commit: commit.to_owned(),
            cause: cause.to_owned(),
        };
        let id: ObjectId =
            commit.parse().map_err(|()| no_commit("a commit is 40 or 64 hexadecimal digits"))?;
        let format = connection.advertisement.format;
        if id.format() != format {
            return Err(no_commit(&format!("it names objects by {}", format.name())));
        }
        let not_a_commit = no_commit("it is no commit");
        let objects = connection.fetch(&id, Depth::Commit).await?;
        let Some(content) = objects.get(&id, Kind::Commit) else {
            return Err(if objects.has(&id) { not_a_commit } else { missing(&connection, &id, &objects) });
        };
        let commit = CommitObject::parse(&content).ok_or(not_a_commit)?;
        Ok(Self { connection, objects, commit, _permit: permit })
    }

    /// When the commit was committed, in seconds since 1970-01-01 UTC: what `SOURCE_DATE_EPOCH` is to be.
    pub fn committed(&self) -> i64 {
        self.commit.committed
    }

    /// A file by its path from the root, `/` between the names. None if nothing is there, or a folder or a
    /// submodule. One symbolic link is followed, if it stays within the repository.
    ///
    /// # Errors
    /// [`Error::NotInspectable`] if the file has more than 4 MiB, or the server does not give single files; see
    /// [`Error`] for the others. Takes at most a minute.
    pub async fn read_file(&mut self, path: &str) -> Result<Option<Bytes>, Error> {
        let url = self.connection.url.clone();
        within(TIMEOUT, &url, self.read(path)).await
    }

    async fn read(&mut self, path: &str) -> Result<Option<Bytes>, Error> {
        let Some(names) = resolve(&[], path.as_bytes()) else { return Ok(None) };
        let found = match self.find(names).await? {
            Found::Elsewhere(names) => self.find(names).await?,
            found => found,
        };
        match found {
            Found::File(id) => self.object(&id, Kind::Blob).await.map(Some),
            Found::Elsewhere(_) | Found::Nothing => Ok(None),
        }
    }

    /// Tells the server that nothing more is wanted.
    pub(super) async fn close(self) {
        self.connection.close().await;
    }

    async fn find(&mut self, names: Vec<Vec<u8>>) -> Result<Found, Error> {
        let format = self.connection.advertisement.format;
        let mut tree = self.commit.tree;
        for (depth, name) in names.iter().enumerate() {
            let content = self.object(&tree, Kind::Tree).await?;
            let is_last = depth + 1 == names.len();
            match entry(&content, name, format) {
                Some((EntryKind::Tree, id)) if !is_last => tree = id,
                Some((EntryKind::File, id)) if is_last => return Ok(Found::File(id)),
                Some((EntryKind::Symlink, id)) => {
                    let target = self.object(&id, Kind::Blob).await?;
                    return Ok(behind(&names, depth, &target).map_or(Found::Nothing, Found::Elsewhere));
                }
                _ => return Ok(Found::Nothing),
            }
        }
        Ok(Found::Nothing)
    }

    async fn object(&mut self, id: &ObjectId, kind: Kind) -> Result<Bytes, Error> {
        if let Some(content) = self.objects.get(id, kind) {
            return Ok(content);
        }
        // Of version 0 one pack is all there is, and without a filter it has everything but what is too large.
        if !self.connection.advertisement.filters() {
            return Err(missing(&self.connection, id, &self.objects));
        }
        let fetched = self.connection.fetch(id, Depth::Object).await?;
        let content = fetched.get(id, kind).ok_or_else(|| missing(&self.connection, id, &fetched))?;
        self.objects.extend(fetched);
        Ok(content)
    }
}

fn missing(connection: &Connection, id: &ObjectId, objects: &Objects) -> Error {
    match objects.left_out {
        true => {
            Error::not_inspectable(&connection.url, format!("it has more than {} MiB", LARGEST_OBJECT >> 20))
        }
        false => Error::unavailable(&connection.url, format!("the server sends other objects than {id}")),
    }
}

/// The names of a path that begins in `folder`; none if it leaves the repository.
fn resolve(folder: &[Vec<u8>], path: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut names = folder.to_vec();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()?),
            name => names.push(name.to_vec()),
        }
    }
    Some(names)
}

/// Where `names` leads when the one at `depth` is a link to `target`.
fn behind(names: &[Vec<u8>], depth: usize, target: &[u8]) -> Option<Vec<Vec<u8>>> {
    if target.is_empty() || target.len() > LONGEST_PATH || target.starts_with(b"/") {
        return None;
    }
    let mut led = resolve(&names[..depth], target)?;
    led.extend_from_slice(&names[depth + 1..]);
    Some(led)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str) -> Vec<Vec<u8>> {
        resolve(&[], path.as_bytes()).expect("within the repository")
    }

    #[test]
    fn a_path_stays_within_the_repository() {
        assert_eq!(names("./a//b/../Dockerfile"), [b"a".to_vec(), b"Dockerfile".to_vec()]);
        assert_eq!(resolve(&[], b"../Dockerfile"), None);
        assert_eq!(resolve(&[], b"a/../../Dockerfile"), None);
    }

    #[test]
    fn a_link_leads_on_from_its_own_folder() {
        let led = |path: &str, depth, target: &str| behind(&names(path), depth, target.as_bytes());
        assert_eq!(led("a/link", 1, "../Dockerfile"), Some(names("Dockerfile")));
        assert_eq!(led("a/link", 1, "b/Dockerfile"), Some(names("a/b/Dockerfile")));
        assert_eq!(led("link/Dockerfile", 0, "docker"), Some(names("docker/Dockerfile")));
        assert_eq!(led("a/link", 1, "../../etc/passwd"), None);
        assert_eq!(led("link", 0, "/etc/passwd"), None);
    }
}
