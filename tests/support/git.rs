//! Repositories that the rig serves over smart HTTP.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::World;

/// A repository with a work tree of the test's own.
pub struct GitRepository {
    pub url: String,
    folder: PathBuf,
}

impl GitRepository {
    /// An empty repository that is served.
    pub fn create(world: &World, name: &str) -> GitRepository {
        let name = format!("{}-{name}.git", world.namespace);
        let bare = world.rig.git.root.join(&name);
        git(&world.rig.git.root, &["init", "--quiet", "--bare", "--initial-branch=main", &name]);
        let folder = std::env::temp_dir().join(&name);
        git(&std::env::temp_dir(), &["clone", "--quiet", &bare.to_string_lossy(), &folder.to_string_lossy()]);
        GitRepository { url: format!("{}/{name}", world.rig.git.url), folder }
    }

    /// Writes files, commits and pushes them to a branch, and gives the commit.
    pub fn commit(&self, branch: &str, files: &[(&str, &str)]) -> String {
        for (path, content) in files {
            let path = self.folder.join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, content).expect("a file");
        }
        git(&self.folder, &["add", "--all"]);
        let author = ["-c", "user.name=test", "-c", "user.email=test@example.com"];
        git(&self.folder, &[&author[..], &["commit", "--quiet", "--allow-empty", "--message=test"]].concat());
        git(&self.folder, &["push", "--quiet", "origin", &format!("HEAD:refs/heads/{branch}")]);
        git(&self.folder, &["rev-parse", "HEAD"]).trim().to_owned()
    }
}

impl Drop for GitRepository {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git").args(arguments).current_dir(folder).output().expect("git is installed");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}
