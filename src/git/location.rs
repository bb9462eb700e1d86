//! Where a repository is: the forms of URL that git has (`git-clone(1)`, "GIT URLS").

use std::net::Ipv6Addr;

use reqwest::Url;

use super::error::Error;

/// Where a repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    /// Without user name and password.
    Http(Url),
    Ssh(SshLocation),
}

/// A repository on a server that is reached over ssh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SshLocation {
    pub(super) user: String,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// As the server's `git-upload-pack` gets it.
    pub(super) path: String,
}

impl Location {
    /// # Errors
    /// If it is no URL of a repository on a server.
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        match url.split_once("://") {
            Some((scheme, _)) if matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https") => {
                http(url)
            }
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("ssh") => ssh(url, rest),
            Some((scheme, _)) => {
                let cause = format!("the scheme {scheme:?} is not supported; use https or ssh");
                Err(Error::no_repository(&shown(url), cause))
            }
            None => scp_like(url),
        }
    }
}

/// The server of a URL and its port, if they can be made out: of addresses of files as well, and of what the builder may
/// follow though [`Location::parse`] refuses it.
pub(crate) fn host_and_port(url: &str) -> Option<(String, u16)> {
    let of_http = |url: Url| Some((url.host_str()?.to_owned(), url.port_or_known_default()?));
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") {
        return of_http(Url::parse(url).ok()?);
    }
    match Location::parse(url).ok()? {
        Location::Http(url) => of_http(url),
        Location::Ssh(at) => Some((at.host, at.port)),
    }
}

/// The URL without whatever stands for user and password, for messages.
pub(crate) fn shown(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            match rest[..authority].rfind('@') {
                Some(at) if !scheme.eq_ignore_ascii_case("ssh") || rest[..at].contains(':') => {
                    format!("{scheme}://{}", &rest[at + 1..])
                }
                _ => url.to_owned(),
            }
        }
        None => match url.rfind('@') {
            Some(at) if url[..at].contains(':') => url[at + 1..].to_owned(),
            _ => url.to_owned(),
        },
    }
}

fn http(url: &str) -> Result<Location, Error> {
    let parsed = Url::parse(url.trim_end_matches('/'));
    let mut parsed = parsed.map_err(|error| Error::no_repository(&shown(url), error.to_string()))?;
    if parsed.password().is_some() {
        return Err(Error::credentials(
            &shown(url),
            "the URL has a password in it, which everyone sees who sees the URL; put username and password into the Secret",
        ));
    }
    let authority = authority(url);
    // For some readers, ours included, a backslash ends the host.
    if authority.contains('\\') || !is_plain_host(host_of(authority)) {
        return Err(Error::no_repository(&shown(url), ODD_HOST));
    }
    // `https://name@host/` is what some servers give people to copy; the name means nothing without a password.
    let _ = parsed.set_username("");
    parsed.set_query(None);
    parsed.set_fragment(None);
    Ok(Location::Http(parsed))
}

fn ssh(url: &str, rest: &str) -> Result<Location, Error> {
    let malformed = || Error::no_repository(&shown(url), "write ssh://git@host[:port]/path");
    let (authority, path) = rest.split_once('/').ok_or_else(malformed)?;
    let (user, host) = authority.rsplit_once('@').unwrap_or(("git", authority));
    let (host, port) = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':').unwrap_or(port)),
        None => host.split_once(':').unwrap_or((host, "")),
    };
    let port = if port.is_empty() { 22 } else { port.parse().map_err(|_| malformed())? };
    // The home folder of a user is no folder below the root.
    let path = if path.starts_with('~') { path.to_owned() } else { format!("/{path}") };
    checked(url, user, host, port, &path)
}

/// `git@host:path`.
fn scp_like(url: &str) -> Result<Location, Error> {
    let malformed = || {
        let cause = "it is neither https://host/path nor ssh://git@host/path nor git@host:path";
        Error::no_repository(&shown(url), cause)
    };
    let (user, rest) = url.split_once('@').unwrap_or(("git", url));
    let (host, path) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once("]:").ok_or_else(malformed)?,
        None => rest.split_once(':').ok_or_else(malformed)?,
    };
    checked(url, user, host, 22, path)
}

fn checked(url: &str, user: &str, host: &str, port: u16, path: &str) -> Result<Location, Error> {
    let refuse = |cause: &str| Err(Error::no_repository(&shown(url), cause));
    if user.contains(':') {
        return Err(Error::credentials(
            &shown(url),
            "the URL has a password in it; ssh servers are shown the key in the Secret",
        ));
    }
    if user.is_empty() || host.is_empty() || host.contains('/') || path.trim_matches('/').is_empty() {
        return refuse("write ssh://git@host[:port]/path or git@host:path");
    }
    // Nothing that a program on either side may take for an option, and no line of its own.
    if [user, host, path].iter().any(|part| part.starts_with('-') || part.contains(char::is_control)) {
        return refuse("no part of an ssh URL begins with '-' or has control characters");
    }
    if !is_plain_host(host) {
        return refuse(ODD_HOST);
    }
    let (user, host, path) = (user.to_owned(), host.to_ascii_lowercase(), path.to_owned());
    Ok(Location::Ssh(SshLocation { user, host, port, path }))
}

