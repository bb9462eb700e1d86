//! From instructions to stages, and from the target to everything that it needs.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::expansion::{Stop, Variables, expand};
use super::instruction::{Instruction, Instructions};
use super::{BaseImage, BuildParameters, DockerfileError, context_name};
use crate::platform::Platform;

/// The image of no image.
const SCRATCH: &str = "scratch";
/// How many stages are told, the last ones.
const MOST_TOLD: usize = 16;

/// A stage, or an image that an instruction takes from as if it were one.
struct Node {
    line: usize,
    /// Who asks for it, for people.
    stage: String,
    origin: Origin,
    /// What its instructions take from.
    needs: Vec<usize>,
}

/// What a stage starts from.
enum Origin {
    Stage(usize),
    Image {
        reference: String,
        platform: Platform,
    },
    /// Nothing, or what is no image, or what cannot be known.
    Other,
}

/// A stage as it is written.
struct Stage<'a> {
    /// The number of its node.
    node: usize,
    label: String,
    instructions: Vec<&'a Instruction>,
}

/// What names mean in this build.
struct Resolver<'a> {
    build: &'a BuildParameters<'a>,
    escape: char,
    variables: Variables,
    /// By the names that BuildKit looks for.
    contexts: BTreeMap<String, &'a str>,
}

/// See [`super::base_images`].
pub(super) fn base_images(
    instructions: &Instructions,
    build: &BuildParameters<'_>,
) -> Result<Vec<BaseImage>, DockerfileError> {
    let mut nodes = Vec::new();
    let mut names = HashMap::new();
    let mut stages: Vec<Stage<'_>> = Vec::new();
    let mut resolver = Resolver::new(instructions, build)?;
    for instruction in &instructions.list {
        match (instruction.name.as_str(), stages.last_mut()) {
            ("from", _) => {
                let (name, node) = resolver.stage(instruction, &nodes, &names)?;
                stages.push(Stage { node: nodes.len(), label: node.stage.clone(), instructions: Vec::new() });
                names.extend(name.map(|name| (name, nodes.len())));
                nodes.push(node);
            }
            ("arg", None) => resolver.declare(instruction)?,
            (_, Some(stage)) => stage.instructions.push(instruction),
            (_, None) => {}
        }
    }
    let Some(last) = stages.last() else {
        return Err(DockerfileError::whole("it has no FROM, so there is nothing to build"));
    };
    let target = target(build.target, last.node, &names, &stages)?;
    for stage in &stages {
        resolver.add_needs(stage, &mut nodes, &names)?;
    }
    Ok(reached(&nodes, target))
}

fn target(
    name: Option<&str>,
    last: usize,
    names: &HashMap<String, usize>,
    stages: &[Stage<'_>],
) -> Result<usize, DockerfileError> {
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(last) };
    names.get(&name.to_lowercase()).copied().ok_or_else(|| {
        let last = stages.iter().rev().take(MOST_TOLD).map(|stage| stage.label.as_str());
        let mut stages: Vec<&str> = last.collect();
        stages.reverse();
        let reason = format!("there is no stage {name:?} to build; there are {}", stages.join(", "));
        DockerfileError::whole(reason)
    })
}

/// The images of everything that can be reached, in the order of lines.
fn reached(nodes: &[Node], target: usize) -> Vec<BaseImage> {
    let mut waiting = vec![target];
    let mut seen = HashSet::from([target]);
    let mut images = Vec::new();
    while let Some(node) = waiting.pop().and_then(|number| nodes.get(number)) {
        let base = match &node.origin {
            Origin::Stage(base) => Some(*base),
            Origin::Image { reference, platform } => {
                let (reference, platform) = (reference.clone(), platform.clone());
                images.push(BaseImage { reference, platform, line: node.line, stage: node.stage.clone() });
                None
            }
            Origin::Other => None,
        };
        waiting.extend(base.into_iter().chain(node.needs.iter().copied()).filter(|&next| seen.insert(next)));
    }
    images.sort_by_key(|image| image.line);
    let mut seen = HashSet::new();
    images.retain(|image| seen.insert((image.reference.clone(), image.platform.clone())));
    images
}

impl<'a> Resolver<'a> {
    fn new(instructions: &Instructions, build: &'a BuildParameters<'a>) -> Result<Self, DockerfileError> {
        let contexts = build.contexts.iter().map(|(name, source)| (context_name(name), source.as_str()));
        let last = instructions.list.iter().rfind(|instruction| instruction.name == "from");
        let last = last.map(stage_name).transpose()?.flatten();
        let target = build.target.filter(|name| !name.is_empty()).map(str::to_owned).or(last);
        let variables = predefined(build, target.unwrap_or_else(|| "default".to_owned()));
        Ok(Self { build, escape: instructions.escape, variables, contexts: contexts.collect() })
    }

    /// `ARG` before the first `FROM`.
    fn declare(&mut self, instruction: &Instruction) -> Result<(), DockerfileError> {
        for word in quoted_words(&instruction.arguments, self.escape) {
            let (name, default) = word.split_once('=').map_or((word.as_str(), None), |(n, v)| (n, Some(v)));
            let value = match (self.build.arguments.get(name), default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => self.expand(default, instruction.line)?,
                (None, None) => continue,
            };
            self.variables.insert(name.to_owned(), value);
        }
        Ok(())
    }

