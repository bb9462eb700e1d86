//! A table that is redrawn in place: what it shows is a function of the images, the time and the size of the terminal.

use std::fmt::Write as _;

use anstyle::Style;
use console::{measure_text_width, truncate_str};
use jiff::Timestamp;
use kube::ResourceExt as _;

use super::super::state::{self, State};
use super::super::watch::Images;
use super::table;
use crate::api::{MultiArchImage, Phase, PlatformStatus};
use crate::cli::output::{BOLD, PLAIN, readable};

/// Cells of a bar.
const BAR: usize = 12;
/// How the wheel of a platform at work turns.
const WHEEL: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// What is shown, and where.
pub(super) struct View<'a> {
    pub images: &'a Images,
    /// Whether there may be images of several namespaces.
    pub with_namespace: bool,
    pub now: Timestamp,
    /// Which picture of the wheel it is.
    pub tick: usize,
    /// Rows and columns of the terminal.
    pub size: (usize, usize),
}

impl View<'_> {
    /// The lines, none of them wider than the terminal, and fewer than it has rows: what does not fit is counted.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = match self.images.is_empty() {
            true => vec!["no MultiArchImages".to_owned()],
            false => self.images.values().flat_map(|image| self.image(image)).collect(),
        };
        let (rows, columns) = self.size;
        let room = rows.saturating_sub(1).max(1);
        if lines.len() > room {
            let hidden = lines.len() - (room - 1);
            lines.truncate(room - 1);
            lines.push(format!("… and {hidden} more lines; name an image, or make the terminal higher"));
        }
        lines.iter().map(|line| truncate_str(line, columns, "…").into_owned()).collect()
    }

    /// An image with its bar; below it the platforms that are not ready, unless it is the only one that is shown.
    fn image(&self, image: &MultiArchImage) -> Vec<String> {
        let state = State::of(image);
        let style = table::of_state(state);
        let (ready, all) = state::ready_platforms(image);
        let name = match self.with_namespace {
            true => format!("{}/{}", image.namespace().unwrap_or_default(), image.name_any()),
            false => image.name_any(),
        };
        let message =
            state::own_message(image).filter(|_| state != State::Unseen).map(readable).unwrap_or_default();
        let width = self.images.values().map(|image| self.name_width(image)).max().unwrap_or_default();
        let mut lines = vec![format!(
            "{BOLD}{}{BOLD:#}  {style}{}{style:#} {ready}/{all}  {style}{state:?}{style:#}  {message}",
            padded(&name, width),
            bar(ready, all),
        )];
        let is_told = |platform: &&PlatformStatus| self.images.len() == 1 || platform.phase != Phase::Ready;
        let is_still = matches!(state, State::Unseen | State::Deleting);
        let platforms = state::platforms(image).iter().filter(|platform| !is_still && is_told(platform));
        lines.extend(platforms.map(|platform| self.platform(platform)));
        lines
    }

    fn name_width(&self, image: &MultiArchImage) -> usize {
        let namespace =
            image.namespace().filter(|_| self.with_namespace).map_or(0, |namespace| namespace.len() + 1);
        image.name_any().len() + namespace
    }

    fn platform(&self, platform: &PlatformStatus) -> String {
        let (mark, style) = self.mark(platform.phase);
        let time = table::time(platform, self.now).unwrap_or_default();
        let told = match platform.phase {
            Phase::Ready => table::short(platform.digest.as_deref().unwrap_or_default()),
            _ => readable(platform.message.as_deref().unwrap_or_default()),
        };
        let reason = platform.reason.map(|reason| reason.to_string()).unwrap_or_default();
        let reason = if reason == platform.phase.as_str() { String::new() } else { format!("{reason}: ") };
        let reason = if platform.phase == Phase::Ready { String::new() } else { reason };
        format!(
            "  {} {style}{mark} {}{style:#} {} {}  {reason}{told}",
            padded(&platform.platform, 14),
            padded(platform.phase.as_str(), 9),
            padded(&table::node(platform), 14),
            padded(&time, 6),
        )
        .trim_end()
        .to_owned()
    }

    fn mark(&self, phase: Phase) -> (char, Style) {
        let style = table::of_phase(phase);
        match phase {
            Phase::Ready => ('✔', style),
            Phase::Failed => ('✘', style),
            Phase::Waiting => ('◌', style),
            Phase::Skipped => ('–', style),
            Phase::Pending => ('·', PLAIN),
            Phase::Resolving | Phase::Building | Phase::Verifying => (WHEEL[self.tick % WHEEL.len()], style),
        }
    }
}

