//! What went wrong, as the number that scripts see. The one place where errors become exit codes.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::process::ExitCode;

use super::Error;
use crate::image::inspect::{Problem, ProblemReason};
use crate::image::{AssembleError, ComposeError, EditError, PublishError, ResolveError};
use crate::layout::LayoutError;
use crate::platform::ParsePlatformError;
use crate::registry::{self, Kind, ParseReferenceError};

/// What `--help` says about exit codes.
pub const HELP: &str = "\
Exit codes:
  0    done
  1    another failure
  2    usage: the command line makes no sense
  3    not found: the repository, image, platform or blob is not there
  4    authentication failed, or access was denied
  5    verification failed: a platform, digest, size or program is not what it should be
  6    the registry is unavailable or limits requests; worth trying again
  7    conflict: the tag exists, or somebody else has moved it meanwhile
  8    the image is Stalled: it does not become ready unless somebody acts
  9    the time is over
  130  interrupted";

/// The exit codes other than success. They are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Whatever has no number of its own.
    Other = 1,
    /// The command line makes no sense; clap's own number for it.
    Usage = 2,
    /// What was named is not there.
    NotFound = 3,
    /// Authentication failed, or access was denied.
    Denied = 4,
    /// Something is not what it should be.
    VerificationFailed = 5,
    /// Worth trying again.
    Unavailable = 6,
    /// Others were first.
    Conflict = 7,
    /// A `MultiArchImage` does not become ready unless somebody acts.
    Stalled = 8,
    /// What was waited for has not come in time.
    TimedOut = 9,
    /// Control-C, as shells number it.
    Interrupted = 130,
    /// SIGTERM, as shells number it.
    Terminated = 143,
}

impl Exit {
    /// The exit code of what is wrong with an entry of an index: what is not there, before what is not as it should be.
    pub fn of_problems(problems: &[Problem]) -> Self {
        use ProblemReason::{ConfigMissing, ManifestMissing};
        match problems.iter().any(|problem| matches!(problem.reason, ManifestMissing | ConfigMissing)) {
            true => Self::NotFound,
            false => Self::VerificationFailed,
        }
    }
}

/// A failure that the command line itself found, with its exit code.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// What was typed makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl StdError for Failure {}

