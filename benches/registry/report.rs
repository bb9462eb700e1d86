//! The results for people, as Markdown; and whether the bars are met.

use std::fmt::Write as _;

use serde::Serialize;

use crate::front::Counts;
use crate::measure::Usage;
use crate::publishing::{Outcome, Place, Row, Scene};
use crate::startup;
use crate::throughput::Table;
use crate::tools::Tool;

/// How much longer than the floor a publication may take.
const ROOM: f64 = 1.2;
/// The least of curl's throughput that is expected.
const OF_CURL: f64 = 0.9;
const MOST_MEMORY_MEBIBYTES: f64 = 32.0;
const LONGEST_START_MILLISECONDS: f64 = 10.0;

/// All that was measured.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub tools: Vec<(Tool, String)>,
    pub trip_milliseconds: f64,
    pub publishing: Vec<Row>,
    pub again: Vec<Row>,
    pub throughput: Vec<Table>,
    pub startup: Vec<startup::Line>,
}

/// Whether something is as it should be, in words.
struct Bar {
    about: String,
    met: bool,
}

impl Report {
    /// The tables, and at the end the bars.
    pub fn markdown(&self) -> String {
        let mut text = String::from("# Registry bench\n\n");
        for (tool, version) in &self.tools {
            let _ = writeln!(text, "- {}: {version}", tool.name());
        }
        if !self.publishing.is_empty() {
            let _ = write!(
                text,
                "\n## Publishing an index\n\nThe middle run's milliseconds (requests). × floor: of ours to the fewest round \
                 trips at the delay, a token two more. Bare: the requests that cannot be done without, from a client that knows \
                 every answer beforehand, so with what the registry and the front take themselves. × best: of ours to the fastest other. A request through the front with no \
                 delay takes {:.1} ms.\n\n",
                self.trip_milliseconds
            );
            text.push_str(&rows(&self.publishing, false));
        }
        if !self.again.is_empty() {
            text.push_str(
                "\n## Publishing again what is there\n\nMilliseconds (requests, of them writes).\n\n",
            );
            text.push_str(&rows(&self.again, true));
        }
        for table in &self.throughput {
            text.push_str(&throughput(table));
        }
        if !self.startup.is_empty() {
            text.push_str(&startup(&self.startup));
        }
        text.push_str("\n## Bars\n\n| | bar |\n|---|---|\n");
        for bar in self.bars() {
            let _ = writeln!(text, "| {} | {} |", mark(bar.met), bar.about);
        }
        text
    }

    /// Whether ours did all that it was asked for, at whatever speed.
    pub fn ours_is_right(&self) -> bool {
        let outcomes =
            self.publishing.iter().chain(&self.again).filter_map(|row| row.outcomes.get(&Tool::Multiarch));
        let mut lines = self.throughput.iter().flat_map(|table| &table.ways);
        outcomes.into_iter().all(|outcome| matches!(outcome, Outcome::Measured { .. }))
            && lines.all(|line| line.tool != Tool::Multiarch || line.usage.is_ok())
    }

    fn bars(&self) -> Vec<Bar> {
        let mut bars = Vec::new();
        let rows_of = |place| self.publishing.iter().filter(move |row| row.scene.place == place);
        let played = |place: &Place| rows_of(*place).next().is_some();
        for place in [Place::SameRepository, Place::OtherRepository].into_iter().filter(played) {
            let ratios: Vec<f64> = rows_of(place).filter_map(over_floor).collect();
            let worst = ratios.iter().copied().fold(0.0, f64::max);
            bars.push(Bar {
                about: format!(
                    "{}: at most {ROOM} × {} round trips in every row (worst {worst:.2} of {} rows)",
                    place.name(),
                    place.floor(),
                    ratios.len()
                ),
                met: !ratios.is_empty() && worst <= ROOM,
            });
        }
        for place in [Place::SameRepository, Place::OtherRepository].into_iter().filter(played) {
            let ratios: Vec<f64> = rows_of(place).filter_map(over_bare).collect();
            let worst = ratios.iter().copied().fold(0.0, f64::max);
            bars.push(Bar {
                about: format!(
                    "{}: at most {ROOM} × the bare requests in every row (worst {worst:.2} of {} rows)",
                    place.name(),
                    ratios.len()
                ),
                met: !ratios.is_empty() && worst <= ROOM,
            });
        }
        for place in Place::ALL.into_iter().filter(played) {
            let ratios: Vec<f64> = rows_of(place).filter_map(over_best).collect();
            let worst = ratios.iter().copied().fold(0.0, f64::max);
            bars.push(Bar {
                about: format!("{}: ahead of every peer in every row (worst {worst:.2})", place.name()),
                met: !ratios.is_empty() && worst < 1.0,
            });
        }
        let writes: Vec<u64> =
            self.again.iter().filter_map(|row| Some(writes(measured(row, Tool::Multiarch)?.1))).collect();
        if !self.again.is_empty() {
            bars.push(Bar {
                about: format!("publishing again what is there: no write ({writes:?})"),
                met: !writes.is_empty() && writes.iter().all(|&count| count == 0),
            });
        }
        self.throughput.iter().for_each(|table| bars.extend(throughput_bars(table)));
        bars.extend(startup_bars(&self.startup));
        bars
    }
}

