//! Files that change while the operator runs: mounted ConfigMaps and Secrets, whose files are swapped by symbolic links.
//!
//! They are read every few seconds. Watching them by the kernel is no less code: what is swapped is a link two folders up.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::registry::read_limited;

/// How long a change may go unnoticed. Kubelets take a minute to bring one.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// A file and what was in it at the last look.
#[derive(Debug)]
pub struct WatchedFile {
    path: PathBuf,
    known: Option<Content>,
}

/// What a look at a file gives: its content, of at most 1 MiB; `None` where there is no file; or why it cannot be read.
pub type Content = Result<Option<Vec<u8>>, String>;

impl WatchedFile {
    /// Nothing is known of the file yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, known: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in the file if that is not what was there at the last look; the first look always gives it.
    pub fn change(&mut self) -> Option<Content> {
        let content = if self.path.exists() { read_limited(&self.path).map(Some) } else { Ok(None) };
        if self.known.as_ref() == Some(&content) {
            return None;
        }
        self.known = Some(content.clone());
        Some(content)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_that_is_swapped_by_a_link_has_changed_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for (version, content) in [("v1", "one"), ("v2", "two")] {
            std::fs::create_dir(path(version)).expect("a folder");
            std::fs::write(path(version).join("file"), content).expect("a file");
        }
        symlink("..data/file", path("file")).expect("a link");
        let mut file = WatchedFile::new(path("file"));
        assert_eq!(file.change(), Some(Ok(None)));
        assert_eq!(file.change(), None);
        for (version, content) in [("v1", "one"), ("v2", "two")] {
            symlink(version, path("..new")).expect("a link");
            std::fs::rename(path("..new"), path("..data")).expect("a swap");
            assert_eq!(file.change(), Some(Ok(Some(content.into()))));
            assert_eq!(file.change(), None);
        }
    }
}
