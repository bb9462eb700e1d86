//! What went wrong with a registry, in words for people and in kinds for programs.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;

use super::descriptor::null_as_default;
use super::http::explain_tls;
use crate::network::HostDenied;

/// The longest message of a registry that is repeated, in characters.
const LONGEST_MESSAGE: usize = 200;

/// The longest cause that is told, in characters.
const LONGEST_CAUSE: usize = 1000;

/// How errors of the way through a proxy begin in hyper-util.
const TUNNEL: &str = "tunnel error: ";
/// What is said of connections that the other side has ended without a word.
const ENDED: [&str; 3] = ["connection closed", "broken pipe", "connection reset"];

/// What kind of thing went wrong; decides what is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The repository, manifest or blob does not exist, as far as these credentials see.
    NotFound,
    /// The registry wants credentials, or refused those it got.
    Unauthorized,
    /// The credentials are good, but may not do this.
    Denied,
    /// The host must not be spoken to; nothing was sent.
    HostDenied,
    /// Too many requests.
    RateLimited,
    /// The registry cannot be reached, or fails.
    Unavailable,
    /// The bytes received are not those that were named.
    DigestMismatch,
    /// The content is larger than the limit.
    TooLarge,
    /// The registry's answer makes no sense.
    Malformed,
    /// The registry, or we, cannot do this: an image of schema 1, a redirected upload.
    Unsupported,
    /// The registry understood and refused: an immutable tag, an invalid manifest.
    Rejected,
}

/// A failure at a registry: where, what, and how it may be mended. No message has a secret in it.
#[derive(Clone)]
pub struct Error(Box<Details>);

#[derive(Clone)]
struct Details {
    kind: Kind,
    place: String,
    operation: &'static str,
    cause: String,
    answer: Option<String>,
    retry_after: Option<Duration>,
    transient: bool,
}

impl Error {
    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// How long the registry asked to be left alone, if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the same request may succeed later with nothing changed by anyone.
    pub fn is_transient(&self) -> bool {
        self.0.transient
    }

    /// Whether a registry says by other means than `401` that a token has ended.
    pub(crate) fn is_about_an_ended_token(&self) -> bool {
        let cause = self.0.cause.to_ascii_lowercase();
        matches!(self.kind(), Kind::Rejected | Kind::Denied)
            && cause.contains("token")
            && (cause.contains("expired") || cause.contains("invalid"))
    }

    /// Lets the caller's retry policy try again what is not transient by its kind.
    pub(crate) fn worth_retrying(mut self) -> Self {
        self.0.transient = true;
        self
    }

    /// The same failure of somebody else, who has done the same for another place.
    pub(crate) fn at(mut self, operation: &Operation) -> Self {
        (self.0.place, self.0.operation) = (operation.place.clone(), operation.name);
        self
    }

    pub(crate) fn with_retry_after(mut self, retry_after: Option<Duration>) -> Self {
        self.0.retry_after = retry_after;
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details { place, cause, answer, operation, .. } = &*self.0;
        match answer {
            Some(answer) => write!(formatter, "{place}: {cause} ({answer}, {operation})"),
            None => write!(formatter, "{place}: {cause} ({operation})"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}({self})", self.0.kind)
    }
}

impl StdError for Error {}

/// What is being done and to what; every error of it says so.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    place: String,
    name: &'static str,
}

impl Operation {
    pub(crate) fn new(place: impl fmt::Display, name: &'static str) -> Self {
        Self { place: place.to_string(), name }
    }

    /// The same place, another thing done there.
    pub(crate) fn step(&self, name: &'static str) -> Self {
        Self { place: self.place.clone(), name }
    }

    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    pub(crate) fn error(&self, kind: Kind, cause: impl Into<String>) -> Error {
        Error(Box::new(Details {
            kind,
            place: self.place.clone(),
            operation: self.name,
            cause: one_line(&cause.into()),
            answer: None,
            retry_after: None,
            transient: matches!(kind, Kind::RateLimited | Kind::Unavailable),
        }))
    }

