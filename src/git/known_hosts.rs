//! The file in which ssh keeps the keys of hosts (`sshd(8)`, "SSH_KNOWN_HOSTS FILE FORMAT").

use aws_lc_rs::hmac;
use russh::keys::ssh_key::known_hosts::{Entry, HostPatterns, Marker};
use russh::keys::{Algorithm, HashAlg, PublicKey};

/// The hosts that are known. Lines that nobody can read count for nothing, as in ssh.
#[derive(Clone)]
pub(super) struct KnownHosts(Vec<Entry>);

/// Why a host's key is not accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing is known of the host.
    Unknown,
    /// The host is known by other keys, of these types.
    Changed(Vec<String>),
    /// The key is marked as one that must not be trusted any more.
    Revoked,
}

impl KnownHosts {
    /// None if there is not one line with a key.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let entries: Vec<Entry> = lines.filter_map(|line| line.parse().ok()).collect();
        (!entries.is_empty()).then_some(Self(entries))
    }

    /// Whether `key` is the key of `host`, which is a name or `[name]:port`.
    pub(super) fn check(&self, host: &str, key: &PublicKey) -> Result<(), Refusal> {
        let mut others = Vec::new();
        let mut found = false;
        for entry in self.of_host(host) {
            let is_same = entry.public_key().key_data() == key.key_data();
            match entry.marker() {
                Some(Marker::Revoked) if is_same => return Err(Refusal::Revoked),
                Some(_) => {}
                None if is_same => found = true,
                None => others.push(entry.public_key().algorithm().to_string()),
            }
        }
        match (found, others.is_empty()) {
            (true, _) => Ok(()),
            (false, true) => Err(Refusal::Unknown),
            (false, false) => Err(Refusal::Changed(others)),
        }
    }

    /// Which types of key are to be asked for: those that are known first, or a host with several keys would
    /// show one that nobody wrote down.
    pub(super) fn preferred(&self, host: &str) -> Vec<Algorithm> {
        let known: Vec<Algorithm> = self.of_host(host).map(|entry| entry.public_key().algorithm()).collect();
        let is_known = |candidate: &Algorithm| {
            let is_rsa = |algorithm: &Algorithm| matches!(algorithm, Algorithm::Rsa { .. });
            known.iter().any(|known| known == candidate || (is_rsa(known) && is_rsa(candidate)))
        };
        let (mut first, rest): (Vec<_>, Vec<_>) = accepted().into_iter().partition(is_known);
        first.extend(rest);
        first
    }

    fn of_host(&self, host: &str) -> impl Iterator<Item = &Entry> {
        self.0.iter().filter(move |entry| names(entry.host_patterns(), host))
    }
}

/// Every type of key but those with SHA-1.
fn accepted() -> Vec<Algorithm> {
    let all = russh::Preferred::DEFAULT.key;
    all.iter().filter(|algorithm| **algorithm != Algorithm::Rsa { hash: None }).cloned().collect()
}

/// The fingerprint as ssh and the documentation of git servers write it.
pub(super) fn fingerprint(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

fn names(patterns: &HostPatterns, host: &str) -> bool {
    match patterns {
        HostPatterns::HashedName { salt, hash } => {
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt);
            hmac::verify(&key, host.as_bytes(), hash).is_ok()
        }
        HostPatterns::Patterns(patterns) => {
            let matches = |pattern: &str| {
                glob(pattern.to_ascii_lowercase().as_bytes(), host.to_ascii_lowercase().as_bytes())
            };
            let mut denied = patterns.iter().filter_map(|pattern| pattern.strip_prefix('!'));
            patterns.iter().any(|pattern| matches(pattern)) && !denied.any(matches)
        }
    }
}

/// Only the last `*` is ever tried anew, so that many of them do not take forever.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while read < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at + 1, read));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[read] => {
                at += 1;
                read += 1;
            }
            _ => match star {
                Some((after, tried)) => {
                    star = Some((after, tried + 1));
                    (at, read) = (after, tried + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINRE7xMGYV6lBuJxOPgGanjIcUPrlNJPBGpr9UWgpknK";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK7Wxbam9zJh+5uC9evVAelgMTxrePAdKNvQtV64t1No";

    fn check(line: &str, host: &str) -> Result<(), Refusal> {
        let known = KnownHosts::parse(line).expect("a line");
        known.check(host, &ONE.parse().expect("a key"))
    }

    #[test]
    fn a_host_is_known_by_name_pattern_port_and_hash() {
        for (names, host, expected) in [
            ("git.test", "git.test", true),
            ("Git.Test", "git.test", true),
            ("a.test,git.test", "git.test", true),
            ("*.test", "git.test", true),
            ("g?t.test", "git.test", true),
            ("*.test,!git.test", "git.test", false),
            ("git.test", "[git.test]:2222", false),
            ("[git.test]:2222", "[git.test]:2222", true),
            ("[*.test]:2222", "[git.test]:2222", true),
            // By `ssh-keygen -H` of git.test.
            ("|1|XtaPwuteFTm+Kzay3bpOoY4x5t4=|LXSEoxpX169Ha19rXP3GmhBTXF0=", "git.test", true),
            ("|1|XtaPwuteFTm+Kzay3bpOoY4x5t4=|LXSEoxpX169Ha19rXP3GmhBTXF0=", "other.test", false),
        ] {
            let found = check(&format!("{names} {ONE} comment"), host);
            assert_eq!(found, if expected { Ok(()) } else { Err(Refusal::Unknown) }, "{names} {host}");
        }
    }

    #[test]
    fn another_key_of_a_known_host_is_a_change_and_one_of_several_is_enough() {
        let changed = Refusal::Changed(vec!["ssh-ed25519".to_owned()]);
        assert_eq!(check(&format!("git.test {OTHER}"), "git.test"), Err(changed));
        assert_eq!(check(&format!("git.test {OTHER}\n\n# new\ngit.test {ONE}"), "git.test"), Ok(()));
    }

    #[test]
    fn a_revoked_key_is_refused_even_if_it_is_listed_as_well() {
        let both = format!("git.test {ONE}\n@revoked * {ONE}");
        assert_eq!(check(&both, "git.test"), Err(Refusal::Revoked));
        assert_eq!(check(&format!("@cert-authority git.test {ONE}"), "git.test"), Err(Refusal::Unknown));
    }

    #[test]
    fn lines_that_nobody_can_read_count_for_nothing() {
        assert!(KnownHosts::parse("").is_none());
        assert!(KnownHosts::parse("# nothing\ngit.test\nhunter2 hunter2 hunter2").is_none());
        assert_eq!(check(&format!("rubbish\ngit.test {ONE}"), "git.test"), Ok(()));
    }

    #[test]
    fn the_types_of_known_keys_are_asked_for_first_and_sha1_never() {
        let known = KnownHosts::parse(&format!("git.test {ONE}")).expect("a line");
        assert_eq!(known.preferred("git.test").first(), Some(&Algorithm::Ed25519));
        assert!(!known.preferred("git.test").contains(&Algorithm::Rsa { hash: None }));
        assert_eq!(known.preferred("other.test").len(), accepted().len());
    }
}
