//! Objects of a repository: their names, which are hashes, and what is in commits and trees (`gitformat-*(5)`).

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;

/// Which hash names the objects of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ObjectFormat {
    Sha1,
    Sha256,
}

impl ObjectFormat {
    /// As the capability `object-format` has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            ObjectFormat::Sha1 => "sha1",
            ObjectFormat::Sha256 => "sha256",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [ObjectFormat::Sha1, ObjectFormat::Sha256].into_iter().find(|format| format.name() == name)
    }

    /// Length of a hash in bytes.
    pub(super) fn length(self) -> usize {
        self.algorithm().output_len()
    }

    /// The hash of plain bytes, as at the end of packs.
    pub(super) fn hash(self, bytes: &[u8]) -> ObjectId {
        ObjectId::of(digest::digest(self.algorithm(), bytes).as_ref())
    }

    /// The name of an object.
    pub(super) fn name_of(self, kind: Kind, content: &[u8]) -> ObjectId {
        let mut context = digest::Context::new(self.algorithm());
        context.update(format!("{} {}\0", kind.name(), content.len()).as_bytes());
        context.update(content);
        ObjectId::of(context.finish().as_ref())
    }

    fn algorithm(self) -> &'static digest::Algorithm {
        match self {
            ObjectFormat::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            ObjectFormat::Sha256 => &digest::SHA256,
        }
    }
}

/// The name of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ObjectId {
    bytes: [u8; 32],
    length: u8,
}

impl ObjectId {
    /// The first 20 or 32 bytes, which are there.
    fn of(hash: &[u8]) -> Self {
        let mut bytes = [0; 32];
        let length = hash.len().min(bytes.len());
        bytes[..length].copy_from_slice(&hash[..length]);
        Self { bytes, length: u8::try_from(length).unwrap_or_default() }
    }

    /// None if there are not enough bytes.
    pub(super) fn read(bytes: &[u8], format: ObjectFormat) -> Option<Self> {
        bytes.get(..format.length()).map(Self::of)
    }

    pub(super) fn format(&self) -> ObjectFormat {
        if self.length == 20 { ObjectFormat::Sha1 } else { ObjectFormat::Sha256 }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes[..self.length.into()].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for ObjectId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if !matches!(text.len(), 40 | 64) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(());
        }
        let pairs = text.as_bytes().chunks_exact(2).filter_map(|pair| std::str::from_utf8(pair).ok());
        let bytes: Result<Vec<u8>, _> = pairs.map(|pair| u8::from_str_radix(pair, 16)).collect();
        bytes.map(|bytes| Self::of(&bytes)).map_err(|_| ())
    }
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Commit,
    Tree,
    Blob,
    Tag,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Commit => "commit",
            Kind::Tree => "tree",
            Kind::Blob => "blob",
            Kind::Tag => "tag",
        }
    }
}

/// What is read of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CommitObject {
    pub(super) tree: ObjectId,
    /// When it was committed, in seconds since 1970-01-01 UTC.
    pub(super) committed: i64,
}

impl CommitObject {
    /// None if it is not a commit.
    pub(super) fn parse(content: &[u8]) -> Option<Self> {
        let (mut tree, mut committed) = (None, None);
        for line in content.split(|byte| *byte == b'\n').take_while(|line| !line.is_empty()) {
            if let Some(hash) = line.strip_prefix(b"tree ") {
                tree = tree.or(std::str::from_utf8(hash).ok()?.parse().ok());
            } else if let Some(who) = line.strip_prefix(b"committer ") {
                // `name <mail> seconds zone`; the name may be in any encoding.
                let mut words = who.rsplit(|byte| *byte == b' ').skip(1);
                let seconds = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
                committed = committed.or(Some(seconds));
            }
        }
        Some(Self { tree: tree?, committed: committed? })
    }
}

/// What an entry of a tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    Symlink,
    Tree,
    Submodule,
}

/// The entry of that name in a tree. None if there is none, or the tree is malformed before it.
pub(super) fn entry(tree: &[u8], name: &[u8], format: ObjectFormat) -> Option<(EntryKind, ObjectId)> {
    let mut rest = tree;
    while !rest.is_empty() {
        let space = rest.iter().position(|byte| *byte == b' ')?;
        let (mode, after) = (&rest[..space], &rest[space + 1..]);
        let end = after.iter().position(|byte| *byte == 0)?;
        let id = ObjectId::read(&after[end + 1..], format)?;
        if &after[..end] == name {
            let kind = match mode {
                b"40000" | b"040000" => EntryKind::Tree,
                b"120000" => EntryKind::Symlink,
                b"160000" => EntryKind::Submodule,
                _ => EntryKind::File,
            };
            return Some((kind, id));
        }
        rest = &after[end + 1 + format.length()..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_BLOB: &str = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391";

    #[test]
    fn objects_are_named_as_git_names_them() {
        assert_eq!(ObjectFormat::Sha1.name_of(Kind::Blob, b"").to_string(), EMPTY_BLOB);
        let sha256 = "473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813";
        assert_eq!(ObjectFormat::Sha256.name_of(Kind::Blob, b"").to_string(), sha256);
        assert_eq!(EMPTY_BLOB.parse::<ObjectId>().map(|id| id.format()), Ok(ObjectFormat::Sha1));
        for wrong in ["", "e69de29", &EMPTY_BLOB.replace('e', "g"), &EMPTY_BLOB.replace("e6", "é")] {
            assert!(wrong.parse::<ObjectId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_tree_and_the_committers_time_are_read_from_a_commit() {
        let text = format!(
            "tree {EMPTY_BLOB}\nparent {EMPTY_BLOB}\nauthor A <a@x> 1 +0000\ncommitter B C <b@x> 1700000000 -0730\ngpgsig x\n tree y\n\ntree z\n"
        );
        let commit = CommitObject::parse(text.as_bytes()).expect("a commit");
        assert_eq!((commit.tree.to_string().as_str(), commit.committed), (EMPTY_BLOB, 1_700_000_000));
        for broken in ["", "tree x\n", "committer x", "tree x\ncommitter a b c"] {
            assert_eq!(CommitObject::parse(broken.as_bytes()), None, "{broken}");
        }
    }

    #[test]
    fn an_entry_is_found_by_its_whole_name_in_a_tree() {
        let mut tree = Vec::new();
        for (mode, name, byte) in [
            ("100644", "Dockerfile", 1),
            ("40000", "docs", 2),
            ("120000", "link", 3),
            ("160000", "module", 4),
        ] {
            tree.extend(format!("{mode} {name}\0").as_bytes());
            tree.extend([byte; 20]);
        }
        let find = |name: &str| entry(&tree, name.as_bytes(), ObjectFormat::Sha1).map(|(kind, _)| kind);
        assert_eq!(find("Dockerfile"), Some(EntryKind::File));
        assert_eq!(find("docs"), Some(EntryKind::Tree));
        assert_eq!(find("link"), Some(EntryKind::Symlink));
        assert_eq!(find("module"), Some(EntryKind::Submodule));
        assert_eq!(find("doc"), None);
        for length in 0..tree.len() {
            let _ = entry(&tree[..length], b"module", ObjectFormat::Sha1);
        }
    }
}
