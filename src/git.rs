//! Resolves a ref of a git repository to a commit over smart HTTP, as `git ls-remote` does.
//!
//! Speaks protocol version 2 (`ls-refs`) and understands servers that answer with version 0. See git's
//! `gitprotocol-http(5)` and `gitprotocol-v2(5)`.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use gix_packetline::PacketLineRef;
use gix_packetline::decode::{Stream, streaming};

/// Longest list of refs that is read, in bytes; a repository with 100,000 refs needs half of it.
const ANSWER_LIMIT: usize = 16 * 1024 * 1024;
const TIMEOUT: Duration = Duration::from_secs(30);
const SERVICE: &str = "git-upload-pack";

/// Why a ref could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server cannot be reached or fails; it may pass.
    #[error("{url}: {cause}")]
    Unavailable {
        /// The repository.
        url: String,
        /// The leaf cause.
        cause: String,
    },
    /// The server refuses us.
    #[error("{url}: access denied (HTTP {status}); private repositories are not supported yet")]
    Denied {
        /// The repository.
        url: String,
        /// 401 or 403.
        status: u16,
    },
    /// There is no repository there.
    #[error("{url}: no git repository is there ({cause})")]
    NoRepository {
        /// The repository.
        url: String,
        /// What is there instead.
        cause: String,
    },
    /// The repository has no such ref.
    #[error("{url}: no branch or tag is named {reference:?}{}", suggestion(.similar))]
    NoReference {
        /// The repository.
        url: String,
        /// The ref that was asked for.
        reference: String,
        /// Refs that were perhaps meant.
        similar: Vec<String>,
    },
}

fn suggestion(similar: &[String]) -> String {
    match similar {
        [] => String::new(),
        names => format!("; did you mean {}?", names.join(" or ")),
    }
}

/// A client for git repositories over http and https.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
}

impl Client {
    /// A client over a given HTTP client.
    pub fn new(http: reqwest::Client) -> Self {
        Client { http }
    }

    /// The commit that a ref names: a full name (`refs/…`), a tag, a branch (in git's own order), or the
    /// remote's HEAD without one. Annotated tags give the commit they point at.
    ///
    /// # Errors
    /// See [`Error`]; every one names the repository.
    pub async fn resolve(&self, url: &str, reference: Option<&str>) -> Result<String, Error> {
        let url = url.trim_end_matches('/');
        let candidates = candidates(reference);
        let advertised = self.get(url).await?;
        let lines = packets(&advertised, url)?;
        let refs = match lines.iter().any(|line| line.trim_ascii_end() == b"version 2") {
            true => refs_v2(&packets(&self.list(url, &candidates).await?, url)?),
            false => refs_v0(&lines),
        };
        pick(&refs, &candidates).ok_or_else(|| Error::NoReference {
            url: url.to_owned(),
            reference: reference.unwrap_or("HEAD").to_owned(),
            similar: similar(&refs, reference.unwrap_or_default()),
        })
    }

    async fn get(&self, url: &str) -> Result<Vec<u8>, Error> {
        let address = format!("{url}/info/refs?service={SERVICE}");
        let request = self.http.get(address).header("Git-Protocol", "version=2").timeout(TIMEOUT);
        self.read(url, request, "advertisement").await
    }

    async fn list(&self, url: &str, candidates: &[String]) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        for line in ["command=ls-refs\n", "object-format=sha1\n"] {
            body.extend(packet(line));
        }
        body.extend(b"0001");
        body.extend(packet("peel\n"));
        // Heads and tags as a whole where a short name was given, so that a near miss can be named.
        let prefixes = match candidates {
            [only] => vec![only.clone()],
            _ => vec!["refs/heads/".to_owned(), "refs/tags/".to_owned()],
        };
        for prefix in prefixes {
            body.extend(packet(&format!("ref-prefix {prefix}\n")));
        }
        body.extend(b"0000");
        let request = self
            .http
            .post(format!("{url}/{SERVICE}"))
            .header("Git-Protocol", "version=2")
            .header("Content-Type", format!("application/x-{SERVICE}-request"))
            .timeout(TIMEOUT)
            .body(body);
        self.read(url, request, "result").await
    }

    async fn read(&self, url: &str, request: reqwest::RequestBuilder, kind: &str) -> Result<Vec<u8>, Error> {
        let unavailable = |cause: String| Error::Unavailable { url: url.to_owned(), cause };
        let response = request.send().await.map_err(|error| unavailable(leaf(&error)))?;
        let status = response.status();
        match status.as_u16() {
            401 | 403 => return Err(Error::Denied { url: url.to_owned(), status: status.as_u16() }),
            404 | 410 => {
                return Err(Error::NoRepository { url: url.to_owned(), cause: format!("HTTP {status}") });
            }
            _ if !status.is_success() => return Err(unavailable(format!("HTTP {status}"))),
            _ => {}
        }
        let content_type =
            response.headers().get("Content-Type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        if content_type != format!("application/x-{SERVICE}-{kind}") {
            let cause = format!("the answer is {content_type:?}, not git's smart protocol");
            return Err(Error::NoRepository { url: url.to_owned(), cause });
        }
        let mut body = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            body.extend_from_slice(&chunk.map_err(|error| unavailable(leaf(&error)))?);
            if body.len() > ANSWER_LIMIT {
                return Err(unavailable(format!("the list of refs is longer than {ANSWER_LIMIT} bytes")));
            }
        }
        Ok(body)
    }
}

