//! Lines of logs: whose they are, in which order, and without what would move the cursor. Pure.

use anstyle::{AnsiColor, Style};

use crate::cli::output::readable;

/// Platforms are told apart by these; red is left for what is bad.
const COLOURS: [AnsiColor; 6] = [
    AnsiColor::Cyan,
    AnsiColor::Yellow,
    AnsiColor::Green,
    AnsiColor::Magenta,
    AnsiColor::Blue,
    AnsiColor::BrightCyan,
];

/// What every line begins with: the platform it is of.
pub(super) struct Prefixes(Vec<(String, String)>);

impl Prefixes {
    /// Those of some platforms, all as wide as the widest.
    pub fn new(platforms: &[String]) -> Self {
        let width = platforms.iter().map(String::len).max().unwrap_or_default();
        let prefix = |(number, platform): (usize, &String)| {
            let style: Style = COLOURS[number % COLOURS.len()].on_default();
            (platform.clone(), format!("{style}{platform:width$} |{style:#} "))
        };
        Self(platforms.iter().enumerate().map(prefix).collect())
    }

    /// A line of a platform, ready to be printed.
    pub fn line(&self, platform: &str, text: &str) -> String {
        let prefix = self.0.iter().find(|(known, _)| known == platform).map_or("", |(_, prefix)| prefix);
        format!("{prefix}{}\n", clean(text))
    }
}

/// The text without colours, and with nothing else in it that a terminal would act upon.
fn clean(text: &str) -> String {
    // What a progress bar has overwritten is of no interest.
    let text = text.trim_end_matches('\r');
    let text = text.rsplit_once('\r').map_or(text, |(_, last)| last);
    let text = anstream::adapter::strip_str(text).to_string();
    text.split('\t').map(readable).collect::<Vec<_>>().join("\t")
}

/// A line as the kubelet gives it when it is asked for times: RFC 3339, a space, the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Timed {
    pub time: String,
    pub text: String,
}

impl Timed {
    /// A line without a time is not taken apart.
    pub fn parse(line: &str) -> Self {
        match line.split_once(' ') {
            Some((time, text)) if time.parse::<jiff::Timestamp>().is_ok() => {
                Self { time: time.to_owned(), text: text.to_owned() }
            }
            _ => Self { time: String::new(), text: line.to_owned() },
        }
    }

    /// The line as it was asked for.
    pub fn told(&self, with_time: bool) -> String {
        if with_time { format!("{} {}", self.time, self.text) } else { self.text.clone() }
    }
}

/// The lines of several platforms as one, in the order of their times. Lines of one platform keep their order.
pub(super) fn interleaved(logs: Vec<(String, Vec<Timed>)>) -> Vec<(String, Timed)> {
    let mut heads: Vec<_> =
        logs.into_iter().map(|(platform, lines)| (platform, lines.into_iter().peekable())).collect();
    let mut all = Vec::new();
    loop {
        let earliest = heads
            .iter_mut()
            .filter_map(|(platform, lines)| {
                let time = lines.peek()?.time.parse::<jiff::Timestamp>().ok();
                Some((time, platform.clone(), lines))
            })
            .min_by_key(|(time, ..)| *time);
        let Some((_, platform, lines)) = earliest else { return all };
        all.extend(lines.next().map(|line| (platform, line)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn every_line_says_whose_it_is() {
        let prefixes = Prefixes::new(&["linux/amd64".to_owned(), "linux/arm/v7".to_owned()]);
        assert_eq!(plain(&prefixes.line("linux/amd64", "RUN make")), "linux/amd64  | RUN make\n");
        assert_ne!(prefixes.line("linux/amd64", ""), prefixes.line("linux/arm/v7", ""));
    }

    #[test]
    fn what_a_build_prints_moves_no_cursor() {
        assert_eq!(clean("\u{1b}[31mred\u{1b}[0m\tx\u{7}"), "red\tx");
        assert_eq!(clean("10%\r50%\r100%\r"), "100%");
    }

    #[test]
    fn lines_are_in_the_order_of_their_times_and_of_their_platform() {
        let log = |platform: &str, lines: &[&str]| {
            (platform.to_owned(), lines.iter().map(|line| Timed::parse(line)).collect())
        };
        let all = interleaved(vec![
            log("a", &["2026-01-01T00:00:01Z one", "2026-01-01T00:00:03.5Z three"]),
            log("b", &["2026-01-01T00:00:02.123456789Z two", "no time", "2026-01-01T00:00:00Z late"]),
        ]);
        let told: Vec<String> =
            all.iter().map(|(platform, line)| format!("{platform} {}", line.text)).collect();
        assert_eq!(told, ["a one", "b two", "b no time", "b late", "a three"]);
    }
}
