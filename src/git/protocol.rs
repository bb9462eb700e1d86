//! What is said to git servers, and what they say of themselves: protocol version 2 (`gitprotocol-v2(5)`), and
//! version 0 (`gitprotocol-pack(5)`) of servers that know no other.

use std::collections::BTreeMap;

use super::object::{ObjectFormat, ObjectId};

const AGENT: &str = concat!("agent=multiarch-operator/", env!("CARGO_PKG_VERSION"));

/// One packet line.
pub(super) fn packet(line: &str) -> Vec<u8> {
    format!("{:04x}{line}", line.len() + 4).into_bytes()
}

/// The names of refs, and the commits they stand for.
pub(super) type Refs = BTreeMap<String, String>;

/// What a server says when it is reached.
#[derive(Debug)]
pub(super) struct Advertisement {
    /// Of version 0 everything is told at once.
    pub(super) refs: Option<Refs>,
    pub(super) format: ObjectFormat,
    capabilities: BTreeMap<String, String>,
}

/// What is wanted of an object, and of what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// A commit with its trees, without parents, and without files if the server can leave them out.
    Commit,
    /// The one object.
    Object,
}

impl Advertisement {
    /// # Errors
    /// If objects are named by a hash that nobody knows.
    pub(super) fn parse(lines: &[Vec<u8>]) -> Result<Self, String> {
        let is_v2 = lines.iter().any(|line| line.trim_ascii_end() == b"version 2");
        let capabilities: BTreeMap<String, String> = if is_v2 {
            lines.iter().filter_map(|line| std::str::from_utf8(line).ok()).map(capability).collect()
        } else {
            let first = lines.iter().find_map(|line| line.splitn(2, |byte| *byte == 0).nth(1));
            let words = first.and_then(|words| std::str::from_utf8(words).ok()).unwrap_or_default();
            words.split_whitespace().map(capability).collect()
        };
        let format = match capabilities.get("object-format") {
            None => ObjectFormat::Sha1,
            Some(name) => ObjectFormat::from_name(name).ok_or(format!("it names objects by {name}"))?,
        };
        let refs = (!is_v2).then(|| refs_v0(lines));
        Ok(Self { refs, format, capabilities })
    }

    pub(super) fn is_v2(&self) -> bool {
        self.refs.is_none()
    }

    fn has(&self, capability: &str) -> bool {
        self.capabilities.contains_key(capability)
    }

    fn fetch_has(&self, feature: &str) -> bool {
        let features = self.capabilities.get("fetch");
        features.is_some_and(|features| features.split(' ').any(|word| word == feature))
    }

    /// Whether files can be left out of what is fetched and be fetched one by one.
    pub(super) fn filters(&self) -> bool {
        self.is_v2() && self.fetch_has("filter")
    }

    /// Why `commit` cannot be fetched at all, if so.
    pub(super) fn obstacle(&self, commit: &str) -> Option<&'static str> {
        let any =
            ["allow-tip-sha1-in-want", "allow-reachable-sha1-in-want"].iter().any(|name| self.has(name));
        match &self.refs {
            None => None,
            Some(_) if !self.has("side-band-64k") => Some("the server has no side-band-64k"),
            Some(refs) if any || refs.values().any(|id| id == commit) => None,
            Some(_) => Some("the server gives only what a branch or tag points at"),
        }
    }

    /// Asks for refs that are, or begin with, one of these names.
    pub(super) fn list(&self, prefixes: &[String]) -> Vec<u8> {
        let mut body = self.command("ls-refs");
        body.extend(b"0001");
        body.extend(packet("peel\n"));
        body.extend(prefixes.iter().flat_map(|prefix| packet(&format!("ref-prefix {prefix}\n"))));
        body.extend(b"0000");
        body
    }

    /// Asks for a pack.
    pub(super) fn fetch(&self, want: &ObjectId, depth: Depth) -> Vec<u8> {
        if self.is_v2() { self.fetch_v2(want, depth) } else { self.fetch_v0(want) }
    }

    fn fetch_v2(&self, want: &ObjectId, depth: Depth) -> Vec<u8> {
        let mut body = self.command("fetch");
        body.extend(b"0001");
        body.extend(packet("no-progress\n"));
        body.extend(packet("ofs-delta\n"));
        if depth == Depth::Commit && self.fetch_has("shallow") {
            body.extend(packet("deepen 1\n"));
        }
        if depth == Depth::Commit && self.filters() {
            body.extend(packet("filter blob:none\n"));
        }
        body.extend(packet(&format!("want {want}\n")));
        body.extend(packet("done\n"));
        body.extend(b"0000");
        body
    }

    fn fetch_v0(&self, want: &ObjectId) -> Vec<u8> {
        // Some servers answer only those who know `multi_ack`, though nothing here is acknowledged.
        let wanted = ["multi_ack_detailed", "side-band-64k", "ofs-delta", "no-progress", "shallow"];
        let mut capabilities: Vec<&str> = wanted.into_iter().filter(|name| self.has(name)).collect();
        let format = format!("object-format={}", self.format.name());
        if self.has("object-format") {
            capabilities.push(&format);
        }
        capabilities.push(AGENT);
        let mut body = packet(&format!("want {want} {}\n", capabilities.join(" ")));
        if self.has("shallow") {
            body.extend(packet("deepen 1\n"));
        }
        body.extend(b"0000");
        body.extend(packet("done\n"));
        body
    }

    fn command(&self, name: &str) -> Vec<u8> {
        let mut body = packet(&format!("command={name}\n"));
        if self.has("agent") {
            body.extend(packet(&format!("{AGENT}\n")));
        }
        if self.has("object-format") {
            body.extend(packet(&format!("object-format={}\n", self.format.name())));
        }
        body
    }
}

