//! What namespaces may speak to.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use reqwest::Url;

use super::guard::Guard;
use super::selector::HostSelector;
use crate::glob;
use crate::registry::Repository;

/// Where a registry is whose port is not written: with TLS or without, as settings say that are not known here.
const PORTS_OF_HTTP: [u16; 2] = [443, 80];

/// Which hosts whoever runs the operator lets namespaces lead it to. By default all but those that are always refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPolicy {
    /// Those of `--policies`, in their order.
    pub rules: Vec<HostRule>,
    /// What `--plain-http` and `--registries` name. Only these may be on this machine.
    pub named: Vec<HostSelector>,
    /// The mirrors of `--registries`, which no rule need allow: nobody's spec leads there.
    pub mirrors: Vec<HostSelector>,
}

/// What some namespaces may speak to. Rules add up, and what any of them denies is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRule {
    /// Names of namespaces; `*` stands for any text, `?` for one character.
    pub namespaces: Vec<String>,
    /// The only hosts that are allowed; none where the rule only denies.
    pub allow: Vec<HostSelector>,
    /// Hosts that are denied.
    pub deny: Vec<HostSelector>,
}

/// The hosts that one namespace may speak to. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Access {
    policy: Arc<HostPolicy>,
    /// Which of the rules are for the namespace.
    rules: Vec<usize>,
}

/// Why a host is not spoken to: which, at which address, by which rule, and what can be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDenied {
    host: String,
    port: Option<u16>,
    address: Option<IpAddr>,
    cause: String,
}

impl std::error::Error for HostDenied {}

impl fmt::Display for HostDenied {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, address, cause } = self;
        match (port, host.contains(':')) {
            (Some(port), true) => write!(formatter, "[{host}]:{port}")?,
            (Some(port), false) => write!(formatter, "{host}:{port}")?,
            (None, _) => formatter.write_str(host)?,
        }
        if let Some(address) = address.filter(|address| *host != address.to_string()) {
            write!(formatter, " ({address})")?;
        }
        write!(formatter, ": {cause}")
    }
}

impl HostDenied {
    pub(super) fn new(host: &str, address: Option<IpAddr>, cause: String) -> Self {
        Self { host: host.to_owned(), port: None, address, cause }
    }

    pub(super) fn loopback(host: &str, address: Option<IpAddr>) -> Self {
        let cause = "that is the operator itself (a loopback address), which is spoken to only where whoever runs it \
                     names the host: in --plain-http, in --registries, or under hosts[].allow of its policies";
        Self::new(host, address, cause.to_owned())
    }

    /// Says the port as well, unless it goes without saying.
    fn at(self, ports: &[u16]) -> Self {
        Self { port: ports.iter().copied().find(|port| !PORTS_OF_HTTP.contains(port)), ..self }
    }

    /// What a failure to connect came of, if it was this.
    pub(crate) fn behind<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
    }
}

impl HostPolicy {
    /// What `namespace` may speak to.
    pub fn access(self: &Arc<Self>, namespace: &str) -> Access {
        let is_for =
            |rule: &HostRule| rule.namespaces.iter().any(|pattern| glob::matches(pattern, namespace));
        let rules = self.rules.iter().enumerate().filter(|(_, rule)| is_for(rule));
        Access { rules: rules.map(|(number, _)| number).collect(), policy: Arc::clone(self) }
    }
}

impl Access {
    /// Whether the operator may speak to `host` (a name or an address, without its port), as far as that can be told
    /// before the name is resolved; the guard tells of the rest.
    ///
    /// # Errors
    /// If it may not.
    pub(crate) fn check(&self, host: &str, port: u16) -> Result<Guard, HostDenied> {
        self.check_at(host, &[port])
    }

    /// The same of a host that somebody has written, with or without a port. Where there is none, one of a registry's two
    /// has to be allowed, and neither may be denied; the connection is checked by its own.
    ///
    /// # Errors
    /// If the operator may not speak to it.
    pub(crate) fn check_written(&self, host: &str, port: Option<u16>) -> Result<(), HostDenied> {
        self.check_at(host, &ports(port)).map(drop)
    }

