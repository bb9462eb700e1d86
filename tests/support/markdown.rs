//! The documentation as those who render it read it.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// The folders whose pages are for people who use the project.
const FOLDERS: [&str; 4] = ["docs", "charts", "config", "examples"];

/// A block of code.
pub struct Block {
    /// What the fence calls it: `yaml`, `sh`, `console`; empty without a name.
    pub language: String,
    pub code: String,
}

/// A page of the documentation.
pub struct Page {
    /// Its path below the checkout.
    pub path: String,
    /// What is in it, as it stands there.
    pub text: String,
    /// The anchors of its headings, as GitHub and mdBook make them.
    pub anchors: BTreeSet<String>,
    /// Its headings of the first level.
    pub titles: Vec<String>,
    /// Where its links and pictures lead.
    pub links: Vec<String>,
    pub blocks: Vec<Block>,
    /// The code that stands in sentences.
    pub inline: Vec<String>,
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every page: the README, how to contribute, and all that lies in the folders for users.
pub fn pages() -> Vec<Page> {
    let mut paths = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    for folder in FOLDERS.map(|folder| root().join(folder)).iter().filter(|folder| folder.is_dir()) {
        walk(folder, &mut paths);
    }
    paths.sort();
    paths
        .iter()
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .map(|path| page(path))
        .collect()
}

/// The page of a path below the checkout.
pub fn page_at(path: &str) -> Page {
    page(&root().join(path))
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        match path.is_dir() {
            true => walk(&path, found),
            false => found.push(path),
        }
    }
}

fn page(path: &Path) -> Page {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let path = path.strip_prefix(root()).expect("below the checkout").to_string_lossy().into_owned();
    let mut page = Page {
        path,
        text: String::new(),
        anchors: BTreeSet::new(),
        titles: vec![],
        links: vec![],
        blocks: vec![],
        inline: vec![],
    };
    let (mut heading, mut block): (Option<String>, Option<Block>) = (None, None);
    for event in Parser::new_ext(&text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(level)) => page.add_heading(level, heading.take().expect("it began")),
            Event::Start(Tag::CodeBlock(kind)) => {
                let language = match kind {
                    CodeBlockKind::Fenced(name) => name.to_string(),
                    CodeBlockKind::Indented => String::new(),
                };
                block = Some(Block { language, code: String::new() });
            }
            Event::End(TagEnd::CodeBlock) => page.blocks.push(block.take().expect("it began")),
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                page.links.push(dest_url.to_string());
            }
            Event::Text(text) => {
                if let Some(block) = &mut block {
                    block.code.push_str(&text);
                }
                if let Some(heading) = &mut heading {
                    heading.push_str(&text);
                }
            }
            Event::Code(code) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&code);
                }
                page.inline.push(code.to_string());
            }
            _ => {}
        }
    }
    page.text = text;
    page
}

impl Page {
    fn add_heading(&mut self, level: HeadingLevel, heading: String) {
        let kept = heading
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .collect::<String>();
        let anchor = kept.replace(' ', "-");
        let free = std::iter::once(anchor.clone()).chain((1..).map(|number| format!("{anchor}-{number}")));
        let anchor =
            free.into_iter().find(|anchor| !self.anchors.contains(anchor)).expect("numbers do not end");
        self.anchors.insert(anchor);
        self.titles.extend((level == HeadingLevel::H1).then_some(heading));
    }

    /// The blocks of a language.
    pub fn blocks_of<'a>(&'a self, language: &'a str) -> impl Iterator<Item = &'a str> {
        self.blocks.iter().filter(move |block| block.language == language).map(|block| block.code.as_str())
    }
}
