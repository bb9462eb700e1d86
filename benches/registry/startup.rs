//! What a command costs before it has done anything.

use serde::Serialize;

use crate::measure::{Home, Usage, Words};
use crate::settings::Settings;
use crate::tools::Tool;

/// How often each is started.
const STARTS: usize = 20;
/// Nobody listens there.
const NOBODY: &str = "127.0.0.1:1";

/// What one tool takes to say something; the run in the middle, or why there is none.
#[derive(Debug, Serialize)]
pub struct Line {
    pub tool: Tool,
    pub version: Option<Result<Usage, String>>,
    pub help: Option<Result<Usage, String>>,
    pub refusal: Option<Result<Usage, String>>,
}

pub async fn measure(settings: &Settings, tools: &[Tool]) -> Vec<Line> {
    let home = Home::new(settings.home());
    home.configure(&[NOBODY], None);
    let mut lines = Vec::new();
    for &tool in tools {
        lines.push(Line {
            tool,
            version: Some(middle(&home, tool.version_command(), false).await),
            help: match tool.help_command() {
                Some(command) => Some(middle(&home, command, false).await),
                None => None,
            },
            refusal: match tool.inspect_command(NOBODY) {
                Some(command) => Some(middle(&home, command, true).await),
                None => None,
            },
        });
    }
    lines
}

async fn middle(home: &Home, command: Words, fails: bool) -> Result<Usage, String> {
    let mut usages = Vec::new();
    for _ in 0..STARTS {
        let usage: Usage = match fails {
            true => home.measure_failure(command.clone()).await?,
            false => home.measure(std::slice::from_ref(&command)).await?,
        };
        // Who tries again and again is not started twenty times.
        let is_slow = usage.wall_seconds > 1.0;
        usages.push(usage);
        if is_slow {
            break;
        }
    }
    usages.sort_by(|one, other| one.wall_seconds.total_cmp(&other.wall_seconds));
    Ok(usages[usages.len() / 2])
}
