//! Who may read the metrics: Kubernetes is asked, as by its own components.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::{Api, PostParams};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::registry::Digest;

/// For how long an answer counts: a permission that is withdrawn, and one that is given.
const ALLOWED: Duration = Duration::from_secs(60);
const REFUSED: Duration = Duration::from_secs(10);
/// How many answers are remembered.
const ROOM: usize = 1024;
/// The longest token that is believed to be one, in bytes.
const LONGEST_TOKEN: usize = 16 * 1024;
/// Questions under way at once: whoever makes tokens up must not keep the API server busy.
const MOST_QUESTIONS: usize = 4;
/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks Kubernetes who somebody is (TokenReview) and whether they may (SubjectAccessReview) `get` a path of ours.
pub struct Authorizer {
    client: kube::Client,
    path: &'static str,
    answers: Mutex<HashMap<Digest, (Instant, Answer)>>,
    questions: Semaphore,
}

/// What is said of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Allowed,
    /// It is nobody's.
    Unknown,
    /// It is somebody's who may not.
    Forbidden(String),
}

/// A status and its reason, for whoever asked.
pub type Refusal = (StatusCode, String);

impl Authorizer {
    /// Nobody has been asked about yet.
    pub fn new(client: kube::Client, path: &'static str) -> Self {
        Self { client, path, answers: Mutex::default(), questions: Semaphore::new(MOST_QUESTIONS) }
    }

    /// Lets pass who may.
    ///
    /// # Errors
    /// 401 without a token of the cluster, 403 for whom it does not allow it, 503 if the cluster cannot be asked.
    pub async fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(token) = bearer(headers) else {
            let words = "send a token of the cluster: Authorization: Bearer TOKEN\n".to_owned();
            return Err((StatusCode::UNAUTHORIZED, words));
        };
        let key = Digest::sha256(token.as_bytes());
        let answer = match self.known(&key) {
            Some(answer) => answer,
            None => self.ask(key, token).await?,
        };
        match answer {
            Answer::Allowed => Ok(()),
            Answer::Unknown => {
                Err((StatusCode::UNAUTHORIZED, "the cluster does not know this token\n".to_owned()))
            }
            Answer::Forbidden(user) => {
                let words =
                    format!("{user} may not get {}; a ClusterRole with nonResourceURLs does it\n", self.path);
                Err((StatusCode::FORBIDDEN, words))
            }
        }
    }

    fn known(&self, key: &Digest) -> Option<Answer> {
        let answers = self.lock();
        answers.get(key).filter(|(until, _)| Instant::now() < *until).map(|(_, answer)| answer.clone())
    }

    async fn ask(&self, key: Digest, token: &str) -> Result<Answer, Refusal> {
        let asked = tokio::time::timeout(PATIENCE, self.ask_cluster(token)).await;
        let answer = asked.unwrap_or_else(|_| Err("no answer in time".to_owned())).map_err(|problem| {
            tracing::warn!("nobody can be let to {}: the API server cannot be asked: {problem}", self.path);
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "the API server cannot be asked; the operator's log says why\n".to_owned(),
            )
        })?;
        let life = if answer == Answer::Allowed { ALLOWED } else { REFUSED };
        let mut answers = self.lock();
        if answers.len() >= ROOM {
            let now = Instant::now();
            answers.retain(|_, (until, answer)| now < *until && *answer == Answer::Allowed);
        }
        if answers.len() < ROOM {
            answers.insert(key, (Instant::now() + life, answer.clone()));
        }
        Ok(answer)
    }

    async fn ask_cluster(&self, token: &str) -> Result<Answer, String> {
        let _turn = self.questions.acquire().await.map_err(|error| error.to_string())?;
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: None };
        let review = TokenReview { spec, ..TokenReview::default() };
        let review = create(&self.client, &review, "tokenreviews").await?.status.unwrap_or_default();
        let Some(user) = review.user.filter(|_| review.authenticated == Some(true)) else {
            return Ok(Answer::Unknown);
        };
        let name = user.username.clone().unwrap_or_default();
        let review = SubjectAccessReview { spec: self.question(user), ..SubjectAccessReview::default() };
        let review = create(&self.client, &review, "subjectaccessreviews").await?.status.unwrap_or_default();
        Ok(if review.allowed { Answer::Allowed } else { Answer::Forbidden(name) })
    }

    fn question(&self, user: UserInfo) -> SubjectAccessReviewSpec {
        SubjectAccessReviewSpec {
            user: user.username,
            groups: user.groups,
            uid: user.uid,
            extra: user.extra,
            non_resource_attributes: Some(NonResourceAttributes {
                path: Some(self.path.to_owned()),
                verb: Some("get".to_owned()),
            }),
            resource_attributes: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, (Instant, Answer)>> {
        // No code panics while it holds the lock in a half-changed state.
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn create<K>(client: &kube::Client, review: &K, resource: &str) -> Result<K, String>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
        + Clone
        + serde::Serialize
        + serde::de::DeserializeOwned
        + std::fmt::Debug,
{
    let created = Api::<K>::all(client.clone()).create(&PostParams::default(), review).await;
    created.map_err(|error| match error {
        kube::Error::Api(status) if status.code == 403 => {
            format!("the operator may not create {resource}: {}", status.message)
        }
        error => error.to_string(),
    })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= LONGEST_TOKEN)
        .then_some(token)
}