    fn check_at(&self, host: &str, ports: &[u16]) -> Result<Guard, HostDenied> {
        let host = &canonical(host);
        let guard = self.guard(host, ports)?;
        let checked = match host.parse() {
            Ok(address) => guard.check(host, address),
            Err(_) if is_localhost(host) && !guard.loopback => Err(HostDenied::loopback(host, None)),
            Err(_) => Ok(()),
        };
        checked.map_err(|denied| denied.at(ports)).map(|()| guard)
    }

    /// Whether a rule keeps somebody else, as the builder in its pod, from speaking to `host`, which is written with or
    /// without a port. Whatever is about addresses is left to the network there.
    ///
    /// # Errors
    /// If it does.
    pub fn check_rules(&self, host: &str, port: Option<u16>) -> Result<(), HostDenied> {
        self.guard(&canonical(host), &ports(port)).map(drop)
    }

    /// The same for the registry of a repository.
    ///
    /// # Errors
    /// If a rule denies it.
    pub fn check_rules_of(&self, repository: &Repository) -> Result<(), HostDenied> {
        let (host, port) = repository.host_and_port();
        self.check_rules(host, port)
    }

    /// What the rules say of a name or an address at any of these ports.
    fn guard(&self, host: &str, ports: &[u16]) -> Result<Guard, HostDenied> {
        let mut denied = Vec::new();
        for (number, rule) in self.rules() {
            for selector in rule.deny.iter().filter(|selector| selector.has_any(ports)) {
                let place = format!("hosts[{number}].deny of the operator's policies has {selector}");
                if selector.selects_any(host, ports) {
                    return Err(HostDenied::new(host, None, place).at(ports));
                }
                denied.extend(selector.network().map(|network| (network, place)));
            }
        }
        let allowing: Vec<_> = self.rules().filter(|(_, rule)| !rule.allow.is_empty()).collect();
        let allowed = || allowing.iter().flat_map(|(_, rule)| &rule.allow);
        let is_allowed = allowing.is_empty()
            || allowed().chain(&self.policy.mirrors).any(|selector| selector.selects_any(host, ports));
        let within = if is_allowed {
            None
        } else {
            let networks: Vec<IpNet> = allowed()
                .filter(|selector| selector.has_any(ports))
                .filter_map(HostSelector::network)
                .collect();
            let otherwise = otherwise(&allowing, allowed());
            // An address would have been selected above.
            if networks.is_empty() || host.parse::<IpAddr>().is_ok() {
                return Err(HostDenied::new(host, None, otherwise).at(ports));
            }
            Some((networks, otherwise))
        };
        let is_here = is_localhost(host) || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        let loopback = ports.iter().any(|&port| self.is_named(host, port))
            || is_here && allowed().any(|selector| selector.is_exact() && selector.selects_any(host, ports));
        Ok(Guard { loopback, denied, within })
    }

    fn rules(&self) -> impl Iterator<Item = (usize, &HostRule)> {
        self.rules.iter().filter_map(|&number| Some((number, self.policy.rules.get(number)?)))
    }

    /// Whether the operator's own settings name this host, and no pattern only.
    fn is_named(&self, host: &str, port: u16) -> bool {
        let HostPolicy { named, mirrors, .. } = &*self.policy;
        let mut exact = named.iter().chain(mirrors).filter(|selector| selector.is_exact());
        exact.any(|selector| {
            // There, no port is the protocol's own.
            (selector.names_port() || PORTS_OF_HTTP.contains(&port)) && selector.selects(host, port)
        })
    }
}

/// Where a host may be whose port is written, or not.
fn ports(port: Option<u16>) -> Vec<u16> {
    match port {
        Some(port) => vec![port],
        None => PORTS_OF_HTTP.to_vec(),
    }
}

/// What is said of a host that no rule allows.
fn otherwise<'a>(allowing: &[(usize, &HostRule)], allowed: impl Iterator<Item = &'a HostSelector>) -> String {
    let numbers: Vec<String> = allowing.iter().map(|(number, _)| format!("hosts[{number}].allow")).collect();
    let hosts: Vec<String> = allowed.map(ToString::to_string).collect();
    format!("{} of the operator's policies has only {}", numbers.join(", "), hosts.join(", "))
}

