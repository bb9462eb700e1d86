//! The last look before a connection: at the addresses that a name has turned out to be.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};

use hyper_util::client::proxy::matcher::Matcher;
use ipnet::IpNet;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::access::{Access, HostDenied};
use super::address::{Special, forms, special};

/// Which addresses of a host may be connected to. What differs in nothing shares its connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Guard {
    /// Whether whoever runs the operator has named this host of their own machine.
    pub(super) loopback: bool,
    /// Networks that are denied, and where that is written.
    pub(super) denied: Vec<(IpNet, String)>,
    /// The only networks that are allowed, where the name itself is not, and what is said of all others.
    pub(super) within: Option<(Vec<IpNet>, String)>,
}

impl Guard {
    /// Whether `host` may be connected to at `address`.
    pub(super) fn check(&self, host: &str, address: IpAddr) -> Result<(), HostDenied> {
        let denied = |cause| Err(HostDenied::new(host, Some(address), cause));
        match special(address) {
            Some(Special::Loopback) if self.loopback => {}
            Some(Special::Loopback) => return Err(HostDenied::loopback(host, Some(address))),
            Some(special) => {
                return denied(format!("it is {special}, which the operator never speaks to for anybody"));
            }
            None => {}
        }
        let is_in = |network: &IpNet| forms(address).any(|form| network.contains(&form));
        if let Some((_, place)) = self.denied.iter().find(|(network, _)| is_in(network)) {
            return denied(place.clone());
        }
        match &self.within {
            Some((networks, otherwise)) if !networks.iter().any(is_in) => denied(otherwise.clone()),
            _ => Ok(()),
        }
    }

    /// The addresses of a host that may be connected to.
    ///
    /// # Errors
    /// If the name does not resolve, or, as [`HostDenied`], to nothing that may be connected to.
    pub(crate) async fn lookup(
        &self,
        host: &str,
        port: u16,
    ) -> Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>> {
        self.permitted(host, tokio::net::lookup_host((host, port)).await?)
    }

    fn permitted(
        &self,
        host: &str,
        addresses: impl Iterator<Item = SocketAddr>,
    ) -> Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>> {
        let (mut permitted, mut refused) = (Vec::new(), None);
        for address in addresses {
            match self.check(host, address.ip()) {
                Ok(()) => permitted.push(address),
                Err(denied) => refused = Some(denied),
            }
        }
        match refused {
            Some(denied) if permitted.is_empty() => Err(denied.into()),
            _ => Ok(permitted),
        }
    }
}

/// Whether a request to `url` goes through a proxy of the environment.
pub(crate) fn is_proxied(proxies: &Matcher, url: &Url) -> bool {
    url.as_str().parse().is_ok_and(|uri| proxies.intercept(&uri).is_some())
}