/// `name`, or `name=value`.
fn capability(word: &str) -> (String, String) {
    let (name, value) = word.trim_end().split_once('=').unwrap_or((word.trim_end(), ""));
    (name.to_owned(), value.to_owned())
}

/// `<oid> <name>[ peeled:<oid>]`, of annotated tags the peeled commit.
pub(super) fn refs_v2(lines: &[Vec<u8>]) -> Refs {
    let parse = |line: &Vec<u8>| {
        let text = std::str::from_utf8(line).ok()?.trim_end();
        let mut words = text.split(' ');
        let (oid, name) = (words.next()?, words.next()?);
        let peeled = words.find_map(|word| word.strip_prefix("peeled:"));
        Some((name.to_owned(), peeled.unwrap_or(oid).to_owned()))
    };
    lines.iter().filter_map(parse).collect()
}

/// `<oid> <name>[\0capabilities]`, and `<name>^{}` with the peeled commit after an annotated tag.
fn refs_v0(lines: &[Vec<u8>]) -> Refs {
    let mut refs = BTreeMap::new();
    for line in lines {
        let line = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let Ok(text) = std::str::from_utf8(line) else { continue };
        if let Some((oid, name)) = text.trim_end().split_once(' ') {
            refs.insert(name.trim_end_matches("^{}").to_owned(), oid.to_owned());
        }
    }
    refs
}

/// Full names in the order in which git tries them (`gitrevisions(7)`).
pub(super) fn candidates(reference: Option<&str>) -> Vec<String> {
    match reference {
        None | Some("HEAD") => vec!["HEAD".to_owned()],
        Some(full) if full.starts_with("refs/") => vec![full.to_owned()],
        Some(short) => vec![format!("refs/tags/{short}"), format!("refs/heads/{short}")],
    }
}

/// What is to be listed: heads and tags as a whole where a short name was given, so that a near miss can be named.
pub(super) fn prefixes(candidates: &[String]) -> Vec<String> {
    match candidates {
        [only] => vec![only.clone()],
        _ => vec!["refs/heads/".to_owned(), "refs/tags/".to_owned()],
    }
}

/// The first candidate that exists, if what it names is a full hash.
pub(super) fn pick(refs: &Refs, candidates: &[String]) -> Option<String> {
    let oid = candidates.iter().find_map(|candidate| refs.get(candidate))?;
    oid.parse::<ObjectId>().ok().map(|id| id.to_string())
}

/// How many letters of a name may be wrong or missing.
const NEAR: usize = 3;

