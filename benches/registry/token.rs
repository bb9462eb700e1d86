//! Docker's token authentication: distribution spec, "Token authentication" and "OAuth2 token authentication".

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, Method, Response, StatusCode, Uri};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

use crate::front::plain;

pub const USER: &str = "ali-baba";
pub const PASSWORD: &str = "open-sesame";

const PATH: &str = "/token";
const SERVICE: &str = "cave";

/// Lets through who has a token for what is asked. The token is its scopes, written so that they fit into a header.
pub struct Gate {
    host: String,
}

impl Gate {
    /// Its token server is at the same host.
    pub fn new(host: &str) -> Self {
        Self { host: host.to_owned() }
    }

    pub fn is_token_request(path: &str) -> bool {
        path == PATH
    }

    /// The challenge, unless the request has a token for all that it does.
    pub fn refuse(&self, request: &Request) -> Option<Response<Body>> {
        let needed = scopes_of(request.method(), request.uri());
        let granted = request.headers().get("authorization").and_then(|value| {
            let token = value.to_str().ok()?.strip_prefix("Bearer ")?;
            String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()
        });
        if granted.is_some_and(|granted| needed.iter().all(|scope| covers(&granted, scope))) {
            return None;
        }
        let mut challenge = format!("Bearer realm=\"http://{}{PATH}\",service=\"{SERVICE}\"", self.host);
        if !needed.is_empty() {
            challenge.push_str(&format!(",scope=\"{}\"", needed.join(" ")));
        }
        let errors = json!({"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]});
        let mut response = plain(StatusCode::UNAUTHORIZED, errors.to_string());
        let headers = response.headers_mut();
        headers.insert("www-authenticate", HeaderValue::from_str(&challenge).expect("a header"));
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        Some(response)
    }

    /// A token for the scopes that are asked for, to who knows the password.
    pub async fn token(&self, request: Request) -> Response<Body> {
        let basic = STANDARD.encode(format!("{USER}:{PASSWORD}"));
        let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        let mut known = header == Some(&format!("Basic {basic}"));
        let is_form = request.method() == Method::POST;
        let form = if is_form {
            let body = to_bytes(request.into_body(), 64 * 1024).await.expect("a form");
            String::from_utf8(body.to_vec()).expect("a form")
        } else {
            request.uri().query().unwrap_or_default().to_owned()
        };
        let fields = fields(&form);
        let has = |name: &str, value: &str| fields.iter().any(|field| field.0 == name && field.1 == value);
        known |= is_form && has("username", USER) && has("password", PASSWORD);
        if !known {
            return plain(StatusCode::UNAUTHORIZED, "who are you?".to_owned());
        }
        let scopes: Vec<&str> =
            fields.iter().filter(|field| field.0 == "scope").map(|field| field.1.as_str()).collect();
        let token = URL_SAFE_NO_PAD.encode(scopes.join(" "));
        let answer = json!({"token": token, "access_token": token, "expires_in": 300});
        let mut response = plain(StatusCode::OK, answer.to_string());
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
        response
    }
}

fn fields(form: &str) -> Vec<(String, String)> {
    let url = reqwest::Url::parse(&format!("http://form/?{form}")).expect("an address");
    url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

/// What a request needs, as distribution's registry has it: a mount needs the right to read its source as well.
fn scopes_of(method: &Method, uri: &Uri) -> Vec<String> {
    let Some(path) = uri.path().strip_prefix("/v2/") else { return Vec::new() };
    let parts = ["/manifests/", "/blobs/", "/tags/", "/referrers/"];
    let Some(end) = parts.iter().filter_map(|part| path.find(part)).min() else { return Vec::new() };
    let actions = if matches!(*method, Method::GET | Method::HEAD) { "pull" } else { "pull,push" };
    let mut scopes = vec![format!("repository:{}:{actions}", &path[..end])];
    let from = fields(uri.query().unwrap_or_default()).into_iter().find(|field| field.0 == "from");
    scopes.extend(from.map(|(_, source)| format!("repository:{source}:pull")));
    scopes
}

/// Whether one of the granted scopes allows all that `needed` does.
fn covers(granted: &str, needed: &str) -> bool {
    let split =
        |scope: &str| scope.rsplit_once(':').map(|(name, actions)| (name.to_owned(), actions.to_owned()));
    let Some((name, actions)) = split(needed) else { return false };
    let allowed: Vec<String> = granted
        .split_whitespace()
        .filter_map(split)
        .filter(|scope| scope.0 == name)
        .flat_map(|scope| scope.1.split(',').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    actions.split(',').all(|action| allowed.iter().any(|allowed| allowed == action || allowed == "*"))
}
