//! Who we are to a registry: the answer to its challenge, and the tokens for it.

use std::sync::PoisonError;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response, Url};

use super::challenge::Challenge;
use super::credentials::Credential;
use super::error::{Error, Kind, Operation};
use super::scope::Scopes;
use super::session::{Request, Session};
use super::token::{Token, TokenAnswer, TokenKey};
use super::transport::{LARGEST_WORDS, Message};

/// What is done where somebody waits for a token.
const ASKING: &str = "asking for a token";

/// An `Authorization` header, and the cached token behind it.
pub(super) struct Authorization {
    pub(super) header: HeaderValue,
    pub(super) token: Option<(TokenKey, String)>,
}

impl Session {
    fn scopes(&self, request: &Request<'_>) -> Scopes {
        let narrow = self.narrow.lock().unwrap_or_else(PoisonError::into_inner);
        match self.foreseen.get(request.repository) {
            Some(foreseen) if !narrow.contains(request.repository) => {
                foreseen.clone().and_all(&request.scopes)
            }
            _ => request.scopes.clone(),
        }
    }

    /// The answer to a challenge; none if it wants a credential and there is none.
    pub(super) async fn authorize(
        &self,
        request: &Request<'_>,
        credential: Option<&Credential>,
        challenge: &Challenge,
    ) -> Result<Option<Authorization>, Error> {
        let operation = &request.operation;
        let simple = |header| Ok(Some(Authorization { header, token: None }));
        match (credential, challenge) {
            (Some(Credential::RegistryToken(token)), _) => simple(bearer(operation, token)?),
            (Some(Credential::Basic { username, password }), Challenge::Basic) => {
                simple(basic(operation, username, password)?)
            }
            (Some(Credential::IdentityToken { username, token }), Challenge::Basic) => {
                simple(basic(operation, username, token)?)
            }
            (None, Challenge::Basic) => Ok(None),
            (_, Challenge::Bearer { realm, service, scope }) => {
                let key = |scopes: Scopes| TokenKey {
                    host: request.repository.host().to_owned(),
                    realm: realm.clone(),
                    service: service.clone(),
                    identity: credential.map(Credential::identity),
                    scopes: scopes.and(scope.as_deref().unwrap_or_default()),
                };
                let with_token = async |key: TokenKey| {
                    let token = self.client().tokens().get(&key, self.token(request, &key, credential)).await;
                    let token = token.map_err(|error| error.at(&operation.step(ASKING)))?;
                    Ok(Some(Authorization { header: bearer(operation, &token)?, token: Some((key, token)) }))
                };
                let foreseen = self.scopes(request);
                if foreseen == request.scopes {
                    return with_token(key(foreseen)).await;
                }
                match with_token(key(foreseen)).await {
                    // Some servers refuse everything where one thing is not allowed, as mounting from one of the sources.
                    Err(error) if matches!(error.kind(), Kind::Unauthorized | Kind::Denied) => {
                        self.narrow
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .insert(request.repository.clone());
                        with_token(key(request.scopes.clone())).await
                    }
                    authorization => authorization,
                }
            }
        }
    }

    /// The answer to a challenge of earlier. If it leads nowhere, the registry may have moved its realm: without an
    /// answer it will say what it wants now.
    pub(super) async fn authorize_again(
        &self,
        request: &Request<'_>,
        credential: Option<&Credential>,
        challenge: &Challenge,
    ) -> Result<Option<Authorization>, Error> {
        match self.authorize(request, credential, challenge).await {
            Err(error) if error.kind() != Kind::RateLimited => {
                tracing::debug!(%error, "asking the registry anew how it wants to be answered");
                self.client().host(request.repository.host()).forget_challenge();
                Ok(None)
            }
            authorization => authorization,
        }
    }

    async fn token(
        &self,
        request: &Request<'_>,
        key: &TokenKey,
        credential: Option<&Credential>,
    ) -> Result<Token, Error> {
        let token = self.ask_realm(request, key, credential).await;
        self.client().observer().token_asked_for(token.is_ok());
        token
    }

