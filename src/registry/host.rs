//! Hosts of registries and the patterns that administrators and secrets name them by.

use std::net::{IpAddr, Ipv6Addr};

use crate::glob;

/// A host with an optional port, as in `*.example.com:5000`; `*` and `?` stand for parts of one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPattern {
    labels: Vec<String>,
    port: Option<String>,
}

impl HostPattern {
    pub(crate) fn new(pattern: &str) -> Self {
        let (name, port) = split_port(pattern);
        Self { labels: labels(name), port: port.map(str::to_owned) }
    }

    /// As in the kubelet: equally many labels, each matching, and the same port or none in both.
    pub(crate) fn matches(&self, host: &str) -> bool {
        let (name, port) = split_port(host);
        let candidates = labels(name);
        self.port.as_deref() == port
            && self.labels.len() == candidates.len()
            && self.labels.iter().zip(&candidates).all(|(pattern, label)| glob::matches(pattern, label))
    }

    pub(crate) fn has_wildcard(&self) -> bool {
        self.labels.iter().any(|label| label.contains(['*', '?']))
    }

    /// The more, the fewer hosts it matches: a name before a pattern, then by the letters that are given.
    pub(crate) fn specificity(&self) -> (bool, usize) {
        let letters = |label: &String| label.bytes().filter(|byte| !matches!(byte, b'*' | b'?')).count();
        (!self.has_wildcard(), self.labels.iter().map(letters).sum())
    }

    /// Whether `pattern` is `host[:port]`, with or without wildcards.
    ///
    /// # Errors
    /// What to write instead.
    pub(crate) fn check(pattern: &str) -> Result<(), String> {
        let (name, port) = split_port(pattern);
        let port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let name = match address {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => name.split('.').all(|label| {
                let valid =
                    |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*' | b'?');
                !label.is_empty() && label.bytes().all(valid)
            }),
        };
        if name && port {
            return Ok(());
        }
        Err("write host[:port] without scheme and path".to_owned())
    }
}

/// Whether `host`, with or without port, is this machine: Docker speaks plain HTTP to it, and so do we.
pub(crate) fn is_loopback(host: &str) -> bool {
    let (name, _) = split_port(host);
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn labels(name: &str) -> Vec<String> {
    name.to_ascii_lowercase().split('.').map(str::to_owned).collect()
}

fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            (name, Some(port))
        }
        _ => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_label_by_label() {
        for (pattern, host, matches) in [
            ("registry.example.com", "registry.example.com", true),
            ("*.example.com", "registry.example.com", true),
            ("*.example.com", "a.b.example.com", false),
            ("*.example.com", "example.com", false),
            ("reg*.ex?mple.com", "registry.example.com", true),
            ("registry.example.com", "registry.example.com:5000", false),
            ("registry.example.com:5000", "registry.example.com:5000", true),
            ("*.example.com:5000", "registry.example.com:5001", false),
            ("*", "registry.example.com", false),
            ("re**try.*.c?m", "registry.example.com", true),
            ("*.e*p*e.com", "registry.example.com", true),
            ("*.e*x.com", "registry.example.com", false),
            ("REGISTRY.example.com", "registry.EXAMPLE.com", true),
        ] {
            assert_eq!(HostPattern::new(pattern).matches(host), matches, "{pattern} {host}");
        }
    }

    #[test]
    fn a_name_is_more_specific_than_a_pattern() {
        let specificity = |pattern| HostPattern::new(pattern).specificity();
        assert!(specificity("a.io") > specificity("*.example.com"));
        assert!(specificity("*.example.com") > specificity("*.*.com"));
        assert!(specificity("registry-*.example.com") > specificity("*.example.com"));
    }

    #[test]
    fn a_pattern_is_a_host_and_perhaps_a_port() {
        for pattern in
            ["a.io", "*.a.io:5000", "localhost", "10.0.0.1", "[::1]", "[2001:db8::1]:5000", "?-a_b.io"]
        {
            assert!(HostPattern::check(pattern).is_ok(), "{pattern}");
        }
        for pattern in [
            "",
            "a..io",
            "https://a.io",
            "a.io/team",
            "a.io:",
            "a.io:0",
            "a.io:65536",
            "[::g]",
            "a b",
            "é.io",
            "::1",
        ] {
            assert!(HostPattern::check(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn a_pattern_of_many_wildcards_is_matched_before_long() {
        let pattern = format!("{}b", "*a".repeat(60));
        assert!(!HostPattern::new(&pattern).matches(&"a".repeat(63)));
    }

    #[test]
    fn this_machine_is_known_by_all_its_names() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example.com", "127.0.0.1.example.com", "10.0.0.1:5000", "registry"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