    /// None if it cannot be known.
    fn expand(&self, word: &str, line: usize) -> Result<Option<String>, DockerfileError> {
        match expand(word, self.escape, &self.variables) {
            Ok(expanded) => Ok(Some(expanded)),
            Err(Stop::Undetermined) => Ok(None),
            Err(Stop::Invalid(reason)) => Err(DockerfileError::at(line, format!("{word}: {reason}"))),
        }
    }

    /// `FROM`: the name of the stage, and its node.
    fn stage(
        &self,
        from: &Instruction,
        nodes: &[Node],
        names: &HashMap<String, usize>,
    ) -> Result<(Option<String>, Node), DockerfileError> {
        let name = stage_name(from)?;
        let word = from.words().first().copied().unwrap_or_default();
        let base = self.expand(word, from.line)?;
        if base.as_deref() == Some("") {
            let reason = format!("FROM {word} is FROM nothing; its variables have no values");
            return Err(DockerfileError::at(from.line, reason));
        }
        let platform = match from.values("platform").last().filter(|platform| !platform.is_empty()) {
            None => Some(self.build.target_platform.clone()),
            Some(word) => self.platform(word, from.line)?,
        };
        let stage = name.clone().unwrap_or_else(|| format!("stage-{}", nodes.len()));
        let origin = match (self.context(name.as_deref(), platform.as_ref()), base) {
            (Some(source), _) => image_of_context(source, platform),
            (None, None) => Origin::Other,
            // Names of stages are in lower case, and this is the one place where BuildKit looks at the case.
            (None, Some(base)) => match names.get(&base) {
                Some(&stage) => Origin::Stage(stage),
                None => self.image(base, platform),
            },
        };
        Ok((name, Node { line: from.line, stage, origin, needs: Vec::new() }))
    }

    fn platform(&self, word: &str, line: usize) -> Result<Option<Platform>, DockerfileError> {
        let Some(text) = self.expand(word, line)? else { return Ok(None) };
        if text.is_empty() {
            let reason = format!("--platform={word} is no platform; its variables have no values");
            return Err(DockerfileError::at(line, reason));
        }
        parse_platform(&text, self.build.build_platform)
            .map_err(|reason| DockerfileError::at(line, format!("--platform={word}: {reason}")))
    }

    /// What an image is, unless a named context takes its place.
    fn image(&self, reference: String, platform: Option<Platform>) -> Origin {
        if reference == SCRATCH {
            return Origin::Other;
        }
        match self.context(Some(&reference), platform.as_ref()) {
            Some(source) => image_of_context(source, platform),
            None => platform.map_or(Origin::Other, |platform| Origin::Image { reference, platform }),
        }
    }

    fn context(&self, name: Option<&str>, platform: Option<&Platform>) -> Option<&'a str> {
        let reserved =
            |name: &&str| ["scratch", "context"].iter().any(|word| word.eq_ignore_ascii_case(name));
        let name = context_name(name.filter(|name| !reserved(name))?);
        let for_platform = platform.and_then(|platform| self.contexts.get(&format!("{name}::{platform}")));
        for_platform.or_else(|| self.contexts.get(&name)).copied()
    }

    /// Adds what the instructions of a stage take from.
    fn add_needs(
        &self,
        stage: &Stage<'_>,
        nodes: &mut Vec<Node>,
        names: &HashMap<String, usize>,
    ) -> Result<(), DockerfileError> {
        for instruction in &stage.instructions {
            let sources = match instruction.name.as_str() {
                "copy" => self.copied_from(instruction),
                "run" => mounted_from(instruction),
                _ => Vec::new(),
            };
            for source in sources {
                let number = source.parse::<i64>().ok().filter(|_| instruction.name == "copy");
                let found = match number {
                    Some(number) => Some(numbered(number, nodes.len(), instruction.line)?),
                    None => names.get(&source.to_lowercase()).copied(),
                };
                let node = found.unwrap_or(nodes.len());
                if found.is_none() {
                    let origin = self.image(source, Some(self.build.target_platform.clone()));
                    let (line, stage) = (instruction.line, stage.label.clone());
                    nodes.push(Node { line, stage, origin, needs: Vec::new() });
                }
                nodes[stage.node].needs.push(node);
            }
        }
        Ok(())
    }

    /// `COPY --from`. BuildKit expands nothing there.
    fn copied_from(&self, copy: &Instruction) -> Vec<String> {
        let plain = |from: &&str| !from.is_empty() && !from.contains(['$', '\'', '"', self.escape]);
        copy.values("from").last().filter(plain).map(str::to_owned).into_iter().collect()
    }
}

