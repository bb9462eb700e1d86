//! Access tokens: asked for once, used until they end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Deserialize;

use super::error::{Error, Kind};
use super::scope::Scopes;

/// How many tokens are remembered.
const ROOM: usize = 1024;
/// The longest token that is taken, in bytes: no server reads longer headers.
const LONGEST: usize = 16 * 1024;
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
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn into_token(self, asked: Instant) -> Result<Token, &'static str> {
        let life = self.life(Timestamp::now());
        let value = self.token.or(self.access_token).filter(|token| !token.is_empty());
        match value {
            None => Err("the token server's answer has no token"),
            Some(value) if value.len() > LONGEST => Err("the token server's token is longer than 16 KiB"),
            Some(value) => Ok(Token { value, expires: asked + life - life / 10 }),
        }
    }

    fn life(&self, now: Timestamp) -> Duration {
        let life = Duration::from_secs(self.expires_in.unwrap_or(DEFAULT_LIFE).min(LONGEST_LIFE));
        let issued = self.issued_at.as_deref().and_then(|time| time.parse::<Timestamp>().ok());
        let age = issued.map_or(0, |issued| now.as_second().saturating_sub(issued.as_second()).max(0));
        // Half is the most that age takes off: clocks differ, and a token just received is worth using.
        life - Duration::from_secs(age.unsigned_abs()).min(life / 2)
    }
}

/// One token, and who waits for it.
#[derive(Default)]
struct Slot {
    held: tokio::sync::Mutex<Held>,
    /// How often there was none to be had.
    failures: AtomicU64,
}

#[derive(Default)]
struct Held {
    token: Option<Token>,
    /// Why there was none the last time.
    failure: Option<Error>,
}

/// All tokens of a client.
#[derive(Default)]
pub(crate) struct TokenCache {
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    /// Each with its number: the smallest is the oldest.
    by_key: HashMap<TokenKey, (u64, Arc<Slot>)>,
    next: u64,
}

impl TokenCache {
    /// The token of `key`, from `fetch` if there is none. Whoever wants it meanwhile waits for the same one, and if it is
    /// not to be had shares that: a server that is silent is not asked by one after the other.
    pub(crate) async fn get<F>(&self, key: &TokenKey, fetch: F) -> Result<String, Error>
    where
        F: Future<Output = Result<Token, Error>>,
    {
        let slot = self.slot(key);
        let failures = slot.failures.load(Ordering::SeqCst);
        let mut held = slot.held.lock().await;
        if let Some(token) = held.token.as_ref().filter(|token| token.expires > Instant::now()) {
            return Ok(token.value.clone());
        }
        if let Some(failure) = held.failure.as_ref()
            && slot.failures.load(Ordering::SeqCst) != failures
        {
            return Err(failure.clone());
        }
        match fetch.await {
            Ok(token) => {
                let value = token.value.clone();
                *held = Held { token: Some(token), failure: None };
                Ok(value)
            }
            Err(error) => {
                // Where one namespace may not go another may.
                if error.kind() != Kind::HostDenied {
                    held.failure = Some(error.clone());
                    slot.failures.fetch_add(1, Ordering::SeqCst);
                }
                Err(error)
            }
        }
    }

    /// Forgets the token of `key` if it still is `value`: someone else may have got a new one already.
    pub(crate) async fn forget(&self, key: &TokenKey, value: &str) {
        let slot = self.slot(key);
        let mut held = slot.held.lock().await;
        if held.token.as_ref().is_some_and(|token| token.value == value) {
            held.token = None;
        }
    }

    fn slot(&self, key: &TokenKey) -> Arc<Slot> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).slot(key)
    }
}

impl Slots {
    fn slot(&mut self, key: &TokenKey) -> Arc<Slot> {
        if self.by_key.len() >= ROOM && !self.by_key.contains_key(key) {
            let now = Instant::now();
            // A slot that cannot be locked is in use.
            self.by_key.retain(|_, (_, slot)| {
                let held = slot.held.try_lock();
                held.map_or(true, |held| held.token.as_ref().is_some_and(|token| token.expires > now))
            });
            let oldest = self.by_key.iter().min_by_key(|(_, (number, _))| *number);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()).filter(|_| self.by_key.len() >= ROOM) {
                self.by_key.remove(&oldest);
            }
        }
        let number = self.next;
        self.next += 1;
        let (_, slot) = self.by_key.entry(key.clone()).or_insert_with(|| (number, Arc::default()));
        Arc::clone(slot)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::error::Operation;
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
    async fn those_who_waited_for_a_token_that_is_not_to_be_had_do_not_ask_for_it_again() {
        let (cache, asked) = (TokenCache::default(), AtomicUsize::new(0));
        let fetch = |kind: Kind| {
            let asked = &asked;
            async move {
                asked.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                Err(Operation::new("a.io/web:1", "asking for a token").error(kind, "no answer in time"))
            }
        };
        let key = key(1);
        let get = |kind| cache.get(&key, fetch(kind));
        let silent = Kind::Unavailable;
        let answers = futures::future::join_all([get(silent), get(silent), get(silent)]).await;
        assert!(answers.into_iter().all(|answer| answer.unwrap_err().kind() == silent));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        get(silent).await.unwrap_err();
        assert_eq!(asked.load(Ordering::SeqCst), 2, "who comes later asks anew");
        let (_, _) = tokio::join!(get(Kind::HostDenied), get(Kind::HostDenied));
        assert_eq!(asked.load(Ordering::SeqCst), 4, "what one must not ask another may");
    }

    #[tokio::test]
    async fn no_more_tokens_are_remembered_than_there_is_room_for_and_the_oldest_goes() {
        let (cache, asked) = (TokenCache::default(), AtomicUsize::new(0));
        let fetch = || async {
            asked.fetch_add(1, Ordering::SeqCst);
            let day = r#"{"token":"t","expires_in":86400}"#;
            Ok(answer(day).into_token(Instant::now()).unwrap())
        };
        let numbered = |number: usize| TokenKey { realm: number.to_string(), ..key(1) };
        for number in 0..ROOM + 10 {
            cache.get(&numbered(number), fetch()).await.unwrap();
        }
        assert_eq!(cache.slots.lock().unwrap().by_key.len(), ROOM);
        cache.get(&numbered(ROOM + 9), fetch()).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), ROOM + 10, "the youngest is still there");
        cache.get(&numbered(0), fetch()).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), ROOM + 11, "the oldest is not");
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
        assert!(answer(r#"{"token":""}"#).into_token(Instant::now()).is_err());
    }

    #[test]
    fn a_token_longer_than_any_server_reads_is_none() {
        let of = |length| answer(&format!(r#"{{"token":"{}"}}"#, "t".repeat(length)));
        assert!(of(LONGEST).into_token(Instant::now()).is_ok());
        assert!(of(LONGEST + 1).into_token(Instant::now()).is_err());
    }
}
