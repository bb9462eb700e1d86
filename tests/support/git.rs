//! Repositories that the rig serves over http, https and ssh.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Rig, World};

/// A repository with a work tree of the test's own.
pub struct GitRepository {
    /// For everyone.
    pub url: String,
    /// For those with a password or a token.
    pub https: String,
    /// For those with a key.
    pub ssh: String,
    folder: PathBuf,
    bare: PathBuf,
}

impl GitRepository {
    /// An empty repository that is served.
    pub fn create(world: &World, name: &str) -> GitRepository {
        Self::init(world.rig, &format!("{}-{name}", world.namespace), &[])
    }

    /// The same without a cluster, and with more options of `git init`.
    pub fn init(rig: &Rig, name: &str, options: &[&str]) -> GitRepository {
        let name = format!("{name}.git");
        let root = &rig.git.root;
        let bare = root.join(&name);
        git(root, &[&["init", "--quiet", "--bare", "--initial-branch=main"], options, &[&name]].concat());
        let folder = std::env::temp_dir().join(&name);
        let target = folder.to_string_lossy();
        git(root, &[&["init", "--quiet", "--initial-branch=main"], options, &[&target]].concat());
        git(&folder, &["remote", "add", "origin", &bare.to_string_lossy()]);
        let url = |server: &str| format!("{server}/{name}");
        let (https, ssh) = (url(&rig.git.https.url), url(&rig.git.ssh.url));
        GitRepository { url: url(&rig.git.url), https, ssh, folder, bare }
    }

    /// A path in the work tree.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    /// Runs git in the work tree and gives what it prints.
    pub fn git(&self, arguments: &[&str]) -> String {
        let author = ["-c", "user.name=test", "-c", "user.email=test@example.com"];
        git(&self.folder, &[&author, arguments].concat()).trim().to_owned()
    }

    /// Runs git in the repository that is served.
    pub fn served(&self, arguments: &[&str]) {
        git(&self.bare, arguments);
    }

    /// Writes files, commits and pushes them to a branch, and gives the commit.
    pub fn commit(&self, branch: &str, files: &[(&str, &str)]) -> String {
        for (path, content) in files {
            let path = self.folder.join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, content).expect("a file");
        }
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message=test"]);
        self.git(&["push", "--quiet", "origin", &format!("HEAD:refs/heads/{branch}")]);
        self.git(&["rev-parse", "HEAD"])
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
