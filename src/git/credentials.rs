//! What a git server is shown, from a Secret as Flux's `GitRepository` has them.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use russh::keys::ssh_key::Kdf;
use russh::keys::{PrivateKey, decode_secret_key};

use super::error::Error;
use super::known_hosts::KnownHosts;
use super::location::{Location, shown};

/// The user name that GitHub, GitLab and Gitea take beside a token.
const TOKEN_USER: &str = "x-access-token";
/// How often the passphrase of a key may be hashed: some seconds of work. ssh-keygen does it 24 times by itself.
const MOST_ROUNDS: u32 = 256;

/// What stands in a Secret for git servers: something for https, something for ssh, or both.
#[derive(Clone)]
pub struct Credentials {
    pub(super) https: Option<HttpsCredentials>,
    pub(super) ssh: Option<SshCredentials>,
}

#[derive(Clone)]
pub(super) struct HttpsCredentials {
    /// None where only the authority is private.
    pub(super) authorization: Option<HeaderValue>,
    /// Certificates of authorities besides the system's own, PEM.
    pub(super) authority: Option<Arc<[u8]>>,
}

#[derive(Clone)]
pub(super) struct SshCredentials {
    pub(super) key: Arc<PrivateKey>,
    pub(super) known_hosts: KnownHosts,
}

/// Why a Secret cannot be used for git servers. Names keys of the Secret, and never what is in them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CredentialsError(String);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [(self.https.is_some(), "https"), (self.ssh.is_some(), "ssh")];
        let kinds: Vec<&str> = kinds.into_iter().filter(|(has, _)| *has).map(|(_, kind)| kind).collect();
        write!(f, "Credentials({} [redacted])", kinds.join(", "))
    }
}

impl Credentials {
    /// Reads the data of a Secret, already out of base64.
    ///
    /// For https: `username` and `password`; or `token`, which goes as the password of `username` or else of
    /// `x-access-token`; or `bearerToken`. `ca.crt` (or `caFile`), PEM, adds authorities, and may stand alone.
    /// For ssh: `identity` (or `ssh-privatekey`) and `known_hosts`, with the key's passphrase in `password`, which
    /// takes a second or so to be tried.
    ///
    /// # Errors
    /// If there is nothing of all that, or half of it, or a key or certificate that cannot be read.
    pub fn new<'a>(data: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, CredentialsError> {
        let secret = Secret(data.into_iter().collect());
        let (https, ssh) = (secret.https()?, secret.ssh()?);
        if https.is_none() && ssh.is_none() {
            return Err(secret.has_nothing());
        }
        Ok(Self { https, ssh })
    }

    /// The header `Authorization` for https, which is a secret: what builders want as well. None if there is
    /// nothing of that kind.
    pub fn authorization(&self) -> Option<&str> {
        self.https.as_ref()?.authorization.as_ref()?.to_str().ok()
    }

    /// Whether there is something for the scheme of `url`.
    ///
    /// # Errors
    /// [`Error::Credentials`] that says what to put into the Secret, or that the URL is none.
    pub fn check_url(&self, url: &str) -> Result<(), Error> {
        let cause = match Location::parse(url)? {
            Location::Http(_) if self.https.is_none() => {
                "the Secret has an ssh key, which https servers do not take; give it username and password, or token, or bearerToken, or use the ssh URL"
            }
            Location::Ssh(_) if self.ssh.is_none() => {
                "the Secret has credentials for https, which ssh servers do not take; give it identity and known_hosts, or use the https URL"
            }
            Location::Http(_) | Location::Ssh(_) => return Ok(()),
        };
        Err(Error::credentials(&shown(url), cause))
    }
}

struct Secret<'a>(Vec<(&'a str, &'a [u8])>);