/// What is said of a host that is not plain.
const ODD_HOST: &str = "the host has other characters than letters, digits, '.', '_' and '-'; write its name as it stands \
                        in DNS (a name in another script begins with xn-- there) or its address";

/// What stands between the scheme and the path of a URL (RFC 3986, section 3.2).
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// The host of an authority, without brackets.
fn host_of(authority: &str) -> &str {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(host, _)| host),
    }
}

/// Whether all who read this host see the same one in it, whoever checks it and whoever connects to it.
fn is_plain_host(host: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !host.is_empty() && host.bytes().all(is_plain) || host.parse::<Ipv6Addr>().is_ok()
}

impl SshLocation {
    /// The host as known_hosts names it (`sshd(8)`).
    pub(super) fn known_as(&self) -> String {
        if self.port == 22 { self.host.clone() } else { format!("[{}]:{}", self.host, self.port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssh(url: &str) -> (String, String, u16, String) {
        match Location::parse(url) {
            Ok(Location::Ssh(at)) => (at.user, at.host, at.port, at.path),
            other => panic!("{url}: {other:?}"),
        }
    }

    #[test]
    fn every_form_of_ssh_url_is_understood() {
        for (url, user, host, port, path) in [
            ("ssh://git@git.test/team/web.git", "git", "git.test", 22, "/team/web.git"),
            ("ssh://git@git.test:2222/web", "git", "git.test", 2222, "/web"),
            ("ssh://git.test/web", "git", "git.test", 22, "/web"),
            ("ssh://me@[::1]:2222/web", "me", "::1", 2222, "/web"),
            ("ssh://git@Git.Test/~me/web", "git", "git.test", 22, "~me/web"),
            ("git@git.test:team/web.git", "git", "git.test", 22, "team/web.git"),
            ("git.test:/srv/web", "git", "git.test", 22, "/srv/web"),
            ("git@[::1]:web", "git", "::1", 22, "web"),
        ] {
            assert_eq!(ssh(url), (user.to_owned(), host.to_owned(), port, path.to_owned()), "{url}");
        }
    }

    #[test]
    fn what_is_no_url_of_a_server_is_refused() {
        for url in [
            "",
            "web",
            "/srv/web",
            "file:///srv/web",
            "git://git.test/web",
            "ssh://git.test",
            "ssh://git.test/",
            "ssh://git@git.test:0x1/web",
            "ssh://-oProxyCommand=x/web",
            "git@-x:web",
            "git@git.test:-x",
            "git@git.test:a\nb",
            "https://",
            "git@git.test:",
            "./a:b",
            "[::1",
            "git@[::1]web",
        ] {
            assert!(Location::parse(url).is_err(), "{url:?}");
        }
    }

    #[test]
    fn a_host_that_others_may_read_otherwise_is_refused() {
        for url in [
            r"ssh://git@git.corp.test\x.evil.test/r",
            r"git@git.corp.test\x.evil.test:r",
            r"https://git.corp.test\x.evil.test/r",
            r"https://git.corp.test\@evil.test/r",
            r"http://\git.corp.test/r",
            "https:///git.corp.test/r",
            "ssh://git@git.corp.test%2fx.evil.test/r",
            "https://git%2ecorp.test/r",
            "ssh://git@git.corp.test#x.evil.test/r",
            "ssh://git@git.corp.test?x.evil.test/r",
            "ssh://git@git corp.test/r",
            "https://git.corp\t.test/r",
            "https://g\u{ed}t.test/r",
            "git@g\u{ed}t.test:r",
            "ssh://git@[fe80::1%eth0]/r",
        ] {
            assert!(Location::parse(url).is_err(), "{url:?}");
        }
        for url in [
            "https://git-1.corp_a.test:8443/r",
            "https://me@git.test/r",
            "http://10.0.0.1/r",
            "http://[fd12::1]:3000/r",
            "ssh://git@[FD12::1]:2222/r",
            "git@git_1.test.:r",
        ] {
            assert!(Location::parse(url).is_ok(), "{url:?}");
        }
    }

    #[test]
    fn rules_see_the_host_of_an_address_that_only_the_builder_follows() {
        for (url, host, port) in [
            (r"https://git.test\x.evil.test/r", "git.test", 443),
            ("http://g\u{ed}t.test:8080/r.tar", "xn--gt-nja.test", 8080),
            ("https://me:hunter2@git.test/r.tar?x=y", "git.test", 443),
            ("ssh://git@git.test/r", "git.test", 22),
            ("git@git.test:r", "git.test", 22),
        ] {
            assert_eq!(host_and_port(url), Some((host.to_owned(), port)), "{url:?}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        for url in
            ["https://me:hunter2@git.test/web", "ssh://me:hunter2@git.test/web", "me:hunter2@git.test:web"]
        {
            let error = Location::parse(url).expect_err("refused");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
        let named = Location::parse("https://me@git.test/web/").expect("a location");
        assert_eq!(named, Location::parse("https://git.test/web").expect("a location"));
    }
}