fn mark(met: bool) -> char {
    if met { '✓' } else { '✗' }
}

fn measured(row: &Row, tool: Tool) -> Option<(f64, &Counts)> {
    match row.outcomes.get(&tool)? {
        Outcome::Measured { milliseconds, requests, .. } => Some((*milliseconds, requests)),
        Outcome::Unable | Outcome::Wrong(_) => None,
    }
}

fn writes(requests: &Counts) -> u64 {
    requests
        .iter()
        .filter(|(method, _)| !matches!(method.as_str(), "GET" | "HEAD" | "TOKEN"))
        .map(|entry| entry.1)
        .sum()
}

fn over_floor(row: &Row) -> Option<f64> {
    let floor = row.scene.floor_milliseconds();
    measured(row, Tool::Multiarch).filter(|_| floor > 0.0).map(|(milliseconds, _)| milliseconds / floor)
}

fn over_best(row: &Row) -> Option<f64> {
    let others = Tool::PUBLISHERS.iter().filter(|&&tool| tool != Tool::Multiarch);
    let best = others.filter_map(|&tool| Some(measured(row, tool)?.0)).min_by(f64::total_cmp)?;
    Some(measured(row, Tool::Multiarch)?.0 / best)
}

fn rows(rows: &[Row], again: bool) -> String {
    let mut text = String::from("| images in | platforms | tags | delay | login |");
    Tool::PUBLISHERS.iter().for_each(|tool| text.push_str(&format!(" {} |", tool.name())));
    text.push_str(if again { "\n" } else { " bare | × floor | × bare | × best |\n" });
    text.push_str(&format!("|---|{}\n", "---:|".repeat(if again { 9 } else { 13 })));
    let mut wrong = Vec::new();
    for row in rows {
        let Scene { place, platforms, tags, delay_milliseconds, tokens, .. } = row.scene;
        let login = if tokens { "token" } else { "none" };
        let _ =
            write!(text, "| {} | {platforms} | {tags} | {delay_milliseconds} ms | {login} |", place.name());
        for tool in Tool::PUBLISHERS {
            let cell = match row.outcomes.get(&tool) {
                Some(Outcome::Measured { milliseconds, requests, .. }) => {
                    let all: u64 = requests.values().sum();
                    let writes = if again { format!(", {}", writes(requests)) } else { String::new() };
                    format!("{milliseconds:.0} ({all}{writes})")
                }
                Some(Outcome::Wrong(cause)) => {
                    let cause = format!("{}: {cause}", tool.name());
                    let known = wrong.iter().position(|known| *known == cause);
                    let number = known.unwrap_or_else(|| {
                        wrong.push(cause);
                        wrong.len() - 1
                    });
                    format!("wrong [{}]", number + 1)
                }
                Some(Outcome::Unable) | None => "–".to_owned(),
            };
            let _ = write!(text, " {cell} |");
        }
        if !again {
            let bare = row.bare.map_or_else(|| "–".to_owned(), |milliseconds| format!("{milliseconds:.0}"));
            let over_bare =
                over_bare(row).map_or_else(|| "–".to_owned(), |r| format!("{r:.2} {}", mark(r <= ROOM)));
            let _ = write!(text, " {bare} | {} | {over_bare} | {} |", floor_cell(row), best_cell(row));
        }
        text.push('\n');
    }
    for (number, cause) in wrong.iter().enumerate() {
        let _ = writeln!(text, "\n[{}] {cause}", number + 1);
    }
    text
}

/// How much longer ours takes than the bare requests.
fn over_bare(row: &Row) -> Option<f64> {
    Some(measured(row, Tool::Multiarch)?.0 / row.bare?)
}

fn floor_cell(row: &Row) -> String {
    match over_floor(row) {
        Some(ratio) if row.scene.place == Place::OtherRegistry => format!("{ratio:.2}"),
        Some(ratio) => format!("{ratio:.2} {}", mark(ratio <= ROOM)),
        None => "–".to_owned(),
    }
}

fn best_cell(row: &Row) -> String {
    over_best(row).map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2} {}", mark(ratio < 1.0)))
}