/// Up to three branches and tags with a name close to the one asked for.
pub(super) fn similar(refs: &Refs, reference: &str) -> Vec<String> {
    let short =
        |name: &str| name.trim_start_matches("refs/heads/").trim_start_matches("refs/tags/").to_owned();
    let mut near: Vec<(usize, String)> = refs
        .keys()
        .map(|name| short(name))
        .filter(|name| name.len().abs_diff(reference.len()) <= NEAR)
        .map(|name| (strsim::damerau_levenshtein(&name, reference), name))
        .filter(|(distance, _)| *distance <= NEAR)
        .collect();
    near.sort();
    near.dedup();
    near.into_iter().take(3).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::Error;

    const COMMIT: &str = "0123456789012345678901234567890123456789";
    const TAG_OBJECT: &str = "9999999999999999999999999999999999999999";

    fn lines(lines: &[String]) -> Vec<Vec<u8>> {
        lines.iter().map(|line| line.clone().into_bytes()).collect()
    }

    fn version_0(capabilities: &str) -> Advertisement {
        let lines = lines(&[
            "# service=git-upload-pack\n".to_owned(),
            format!("{COMMIT} HEAD\0{capabilities}\n"),
            format!("{COMMIT} refs/heads/main\n"),
            format!("{TAG_OBJECT} refs/tags/v1\n"),
            format!("{COMMIT} refs/tags/v1^{{}}\n"),
        ]);
        Advertisement::parse(&lines).expect("an advertisement")
    }

    fn version_2(capabilities: &[&str]) -> Advertisement {
        let mut all = vec!["version 2\n".to_owned()];
        all.extend(capabilities.iter().map(|capability| format!("{capability}\n")));
        Advertisement::parse(&lines(&all)).expect("an advertisement")
    }

    fn text(body: Vec<u8>) -> String {
        String::from_utf8(body).expect("text")
    }

    #[test]
    fn an_annotated_tag_gives_the_commit_it_points_at() {
        let refs = version_0("multi_ack side-band-64k").refs.expect("refs");
        assert_eq!(pick(&refs, &candidates(Some("v1"))).as_deref(), Some(COMMIT));
        let refs = refs_v2(&lines(&[format!("{TAG_OBJECT} refs/tags/v1 peeled:{COMMIT}\n")]));
        assert_eq!(pick(&refs, &candidates(Some("v1"))).as_deref(), Some(COMMIT));
    }

    #[test]
    fn a_tag_goes_before_a_branch_of_the_same_name_as_in_git() {
        assert_eq!(candidates(Some("v1")), ["refs/tags/v1", "refs/heads/v1"]);
        assert_eq!(candidates(Some("refs/heads/v1")), ["refs/heads/v1"]);
        assert_eq!(candidates(None), ["HEAD"]);
    }

    #[test]
    fn a_ref_that_is_nearly_right_is_suggested() {
        let refs = version_0("").refs.expect("refs");
        assert_eq!(similar(&refs, "mian"), ["main"]);
        let error = Error::NoReference {
            url: "https://git.test/web".to_owned(),
            reference: "mian".to_owned(),
            similar: similar(&refs, "mian"),
        };
        assert_eq!(
            error.to_string(),
            "https://git.test/web: no branch or tag is named \"mian\"; did you mean main?"
        );
    }

    #[test]
    fn files_are_left_out_only_where_the_server_can() {
        let want = COMMIT.parse().expect("a hash");
        let with = version_2(&["fetch=shallow wait-for-done filter", "object-format=sha1"]);
        let asked = text(with.fetch(&want, Depth::Commit));
        assert!(asked.contains("filter blob:none") && asked.contains("deepen 1") && asked.contains("sha1"));
        assert!(!text(with.fetch(&want, Depth::Object)).contains("filter"));
        let without = version_2(&["fetch=shallow"]);
        let asked = text(without.fetch(&want, Depth::Commit));
        assert!(!asked.contains("filter") && !asked.contains("object-format") && asked.contains("deepen 1"));
    }

    #[test]
    fn a_server_of_version_0_gives_tips_and_perhaps_more() {
        assert_eq!(version_0("side-band-64k").obstacle(COMMIT), None);
        assert!(version_0("").obstacle(COMMIT).is_some());
        assert!(version_0("side-band-64k").obstacle(TAG_OBJECT).is_some());
        assert_eq!(version_0("side-band-64k allow-reachable-sha1-in-want").obstacle(TAG_OBJECT), None);
    }

    #[test]
    fn the_hash_that_names_objects_is_the_servers() {
        assert_eq!(version_2(&["object-format=sha256"]).format, ObjectFormat::Sha256);
        assert_eq!(version_0("object-format=sha256 side-band-64k").format, ObjectFormat::Sha256);
        assert_eq!(version_0("").format, ObjectFormat::Sha1);
        let unknown = lines(&["version 2".to_owned(), "object-format=md5".to_owned()]);
        assert!(Advertisement::parse(&unknown).is_err());
    }
}
