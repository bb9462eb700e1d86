//! What is going on, on standard error: bars on a terminal, lines elsewhere.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressFinish, ProgressStyle};

use super::output::readable;
use crate::registry::{Delivery, Descriptor, Digest, Observer, Repository};

/// All bars of the process; what is said meanwhile goes above them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Says a line on standard error, without tearing bars apart. Nobody may be listening.
///
/// Others wrote a part of it: the cursor stays where it is, and lines after the first are indented, so that none of them
/// looks like a line of ours.
pub fn say(line: &str) {
    let indent =
        |line: &str| if line.starts_with("  ") { readable(line) } else { format!("  {}", readable(line)) };
    let (first, others) = line.split_once('\n').unwrap_or((line, ""));
    let line = others.lines().fold(readable(first), |text, line| text + "\n" + &indent(line));
    BARS.suspend(|| {
        let _ = writeln!(anstream::AutoStream::auto(io::stderr().lock()), "{line}");
    });
}

/// Standard error for log lines, which go above the bars too.
pub struct LogWriter;

impl io::Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().lock().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

/// Shows blobs on their way.
pub fn observer(quiet: bool) -> Arc<dyn Observer> {
    match (quiet, io::stderr().is_terminal()) {
        (true, _) => Arc::new(()),
        (false, true) => Arc::new(Bars::default()),
        (false, false) => Arc::new(Lines),
    }
}

/// A line for every blob that has arrived.
struct Lines;

impl Observer for Lines {
    fn delivered(&self, _: &Repository, blob: &Descriptor, delivery: Delivery) {
        say(&arrival(blob, delivery));
    }
}

/// A bar for every blob that is on its way.
#[derive(Default)]
struct Bars(Mutex<HashMap<Digest, ProgressBar>>);

impl Bars {
    fn bars(&self) -> MutexGuard<'_, HashMap<Digest, ProgressBar>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Bars {
    fn begun(&self, _: &Repository, blob: &Descriptor) {
        self.bars().insert(blob.digest.clone(), bar(blob, false));
    }

    fn moved(&self, blob: &Descriptor, bytes: u64) {
        if let Some(bar) = self.bars().get(&blob.digest) {
            bar.inc(bytes);
        }
    }

    fn delivered(&self, _: &Repository, blob: &Descriptor, delivery: Delivery) {
        drop(self.bars().remove(&blob.digest));
        say(&arrival(blob, delivery));
    }
}

/// A bar for the bytes of a blob. It goes when it is dropped, and is not seen where there is no terminal.
pub fn bar(blob: &Descriptor, quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let template =
        "{prefix}  {bar:24.green}  {bytes:>11} of {total_bytes:<11} {binary_bytes_per_sec:>13}  {eta}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(blob.size).with_finish(ProgressFinish::AndClear);
    BARS.add(bar.with_style(style).with_prefix(short(&blob.digest)))
}

/// Something that takes its time, on a line of standard error that goes with it. Nothing is seen where there is no
/// terminal.
pub fn spinner(message: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {wide_msg}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = ProgressBar::new_spinner().with_style(style).with_finish(ProgressFinish::AndClear);
    let bar = BARS.add(bar.with_message(message.to_owned()));
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

fn arrival(blob: &Descriptor, delivery: Delivery) -> String {
    let how = match delivery {
        Delivery::Present => " (there already)",
        Delivery::Mounted => " (mounted)",
        Delivery::Uploaded => "",
    };
    format!("copied {}  {}{how}", blob.digest, HumanBytes(blob.size))
}

fn short(digest: &Digest) -> String {
    digest.hex().chars().take(12).collect()
}
