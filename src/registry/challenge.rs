//! What a registry wants from who has not said who he is: the `WWW-Authenticate` header.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// The longest text of a challenge that is believed, in bytes: it is remembered for as long as the token.
const LONGEST_TEXT: usize = 2048;

/// How a registry wants to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// By a token: distribution spec, "Token authentication".
    Bearer {
        /// Where the token is got.
        realm: String,
        /// What it must be for.
        service: Option<String>,
        /// What it must allow.
        scope: Option<String>,
    },
    /// By name and password: RFC 7617.
    Basic,
}

impl Challenge {
    /// The best of the challenges in `headers` that we can answer: a token rather than a password.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let offers = offers(headers);
        let bearer = offers.iter().find_map(|offer| {
            let realm = offer.is("bearer").then(|| offer.parameter("realm"))??;
            Some(Self::Bearer { realm, service: offer.parameter("service"), scope: offer.parameter("scope") })
        });
        bearer.or_else(|| offers.iter().any(|offer| offer.is("basic")).then_some(Self::Basic))
    }

    /// The same for any request.
    pub(crate) fn without_scope(&self) -> Self {
        match self {
            Self::Bearer { realm, service, .. } => {
                Self::Bearer { realm: realm.clone(), service: service.clone(), scope: None }
            }
            Self::Basic => Self::Basic,
        }
    }

    /// Whether the token was good and only did not allow this: RFC 6750, section 3.1.
    pub(crate) fn is_insufficient_scope(headers: &HeaderMap) -> bool {
        offers(headers)
            .iter()
            .any(|offer| offer.parameter("error").is_some_and(|error| error == "insufficient_scope"))
    }
}

fn offers(headers: &HeaderMap) -> Vec<Offer> {
    headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).flat_map(parse).collect()
}

/// One challenge of RFC 7235, section 2.1.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Offer {
    fn is(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }

    fn parameter(&self, name: &str) -> Option<String> {
        let found = self.parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone()).filter(|value| value.len() <= LONGEST_TEXT)
    }
}

/// All challenges of one header value. What makes no sense is skipped, since the next one may.
fn parse(value: &str) -> Vec<Offer> {
    let mut offers: Vec<Offer> = Vec::new();
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() && after.is_empty() {
            return offers;
        }
        match after.trim_start_matches([' ', '\t']).strip_prefix('=') {
            Some(value) => {
                let (value, after) = take_value(value.trim_start_matches([' ', '\t']));
                if let Some(offer) = offers.last_mut() {
                    offer.parameters.push((word.to_owned(), value));
                }
                rest = after;
            }
            None => {
                offers.push(Offer { scheme: word.to_owned(), parameters: Vec::new() });
                rest = after;
            }
        }
    }
}

/// A token or a quoted string, and what comes after it.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((position, letter)) = letters.next() {
        match letter {
            '"' => return (value, &quoted[position + 1..]),
            '\\' => value.extend(letters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::from_headers(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let [service, scope] = [service, scope].map(|text| text.map(str::to_owned));
        Some(Challenge::Bearer { realm: realm.to_owned(), service, scope })
    }

    #[test]
    fn a_quoted_comma_is_part_of_the_value() {
        assert_eq!(
            challenge(&[r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull,push""#]),
            bearer("https://a/t", Some("s"), Some("repository:x:pull,push"))
        );
    }

    #[test]
    fn spelling_and_spacing_do_not_matter() {
        assert_eq!(
            challenge(&[r#"bearer  REALM = "https://a/t" , Service=s"#]),
            bearer("https://a/t", Some("s"), None)
        );
        assert_eq!(challenge(&["BASIC realm=x"]), Some(Challenge::Basic));
        assert_eq!(challenge(&["Basic"]), Some(Challenge::Basic));
        assert_eq!(challenge(&[r#"Bearer realm="a\"b""#]), bearer("a\"b", None, None));
    }

    #[test]
    fn a_token_is_preferred_to_a_password() {
        let expected = bearer("https://a/t", None, None);
        assert_eq!(challenge(&[r#"Basic realm="x", Bearer realm="https://a/t""#]), expected);
        assert_eq!(challenge(&[r#"Basic realm="x""#, r#"Bearer realm="https://a/t""#]), expected);
        assert_eq!(challenge(&[r#"Negotiate abc==, Bearer realm="https://a/t""#]), expected);
    }

    #[test]
    fn what_cannot_be_answered_is_no_challenge() {
        for value in ["", "Negotiate", "Bearer", r#"Bearer service="s""#, "=,=,=", "\"", r#"Bearer realm"#] {
            assert_eq!(challenge(&[value]), None, "{value}");
        }
        assert_eq!(challenge(&[&format!("Bearer realm=https://a/{}", "t".repeat(LONGEST_TEXT))]), None);
    }
}
