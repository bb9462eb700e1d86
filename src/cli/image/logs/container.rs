//! The log of a container, which is read on where it breaks off: a kubelet may be started anew, a connection may end.

use std::pin::Pin;
use std::time::Duration;

use futures::{AsyncBufRead, AsyncBufReadExt as _, Stream, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use tokio::time::sleep;

use super::lines::Timed;
use super::pods;
use crate::cli::Error;
use crate::cli::cluster;

/// The pause before a log that broke off is opened again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often that is tried in a row.
const ATTEMPTS: usize = 30;

/// What a container prints, as the cluster hands it out.
pub(super) type Log = Pin<Box<dyn AsyncBufRead + Send>>;

/// Where a log is.
#[derive(Clone)]
pub(super) struct Container {
    pub pods: Api<Pod>,
    pub pod: String,
    pub name: String,
    /// The last lines only.
    pub tail: Option<u32>,
}

/// What becomes of a log that ended.
pub(super) enum Next<L> {
    /// It goes on here.
    Log(L),
    /// The container has ended, too.
    Over,
    /// It cannot be read on; why.
    Lost(String),
}

impl Container {
    /// The log, with times; from about `since` on, where that is given.
    ///
    /// # Errors
    /// When the cluster does not let it be read.
    pub async fn open(&self, follow: bool, since: Option<Timestamp>) -> Result<Log, Error> {
        let parameters = LogParams {
            container: Some(self.name.clone()),
            follow,
            tail_lines: self.tail.filter(|_| since.is_none()).map(i64::from),
            // Whole seconds are asked for, and rounded.
            since_time: since.map(|since| since.saturating_sub(Duration::from_secs(1)).unwrap_or(since)),
            timestamps: true,
            ..LogParams::default()
        };
        let log = self.pods.log_stream(&self.pod, &parameters).await.map_err(cluster::explain)?;
        Ok(Box::pin(log))
    }

    /// Opens a log that ended once more, unless its container has ended as well. `broke` tells how, if not in good order.
    pub async fn reopen(&self, since: Option<Timestamp>, broke: Option<String>) -> Next<Log> {
        let mut cause = broke;
        for _ in 0..ATTEMPTS {
            match (self.pods.get_opt(&self.pod).await, &cause) {
                (Ok(None) | Err(_), None) => return Next::Over,
                (Ok(None), Some(cause)) => return Next::Lost(cause.clone()),
                (Ok(Some(pod)), None) if !pods::is_running(&pod, &self.name) => return Next::Over,
                (Ok(Some(_)) | Err(_), _) => {}
            }
            sleep(PAUSE).await;
            match self.open(true, since).await {
                Ok(log) => return Next::Log(log),
                Err(error) => cause = Some(error.to_string()),
            }
        }
        Next::Lost(cause.unwrap_or_default())
    }
}

/// How far a log has been read.
#[derive(Debug, Default)]
struct Position {
    /// The time of the last line.
    time: Option<Timestamp>,
    /// How many lines of that time there were.
    lines: usize,
    /// How many of these are to come again, while a log that was opened anew has not come so far.
    again: Option<usize>,
}

impl Position {
    /// The log begins anew, somewhere before here.
    fn rewind(&mut self) {
        self.again = Some(self.lines);
    }

    /// Whether a line has not been read before.
    fn pass(&mut self, line: &Timed) -> bool {
        let Ok(time) = line.time.parse::<Timestamp>() else { return self.again.is_none() };
        match self.again {
            Some(_) if Some(time) < self.time => return false,
            Some(again) if Some(time) == self.time && again > 0 => {
                self.again = Some(again - 1);
                return false;
            }
            Some(_) | None => self.again = None,
        }
        self.lines = if Some(time) == self.time { self.lines + 1 } else { 1 };
        self.time = Some(time);
        true
    }
}

/// The lines of a log to the end of its container, each once, and as an error what is to be said in between. `reopen` is given
/// since when, and how the log broke off, if not in good order.
pub(super) fn lines<L, F>(
    log: L,
    reopen: impl Fn(Option<Timestamp>, Option<String>) -> F + Send,
) -> impl Stream<Item = Result<Timed, String>> + Send
where
    L: AsyncBufRead + Send + Unpin,
    F: Future<Output = Next<L>> + Send,
{
    let start = (Some(log), Position::default(), reopen);
    stream::unfold(start, |(log, mut position, reopen)| async move {
        let mut log = log?;
        loop {
            let mut line = Vec::new();
            let broke = match log.read_until(b'\n', &mut line).await {
                Ok(read) if read > 0 => {
                    let line = timed(&line);
                    if position.pass(&line) {
                        return Some((Ok(line), (Some(log), position, reopen)));
                    }
                    continue;
                }
                Ok(_) => None,
                // Half a line comes again as a whole.
                Err(error) => Some(error.to_string()),
            };
            position.rewind();
            let told = broke.clone();
            match (reopen(position.time, broke).await, told) {
                (Next::Log(next), None) => log = next,
                (Next::Log(next), Some(cause)) => {
                    let said = format!("its log broke off ({cause}) and is read on");
                    return Some((Err(said), (Some(next), position, reopen)));
                }
                (Next::Over, _) => return None,
                (Next::Lost(cause), _) => {
                    return Some((Err(format!("its log broke off: {cause}")), (None, position, reopen)));
                }
            }
        }
    })
}

/// The lines that there are by now, and how the log broke off, if it did.
pub(super) async fn read(mut log: Log) -> (Vec<Timed>, Option<String>) {
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        let read = log.read_until(b'\n', &mut line).await;
        if !line.is_empty() {
            lines.push(timed(&line));
        }
        match read {
            Ok(0) => return (lines, None),
            Ok(_) => {}
            Err(error) => return (lines, Some(error.to_string())),
        }
    }
}