/// Tells the person what went wrong, and the shell its number.
pub fn report(result: Result<(), Error>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    // Whoever reads our output has read enough; that is no failure.
    if is_broken_pipe(&*error) {
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    if !text.is_empty() {
        super::progress::say(&format!("multiarch: {text}"));
    }
    if let Some(hint) = hint(&*error) {
        super::progress::say(&format!("hint: {hint}"));
    }
    ExitCode::from(code(&*error) as u8)
}

/// The exit code of an error: that of the first cause that has one.
pub fn code(error: &(dyn StdError + 'static)) -> Exit {
    causes(error).find_map(known).unwrap_or(Exit::Other)
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&cause| cause.source())
}

fn known(error: &(dyn StdError + 'static)) -> Option<Exit> {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return Some(failure.exit);
    }
    if let Some(error) = error.downcast_ref::<registry::Error>() {
        return Some(of_kind(error.kind()));
    }
    if let Some(error) = error.downcast_ref::<ResolveError>() {
        return Some(of_resolving(error));
    }
    if let Some(error) = error.downcast_ref::<ComposeError>() {
        return Some(of_composing(error));
    }
    if let Some(error) = error.downcast_ref::<PublishError>() {
        return Some(of_publishing(error));
    }
    if let Some(error) = error.downcast_ref::<EditError>() {
        return Some(of_editing(error));
    }
    if let Some(error) = error.downcast_ref::<LayoutError>() {
        return Some(of_layout(error));
    }
    let usage = error.is::<ParseReferenceError>() || error.is::<ParsePlatformError>();
    usage.then_some(Exit::Usage)
}

/// The exit code of what a registry did.
pub fn of_kind(kind: Kind) -> Exit {
    match kind {
        Kind::NotFound => Exit::NotFound,
        Kind::Unauthorized | Kind::Denied | Kind::HostDenied => Exit::Denied,
        Kind::RateLimited | Kind::Unavailable => Exit::Unavailable,
        Kind::DigestMismatch => Exit::VerificationFailed,
        Kind::TooLarge | Kind::Malformed | Kind::Unsupported | Kind::Rejected => Exit::Other,
    }
}

fn of_resolving(error: &ResolveError) -> Exit {
    match error {
        ResolveError::Registry(error) => of_kind(error.kind()),
        ResolveError::NoSuchPlatform { .. } => Exit::NotFound,
        ResolveError::Ambiguous { .. } => Exit::Usage,
        ResolveError::PlatformMismatch { .. } => Exit::VerificationFailed,
        ResolveError::NotAnImage { .. } => Exit::Other,
    }
}

fn of_composing(error: &ComposeError) -> Exit {
    match error {
        ComposeError::Resolve(error) => of_resolving(error),
        ComposeError::Assemble(AssembleError::Json(_) | AssembleError::TooLarge(_)) => Exit::Other,
        ComposeError::Assemble(_) => Exit::Usage,
        ComposeError::Publish(error) => of_publishing(error),
    }
}

fn of_publishing(error: &PublishError) -> Exit {
    match error {
        PublishError::Registry(error) => of_kind(error.kind()),
        PublishError::TagExists { .. } => Exit::Conflict,
    }
}

fn of_editing(error: &EditError) -> Exit {
    match error {
        EditError::NoSuchPlatform { .. } => Exit::NotFound,
        EditError::Duplicate(_) | EditError::Annotations(_) => Exit::Usage,
        EditError::Json(_) | EditError::TooLarge(_) => Exit::Other,
    }
}

fn of_layout(error: &LayoutError) -> Exit {
    match error {
        LayoutError::Content(error) => of_kind(error.kind()),
        LayoutError::Edit { error, .. } => of_editing(error),
        LayoutError::Incomplete { .. } => Exit::NotFound,
        LayoutError::Choice { .. } => Exit::Usage,
        LayoutError::File { .. } | LayoutError::Invalid { .. } => Exit::Other,
    }
}

fn is_broken_pipe(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// Whether a registry said so. Errors that stand for those of a registry hide them among their causes.
fn is_of_registry(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(|cause| {
        cause.is::<registry::Error>()
            || cause.is::<ResolveError>()
            || cause.is::<ComposeError>()
            || cause.is::<PublishError>()
            || cause.is::<LayoutError>()
    })
}

/// The end of a command that has printed what it found: what that comes to stands though nobody has read it to its end.
///
/// # Errors
/// Those of the conclusion, and that it could not be printed.
pub fn conclude(printed: Result<(), Error>, conclusion: Result<(), Error>) -> Result<(), Error> {
    match printed {
        Err(error) if !is_broken_pipe(&*error) => Err(error),
        _ => conclusion,
    }
}

/// What to do about it, where the error alone does not say.
fn hint(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    let text = error.to_string();
    let of_hub = text.starts_with("docker.io/") || text.contains(" docker.io/");
    match code(error) {
        Exit::Unavailable if of_hub && text.contains("rate limited") => Some(
            "Docker Hub counts the pulls of those who are not logged in per address; `docker login`, or --username with --password-stdin, raises the limit",
        ),
        Exit::Denied if is_of_registry(error) => Some(
            "credentials are taken from --username, --auth-file, REGISTRY_AUTH_FILE or what `docker login` has kept",
        ),
        Exit::NotFound if text.contains(":latest: not found") => {
            Some("a reference without a tag means :latest; name another tag as in web:1.4.2")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Operation, Reference};

    fn registry_error(place: &str, kind: Kind, cause: &str) -> Error {
        Box::new(Operation::new(place, "fetching the manifest").error(kind, cause))
    }

    #[test]
    fn every_kind_of_failure_has_its_number() {
        for (kind, number) in [
            (Kind::NotFound, 3),
            (Kind::Unauthorized, 4),
            (Kind::Denied, 4),
            (Kind::DigestMismatch, 5),
            (Kind::RateLimited, 6),
            (Kind::Unavailable, 6),
            (Kind::Malformed, 1),
            (Kind::Rejected, 1),
        ] {
            let error = registry_error("a.io/web:1", kind, "x");
            assert_eq!(code(&*error) as u8, number, "{kind:?}");
        }
        let error = "docker://web".parse::<Reference>().unwrap_err();
        assert_eq!(code(&error), Exit::Usage);
    }

    #[test]
    fn a_cause_gives_its_number_to_what_it_caused() {
        let error = ResolveError::Registry(
            Operation::new("a.io/web", "testing").error(Kind::Denied, "access denied"),
        );
        assert_eq!(code(&error), Exit::Denied);
    }

    #[test]
    fn a_rate_limit_of_docker_hub_comes_with_advice() {
        let limited = registry_error("docker.io/library/busybox:1", Kind::RateLimited, "rate limited");
        assert!(hint(&*limited).unwrap().contains("docker login"));
        let elsewhere = registry_error("ghcr.io/acme/web:1", Kind::RateLimited, "rate limited");
        assert_eq!(hint(&*elsewhere), None);
    }

    #[test]
    fn credentials_of_registries_are_no_advice_about_a_cluster() {
        let forbidden: Error = Failure::new(Exit::Denied, "pods is forbidden").into();
        assert_eq!(hint(&*forbidden), None);
        let denied = registry_error("ghcr.io/acme/web:1", Kind::Denied, "access denied");
        assert!(hint(&*denied).unwrap().contains("docker login"));
        let error = Operation::new("ghcr.io/acme/web", "testing").error(Kind::Denied, "access denied");
        assert!(hint(&ResolveError::Registry(error)).is_some());
    }

    #[test]
    fn what_was_found_stands_though_its_reader_has_gone() {
        let gone = || Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        let found = || Err(Failure::new(Exit::VerificationFailed, "1 error").into());
        assert_eq!(code(&*conclude(gone(), found()).unwrap_err()), Exit::VerificationFailed);
        conclude(gone(), Ok(())).unwrap();
        let full = Err(io::Error::from(io::ErrorKind::StorageFull).into());
        assert_eq!(code(&*conclude(full, found()).unwrap_err()), Exit::Other);
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        let error: Error = Box::new(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(is_broken_pipe(&*error));
    }
}
