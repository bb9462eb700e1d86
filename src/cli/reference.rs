//! References and annotations as people type them.

use std::sync::Arc;

use super::Error;
use super::exit::Failure;
use crate::registry::Reference;

/// Where other tools expect to be told how a registry is reached.
const PREFIXES: &[&str] =
    &["docker://", "https://", "http://", "oci://", "docker-daemon:", "containers-storage:", "oci:", "dir:"];

/// What is read: a tag, a digest or both. Without either, the tag is `latest`, as everywhere.
///
/// # Errors
/// [`Failure`] in words for whoever typed it.
pub fn source(text: &str) -> Result<Reference, Failure> {
    if let Some(prefix) = PREFIXES.iter().find(|prefix| text.starts_with(**prefix)) {
        let rest = text.strip_prefix(prefix).unwrap_or_default();
        return Err(Failure::usage(format!("write {rest:?} alone, without {prefix}")));
    }
    text.parse().map_err(|error: crate::registry::ParseReferenceError| Failure::usage(error.to_string()))
}

/// Where something is published: a repository and a tag, and nothing left to guess.
///
/// # Errors
/// As [`source`]; also if there is no tag, or a digest.
pub fn target(text: &str) -> Result<Reference, Failure> {
    let reference = source(text)?;
    if let Some(digest) = reference.digest() {
        let without = text.split('@').next().unwrap_or_default();
        return Err(Failure::usage(format!(
            "nothing can be published under a digest chosen beforehand ({digest}); write {without} with a tag"
        )));
    }
    // The last part alone has the tag; an earlier colon is that of a port.
    if !text.rsplit('/').next().is_some_and(|name| name.contains(':')) {
        return Err(Failure::usage(format!(
            "it has no tag; write {text}:1.4.2, or {text}:latest if that is meant"
        )));
    }
    Ok(reference)
}

/// `key=value`, as annotations are given.
///
/// # Errors
/// [`Failure`] if there is no key, or no `=`.
pub fn annotation(text: &str) -> Result<(Arc<str>, Arc<str>), Failure> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().into(), value.into())),
        _ => Err(Failure::usage("write key=value, as in org.opencontainers.image.version=1.4.2")),
    }
}

/// The fields of one argument, separated by commas. In double quotes, a field may have commas; two quotes there are
/// one: RFC 4180, as `docker buildx` has it.
///
/// # Errors
/// [`Failure`] if a quote is not closed.
pub fn fields(text: &str) -> Result<Vec<String>, Error> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            _ => field.push(letter),
        }
    }
    if quoted {
        return Err(Failure::usage("a double quote is not closed").into());
    }
    fields.push(field);
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(result: Result<Reference, Failure>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_prefix_of_other_tools_is_named() {
        assert_eq!(
            refusal(source("docker://ghcr.io/acme/web:1")),
            r#"write "ghcr.io/acme/web:1" alone, without docker://"#
        );
        assert!(refusal(target("https://ghcr.io/acme/web:1")).ends_with("without https://"));
        assert!(source("oci/web:1").is_ok(), "a repository may be called so");
    }

    #[test]
    fn a_target_has_a_tag_and_no_digest() {
        assert!(refusal(target("localhost:5000/web")).contains("localhost:5000/web:latest"));
        let digest = format!("web@sha256:{}", "0".repeat(64));
        assert!(refusal(target(&digest)).contains("write web with a tag"));
        assert_eq!(target("localhost:5000/web:1").unwrap().tag(), Some("1"));
    }

    #[test]
    fn an_annotation_has_a_key() {
        let (key, value) = annotation("a.b=c=d").unwrap();
        assert_eq!((&*key, &*value), ("a.b", "c=d"));
        assert!(annotation("=x").is_err() && annotation("x").is_err());
    }

    #[test]
    fn fields_with_commas_are_quoted() {
        assert_eq!(fields("a,b=c,").unwrap(), ["a", "b=c", ""]);
        assert_eq!(fields(r#"a,"annotation.x=1, ""2""",b"#).unwrap(), ["a", r#"annotation.x=1, "2""#, "b"]);
        assert!(fields(r#"a,"b"#).is_err());
    }
}