/// A line of a log. What is no UTF-8 is replaced.
fn timed(line: &[u8]) -> Timed {
    Timed::parse(String::from_utf8_lossy(line).trim_end_matches('\n'))
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};
    use std::sync::Mutex;

    use futures::io::{AsyncReadExt as _, BufReader, Cursor};
    use futures::{StreamExt as _, TryStreamExt as _};

    use super::*;

    /// A log of this text that ends in good order, or not.
    fn log(text: &'static str, ends: bool) -> Log {
        let broken = (!ends).then(|| Err::<Vec<u8>, _>(Error::from(ErrorKind::ConnectionReset)));
        let rest = stream::iter(broken).into_async_read();
        Box::pin(BufReader::new(Cursor::new(text.as_bytes()).chain(rest)))
    }

    /// What is told of a log that is followed by others.
    async fn told(first: Log, next: Vec<Next<Log>>) -> Vec<String> {
        let next = Mutex::new(next.into_iter());
        let lines = lines(first, |_, _| {
            let next = next.lock().unwrap().next().unwrap_or(Next::Over);
            async move { next }
        });
        lines.map(|line| line.map_or_else(|said| said, |line| line.text)).collect().await
    }

    const FIRST: &str =
        "2026-01-01T00:00:01Z one\n2026-01-01T00:00:02.5Z two\n2026-01-01T00:00:02.5Z three\n";

    #[tokio::test]
    async fn a_log_that_breaks_off_is_read_on_with_no_line_twice_and_none_lost() {
        let broken =
            log(concat!("2026-01-01T00:00:01Z one\n2026-01-01T00:00:02.5Z two\n", "2026-01-01T00:0"), false);
        let rest = "2026-01-01T00:00:02.5Z two\n2026-01-01T00:00:02.5Z three\n2026-01-01T00:00:03Z four\n";
        let told = told(broken, vec![Next::Log(log(rest, true))]).await;
        assert_eq!(
            told,
            ["one", "two", "its log broke off (connection reset) and is read on", "three", "four"]
        );
    }

    #[tokio::test]
    async fn a_log_that_ends_before_its_container_is_read_on_without_a_word() {
        let again =
            "2026-01-01T00:00:02.5Z two\n2026-01-01T00:00:02.5Z three\n2026-01-01T00:00:02.5Z three\n";
        let told =
            told(log(FIRST, true), vec![Next::Log(log(again, true)), Next::Log(log(FIRST, true))]).await;
        assert_eq!(told, ["one", "two", "three", "three"]);
    }

    #[tokio::test]
    async fn a_clock_that_is_set_back_takes_no_line_away() {
        let back = "2026-01-01T00:00:02Z one\n2026-01-01T00:00:01Z two\n2026-01-01T00:00:02Z three\n";
        assert_eq!(told(log(back, true), vec![]).await, ["one", "two", "three"]);
    }

    #[tokio::test]
    async fn what_there_is_of_a_log_that_breaks_off_is_read() {
        let (lines, broke) = read(log(FIRST, false)).await;
        assert_eq!((lines.len(), broke.as_deref()), (3, Some("connection reset")));
        assert_eq!(read(log(FIRST, true)).await.1, None);
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_read_on_says_so() {
        let told = told(log(FIRST, false), vec![Next::Lost("no node".to_owned())]).await;
        assert_eq!(told.last().unwrap(), "its log broke off: no node");
    }
}
