//! What administrators name hosts by.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;

use super::address::forms;
use crate::registry::{HostPattern, api_host};

/// A host by name, `registry.example.com[:port]` with `*` and `?` for parts of one label, or by address: `10.0.0.1`,
/// `10.0.0.1:5000`, `10.0.0.0/8`. Without a port it is every port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSelector {
    text: String,
    selected: Selected,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Selected {
    Name(HostPattern),
    Network(IpNet),
}

impl HostSelector {
    fn has_port(&self, port: u16) -> bool {
        self.port.is_none_or(|own| own == port)
    }

    pub(super) fn has_any(&self, ports: &[u16]) -> bool {
        ports.iter().any(|&port| self.has_port(port))
    }

    pub(super) fn names_port(&self) -> bool {
        self.port.is_some()
    }

    /// Whether it selects a host by its name, or by the address that the name is.
    pub(super) fn selects(&self, host: &str, port: u16) -> bool {
        self.has_port(port)
            && match &self.selected {
                Selected::Name(pattern) => pattern.matches(host),
                Selected::Network(network) => host
                    .parse()
                    .is_ok_and(|address: IpAddr| forms(address).any(|form| network.contains(&form))),
            }
    }

    /// The same at any of these ports.
    pub(super) fn selects_any(&self, host: &str, ports: &[u16]) -> bool {
        ports.iter().any(|&port| self.selects(host, port))
    }

    /// The addresses that it selects, whatever their names.
    pub(super) fn network(&self) -> Option<IpNet> {
        match &self.selected {
            Selected::Name(_) => None,
            Selected::Network(network) => Some(*network),
        }
    }

    /// Whether it names one host and no other.
    pub(super) fn is_exact(&self) -> bool {
        match &self.selected {
            Selected::Name(pattern) => !pattern.has_wildcard(),
            Selected::Network(network) => network.prefix_len() == network.max_prefix_len(),
        }
    }
}

impl FromStr for HostSelector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let of = |selected, port| Ok(Self { text: text.to_owned(), selected, port });
        if text.contains('/') {
            let network: IpNet =
                text.parse().map_err(|_| format!("{text:?} is no network; write 10.0.0.0/8 or fd00::/8"))?;
            if network.trunc() != network {
                return Err(format!("{text:?} has an address within the network; write {}", network.trunc()));
            }
            return of(Selected::Network(network), None);
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return of(Selected::Network(address.into()), None);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return of(Selected::Network(address.ip().into()), Some(address.port()));
        }
        HostPattern::check(text).map_err(|_| {
            format!("{text:?} is no host: write host[:port] without scheme and path, or 10.0.0.0/8")
        })?;
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, port.parse().ok()),
            None => (text, None),
        };
        if name.bytes().all(|byte| matches!(byte, b'*' | b'?')) {
            return Err(format!(
                "{text:?} is every name of one label, and no other; name hosts, or leave the list away"
            ));
        }
        let name = name.to_ascii_lowercase();
        let name = if name == "index.docker.io" { "docker.io" } else { &name };
        of(Selected::Name(HostPattern::new(api_host(name))), port)
    }
}

impl fmt::Display for HostSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_a_name_a_pattern_an_address_or_a_network() {
        for (text, host, port, selects) in [
            ("registry.test", "registry.test", 443, true),
            ("registry.test", "registry.test", 5000, true),
            ("registry.test:5000", "registry.test", 5000, true),
            ("registry.test:5000", "registry.test", 443, false),
            ("registry.test", "evil-registry.test", 443, false),
            ("registry.test", "registry.test.evil.test", 443, false),
            ("Registry.TEST", "registry.test", 443, true),
            ("*.corp.test", "git.corp.test", 22, true),
            ("*.corp.test", "a.b.corp.test", 22, false),
            ("*.corp.test", "corp.test", 22, false),
            ("docker.io", "registry-1.docker.io", 443, true),
            ("index.docker.io", "registry-1.docker.io", 443, true),
            ("10.0.0.1", "10.0.0.1", 443, true),
            ("10.0.0.1:5000", "10.0.0.1", 443, false),
            ("10.0.0.0/8", "10.9.9.9", 443, true),
            ("10.0.0.0/8", "::ffff:10.9.9.9", 443, true),
            ("10.0.0.0/8", "11.0.0.1", 443, false),
            ("10.0.0.0/8", "10.0.0.1.test", 443, false),
            ("fd00::/8", "fd12::1", 443, true),
            ("[fd12::1]:5000", "fd12::1", 5000, true),
            ("[fd12::1]", "fd12::1", 443, true),
            ("fd12::1", "fd12::1", 443, true),
        ] {
            let selector: HostSelector = text.parse().expect(text);
            assert_eq!(selector.selects(host, port), selects, "{text} {host}:{port}");
            assert_eq!(selector.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_selector_is_told() {
        for (text, told) in [
            ("https://registry.test", "write 10.0.0.0/8"),
            ("registry.test/team", "is no network"),
            ("registry.test:99999", "is no host"),
            ("10.0.0.1/8", "write 10.0.0.0/8"),
            ("10.0.0.0/33", "is no network"),
            ("10.0.0.0/8:443", "is no network"),
            ("*", "every name of one label"),
            ("", "is no host"),
            ("a b", "is no host"),
        ] {
            let problem = text.parse::<HostSelector>().expect_err(text);
            assert!(problem.contains(told), "{text}: {problem}");
        }
    }
}