    /// Asks the realm for a token: distribution spec, "Token authentication" and "OAuth2 token authentication".
    async fn ask_realm(
        &self,
        request: &Request<'_>,
        key: &TokenKey,
        credential: Option<&Credential>,
    ) -> Result<Token, Error> {
        let operation = request.operation.step(ASKING);
        let malformed = |cause: &str| operation.error(Kind::Malformed, cause);
        let realm: Url =
            key.realm.parse().map_err(|_| malformed("the registry's token realm is no address"))?;
        self.client().check_scheme(&operation, &request.url, &realm)?;
        let asked = Instant::now();
        let response = match credential {
            Some(Credential::IdentityToken { username, token }) => {
                let exchanged = self.exchange(&operation, &realm, key, token).await?;
                match exchanged.status().as_u16() {
                    // Servers without the exchange take the token for a password.
                    400 | 401 | 404 | 405 => {
                        let header = basic(&operation, username, token)?;
                        self.ask(&operation, &realm, key, Some(header)).await?
                    }
                    _ => exchanged,
                }
            }
            Some(Credential::Basic { username, password }) => {
                self.ask(&operation, &realm, key, Some(basic(&operation, username, password)?)).await?
            }
            _ => self.ask(&operation, &realm, key, None).await?,
        };
        let body = self
            .client()
            .read(&operation, self.client().success(&operation, response).await?, LARGEST_WORDS)
            .await?;
        let answer: Option<TokenAnswer> = serde_json::from_slice(&body).ok();
        let token = answer.ok_or("the token server's answer has no token").and_then(|a| a.into_token(asked));
        token.map_err(malformed)
    }

    async fn ask(
        &self,
        operation: &Operation,
        realm: &Url,
        key: &TokenKey,
        authorization: Option<HeaderValue>,
    ) -> Result<Response, Error> {
        let mut url = realm.clone();
        {
            let mut query = url.query_pairs_mut();
            query.extend_pairs(key.service.iter().map(|service| ("service", service)));
            query.extend_pairs(key.scopes.texts().map(|scope| ("scope", scope)));
        }
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        let message = Message { headers, authorization, awaited: self.is_awaited(), ..Message::get(url) };
        self.client().send(operation, message).await
    }

    async fn exchange(
        &self,
        operation: &Operation,
        realm: &Url,
        key: &TokenKey,
        token: &str,
    ) -> Result<Response, Error> {
        let scopes: Vec<String> = key.scopes.texts().collect();
        let form = [
            ("grant_type", "refresh_token"),
            ("client_id", "multiarch-operator"),
            ("service", key.service.as_deref().unwrap_or_default()),
            ("scope", &scopes.join(" ")),
            ("refresh_token", token),
        ];
        // A query is encoded as a form is, so an address without its own query serves as the encoder.
        let mut encoder = realm.clone();
        encoder.set_query(None);
        encoder.query_pairs_mut().extend_pairs(form);
        let form = encoder.query().unwrap_or_default().to_owned();
        let content_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type)]);
        let message = Message {
            method: Method::POST,
            url: realm.clone(),
            headers,
            authorization: None,
            body: Some(form.into()),
            progress: None,
            awaited: self.is_awaited(),
        };
        self.client().send(operation, message).await
    }
}

fn bearer(operation: &Operation, token: &str) -> Result<HeaderValue, Error> {
    secret_header(operation, format!("Bearer {token}"))
}

fn basic(operation: &Operation, username: &str, password: &str) -> Result<HeaderValue, Error> {
    secret_header(operation, format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
}

fn secret_header(operation: &Operation, text: String) -> Result<HeaderValue, Error> {
    let mut header = HeaderValue::from_str(&text)
        .map_err(|_| operation.error(Kind::Malformed, "a token has characters that no header may have"))?;
    header.set_sensitive(true);
    Ok(header)
}
