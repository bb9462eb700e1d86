//! Lists that registries give in pages: distribution spec, "Listing tags" and "Listing referrers".

use std::collections::HashSet;

use bytes::Bytes;
use reqwest::Url;
use reqwest::header::{HeaderMap, LINK};

use super::error::{Error, Kind};
use super::session::{Request, Session};
use super::transport::authority;

/// The largest page that is read, in bytes. Old registries put everything on one.
const LARGEST_PAGE: u64 = 16 * 1024 * 1024;
/// How many pages of one list are read.
const MOST_PAGES: usize = 1000;

/// The pages of a list, one after the other.
pub(super) struct Pages<'a> {
    session: &'a Session,
    request: Request<'a>,
    asked: HashSet<Url>,
    ended: bool,
}

impl<'a> Pages<'a> {
    /// The pages that begin with what `request` asks for.
    pub(super) fn new(session: &'a Session, request: Request<'a>) -> Self {
        Self { session, request, asked: HashSet::new(), ended: false }
    }

    /// The next page with its headers, or none after the last.
    ///
    /// What the registry has answered stays good when it leads to another host for the rest: no credentials go there.
    ///
    /// # Errors
    /// [`Kind::Malformed`] if the pages do not end.
    pub(super) async fn next(&mut self) -> Result<Option<(HeaderMap, Bytes)>, Error> {
        if self.ended {
            return Ok(None);
        }
        let url = self.request.url.clone();
        let operation = &self.request.operation;
        if self.asked.len() >= MOST_PAGES {
            return Err(operation.error(Kind::Malformed, format!("a list of more than {MOST_PAGES} pages")));
        }
        if !self.asked.insert(url.clone()) {
            return Err(operation.error(Kind::Malformed, "the pages of the list lead in a circle"));
        }
        let page = self.session.fetch(&self.request, LARGEST_PAGE).await?;
        match next_page(&url, &page.0) {
            Some(next) => {
                self.session.client().check_scheme(operation, &url, &next)?;
                self.request.url = next;
            }
            None => self.ended = true,
        }
        Ok(Some(page))
    }
}

/// Where the list goes on, if it does: the link with the relation `next`, relative to the page or absolute.
fn next_page(page: &Url, headers: &HeaderMap) -> Option<Url> {
    let values = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let target = values.flat_map(links).find(|link| link.is_next).map(|link| link.target)?;
    let mut next = page.join(target).ok()?;
    // A registry behind a TLS proxy often takes itself for plain HTTP; we stay where we are.
    if page.scheme() == "https" && next.scheme() == "http" && authority(page) == authority(&next) {
        let _ = next.set_scheme("https");
    }
    Some(next)
}

struct Link<'a> {
    target: &'a str,
    is_next: bool,
}

/// RFC 8288, section 3: `<target>; rel="next"`, several of them separated by commas.
fn links(value: &str) -> Vec<Link<'_>> {
    let mut links = Vec::new();
    let mut rest = value;
    while let Some((_, after)) = rest.split_once('<') {
        let Some((target, after)) = after.split_once('>') else { break };
        // Parameters of ours have no commas in them; those of others need not be understood.
        let parameters = after.split(',').next().unwrap_or_default();
        let is_next = parameters.split(';').filter_map(|parameter| parameter.split_once('=')).any(
            |(name, relations)| {
                let mut relations = relations.trim().trim_matches('"').split_whitespace();
                name.trim().eq_ignore_ascii_case("rel")
                    && relations.any(|relation| relation.eq_ignore_ascii_case("next"))
            },
        );
        links.push(Link { target, is_next });
        rest = after;
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(page: &str, links: &[&str]) -> Option<String> {
        let headers = links.iter().map(|link| (LINK, link.parse().unwrap())).collect();
        next_page(&page.parse().unwrap(), &headers).map(|url| url.to_string())
    }

    #[test]
    fn the_next_page_is_where_the_link_says() {
        let page = "https://a.io/v2/web/tags/list?n=2";
        let expected = Some("https://a.io/v2/web/tags/list?last=b&n=2".to_owned());
        for link in [
            r#"</v2/web/tags/list?last=b&n=2>; rel="next""#,
            r#"<https://a.io/v2/web/tags/list?last=b&n=2>;rel=next"#,
            r#"<?last=b&n=2>; title="x"; REL="last NEXT""#,
            r#"</v2/>; rel="prev", <list?last=b&n=2>; rel="next""#,
            r#"<http://a.io/v2/web/tags/list?last=b&n=2>; rel="next""#,
        ] {
            assert_eq!(next(page, &[link]), expected, "{link}");
        }
        assert_eq!(next(page, &["</x>; rel=prev", "<list?last=b&n=2>; rel=next"]), expected);
        let elsewhere = next(page, &[r#"<https://b.io/list?last=a,b>; rel="next""#]);
        assert_eq!(elsewhere.as_deref(), Some("https://b.io/list?last=a,b"));
    }

    #[test]
    fn no_link_and_nonsense_are_the_end() {
        let page = "https://a.io/v2/web/tags/list";
        for link in
            ["", "<", "</x>", "</x>; rel=prev", "</x; rel=next", "x; rel=next", "<http://[>; rel=next"]
        {
            assert_eq!(next(page, &[link]), None, "{link}");
        }
        assert_eq!(next(page, &[]), None);
    }
}