impl<'a> Secret<'a> {
    /// As text without the newline that editors and `echo` leave.
    fn text(&self, key: &str) -> Result<Option<&'a str>, CredentialsError> {
        let Some((_, value)) = self.0.iter().find(|(name, _)| *name == key) else { return Ok(None) };
        let text = std::str::from_utf8(value).map_err(|_| CredentialsError(format!("{key} is no text")))?;
        let text = text.trim_end_matches(['\n', '\r']);
        Ok((!text.trim().is_empty()).then_some(text))
    }

    /// The first of several keys that has something, with its name.
    fn first(&self, keys: &[&'static str]) -> Result<Option<(&'static str, &'a str)>, CredentialsError> {
        for key in keys {
            if let Some(text) = self.text(key)? {
                return Ok(Some((key, text)));
            }
        }
        Ok(None)
    }

    fn https(&self) -> Result<Option<HttpsCredentials>, CredentialsError> {
        let authorization = self.authorization()?;
        let authority = self.first(&["ca.crt", "caFile"])?;
        if let Some((key, pem)) = authority {
            let certificates = reqwest::Certificate::from_pem_bundle(pem.as_bytes()).unwrap_or_default();
            if certificates.is_empty() {
                return Err(CredentialsError(format!("{key} has no PEM certificate")));
            }
        }
        if authorization.is_none() && authority.is_none() {
            return Ok(None);
        }
        let authority = authority.map(|(_, pem)| Arc::from(pem.as_bytes()));
        Ok(Some(HttpsCredentials { authorization, authority }))
    }

    fn authorization(&self) -> Result<Option<HeaderValue>, CredentialsError> {
        let user = self.text("username")?;
        let (key, value) = if let Some(token) = self.text("bearerToken")? {
            ("bearerToken", format!("Bearer {token}"))
        } else if let Some(token) = self.text("token")? {
            ("token", basic(user.unwrap_or(TOKEN_USER), token)?)
        } else {
            match (user, self.text("password")?) {
                (Some(user), Some(password)) => ("password", basic(user, password)?),
                (Some(_), None) => {
                    return Err(CredentialsError(
                        "username is there, but neither password nor token".to_owned(),
                    ));
                }
                (None, _) => return Ok(None),
            }
        };
        let mut header = HeaderValue::from_str(&value)
            .map_err(|_| CredentialsError(format!("{key} has characters that HTTP does not carry")))?;
        header.set_sensitive(true);
        Ok(Some(header))
    }

    fn ssh(&self) -> Result<Option<SshCredentials>, CredentialsError> {
        let identity = self.first(&["identity", "ssh-privatekey"])?;
        let known_hosts = self.text("known_hosts")?;
        let Some((name, identity)) = identity else {
            return match known_hosts {
                Some(_) => {
                    Err(CredentialsError("known_hosts is there, but no identity, the private key".to_owned()))
                }
                None => Ok(None),
            };
        };
        let Some(known_hosts) = known_hosts else {
            return Err(CredentialsError(format!(
                "{name} is there, but no known_hosts, without which anybody can pose as the server; put the output of `ssh-keyscan HOST` there"
            )));
        };
        let known_hosts = KnownHosts::parse(known_hosts).ok_or_else(|| {
            CredentialsError(
                "known_hosts has no line that can be read; put the output of `ssh-keyscan HOST` there"
                    .to_owned(),
            )
        })?;
        let key = self.private_key(name, identity)?;
        Ok(Some(SshCredentials { key: Arc::new(key), known_hosts }))
    }

    fn private_key(&self, name: &str, identity: &str) -> Result<PrivateKey, CredentialsError> {
        let text = format!("{}\n", identity.replace("\r\n", "\n"));
        // What libraries say of keys may repeat parts of them. Other forms than OpenSSH's are read without a
        // passphrase: how much time and memory it takes to try one stands in the key itself.
        let key = PrivateKey::from_openssh(&text).or_else(|_| decode_secret_key(&text, None)).map_err(|_| {
            CredentialsError(if text.contains("ENCRYPTED") {
                format!("{name} is encrypted in another form than OpenSSH's; convert it by `ssh-keygen -p -f FILE`")
            } else {
                format!("{name} is no private key in the form of OpenSSH or PEM")
            })
        })?;
        if key.is_encrypted() { self.decrypt(name, &key) } else { Ok(key) }
    }

    fn decrypt(&self, name: &str, key: &PrivateKey) -> Result<PrivateKey, CredentialsError> {
        let Some(passphrase) = self.text("password")? else {
            return Err(CredentialsError(format!("{name} is encrypted; put its passphrase into password")));
        };
        if !matches!(key.kdf(), Kdf::Bcrypt { rounds, .. } if *rounds <= MOST_ROUNDS) {
            return Err(CredentialsError(format!(
                "{name} takes more than {MOST_ROUNDS} rounds to decrypt; lower them by `ssh-keygen -p -a 100 -f FILE`"
            )));
        }
        key.decrypt(passphrase)
            .map_err(|_| CredentialsError(format!("{name} cannot be read with the passphrase in password")))
    }

    fn has_nothing(&self) -> CredentialsError {
        let keys: Vec<&str> = self.0.iter().map(|(key, _)| *key).collect();
        let keys = if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") };
        CredentialsError(format!(
            "it has nothing for git servers; give it username and password, or token, or bearerToken for https, or identity and known_hosts for ssh (it has: {keys})"
        ))
    }
}