/// What guards a connection to `url`, for who has this access: nothing where none is given, and nothing but the name
/// on the way through a proxy, which resolves it.
///
/// # Errors
/// If the host must not be spoken to.
pub(crate) fn guard(access: Option<&Access>, url: &Url, direct: bool) -> Result<Option<Guard>, HostDenied> {
    let Some(access) = access else { return Ok(None) };
    let host = url.host_str().unwrap_or_default();
    let guard = access.check(host, url.port_or_known_default().unwrap_or_default())?;
    match guard.within {
        Some((_, otherwise)) if !direct => Err(HostDenied::new(host, None, otherwise)),
        _ => Ok(direct.then_some(guard)),
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let addresses = guard.lookup(name.as_str(), 0).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn closed() -> Guard {
        let denied = vec![("10.0.0.0/8".parse().expect("a network"), "denied there".to_owned())];
        Guard { loopback: false, denied, within: None }
    }

    fn of(guard: &Guard, addresses: &[&str]) -> Result<Vec<String>, String> {
        let addresses: Vec<SocketAddr> =
            addresses.iter().map(|text| SocketAddr::new(text.parse().expect("an address"), 443)).collect();
        let permitted = guard.permitted("registry.test", addresses.into_iter());
        let permitted = permitted.map_err(|error| error.to_string())?;
        Ok(permitted.iter().map(|address| address.ip().to_string()).collect())
    }

    #[test]
    fn of_the_addresses_of_a_name_only_those_that_may_be_are_connected_to() {
        assert_eq!(
            of(&closed(), &["169.254.169.254", "192.168.0.1", "10.0.0.1"]),
            Ok(vec!["192.168.0.1".to_owned()])
        );
        assert_eq!(of(&closed(), &[]), Ok(vec![]));
        for (addresses, told) in [
            (["169.254.169.254"], "registry.test (169.254.169.254): it is a link-local address"),
            (
                ["::ffff:169.254.169.254"],
                "registry.test (::ffff:169.254.169.254): it is a link-local address",
            ),
            (["127.0.0.1"], "registry.test (127.0.0.1): that is the operator itself"),
            (["10.1.2.3"], "registry.test (10.1.2.3): denied there"),
            (["64:ff9b::10.1.2.3"], "registry.test (64:ff9b::a01:203): denied there"),
        ] {
            let error = of(&closed(), &addresses).expect_err(addresses[0]);
            assert!(error.starts_with(told), "{error}");
        }
    }

    #[test]
    fn a_host_that_is_allowed_by_address_only_is_connected_to_there_only() {
        let networks = vec!["192.168.0.0/16".parse().expect("a network")];
        let guard = Guard { within: Some((networks, "not allowed".to_owned())), loopback: true, ..closed() };
        assert_eq!(of(&guard, &["192.168.0.1", "1.1.1.1"]), Ok(vec!["192.168.0.1".to_owned()]));
        assert_eq!(of(&guard, &["1.1.1.1"]), Err("registry.test (1.1.1.1): not allowed".to_owned()));
        assert_eq!(of(&guard, &["127.0.0.1"]), Err("registry.test (127.0.0.1): not allowed".to_owned()));
    }

    #[tokio::test]
    async fn a_literal_address_is_looked_up_by_the_same_rules() {
        // What the C library takes for 127.0.0.1 and for 169.254.169.254.
        for host in ["127.0.0.1", "0x7f.1", "2852039166", "localhost"] {
            let error = closed().lookup(host, 22).await.expect_err(host);
            assert!(error.downcast_ref::<HostDenied>().is_some(), "{host}: {error}");
        }
    }

    /// A name whose owner gives another address each time: first of a server that may be spoken to, then of one that
    /// may not.
    struct Rebinding {
        guard: Guard,
        asked: Arc<AtomicUsize>,
    }

    impl Resolve for Rebinding {
        fn resolve(&self, name: Name) -> Resolving {
            let last = 1 + u8::try_from(self.asked.fetch_add(1, Ordering::SeqCst) % 2).expect("0 or 1");
            let address = SocketAddr::from(([127, 0, 0, last], 0));
            let permitted = self.guard.permitted(name.as_str(), std::iter::once(address));
            Box::pin(async move { Ok(Box::new(permitted?.into_iter()) as Addrs) })
        }
    }

    /// Answers every request, one a connection, and counts them.
    async fn server(address: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind(address).await.expect("a port");
        let (address, count) = (listener.local_addr().expect("an address"), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&count);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                    .await;
            }
        });
        (address, count)
    }

    #[tokio::test]
    async fn a_name_that_is_another_address_the_next_time_leads_nowhere() {
        let (open, reached) = server(([127, 0, 0, 1], 0).into()).await;
        let (_, leaked) = server(([127, 0, 0, 2], open.port()).into()).await;
        let denied = vec![("127.0.0.2/32".parse().expect("a network"), "denied".to_owned())];
        let guard = Guard { loopback: true, denied, within: None };
        let asked = Arc::new(AtomicUsize::new(0));
        let resolver = Rebinding { guard, asked: Arc::clone(&asked) };
        let client = reqwest::Client::builder().no_proxy().dns_resolver(resolver).build().expect("a client");
        for round in 1..=3 {
            let url = format!("http://rebinding.test:{}/", open.port());
            assert!(client.get(&url).send().await.expect("an answer").status().is_success());
            let error = client.get(&url).send().await.expect_err("denied");
            let told = HostDenied::behind(&error).expect("the cause").to_string();
            assert_eq!(told, "rebinding.test (127.0.0.2): denied");
            assert_eq!((reached.load(Ordering::SeqCst), asked.load(Ordering::SeqCst)), (round, 2 * round));
        }
        assert_eq!(leaked.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn on_the_way_through_a_proxy_names_and_literal_addresses_are_checked() {
        let proxies = Matcher::builder().all("http://proxy.test:3128").no("direct.test").build();
        let access = Access::default();
        let of = |url: &str| {
            let url: Url = url.parse().expect("an address");
            super::guard(Some(&access), &url, !is_proxied(&proxies, &url))
        };
        assert!(of("https://registry.test/v2/").expect("allowed").is_none(), "the proxy resolves the name");
        assert!(of("https://direct.test/v2/").expect("allowed").is_some());
        for url in [
            "https://169.254.169.254/",
            "https://[::ffff:a9fe:a9fe]/",
            "http://2852039166/",
            "https://localhost/",
        ] {
            assert!(of(url).is_err(), "{url}");
        }
        let url = "https://169.254.169.254/".parse().expect("an address");
        assert!(super::guard(None, &url, true).expect("a person's own machine").is_none());
    }
}
