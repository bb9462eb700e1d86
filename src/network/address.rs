//! Addresses that nobody who names a host may lead the operator to, in whatever form they are written.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address is, where that is a reason to refuse it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Special {
    /// This machine: of a pod, its own endpoints.
    Loopback,
    LinkLocal,
    /// What a cloud tells of a machine, and with what it lets the machine in.
    Metadata,
    Unspecified,
    Multicast,
    Reserved,
}

impl fmt::Display for Special {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "an address of a cloud's metadata",
            Self::Unspecified => "an unspecified address",
            Self::Multicast => "a multicast address",
            Self::Reserved => "a reserved or broadcast address",
        })
    }
}

/// What `address` is, or the IPv4 address that it carries.
pub(super) fn special(address: IpAddr) -> Option<Special> {
    forms(address).find_map(|form| match form {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    })
}

/// The address, and the IPv4 address that it stands for.
pub(super) fn forms(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let carried = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => carried(address),
    };
    std::iter::once(address).chain(carried.map(IpAddr::V4))
}

/// IANA's registries of special-purpose addresses, and the clouds' own documentation. Private networks (RFC 1918,
/// RFC 4193, RFC 6598) are not among them: registries of clusters are there.
fn special_v4(address: Ipv4Addr) -> Option<Special> {
    match address.octets() {
        // RFC 1122, section 3.2.1.3. Linux connects to itself.
        [0, ..] => Some(Special::Unspecified),
        [127, ..] => Some(Special::Loopback),
        [169, 254, ..] => Some(Special::LinkLocal),
        // Azure's wire server, Alibaba Cloud, Oracle Cloud Classic.
        [168, 63, 129, 16] | [100, 100, 100, 200] | [192, 0, 0, 192] => Some(Special::Metadata),
        [224..=239, ..] => Some(Special::Multicast),
        [240..=255, ..] => Some(Special::Reserved),
        _ => None,
    }
}

fn special_v6(address: Ipv6Addr) -> Option<Special> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some(Special::Unspecified),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(Special::Loopback),
        [0xfe80..=0xfebf, ..] => Some(Special::LinkLocal),
        // AWS keeps all of it for what it tells its machines; then Google Cloud, Scaleway.
        [0xfd00, 0x0ec2, ..]
        | [0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254]
        | [0xfd00, 0x0042, 0, 0, 0, 0, 0, 0x0042] => Some(Special::Metadata),
        [0xff00..=0xffff, ..] => Some(Special::Multicast),
        _ => None,
    }
}

/// The IPv4 address in an IPv6 address of a form that carries one.
fn carried(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        // IPv4-compatible and IPv4-mapped (RFC 4291, section 2.5.5), IPv4-translated (RFC 2765, section 2.1).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => v4(high, low),
        // NAT64 (RFC 6052), then a network's own of 48 bits and of 96 (RFC 8215).
        [0x0064, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x0064, 0xff9b, 1, high, middle, low, 0, 0] if (middle, low) != (0, 0) && low & 0xff == 0 => {
            let ([a, b], [_, c], [d, _]) = (high.to_be_bytes(), middle.to_be_bytes(), low.to_be_bytes());
            Some(Ipv4Addr::new(a, b, c, d))
        }
        [0x0064, 0xff9b, 1, _, _, _, high, low] => v4(high, low),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => v4(high, low),
        // Teredo (RFC 4380, section 4): the client's address, every bit of it the other way.
        [0x2001, 0, _, _, _, _, high, low] => v4(!high, !low),
        // ISATAP (RFC 5214, section 6.1).
        [.., 0 | 0x0200, 0x5efe, high, low] => v4(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> Option<Special> {
        special(address.parse().expect("an address"))
    }

    #[test]
    fn metadata_and_link_local_addresses_are_known() {
        for address in
            ["169.254.169.254", "169.254.170.2", "169.254.0.1", "fe80::1", "fe80::a9fe:a9fe", "febf::1"]
        {
            assert_eq!(of(address), Some(Special::LinkLocal), "{address}");
        }
        for address in [
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "fd00:42::42",
        ] {
            assert_eq!(of(address), Some(Special::Metadata), "{address}");
        }
    }

    #[test]
    fn what_is_no_single_machine_is_known() {
        for (address, special) in [
            ("0.0.0.0", Special::Unspecified),
            ("0.1.2.3", Special::Unspecified),
            ("::", Special::Unspecified),
            ("127.0.0.1", Special::Loopback),
            ("127.255.0.9", Special::Loopback),
            ("::1", Special::Loopback),
            ("224.0.0.1", Special::Multicast),
            ("239.255.255.255", Special::Multicast),
            ("ff02::1", Special::Multicast),
            ("255.255.255.255", Special::Reserved),
            ("240.0.0.1", Special::Reserved),
        ] {
            assert_eq!(of(address), Some(special), "{address}");
        }
    }

    #[test]
    fn private_and_public_addresses_are_nothing_special() {
        for address in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "100.100.100.201",
            "168.63.129.17",
            "1.1.1.1",
            "169.253.255.255",
            "169.255.0.0",
            "fd12:3456::1",
            "fd00:ec3::1",
            "2606:4700::1111",
            "64:ff9b::101:101",
            "2002:101:101::1",
            "::ffff:10.0.0.1",
            "64:ff9b:1::a00:1",
            "64:ff9b:1:a00:1:100::",
        ] {
            assert_eq!(of(address), None, "{address}");
        }
    }

    /// Every form of IPv6 in which 169.254.169.254 can be written.
    #[test]
    fn an_ipv6_address_is_what_the_ipv4_address_in_it_is() {
        for address in [
            "::ffff:169.254.169.254",
            "::ffff:a9fe:a9fe",
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::169.254.169.254",
            "64:ff9b:1:5:6:7:169.254.169.254",
            "64:ff9b:1:a9fe:a9:fe00::",
            "2002:a9fe:a9fe::",
            "2002:a9fe:a9fe:1:2:3:4:5",
            "2001:0:4136:e378:8000:63bf:5601:5601",
            "2001:db8::5efe:169.254.169.254",
            "2001:db8::200:5efe:169.254.169.254",
        ] {
            assert_eq!(of(address), Some(Special::LinkLocal), "{address}");
        }
        assert_eq!(of("::ffff:127.0.0.1"), Some(Special::Loopback));
        assert_eq!(of("::ffff:0.0.0.0"), Some(Special::Unspecified));
        assert_eq!(of("64:ff9b::168.63.129.16"), Some(Special::Metadata));
    }
}
