//! Access tokens: asked for once, used until they end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Deserialize;

use super::error::Error;
use super::scope::Scopes;

/// How many tokens are remembered before those that have ended are forgotten.
const ROOM: usize = 1024;
/// Distribution spec, "Token response fields": the life of a token that does not say how long it lives.
const DEFAULT_LIFE: u64 = 60;
/// The longest life that is believed.
const LONGEST_LIFE: u64 = 24 * 60 * 60;

/// Whose token it is and what it is for. Another credential, even of the same registry, is another token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TokenKey {
    pub(crate) host: String,
    pub(crate) realm: String,
    pub(crate) service: Option<String>,
    /// The identity of the credential; none if anonymous.
    pub(crate) identity: Option<[u8; 32]>,
    pub(crate) scopes: Scopes,
}

/// A token and the time until which it is used.
pub(crate) struct Token {
    value: String,
    expires: Instant,
}

/// What a token server answers: distribution spec, "Token response fields".
#[derive(Deserialize)]
pub(crate) struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
    issued_at: Option<String>,
}

impl TokenAnswer {
    /// The token, asked for at `asked`. A tenth of its life is left for requests under way.
    pub(crate) fn into_token(self, asked: Instant) -> Option<Token> {
        let life = self.life(Timestamp::now());
        let value = self.token.or(self.access_token).filter(|token| !token.is_empty())?;
        Some(Token { value, expires: asked + life - life / 10 })
    }

    fn life(&self, now: Timestamp) -> Duration {
        let life = Duration::from_secs(self.expires_in.unwrap_or(DEFAULT_LIFE).min(LONGEST_LIFE));
        let issued = self.issued_at.as_deref().and_then(|time| time.parse::<Timestamp>().ok());
        let age = issued.map_or(0, |issued| now.as_second().saturating_sub(issued.as_second()).max(0));
        // Half is the most that age takes off: clocks differ, and a token just received is worth using.
        life - Duration::from_secs(age.unsigned_abs()).min(life / 2)
    }
}

type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;

/// All tokens of a client.
#[derive(Default)]
pub(crate) struct TokenCache {
    slots: Mutex<HashMap<TokenKey, Slot>>,
}

impl TokenCache {
    /// The token of `key`, from `fetch` if there is none. Whoever wants it meanwhile waits for the same one.
    pub(crate) async fn get<F>(&self, key: &TokenKey, fetch: F) -> Result<String, Error>
    where
        F: Future<Output = Result<Token, Error>>,
    {
        let slot = self.slot(key);
        let mut held = slot.lock().await;
        if let Some(token) = held.as_ref().filter(|token| token.expires > Instant::now()) {
            return Ok(token.value.clone());
        }
        let token = fetch.await?;
        let value = token.value.clone();
        *held = Some(token);
        Ok(value)
    }

    /// Forgets the token of `key` if it still is `value`: someone else may have got a new one already.
    pub(crate) async fn forget(&self, key: &TokenKey, value: &str) {
        let slot = self.slot(key);
        let mut held = slot.lock().await;
        if held.as_ref().is_some_and(|token| token.value == value) {
            *held = None;
        }
    }

    fn slot(&self, key: &TokenKey) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= ROOM && !slots.contains_key(key) {
            let now = Instant::now();
            // A slot that cannot be locked is in use, and stays.
            slots.retain(|_, slot| {
                slot.try_lock().map_or(true, |held| held.as_ref().is_some_and(|t| t.expires > now))
            });
        }
        slots.entry(key.clone()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn key(user: u8) -> TokenKey {
        let (host, realm) = ("a.io".to_owned(), "https://a.io/token".to_owned());
        TokenKey { host, realm, service: None, identity: Some([user; 32]), scopes: Scopes::default() }
    }

    fn answer(json: &str) -> TokenAnswer {
        serde_json::from_str(json).unwrap()
    }

    #[tokio::test]
    async fn those_who_want_one_token_at_once_ask_for_it_once() {
        let (cache, asked) = (TokenCache::default(), AtomicUsize::new(0));
        let fetch = || async {
            asked.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            Ok(answer(r#"{"token":"t","expires_in":300}"#).into_token(Instant::now()).unwrap())
        };
        let (key, other) = (key(1), key(2));
        let (one, two, three) =
            tokio::join!(cache.get(&key, fetch()), cache.get(&key, fetch()), cache.get(&other, fetch()));
        assert_eq!([one.unwrap(), two.unwrap(), three.unwrap()], ["t"; 3]);
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_token_is_forgotten_once_and_not_its_successor() {
        let cache = TokenCache::default();
        let token = |value: &str| {
            let token = Token { value: value.to_owned(), expires: Instant::now() + Duration::from_secs(300) };
            async { Ok(token) }
        };
        assert_eq!(cache.get(&key(1), token("old")).await.unwrap(), "old");
        cache.forget(&key(1), "old").await;
        assert_eq!(cache.get(&key(1), token("new")).await.unwrap(), "new");
        cache.forget(&key(1), "old").await;
        assert_eq!(cache.get(&key(1), token("newer")).await.unwrap(), "new");
    }

    #[test]
    fn a_token_lives_as_long_as_it_says() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        for (json, seconds) in [
            ("{}", 60),
            (r#"{"expires_in":300}"#, 300),
            (r#"{"expires_in":300,"issued_at":"2026-01-01T00:00:00Z"}"#, 240),
            (r#"{"expires_in":300,"issued_at":"2027-01-01T00:00:00Z"}"#, 300),
            (r#"{"expires_in":300,"issued_at":"2020-01-01T00:00:00Z"}"#, 150),
            (r#"{"expires_in":300,"issued_at":"yesterday"}"#, 300),
            (r#"{"expires_in":99999999999}"#, LONGEST_LIFE),
        ] {
            assert_eq!(answer(json).life(now), Duration::from_secs(seconds), "{json}");
        }
    }

    #[test]
    fn a_token_has_either_name() {
        assert_eq!(answer(r#"{"access_token":"t"}"#).into_token(Instant::now()).unwrap().value, "t");
        assert!(answer(r#"{"token":""}"#).into_token(Instant::now()).is_none());
    }
}