/// The innermost cause: what a person can act on.
fn leaf(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Full names in the order in which git tries them (`gitrevisions(7)`).
fn candidates(reference: Option<&str>) -> Vec<String> {
    match reference {
        None | Some("HEAD") => vec!["HEAD".to_owned()],
        Some(full) if full.starts_with("refs/") => vec![full.to_owned()],
        Some(short) => vec![format!("refs/tags/{short}"), format!("refs/heads/{short}")],
    }
}

fn packet(line: &str) -> Vec<u8> {
    format!("{:04x}{line}", line.len() + 4).into_bytes()
}

/// The data lines of an answer.
fn packets<'a>(mut answer: &'a [u8], url: &str) -> Result<Vec<&'a [u8]>, Error> {
    let malformed = |cause: String| Error::Unavailable { url: url.to_owned(), cause };
    let mut lines = Vec::new();
    while !answer.is_empty() {
        match streaming(answer).map_err(|error| malformed(format!("malformed answer: {error}")))? {
            Stream::Complete { line, bytes_consumed } => {
                if let PacketLineRef::Data(data) = line {
                    if let Some(message) = data.strip_prefix(b"ERR ") {
                        let text = String::from_utf8_lossy(message);
                        let cause = format!("the server says: {}", text.trim_end());
                        return Err(Error::NoRepository { url: url.to_owned(), cause });
                    }
                    lines.push(data);
                }
                answer = &answer[bytes_consumed..];
            }
            Stream::Incomplete { .. } => return Err(malformed("the answer broke off".to_owned())),
        }
    }
    Ok(lines)
}

/// `<oid> <name>[ peeled:<oid>]`, of annotated tags the peeled commit.
fn refs_v2(lines: &[&[u8]]) -> BTreeMap<String, String> {
    lines
        .iter()
        .filter_map(|line| {
            let text = std::str::from_utf8(line).ok()?.trim_end();
            let mut words = text.split(' ');
            let (oid, name) = (words.next()?, words.next()?);
            let peeled = words.find_map(|word| word.strip_prefix("peeled:"));
            Some((name.to_owned(), peeled.unwrap_or(oid).to_owned()))
        })
        .collect()
}

/// `<oid> <name>[\0capabilities]`, and `<name>^{}` with the peeled commit after an annotated tag.
fn refs_v0(lines: &[&[u8]]) -> BTreeMap<String, String> {
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

/// The first candidate that exists, if what it names is a full hash.
fn pick(refs: &BTreeMap<String, String>, candidates: &[String]) -> Option<String> {
    let oid = candidates.iter().find_map(|candidate| refs.get(candidate))?;
    let is_hash = matches!(oid.len(), 40 | 64) && oid.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| oid.to_ascii_lowercase())
}

/// Up to three branches and tags with a name close to the one asked for.
fn similar(refs: &BTreeMap<String, String>, reference: &str) -> Vec<String> {
    let short =
        |name: &str| name.trim_start_matches("refs/heads/").trim_start_matches("refs/tags/").to_owned();
    let mut near: Vec<(usize, String)> = refs
        .keys()
        .map(|name| short(name))
        .map(|name| (strsim::damerau_levenshtein(&name, reference), name))
        .filter(|(distance, _)| *distance <= 3)
        .collect();
    near.sort();
    near.dedup();
    near.into_iter().take(3).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789012345678901234567890123456789";
    const TAG_OBJECT: &str = "9999999999999999999999999999999999999999";

    fn advertisement() -> Vec<u8> {
        let mut answer = packet("# service=git-upload-pack\n");
        answer.extend(b"0000");
        answer.extend(packet(&format!("{COMMIT} HEAD\0multi_ack side-band-64k\n")));
        answer.extend(packet(&format!("{COMMIT} refs/heads/main\n")));
        answer.extend(packet(&format!("{TAG_OBJECT} refs/tags/v1\n")));
        answer.extend(packet(&format!("{COMMIT} refs/tags/v1^{{}}\n")));
        answer.extend(b"0000");
        answer
    }

    #[test]
    fn an_annotated_tag_gives_the_commit_it_points_at() {
        let answer = advertisement();
        let refs = refs_v0(&packets(&answer, "url").expect("packets"));
        assert_eq!(pick(&refs, &candidates(Some("v1"))).as_deref(), Some(COMMIT));
        let line = format!("{TAG_OBJECT} refs/tags/v1 peeled:{COMMIT}\n");
        let refs = refs_v2(&[line.as_bytes()]);
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
        let answer = advertisement();
        let refs = refs_v0(&packets(&answer, "url").expect("packets"));
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
    fn an_answer_that_breaks_off_is_an_error_and_no_panic() {
        let answer = advertisement();
        for length in 1..answer.len() {
            let _ = packets(&answer[..length], "url");
        }
        assert!(packets(b"zzzz", "url").is_err());
    }

    #[test]
    fn what_the_server_says_is_repeated() {
        let error = packets(&packet("ERR access denied or repository not exported\n"), "url").map(|_| ());
        assert!(error.expect_err("an error").to_string().contains("not exported"));
    }
}