    /// A request that got no answer, or whose answer broke off.
    pub(crate) fn no_answer(&self, host: &str, error: &reqwest::Error) -> Error {
        if let Some(denied) = HostDenied::behind(error) {
            return self.error(Kind::HostDenied, denied.to_string());
        }
        let cause = leaf_cause(error);
        if let Some(explanation) = explain_tls(&cause) {
            let mut failure = self.unreachable(host, &explanation);
            // Somebody has to act.
            failure.0.transient = false;
            return failure;
        }
        // TLS 1.3 lets a server refuse a client after it has been greeted, and the refusal is easily lost.
        let is_tls = error.url().is_some_and(|url| url.scheme() == "https");
        match is_tls && error.is_request() && ENDED.iter().any(|ended| cause.contains(ended)) {
            true => self.unreachable(host, &format!("{cause}, as where a client certificate is missing")),
            false => self.unreachable(host, &cause),
        }
    }

    /// A request or an answer that stands still.
    pub(crate) fn silence(&self, host: &str) -> Error {
        self.unreachable(host, "no answer in time")
    }

    fn unreachable(&self, host: &str, cause: &str) -> Error {
        let mut failure = self.error(Kind::Unavailable, cause);
        failure.0.answer = Some(format!("at {host}"));
        failure
    }

    /// An answer other than success.
    pub(crate) fn refused(&self, status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> Error {
        let answers: Answers = serde_json::from_slice(body).unwrap_or_default();
        let Answer { code, message } = answers.errors.into_iter().next().unwrap_or_default();
        let (kind, words) = classify(status, &code);
        let message = readable(&message);
        let cause = match kind {
            Kind::NotFound | Kind::Unauthorized => words.to_owned(),
            _ if message.is_empty() => words.to_owned(),
            _ => format!("{words}: {message}"),
        };
        let mut failure = self.error(kind, cause).with_retry_after(retry_after);
        let code = readable(&code);
        failure.0.answer = Some(format!("HTTP {} {code}", status.as_u16()).trim_end().to_owned());
        failure
    }
}

/// OCI distribution spec, "Error codes". Harbor and others write `null` for what they have nothing to say about.
#[derive(Default, Deserialize)]
struct Answers {
    #[serde(default, deserialize_with = "null_as_default")]
    errors: Vec<Answer>,
}

#[derive(Default, Deserialize)]
struct Answer {
    #[serde(default, deserialize_with = "null_as_default")]
    code: String,
    #[serde(default, deserialize_with = "null_as_default")]
    message: String,
}

fn classify(status: StatusCode, code: &str) -> (Kind, &'static str) {
    match (status.as_u16(), code) {
        (429, _) | (_, "TOOMANYREQUESTS") => (Kind::RateLimited, "rate limited"),
        (401, _) => (Kind::Unauthorized, "authentication failed"),
        (403, _) => (Kind::Denied, "access denied"),
        (404, _) => (Kind::NotFound, "not found"),
        (_, "MANIFEST_BLOB_UNKNOWN") => (Kind::NotFound, "what the manifest lists is not in the repository"),
        (413, _) => (Kind::TooLarge, "too large for the registry or a proxy before it"),
        (408 | 500.., _) => (Kind::Unavailable, "the registry failed"),
        (405 | 415, _) | (_, "UNSUPPORTED") => (Kind::Unsupported, "not supported by the registry"),
        _ => (Kind::Rejected, "refused by the registry"),
    }
}

/// A cause of our own in which something of others may stand.
fn one_line(cause: &str) -> String {
    let shown = |c: char| if is_shown(c) { c } else { ' ' };
    cause.chars().take(LONGEST_CAUSE).map(shown).collect()
}

/// Whether a letter neither commands a terminal nor turns round what follows (Unicode Standard Annex #9).
fn is_shown(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What others wrote, fit for one line of ours: no control characters, no query strings (they may be signed),
/// no credentials, and not too long.
pub(crate) fn readable(text: &str) -> String {
    let mut secret = false;
    let words = text.split(|c: char| c.is_whitespace() || !is_shown(c)).filter(|word| !word.is_empty());
    let words: Vec<&str> = words
        .map(|word| {
            let hidden = std::mem::replace(
                &mut secret,
                matches!(word.to_ascii_lowercase().trim_end_matches(':'), "bearer" | "basic"),
            );
            match word.split_once('?') {
                _ if hidden => "[redacted]",
                Some((address, _)) if address.contains("://") => address,
                _ => word,
            }
        })
        .collect();
    words.join(" ").chars().take(LONGEST_MESSAGE).collect()
}

/// The innermost error, which is the one that helps: "connection refused", not "error sending request".
fn leaf_cause(error: &reqwest::Error) -> String {
    let chain: Vec<String> =
        std::iter::successors(error.source(), |&cause| cause.source()).map(ToString::to_string).collect();
    let leaf = chain.last().map_or("", |leaf| leaf.split(" (os error").next().unwrap_or_default());
    let cause = match leaf.strip_prefix(TUNNEL).unwrap_or(leaf) {
        _ if chain.iter().any(|cause| cause == "dns error") => "the host name does not resolve".to_owned(),
        _ if error.is_timeout() => "connecting timed out".to_owned(),
        "" => "the request failed".to_owned(),
        leaf => readable(&first_letter_small(leaf)),
    };
    match chain.iter().any(|cause| cause.starts_with(TUNNEL)) {
        true => format!("the proxy (HTTPS_PROXY) does not lead there: {cause}"),
        false => cause,
    }
}

fn first_letter_small(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str) -> Error {
        let operation = Operation::new("registry.example.com/team/web:1.4", "fetching the manifest");
        operation.refused(StatusCode::from_u16(status).unwrap(), None, body.as_bytes())
    }

    #[test]
    fn an_answer_is_told_with_place_cause_and_code() {
        let error = refused(
            404,
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}"#,
        );
        assert_eq!(
            error.to_string(),
            "registry.example.com/team/web:1.4: not found (HTTP 404 MANIFEST_UNKNOWN, fetching the manifest)"
        );
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(!error.is_transient());
    }

