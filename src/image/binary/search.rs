//! From what a config says is started to the file of a program, through links and scripts.

use super::layer::Change;
use super::machine::{Content, Machine};
use super::overlay::{Found, Overlay, ancestors, clean, join};
use crate::image::ImageConfig;
use crate::platform::Platform;

/// How many links are followed for one file, as in Linux.
const MOST_LINKS: usize = 40;
/// How many scripts may run one another, as in Linux.
const MOST_SCRIPTS: usize = 5;

/// Where programs are looked for if the config does not say, as in Docker and containerd.
const UNIX_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const WINDOWS_PATH: &str = r"C:\Windows\System32;C:\Windows";

/// The shells that Docker's shell form makes of a command.
const SHELLS: [&str; 8] = ["sh", "ash", "bash", "dash", "zsh", "cmd", "powershell", "pwsh"];
/// What Windows starts by name. The first is what a name without any of them means.
const WINDOWS_EXTENSIONS: [&str; 4] = [".exe", ".com", ".bat", ".cmd"];

/// What is looked for in an image.
pub(super) struct Search {
    name: String,
    windows: bool,
    /// The directories in which names are looked for, cleaned.
    path: Vec<String>,
    working_directory: String,
    /// The program is the shell of a command in shell form.
    pub(super) shell_form: bool,
}

/// What a search has come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A program in this layer, counted from the top; the names on the way to it, itself last.
    Found { steps: Vec<String>, layer: usize, machine: Machine },
    /// There is no program, and why.
    Nothing(String),
    /// This path decides, and the layers seen so far do not have it.
    Undecided(String),
}

impl Search {
    /// # Errors
    /// Why there is nothing to look for.
    pub(super) fn new(config: &ImageConfig, platform: &Platform) -> Result<Self, String> {
        let windows = platform.os() == "windows";
        let parameters = &config.config;
        let command: Vec<&str> =
            parameters.entrypoint.iter().chain(&parameters.cmd).map(String::as_str).collect();
        let name = match command.first() {
            None => return Err("the config has neither Entrypoint nor Cmd".to_owned()),
            Some(&"") => return Err("the config's command begins with an empty text".to_owned()),
            Some(name) => name.to_string(),
        };
        let variable = parameters.env.iter().rev().find_map(|variable| {
            let (key, value) = variable.split_once('=')?;
            (key == "PATH" || windows && key.eq_ignore_ascii_case("PATH")).then_some(value)
        });
        let (separator, default) = if windows { (';', WINDOWS_PATH) } else { (':', UNIX_PATH) };
        let working_directory = clean(&spelled(&parameters.working_dir, windows));
        let path = variable.unwrap_or(default).split(separator);
        let path = path.map(|directory| join(&working_directory, &spelled(directory, windows))).collect();
        let shell_form = SHELLS.contains(&base_name(&spelled(&name, windows)).trim_end_matches(".exe"))
            && command.get(1).is_some_and(|flag| {
                matches!(flag.to_ascii_lowercase().as_str(), "-c" | "-command" | "/c" | "/s")
            });
        Ok(Self { name, windows, path, working_directory, shell_form })
    }

    /// An entry of a layer as the image knows it; none for what is no file of the image.
    pub(super) fn in_image(&self, path: &str, change: Change) -> Option<(String, Change)> {
        let path = self.path_in_image(path)?;
        let change = match change {
            Change::Symlink(target) => Change::Symlink(spelled(&target, self.windows).into()),
            Change::HardLink(target) => Change::HardLink(self.path_in_image(&target)?.into()),
            // Layers of Windows images have no permissions.
            Change::File { content, .. } if self.windows => {
                let executable = WINDOWS_EXTENSIONS.iter().any(|extension| path.ends_with(extension));
                Change::File { executable, content }
            }
            other => other,
        };
        Some((path, change))
    }

    fn path_in_image(&self, path: &str) -> Option<String> {
        let path = clean(&spelled(path, self.windows));
        if !self.windows {
            return Some(path);
        }
        match path.split_once('/') {
            Some(("files", rest)) => Some(rest.to_owned()),
            _ => (path == "files").then(String::new),
        }
    }