fn basic(user: &str, password: &str) -> Result<String, CredentialsError> {
    if user.contains(':') {
        return Err(CredentialsError(
            "username has a colon, which basic authentication cannot carry".to_owned(),
        ));
    }
    Ok(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All made for this test by `ssh-keygen`, and used nowhere.
    const KEY: &str = include_str!("testdata/id_ed25519");
    const ENCRYPTED: &str = include_str!("testdata/id_ed25519_encrypted");
    const MANY_ROUNDS: &str = include_str!("testdata/id_ed25519_many_rounds");
    const PKCS8: &str = include_str!("testdata/id_ecdsa_pkcs8_encrypted");
    const KNOWN: &str =
        "git.test ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINRE7xMGYV6lBuJxOPgGanjIcUPrlNJPBGpr9UWgpknK";

    fn credentials(data: &[(&str, &str)]) -> Result<Credentials, String> {
        let data = data.iter().map(|(key, value)| (*key, value.as_bytes()));
        Credentials::new(data).map_err(|error| error.to_string())
    }

    fn authorization(data: &[(&str, &str)]) -> String {
        credentials(data).expect("credentials").authorization().expect("a header").to_owned()
    }

    #[test]
    fn a_password_a_token_and_a_bearer_token_become_headers() {
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        assert_eq!(authorization(&[("username", "me"), ("password", "pa:ss\n")]), basic("me:pa:ss"));
        assert_eq!(authorization(&[("token", "abc\n")]), basic("x-access-token:abc"));
        assert_eq!(authorization(&[("username", "oauth2"), ("token", "abc")]), basic("oauth2:abc"));
        assert_eq!(authorization(&[("bearerToken", "abc")]), "Bearer abc");
    }

    #[test]
    fn an_ssh_key_is_read_from_either_name_and_with_its_passphrase() {
        let from_windows = KEY.replace('\n', "\r\n");
        for data in [
            &[("identity", KEY), ("known_hosts", KNOWN)][..],
            &[("identity", &from_windows), ("known_hosts", KNOWN)],
            &[("ssh-privatekey", KEY.trim_end()), ("known_hosts", KNOWN)],
            &[("identity", ENCRYPTED), ("password", "hunter2"), ("known_hosts", KNOWN)],
        ] {
            let found = credentials(data).expect("credentials");
            assert!(found.ssh.is_some() && found.https.is_none(), "the passphrase is no password");
            assert_eq!(found.authorization(), None);
        }
    }

    #[test]
    fn half_of_something_is_an_error_that_names_the_other_half() {
        for (data, expected) in [
            (&[][..], "nothing for git servers"),
            (&[(".dockerconfigjson", "{}")], "it has: .dockerconfigjson"),
            (&[("password", "x")], "nothing for git servers"),
            (&[("username", "me")], "neither password nor token"),
            (&[("username", "a:b"), ("password", "x")], "colon"),
            (&[("bearerToken", "a\nb")], "bearerToken has characters"),
            (&[("ca.crt", "nonsense")], "ca.crt has no PEM certificate"),
            (&[("identity", KEY)], "no known_hosts"),
            (&[("known_hosts", KNOWN)], "no identity"),
            (&[("identity", KEY), ("known_hosts", "nonsense")], "no line that can be read"),
            (&[("identity", "hunter2"), ("known_hosts", KNOWN)], "no private key"),
            (&[("identity", ENCRYPTED), ("known_hosts", KNOWN)], "is encrypted; put"),
            (&[("identity", MANY_ROUNDS), ("password", "hunter2"), ("known_hosts", KNOWN)], "256 rounds"),
            (&[("identity", PKCS8), ("password", "hunter2"), ("known_hosts", KNOWN)], "ssh-keygen -p"),
            (
                &[("identity", ENCRYPTED), ("password", "wrong"), ("known_hosts", KNOWN)],
                "passphrase in password",
            ),
        ] {
            let error = credentials(data).expect_err(expected);
            assert!(error.contains(expected), "{error} is not {expected}");
        }
    }

    #[test]
    fn credentials_that_do_not_fit_the_scheme_are_told_apart() {
        let https = credentials(&[("token", "abc")]).expect("credentials");
        let ssh = credentials(&[("identity", KEY), ("known_hosts", KNOWN)]).expect("credentials");
        let (over_https, over_ssh) = ("https://git.test/web", "git@git.test:web");
        assert!(https.check_url(over_https).is_ok() && ssh.check_url(over_ssh).is_ok());
        let error = https.check_url(over_ssh).expect_err("it does not fit").to_string();
        assert!(error.contains("identity and known_hosts"), "{error}");
        let error = ssh.check_url(over_https).expect_err("it does not fit").to_string();
        assert!(error.contains("username and password"), "{error}");
    }

    #[test]
    fn nothing_secret_is_shown() {
        let both = [("token", "hunter2"), ("identity", KEY), ("known_hosts", KNOWN)];
        let shown = format!("{:?}", credentials(&both));
        assert_eq!(shown, "Ok(Credentials(https, ssh [redacted]))");
    }
}