/// A host in the one form that it is compared in: `0x7f.1` is `127.0.0.1`, and `A.test.` is `a.test`.
pub(crate) fn canonical(host: &str) -> String {
    let bare = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    let url = match bare.contains(':') {
        true => format!("http://[{bare}]/"),
        false => format!("http://{bare}/"),
    };
    let parsed = Url::parse(&url).ok();
    let parsed = parsed.as_ref().and_then(Url::host_str).unwrap_or(bare);
    parsed.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase()
}

/// RFC 6761, section 6.3.
fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selectors(texts: &[&str]) -> Vec<HostSelector> {
        texts.iter().map(|text| text.parse().expect("a selector")).collect()
    }

    fn rule(namespaces: &[&str], allow: &[&str], deny: &[&str]) -> HostRule {
        let namespaces = namespaces.iter().map(|text| (*text).to_owned()).collect();
        HostRule { namespaces, allow: selectors(allow), deny: selectors(deny) }
    }

    fn access(policy: HostPolicy) -> Access {
        Arc::new(policy).access("team-a")
    }

    fn with(rules: Vec<HostRule>) -> Access {
        access(HostPolicy { rules, ..HostPolicy::default() })
    }

    fn denial(access: &Access, host: &str, port: u16) -> String {
        access.check(host, port).expect_err(host).to_string()
    }

    #[test]
    fn without_rules_all_are_spoken_to_but_special_addresses_in_whatever_form() {
        let access = Access::default();
        for host in ["registry.test", "10.77.0.1", "192.168.0.1", "[fd12::1]", "1.1.1.1", "localhost.test"] {
            assert!(access.check(host, 443).is_ok(), "{host}");
        }
        for host in [
            "169.254.169.254",
            "2852039166",
            "0xa9fea9fe",
            "0251.0376.0251.0376",
            "169.254.43518",
            "[fe80::1]",
            "[::ffff:169.254.169.254]",
            "::ffff:a9fe:a9fe",
            "[64:ff9b::a9fe:a9fe]",
            "100.100.100.200",
            "0.0.0.0",
            "0",
            "[::]",
            "255.255.255.255",
            "224.0.0.1",
            "169.254.169.254.",
            "１６９.254.169.254",
        ] {
            let told = denial(&access, host, 443);
            assert!(told.contains("which the operator never speaks to"), "{told}");
        }
        for host in [
            "127.0.0.1",
            "127.1",
            "0x7f.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "localhost",
            "LOCALHOST.",
            "a.localhost",
        ] {
            assert!(denial(&access, host, 5000).contains("that is the operator itself"), "{host}");
        }
    }

    #[test]
    fn this_machine_is_spoken_to_where_the_settings_name_the_host_and_its_port() {
        let named = selectors(&["127.0.0.1:5000", "localhost", "*.corp.test", "registry.test:5000"]);
        let access = access(HostPolicy { named, ..HostPolicy::default() });
        for (host, port, allowed) in [
            ("127.0.0.1", 5000, true),
            ("127.0.0.1", 8080, false),
            ("127.0.0.2", 5000, false),
            ("localhost", 80, true),
            ("localhost", 8080, false),
            ("[::1]", 5000, false),
        ] {
            assert_eq!(access.check(host, port).is_ok(), allowed, "{host}:{port}");
        }
        for (host, port, loopback) in
            [("registry.test", 5000, true), ("registry.test", 443, false), ("a.corp.test", 443, false)]
        {
            assert_eq!(access.check(host, port).expect(host).loopback, loopback, "{host}:{port}");
        }
        let access = with(vec![rule(&["*"], &["127.0.0.1:2222", "git.test"], &[])]);
        assert!(access.check("127.0.0.1", 2222).expect("allowed").loopback);
        assert!(!access.check("git.test", 22).expect("allowed").loopback, "its owner could point it here");
        let named = selectors(&["169.254.169.254"]);
        let access = self::access(HostPolicy { named, ..HostPolicy::default() });
        assert!(denial(&access, "169.254.169.254", 80).contains("never"));
    }

    #[test]
    fn what_is_denied_stays_denied_whoever_allows_it() {
        let access = with(vec![
            rule(&["team-*"], &["*.corp.test", "ghcr.io"], &[]),
            rule(&["*"], &[], &["secret.corp.test", "10.96.0.0/12", "registry.corp.test:22"]),
            rule(&["team-b"], &[], &["ghcr.io"]),
        ]);
        assert!(access.check("git.corp.test", 22).is_ok() && access.check("ghcr.io", 443).is_ok());
        assert_eq!(
            denial(&access, "secret.corp.test", 443),
            "secret.corp.test: hosts[1].deny of the operator's policies has secret.corp.test"
        );
        assert!(denial(&access, "Secret.CORP.test.", 443).contains("hosts[1].deny"));
        assert!(access.check("registry.corp.test", 443).is_ok());
        assert!(access.check("registry.corp.test", 22).is_err());
        assert!(denial(&access, "10.96.0.1", 443).contains("10.96.0.0/12"));
        let guard = access.check("git.corp.test", 22).expect("a guard");
        assert!(guard.check("git.corp.test", "10.96.0.1".parse().expect("an address")).is_err());
        assert!(guard.check("git.corp.test", "10.1.0.1".parse().expect("an address")).is_ok());
    }

    #[test]
    fn with_a_list_of_what_is_allowed_all_else_is_denied() {
        let access = with(vec![
            rule(&["team-a"], &["ghcr.io", "docker.io"], &[]),
            rule(&["team-?"], &["10.77.0.0/16"], &[]),
        ]);
        for host in ["ghcr.io", "registry-1.docker.io", "10.77.0.1"] {
            assert!(access.check(host, 443).is_ok(), "{host}");
        }
        assert_eq!(
            denial(&access, "10.78.0.1", 443),
            "10.78.0.1: hosts[0].allow, hosts[1].allow of the operator's policies has only ghcr.io, docker.io, 10.77.0.0/16"
        );
        // A name may turn out to be an address that is allowed.
        let guard = access.check("registry.corp.test", 443).expect("a guard");
        assert!(guard.check("registry.corp.test", "10.77.3.4".parse().expect("an address")).is_ok());
        assert!(guard.check("registry.corp.test", "10.78.3.4".parse().expect("an address")).is_err());
        let others =
            HostPolicy { rules: vec![rule(&["team-b"], &["ghcr.io"], &[])], ..HostPolicy::default() };
        assert!(self::access(others).check("quay.io", 443).is_ok(), "no rule is for this namespace");
    }

    #[test]
    fn the_operators_own_mirrors_need_not_be_allowed_and_can_be_denied() {
        let policy = |deny: &[&str]| HostPolicy {
            rules: vec![rule(&["*"], &["docker.io"], deny)],
            mirrors: selectors(&["mirror.test:5000"]),
            named: vec![],
        };
        assert!(access(policy(&[])).check("mirror.test", 5000).is_ok());
        assert!(access(policy(&[])).check("mirror.test", 443).is_err());
        assert!(access(policy(&["mirror.test"])).check("mirror.test", 5000).is_err());
    }

    #[test]
    fn for_others_than_the_operator_only_the_rules_count() {
        let access = with(vec![rule(&["*"], &[], &["denied.test"])]);
        assert!(access.check_rules("127.0.0.1", Some(1234)).is_ok());
        assert!(access.check_rules("denied.test", Some(1234)).is_err());
    }

    #[test]
    fn a_registry_without_a_written_port_may_be_at_either_of_http() {
        let repository: Repository = "registry.test/team/web".parse().expect("a repository");
        let cases: [(&[&str], &[&str], bool); 8] = [
            (&["registry.test:80"], &[], true),
            (&["registry.test:443"], &[], true),
            (&["registry.test:5000"], &[], false),
            (&[], &["registry.test:80"], false),
            (&[], &["registry.test:443"], false),
            (&[], &["registry.test:5000"], true),
            (&["registry.test:443"], &["registry.test:80"], false),
            (&["registry.test"], &[], true),
        ];
        for (allow, deny, allowed) in cases {
            let access = with(vec![rule(&["*"], allow, deny)]);
            assert_eq!(access.check_rules_of(&repository).is_ok(), allowed, "{allow:?} {deny:?}");
            assert_eq!(access.check_written("registry.test", None).is_ok(), allowed, "{allow:?} {deny:?}");
        }
        let access = with(vec![rule(&["*"], &["registry.test:80"], &[])]);
        assert!(access.check("registry.test", 80).is_ok());
        assert!(access.check("registry.test", 443).is_err(), "a connection has one port");
        assert!(access.check_written("registry.test", Some(443)).is_err());
    }
}