fn mebibytes(usage: &Usage) -> f64 {
    usage.rss_bytes as f64 / 1024.0 / 1024.0
}

fn throughput(table: &Table) -> String {
    let Table { layers, layer_mebibytes, ways } = table;
    let mut text = format!(
        "\n## To another registry: {layers} × {layer_mebibytes} MiB\n\n| | seconds | MiB/s | CPU seconds | peak RSS, MiB |\n|---|---:|---:|---:|---:|\n"
    );
    for way in ways {
        let _ = match &way.usage {
            Ok(usage) => writeln!(
                text,
                "| {} | {:.2} | {:.0} | {:.2} | {:.0} |",
                way.name,
                usage.wall_seconds,
                (layers * layer_mebibytes) as f64 / usage.wall_seconds,
                usage.cpu_seconds,
                mebibytes(usage)
            ),
            Err(cause) => writeln!(text, "| {} | failed: {cause} | | | |", way.name),
        };
    }
    text
}

fn throughput_bars(table: &Table) -> Vec<Bar> {
    let usages = |wanted: &dyn Fn(Tool) -> bool| -> Vec<Usage> {
        let ways = table.ways.iter().filter(|way| wanted(way.tool));
        ways.filter_map(|way| way.usage.as_ref().ok().copied()).collect()
    };
    let ours = usages(&|tool| tool == Tool::Multiarch);
    let worst = |figure: &dyn Fn(&Usage) -> f64| ours.iter().map(figure).fold(0.0, f64::max);
    let best = |wanted: &dyn Fn(Tool) -> bool, figure: &dyn Fn(&Usage) -> f64| {
        usages(wanted).iter().map(figure).fold(f64::INFINITY, f64::min)
    };
    let seconds = |usage: &Usage| usage.wall_seconds;
    let (time, cpu, memory) = (worst(&seconds), worst(&|usage| usage.cpu_seconds), worst(&mebibytes));
    let peers = best(&|tool| !matches!(tool, Tool::Multiarch | Tool::Curl), &seconds);
    let curl = best(&|tool| tool == Tool::Curl, &seconds);
    let crane = best(&|tool| tool == Tool::Crane, &|usage| usage.cpu_seconds);
    let what = format!("{} × {} MiB", table.layers, table.layer_mebibytes);
    let some = !ours.is_empty();
    let bar = |about: String, met: bool| Bar { about: format!("{what}: {about}"), met: some && met };
    vec![
        bar(format!("as fast as every peer ({time:.2} s, the best other {peers:.2} s)"), time <= peers),
        bar(format!("at least {OF_CURL} of curl into curl ({:.2})", curl / time), curl / time >= OF_CURL),
        bar(format!("no more CPU than crane ({cpu:.2} s, crane {crane:.2} s)"), cpu <= crane),
        bar(
            format!("at most {MOST_MEMORY_MEBIBYTES} MiB of memory ({memory:.0} MiB)"),
            memory <= MOST_MEMORY_MEBIBYTES,
        ),
    ]
}

fn startup(lines: &[startup::Line]) -> String {
    let mut text = String::from(
        "\n## Start-up\n\nMilliseconds: the version, help, and looking at an image where no registry is.\n\n\
         | | version | help | refused | peak RSS, MiB |\n|---|---:|---:|---:|---:|\n",
    );
    for line in lines {
        let cells = [&line.version, &line.help, &line.refusal].map(|usage| match usage {
            Some(Ok(usage)) => format!("{:.1}", usage.wall_seconds * 1e3),
            Some(Err(cause)) => format!("failed: {}", cause.lines().next().unwrap_or_default()),
            None => "–".to_owned(),
        });
        let memory = line.refusal.as_ref().and_then(|usage| usage.as_ref().ok()).map_or(0.0, mebibytes);
        let _ = writeln!(text, "| {} | {} | {memory:.0} |", line.tool.name(), cells.join(" | "));
    }
    text
}

fn startup_bars(lines: &[startup::Line]) -> Vec<Bar> {
    let Some(line) = lines.iter().find(|line| line.tool == Tool::Multiarch) else { return Vec::new() };
    // What is refused is tried again, so it is not a matter of starting.
    let names = ["version", "help"];
    let usages = [&line.version, &line.help];
    let bar = |(name, usage): (&str, &Option<Result<Usage, String>>)| {
        let milliseconds = match usage {
            Some(Ok(usage)) => usage.wall_seconds * 1e3,
            _ => f64::INFINITY,
        };
        let about = format!("{name}: under {LONGEST_START_MILLISECONDS} ms ({milliseconds:.1} ms)");
        Bar { about, met: milliseconds < LONGEST_START_MILLISECONDS }
    };
    names.into_iter().zip(usages).map(bar).collect()
}