/// `RUN --mount=…,from=…`: every mount takes from something, if only from nothing.
fn mounted_from(run: &Instruction) -> Vec<String> {
    let from = |mount: &str| {
        // The fields are those of CSV. Quoted ones are left to BuildKit.
        let plain = if mount.contains('"') { "" } else { mount };
        let mut fields = plain.split(',').filter_map(|field| field.split_once('='));
        let from = fields.rfind(|(key, _)| key.eq_ignore_ascii_case("from"));
        let from = from.map(|(_, from)| from).filter(|from| !from.is_empty() && !from.contains('$'));
        from.unwrap_or(SCRATCH).to_owned()
    };
    run.values("mount").map(from).collect()
}

fn numbered(number: i64, nodes: usize, line: usize) -> Result<usize, DockerfileError> {
    usize::try_from(number).ok().filter(|&number| number < nodes).ok_or_else(|| {
        let reason = format!("--from={number}: there is no such stage; the first one is 0");
        DockerfileError::at(line, reason)
    })
}

/// The image that a named context is.
fn image_of_context(source: &str, platform: Option<Platform>) -> Origin {
    let reference =
        source.strip_prefix("docker-image:").map(|image| image.strip_prefix("//").unwrap_or(image));
    match (reference, platform) {
        (Some(reference), Some(platform)) if reference != SCRATCH => {
            Origin::Image { reference: reference.to_owned(), platform }
        }
        _ => Origin::Other,
    }
}

/// The name in `FROM image AS name`, in lower case.
fn stage_name(from: &Instruction) -> Result<Option<String>, DockerfileError> {
    let name = match from.words()[..] {
        [_] => return Ok(None),
        [_, word, name] if word.eq_ignore_ascii_case("as") => name.to_lowercase(),
        _ => {
            let reason = "FROM takes an image, or an image AS a name, and nothing else";
            return Err(DockerfileError::at(from.line, reason));
        }
    };
    let belongs = |letter: char| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '-' | '_' | '.')
    };
    if name.starts_with(|first: char| first.is_ascii_lowercase()) && name.chars().all(belongs) {
        return Ok(Some(name));
    }
    let reason = format!("{name:?} is no name for a stage: write letters, digits, - _ . and a letter first");
    Err(DockerfileError::at(from.line, reason))
}

/// What is set in every Dockerfile; build arguments may say otherwise.
fn predefined(build: &BuildParameters<'_>, target: String) -> Variables {
    let of = |prefix: &str, platform: Option<&Platform>| {
        let value = |part: fn(&Platform) -> String| platform.map(part);
        [
            (format!("{prefix}PLATFORM"), value(Platform::to_string)),
            (format!("{prefix}OS"), value(|platform| platform.os().to_owned())),
            (format!("{prefix}OSVERSION"), value(|_| String::new())),
            (format!("{prefix}ARCH"), value(|platform| platform.architecture().to_owned())),
            (format!("{prefix}VARIANT"), value(|platform| platform.variant().unwrap_or_default().to_owned())),
        ]
    };
    let mut variables: Variables = of("BUILD", build.build_platform)
        .into_iter()
        .chain(of("TARGET", Some(build.target_platform)))
        .collect();
    variables.insert("TARGETSTAGE".to_owned(), Some(target));
    for (name, value) in &mut variables {
        if let Some(given) = build.arguments.get(name) {
            *value = Some(given.clone());
        }
    }
    variables
}

/// The platform that a text is to BuildKit; none if that depends on what the builder runs on.
fn parse_platform(text: &str, build: Option<&Platform>) -> Result<Option<Platform>, String> {
    let belongs = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.' | '-');
    let parts: Vec<&str> = text.split('/').collect();
    // With a version of the operating system or its features: windows(10.0.17763)/amd64.
    if parts[0].contains('(') {
        return Ok(None);
    }
    if parts.iter().any(|part| part.is_empty() || !part.chars().all(belongs)) {
        return Err(format!("{text:?} is not a platform; write os/architecture, as in linux/amd64"));
    }
    match parts[..] {
        [os, architecture] => Ok(Some(Platform::normalised(os, architecture, None))),
        [os, architecture, variant] => Ok(Some(Platform::normalised(os, architecture, Some(variant)))),
        [one] if format!("{one}/amd64").parse::<Platform>().is_ok() => {
            let variant = |build: &Platform| {
                build.variant().filter(|_| build.architecture() == "arm").map(str::to_owned)
            };
            Ok(build.map(|build| Platform::normalised(one, build.architecture(), variant(build).as_deref())))
        }
        [one] => Ok(format!("linux/{one}").parse().ok()),
        _ => Err(format!("{text:?} has too many parts; write os/architecture, as in linux/amd64")),
    }
}

/// Words between blanks, with their quotes and escapes still there.
fn quoted_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if quote.is_none() && letter.is_whitespace() {
            words.push(std::mem::take(&mut word));
            continue;
        }
        // Nothing is escaped within single quotes.
        if letter == escape && quote != Some('\'') {
            if let Some(escaped) = letters.next() {
                word.extend([letter, escaped]);
            }
            continue;
        }
        quote = match quote {
            None => Some(letter).filter(|letter| matches!(letter, '\'' | '"')),
            Some(end) => Some(end).filter(|_| letter != end),
        };
        word.push(letter);
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}
