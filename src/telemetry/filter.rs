//! Which lines are logged, changed while the operator runs.

use std::path::PathBuf;

use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::watched_file::{Content, INTERVAL, WatchedFile};

/// What is logged when nobody says anything.
const DEFAULT: &str = "info";

/// A filter that can be parsed, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter(String);

impl Filter {
    pub fn parse(&self) -> Result<EnvFilter, String> {
        EnvFilter::try_new(&self.0).map_err(|error| format!("{:?} is no log filter: {error}", self.0))
    }
}

/// A filter in the syntax of `RUST_LOG`; lines count as commas.
///
/// # Errors
/// If it is none.
pub fn parse(text: &str) -> Result<String, String> {
    let directives: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let filter = Filter(directives.join(","));
    filter.parse().map(|_| filter.0)
}

/// The filter to begin with: the given one, else that of `RUST_LOG`, else `info`; and what was ignored, for people.
pub(super) fn at_start(given: Option<&str>) -> Result<(Filter, Option<String>), String> {
    if let Some(given) = given {
        return Ok((Filter(parse(given)?), None));
    }
    let default = || Filter(DEFAULT.to_owned());
    Ok(match std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.trim().is_empty()) {
        None => (default(), None),
        Some(text) => match parse(&text) {
            Ok(filter) => (Filter(filter), None),
            Err(problem) => (default(), Some(format!("RUST_LOG is ignored: {problem}"))),
        },
    })
}

/// A file with a filter, which counts while it is there.
pub(super) struct Followed {
    file: WatchedFile,
    at_start: Filter,
    now: Filter,
}

impl Followed {
    /// Where the file is not there, or is empty, what counts `at_start` does.
    pub fn new(path: PathBuf, at_start: Filter) -> Self {
        Self { file: WatchedFile::new(path), now: at_start.clone(), at_start }
    }

    /// The filter of this moment, if it is another than at the last look; or why what is in the file is none, for people.
    pub fn change(&mut self) -> Option<Result<Filter, String>> {
        let wanted = wanted(self.file.change()?, &self.at_start).map_err(|problem| {
            format!("{}: {problem}; the log filter stays {:?}", self.file.path().display(), self.now.0)
        });
        match wanted {
            Ok(wanted) if wanted == self.now => None,
            Ok(wanted) => {
                self.now = wanted.clone();
                Some(Ok(wanted))
            }
            Err(problem) => Some(Err(problem)),
        }
    }

    /// Does for ever what the file says.
    pub async fn follow(mut self, handle: reload::Handle<EnvFilter, Registry>) {
        let mut looks = tokio::time::interval(INTERVAL);
        loop {
            looks.tick().await;
            match self.change() {
                None => {}
                Some(Ok(filter)) => match apply(&filter, &handle) {
                    // A warning, since many filters leave nothing else.
                    Ok(()) => tracing::warn!("the log filter is {:?} from now on", filter.0),
                    Err(problem) => tracing::warn!("the log filter cannot be changed: {problem}"),
                },
                Some(Err(problem)) => tracing::warn!("{problem}"),
            }
        }
    }
}

fn apply(filter: &Filter, handle: &reload::Handle<EnvFilter, Registry>) -> Result<(), String> {
    handle.reload(filter.parse()?).map_err(|error| error.to_string())
}

fn wanted(content: Content, at_start: &Filter) -> Result<Filter, String> {
    let Some(content) = content? else { return Ok(at_start.clone()) };
    let text = String::from_utf8(content).map_err(|_| "not text".to_owned())?;
    if text.trim().is_empty() { Ok(at_start.clone()) } else { parse(&text).map(Filter) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_may_have_a_line_for_each_directive() {
        assert_eq!(parse("warn\n\n  multiarch=debug\n"), Ok("warn,multiarch=debug".to_owned()));
        assert!(parse("multiarch=loud").is_err());
    }

    #[test]
    fn a_filter_that_makes_no_sense_is_told_once_and_the_one_before_it_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("filter");
        let mut followed = Followed::new(path.clone(), Filter("info".to_owned()));
        assert!(followed.change().is_none(), "there is no file");
        std::fs::write(&path, "debug\n").expect("a file");
        assert!(matches!(followed.change(), Some(Ok(filter)) if filter.0 == "debug"));
        std::fs::write(&path, "multiarch=loud").expect("a file");
        let problem = followed.change().expect("a change").expect_err("no filter");
        assert!(problem.ends_with("the log filter stays \"debug\""), "{problem}");
        assert!(followed.change().is_none());
        std::fs::remove_file(&path).expect("it can go");
        assert!(matches!(followed.change(), Some(Ok(filter)) if filter.0 == "info"));
    }

    #[test]
    fn a_file_that_is_gone_or_empty_asks_for_what_counted_at_the_start() {
        let at_start = Filter("info".to_owned());
        for content in [None, Some(Vec::new()), Some(b" \n".to_vec())] {
            assert_eq!(wanted(Ok(content), &at_start), Ok(at_start.clone()));
        }
        assert_eq!(wanted(Ok(Some(b"debug".to_vec())), &at_start), Ok(Filter("debug".to_owned())));
        assert!(wanted(Ok(Some(b"multiarch=loud".to_vec())), &at_start).is_err());
        assert!(wanted(Err("cannot be read".to_owned()), &at_start).is_err());
    }
}