    /// What the layers seen so far tell.
    pub(super) fn outcome(&self, overlay: &Overlay) -> Outcome {
        let mut steps = vec![self.name.clone()];
        let mut candidates = self.candidates(&self.name);
        for _ in 0..MOST_SCRIPTS {
            let name = steps.last().cloned().unwrap_or_default();
            let (path, layer, content) = match self.first_executable(overlay, &name, &candidates) {
                Ok(found) => found,
                Err(outcome) => return outcome,
            };
            let shown = format!("/{path}");
            if shown != name {
                steps.push(shown);
            }
            match content {
                Content::Program(machine) => return Outcome::Found { steps, layer, machine: *machine },
                Content::Script(line) => match self.interpreter(line) {
                    Ok((name, paths)) => {
                        steps.push(name);
                        candidates = paths;
                    }
                    Err(reason) => return Outcome::Nothing(format!("{}: {reason}", steps.join(" → "))),
                },
                Content::Other => {
                    let reason = "is neither a program that we know the format of nor a script with #!";
                    return Outcome::Nothing(format!("{} {reason}", steps.join(" → ")));
                }
            }
        }
        Outcome::Nothing(format!("{}: too many scripts that run one another", steps.join(" → ")))
    }

    /// Where a name in a command may be: execvp(3).
    fn candidates(&self, name: &str) -> Vec<String> {
        let mut file = spelled(name, self.windows);
        if self.windows && !WINDOWS_EXTENSIONS.iter().any(|extension| file.ends_with(extension)) {
            file.push_str(".exe");
        }
        if file.contains('/') {
            return vec![join(&self.working_directory, &file)];
        }
        self.path.iter().map(|directory| join(directory, &file)).collect()
    }

    /// The first of the candidates that can be executed. It is not known before all those before it are known not to
    /// be there.
    fn first_executable<'a>(
        &self,
        overlay: &'a Overlay,
        name: &str,
        candidates: &[String],
    ) -> Result<(String, usize, &'a Content), Outcome> {
        let mut reason = match candidates {
            [_] => "is in no layer",
            _ => "is in no directory of PATH",
        };
        for candidate in candidates {
            let (path, found) = self.follow(overlay, candidate);
            match found {
                Found::Executable { layer, content } => return Ok((path, layer, content)),
                Found::Undecided => return Err(Outcome::Undecided(path)),
                Found::Absent => {}
                Found::Plain => reason = "has no permission to be executed",
                Found::Directory => reason = "is a directory",
                Found::Moved { .. } => reason = "leads through too many links",
                Found::Exhausted => {
                    reason = "takes too long to find in so many layers, links and directories"
                }
            }
        }
        Err(Outcome::Nothing(format!("{name:?} {reason}")))
    }

    /// Goes where links lead; [`Found::Moved`] if that has no end.
    fn follow<'a>(&self, overlay: &'a Overlay, path: &str) -> (String, Found<'a>) {
        let (mut path, mut from) = (path.to_owned(), 0);
        for _ in 0..MOST_LINKS {
            match overlay.look_up(&path, from) {
                Found::Moved { path: next, from: layer } => (path, from) = (next, layer),
                found => return (path, found),
            }
        }
        let moved = Found::Moved { path: path.clone(), from };
        (path, moved)
    }

    /// The interpreter of a script and where it may be, from its first line without `#!`: execve(2), env(1).
    fn interpreter(&self, line: &str) -> Result<(String, Vec<String>), String> {
        let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
        let interpreter = words.next().ok_or("its first line names no interpreter")?;
        if line.ends_with('\r') {
            return Err(
                "its lines end as in Windows, so the kernel looks for an interpreter that is not there"
                    .to_owned(),
            );
        }
        if base_name(interpreter) != "env" {
            return Ok((interpreter.to_owned(), vec![join(&self.working_directory, interpreter)]));
        }
        let name = words
            .map(|word| word.strip_prefix("-S").unwrap_or(word))
            .find(|word| !word.is_empty() && !word.starts_with('-') && !word.contains('='))
            .ok_or("its first line names no interpreter for env")?;
        Ok((name.to_owned(), self.candidates(name)))
    }
}

/// Whether an entry at `path` may change what a search for `awaited` comes to.
pub(super) fn concerns(path: &str, awaited: &str) -> bool {
    path == awaited || ancestors(awaited).any(|ancestor| ancestor == path)
}

/// A path as layers spell it: those of Windows images have neither drives nor backslashes, and case does not count.
fn spelled(path: &str, windows: bool) -> String {
    if !windows {
        return path.to_owned();
    }
    let path = path.replace('\\', "/").to_lowercase();
    match path.as_bytes() {
        [drive, b':', ..] if drive.is_ascii_alphabetic() => path.get(2..).unwrap_or_default().to_owned(),
        _ => path,
    }
}

fn base_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}