/// Whether anything turns: if not, the picture changes by ages alone.
pub(super) fn is_turning(images: &Images) -> bool {
    let turns = |platform: &PlatformStatus| {
        matches!(platform.phase, Phase::Resolving | Phase::Building | Phase::Verifying)
    };
    images.values().any(|image| state::platforms(image).iter().any(turns))
}

/// How much of a whole is done.
fn bar(done: usize, all: usize) -> String {
    let full = (done * BAR).checked_div(all).unwrap_or_default().min(BAR);
    "█".repeat(full) + &"░".repeat(BAR - full)
}

fn padded(text: &str, width: usize) -> String {
    let text = readable(text);
    let padding = " ".repeat(width.saturating_sub(measure_text_width(&text)));
    text + &padding
}

/// The picture on the terminal, and how to replace it.
#[derive(Default)]
pub(super) struct Screen {
    drawn: Vec<String>,
}

impl Screen {
    /// What to write so that these lines stand where the last ones stood. A terminal that was made narrower since has
    /// wrapped what was wider.
    pub fn draw(&mut self, lines: Vec<String>, columns: usize) -> String {
        let columns = columns.max(1);
        let height: usize =
            self.drawn.iter().map(|line| measure_text_width(line).div_ceil(columns).max(1)).sum();
        let mut text = String::new();
        if height > 0 {
            let _ = write!(text, "\x1b[{height}A\r");
        }
        for line in &lines {
            // What is left of the earlier line goes; then what is left below.
            let _ = writeln!(text, "{line}\x1b[K");
        }
        text += "\x1b[J";
        self.drawn = lines;
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::state::tests::image;
    use super::super::super::watch::key;
    use super::*;

    fn images(named: &[(&str, Value)]) -> Images {
        let made = named.iter().map(|(name, platforms)| {
            let mut image = image("Unknown", false, platforms.clone());
            image.metadata.name = Some((*name).to_owned());
            (key(&image), image)
        });
        made.collect()
    }

    fn shown(images: &Images, tick: usize, size: (usize, usize)) -> Vec<String> {
        let now = "2026-01-01T05:00:00Z".parse().unwrap();
        let lines = View { images, with_namespace: false, now, tick, size }.lines();
        lines.iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect()
    }

    fn at_work() -> Value {
        json!([
            {"platform": "linux/amd64", "phase": "Ready", "digest": "sha256:0123456789abcdef"},
            {"platform": "linux/arm64", "phase": "Building", "reason": "Building", "message": "running", "node": "arm-1",
                "startedAt": "2026-01-01T04:59:00Z"},
        ])
    }

    #[test]
    fn an_image_alone_is_shown_with_all_its_platforms() {
        assert_eq!(
            shown(&images(&[("web", at_work())]), 0, (24, 100)),
            [
                "web  ██████░░░░░░ 1/2  Working  message",
                "  linux/amd64    ✔ Ready                            0123456789ab",
                "  linux/arm64    ⠋ Building  arm-1          60s     running",
            ]
        );
    }

    #[test]
    fn the_wheel_turns_with_every_picture_and_only_where_something_is_at_work() {
        let images = images(&[("web", at_work())]);
        assert!(shown(&images, 1, (24, 100))[2].contains('⠙'));
        assert_eq!(shown(&images, 10, (24, 100)), shown(&images, 0, (24, 100)));
        assert!(is_turning(&images));
    }

    #[test]
    fn of_several_images_only_what_is_not_ready_is_shown_by_platform() {
        let lines = shown(&images(&[("api", at_work()), ("web-server", at_work())]), 0, (24, 100));
        let names: Vec<&str> =
            lines.iter().filter_map(|line| line.split(' ').find(|word| !word.is_empty())).collect();
        assert_eq!(names, ["api", "linux/arm64", "web-server", "linux/arm64"]);
        assert!(lines[0].starts_with("api         █"), "{}", lines[0]);
    }

    #[test]
    fn nothing_is_wider_or_higher_than_the_terminal() {
        let images = images(&[("a", at_work()), ("b", at_work()), ("c", at_work())]);
        let lines = shown(&images, 0, (4, 20));
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| measure_text_width(line) <= 20), "{lines:?}");
        assert!(lines[2].starts_with("… and 4 more"), "{}", lines[2]);
    }

    #[test]
    fn a_picture_replaces_the_one_before_it() {
        let mut screen = Screen::default();
        assert_eq!(screen.draw(vec!["one".to_owned(), "two".to_owned()], 10), "one\x1b[K\ntwo\x1b[K\n\x1b[J");
        assert_eq!(screen.draw(vec!["three".to_owned()], 10), "\x1b[2A\rthree\x1b[K\n\x1b[J");
        // Five columns fit two of them now, so the line takes three rows.
        assert!(screen.draw(vec![], 2).starts_with("\x1b[3A"));
    }
}