    #[test]
    fn answers_are_sorted_into_kinds() {
        for (status, body, kind) in [
            (401, "", Kind::Unauthorized),
            (403, "<html>", Kind::Denied),
            (429, "null", Kind::RateLimited),
            (403, r#"{"errors":[{"code":"TOOMANYREQUESTS"}]}"#, Kind::RateLimited),
            (400, r#"{"errors":[{"code":"MANIFEST_INVALID"}]}"#, Kind::Rejected),
            (400, r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}"#, Kind::NotFound),
            (412, r#"{"errors":null}"#, Kind::Rejected),
            (405, "", Kind::Unsupported),
            (413, "", Kind::TooLarge),
            (503, r#"{"errors":[{"code":null,"message":null}]}"#, Kind::Unavailable),
        ] {
            assert_eq!(refused(status, body).kind(), kind, "{status} {body}");
        }
    }

    #[test]
    fn a_message_of_the_registry_is_one_line_without_secrets() {
        let error = refused(
            400,
            r#"{"errors":[{"code":"X","message":"bad\nthing at https://s3.example.com/a?X-Sig=secret with Bearer secret"}]}"#,
        );
        assert!(
            error
                .to_string()
                .contains("bad thing at https://s3.example.com/a with Bearer [redacted] (HTTP 400 X"),
            "{error}"
        );
        assert!(!error.to_string().contains("secret"));
    }

    #[test]
    fn a_long_message_is_cut() {
        assert_eq!(readable(&"é".repeat(5000)).chars().count(), LONGEST_MESSAGE);
        assert_eq!(readable("a\u{202e}b\u{1b}[2Jc"), "a b [2Jc");
        let cause = format!("{}\nforged", "x".repeat(995));
        let error = Operation::new("a.io/web", "testing").error(Kind::Malformed, cause);
        assert_eq!(error.to_string(), format!("a.io/web: {} forg (testing)", "x".repeat(995)));
    }
}
