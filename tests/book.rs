//! The documentation as a book: nothing in it leads nowhere, and it is as complete as the code.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/markdown.rs"]
mod markdown;
#[path = "book/reference.rs"]
mod reference;

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use markdown::{Page, root};
use multiarch::api::Reason;

/// Whether a link leads out of the project.
fn leads_outside(link: &str) -> bool {
    ["http://", "https://", "mailto:"].iter().any(|scheme| link.starts_with(scheme))
}

/// Where a link of a file leads: a path, and an anchor that may be empty.
fn destination(file: &Path, link: &str) -> (PathBuf, String) {
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let joined = match path.is_empty() {
        true => file.to_owned(),
        false => file.parent().expect("a file is in a folder").join(path),
    };
    let mut plain = PathBuf::new();
    for part in joined.components() {
        match part {
            Component::ParentDir => assert!(plain.pop(), "{} leads out of the checkout", joined.display()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    (plain, anchor.to_owned())
}

/// What is wrong with a link of a page; nothing if it leads somewhere.
fn problem(page: &Page, link: &str, pages: &[Page]) -> Option<String> {
    let (path, anchor) = destination(Path::new(&page.path), link);
    if !root().join(&path).exists() {
        return Some("there is no such file".to_owned());
    }
    if anchor.is_empty() {
        return None;
    }
    let Some(target) = pages.iter().find(|other| Path::new(&other.path) == path) else {
        return Some("only pages have anchors".to_owned());
    };
    let missing = !target.anchors.contains(&anchor);
    missing.then(|| format!("{} has no such heading; it has {:?}", target.path, target.anchors))
}

#[test]
fn every_link_and_every_anchor_leads_somewhere() {
    let pages = markdown::pages();
    let mut wrong = vec![];
    for page in &pages {
        for link in page.links.iter().filter(|link| !leads_outside(link)) {
            wrong.extend(
                problem(page, link, &pages).map(|problem| format!("{}: {link}: {problem}", page.path)),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(pages.iter().map(|page| page.links.len()).sum::<usize>() > 100, "links are found");
}

#[test]
fn the_table_of_contents_has_every_page_once() {
    let summary = markdown::page_at("docs/SUMMARY.md");
    let listed: Vec<String> = summary.links.iter().map(|link| format!("docs/{link}")).collect();
    let distinct: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(listed.len(), distinct.len(), "no page stands there twice");
    let all = markdown::pages().into_iter().map(|page| page.path);
    let pages: BTreeSet<String> =
        all.filter(|path| path.starts_with("docs/") && path != "docs/SUMMARY.md").collect();
    assert_eq!(distinct, pages);
}

#[test]
fn every_page_begins_with_its_only_title() {
    let of_book = |page: &Page| page.path.starts_with("docs/") && page.path != "docs/SUMMARY.md";
    for page in markdown::pages().into_iter().filter(of_book) {
        assert!(page.text.starts_with("# ") && page.titles.len() == 1, "{}: {:?}", page.path, page.titles);
    }
}

#[test]
fn every_picture_says_what_is_in_it() {
    for page in markdown::pages() {
        assert!(!page.text.contains("![]("), "{}: a picture without a description", page.path);
    }
}

/// The sections of `docs/troubleshooting.md` that are about a reason, by its word.
fn sections_of_reasons() -> Vec<(String, String)> {
    let page = markdown::page_at("docs/troubleshooting.md");
    let sections = page.text.split("\n### `").skip(1);
    let section = |text: &str| {
        let (reason, rest) = text.split_once("`\n").expect("the heading of a reason has nothing but it");
        let own = rest.split("\n## ").next().expect("a first part");
        (reason.to_owned(), own.to_owned())
    };
    sections.map(section).collect()
}

#[test]
fn every_reason_has_its_section_and_every_section_its_reason() {
    let mut found: Vec<String> = sections_of_reasons().into_iter().map(|(reason, _)| reason).collect();
    let mut known: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    found.sort_unstable();
    known.sort_unstable();
    assert_eq!(found, known);
}

#[test]
fn the_section_of_a_reason_begins_with_what_the_command_says_that_it_means() {
    for (reason, section) in sections_of_reasons() {
        let known = Reason::ALL.iter().find(|known| known.as_str() == reason).expect("a known reason");
        let begins = section.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(begins.starts_with(known.meaning()), "{reason}: {}\n{begins}", known.meaning());
    }
}

/// The addresses in the attributes `href` and `src` of HTML.
fn addresses(html: &str) -> Vec<&str> {
    let after = |attribute| html.split(attribute).skip(1);
    let found = after(" href=\"").chain(after(" src=\""));
    found.filter_map(|rest| rest.split('"').next()).collect()
}

/// What `make docs` asks when the book is written: mdBook makes of links what it likes.
#[test]
#[ignore = "it needs the book, which make docs writes"]
fn nothing_in_the_rendered_book_leads_nowhere() {
    let book = root().join("target/book");
    let chapters = markdown::page_at("docs/SUMMARY.md").links;
    let rendered = chapters.iter().map(|chapter| match chapter.as_str() {
        "README.md" => PathBuf::from("docs/index.html"),
        chapter => Path::new("docs").join(chapter).with_extension("html"),
    });
    let read = |path: &Path| {
        std::fs::read_to_string(book.join(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let (mut wrong, mut tried) = (vec![], 0);
    for file in rendered {
        let html = read(&file);
        let link = |address: &&str| !leads_outside(address) && !address.is_empty() && !address.contains(':');
        for address in addresses(&html).into_iter().filter(link) {
            let (path, anchor) = destination(&file, address);
            tried += 1;
            let is_there = book.join(&path).exists()
                && (anchor.is_empty() || read(&path).contains(&format!("id=\"{anchor}\"")));
            if !is_there {
                wrong.push(format!("{}: {address}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried > 500, "only {tried} addresses were found");
}
