//! The texts of values: what each kind may look like. An error says what the value must be.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::types::limits::{FOUNDING_NODES_MAX, NODE_NAME_BYTES_MAX as NAME_BYTES_MAX};

/// Longest host name, as DNS has it.
const HOST_BYTES_MAX: usize = 253;
/// Labels of one node.
const LABELS_MAX: usize = 16;

/// Usual port for clients, in examples of addresses,
const CLIENT_PORT: u16 = 2379;
/// and for peers.
const PEER_PORT: u16 = 2380;

type Parsed<T> = Result<T, String>;

/// `host:port`, with IPv6 addresses in brackets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Address<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
}

impl<'a> Address<'a> {
    pub(super) fn parse(text: &'a str) -> Parsed<Self> {
        Self::parse_like(text, CLIENT_PORT)
    }

    fn parse_like(text: &'a str, port: u16) -> Parsed<Self> {
        let wrong = || format!("must be host:port, for instance 127.0.0.1:{port} or [::1]:{port}");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits).ok_or("must end in a port from 0 to 65535")?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let valid = match bare {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => is_host(host),
        };
        if valid { Ok(Self { host: bare.unwrap_or(host), port }) } else { Err(wrong()) }
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Whether it stands for every address of the machine, which nobody can connect to.
    pub(super) fn is_wildcard(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_unspecified())
    }

    /// Whether only this machine can connect to it.
    pub(super) fn is_loopback(&self) -> bool {
        self.ip().map_or(self.host == "localhost", |ip| ip.is_loopback())
    }
}

fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        !label.is_empty() && label.len() <= 63 && inner && !label.starts_with('-') && !label.ends_with('-')
    };
    host.len() <= HOST_BYTES_MAX && host.split('.').all(label)
}

/// An address to listen on for clients,
pub(super) fn listening(text: &str) -> Parsed<String> {
    Address::parse_like(text, CLIENT_PORT).map(|_| text.to_owned())
}

/// and for peers.
pub(super) fn peer_listening(text: &str) -> Parsed<String> {
    Address::parse_like(text, PEER_PORT).map(|_| text.to_owned())
}

/// An address that clients connect to,
pub(super) fn reachable(text: &str) -> Parsed<String> {
    reachable_like(text, CLIENT_PORT)
}

/// and one that peers connect to.
pub(super) fn peer_reachable(text: &str) -> Parsed<String> {
    reachable_like(text, PEER_PORT)
}

fn reachable_like(text: &str, port: u16) -> Parsed<String> {
    let address = Address::parse_like(text, port)?;
    if address.is_wildcard() {
        return Err("stands for every address of this machine; others need one they can connect to".to_owned());
    }
    if address.port == 0 {
        return Err("needs a port other than 0, since others connect to it".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn name(text: &str) -> Parsed<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(allowed) {
        return Err(format!("must be 1 to {NAME_BYTES_MAX} of the characters A-Z a-z 0-9 . _ -"));
    }
    Ok(text.to_owned())
}

/// `name=host:port,…`, each name and each address once.
pub(super) fn cluster(text: &str) -> Parsed<BTreeMap<String, String>> {
    let mut nodes = BTreeMap::new();
    for item in text.split(',').map(str::trim) {
        let (node, address) = item
            .split_once('=')
            .ok_or_else(|| format!("must be a list of name=host:port, but {item:?} is no such pair"))?;
        let node = name(node).map_err(|why| format!("names a node {node:?}, which {why}"))?;
        let address =
            peer_reachable(address).map_err(|why| format!("gives {node} the address {address:?}, which {why}"))?;
        if let Some((other, _)) = nodes.iter().find(|(_, known)| **known == address) {
            return Err(format!("gives {other} and {node} the same address {address}"));
        }
        if nodes.insert(node.clone(), address).is_some() {
            return Err(format!("names {node} twice"));
        }
    }
    if nodes.len() > FOUNDING_NODES_MAX {
        return Err(format!("names {} nodes; founding_nodes_max is {FOUNDING_NODES_MAX}", nodes.len()));
    }
    Ok(nodes)
}

/// `keyspace=host:port,…`, to listen on; each keyspace and each address once.
pub(super) fn keyspaces(text: &str) -> Parsed<BTreeMap<String, String>> {
    let mut ports = BTreeMap::<String, String>::new();
    for item in text.split(',').map(str::trim) {
        let (keyspace, address) = item
            .split_once('=')
            .ok_or_else(|| format!("must be a list of keyspace=host:port, but {item:?} is no such pair"))?;
        let parsed = Address::parse(address).and_then(|parsed| match parsed.port {
            0 => Err("needs a port other than 0, since clients connect to it".to_owned()),
            _ => Ok(()),
        });
        parsed.map_err(|why| format!("gives {keyspace} the address {address:?}, which {why}"))?;
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-');
        if keyspace.is_empty() || !keyspace.bytes().all(is_plain) {
            return Err(format!("must name a keyspace, in a-z 0-9 . _ -, for each address: {item:?}"));
        }
        if ports.values().any(|known| known == address) {
            return Err(format!("must name each address once: {item:?}"));
        }
        if ports.insert(keyspace.to_owned(), address.to_owned()).is_some() {
            return Err(format!("names the keyspace {keyspace} twice"));
        }
    }
    Ok(ports)
}

/// `key=value,…`
pub(super) fn labels(text: &str) -> Parsed<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for item in text.split(',').map(str::trim) {
        let (key, value) =
            item.split_once('=').ok_or_else(|| format!("must be a list of key=value, but {item:?} is no such pair"))?;
        let key = name(key).map_err(|why| format!("has the key {key:?}, which {why}"))?;
        let value = name(value).map_err(|why| format!("has the value {value:?}, which {why}"))?;
        if labels.insert(key.clone(), value).is_some() {
            return Err(format!("has the key {key} twice"));
        }
    }
    if labels.len() > LABELS_MAX { Err(format!("has more than {LABELS_MAX} labels")) } else { Ok(labels) }
}

pub(super) fn switch(text: &str) -> Parsed<bool> {
    text.parse().map_err(|_| "must be true or false".to_owned())
}

pub(super) fn number(text: &str, range: &RangeInclusive<u64>) -> Parsed<u64> {
    let (low, high) = (range.start(), range.end());
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("must be a whole number from {low} to {high}"))
}

/// Bytes, with or without one of the units KiB, MiB and GiB.
pub(super) fn bytes(text: &str, range: &RangeInclusive<u64>) -> Parsed<u64> {
    let (low, high) = (range.start(), range.end());
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("", 1_u64)];
    let parsed = units.into_iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?.trim_end(), factor)));
    let value = parsed.and_then(|(digits, factor)| digits.parse::<u64>().ok()?.checked_mul(factor));
    value
        .filter(|value| range.contains(value))
        .ok_or_else(|| format!("must be from {low} to {high} bytes, for instance 67108864 or 64MiB"))
}

#[cfg(test)]
mod tests {
    use super::{Address, bytes, cluster, labels, listening, name, number, peer_listening, peer_reachable, reachable};

    #[test]
    fn addresses() {
        for good in ["127.0.0.1:2379", "[::1]:2379", "localhost:0", "db-1.example.org:65535", "a_b:1", "0.0.0.0:1"] {
            assert_eq!(listening(good).as_deref(), Ok(good));
        }
        for bad in
            ["", ":", "2379", "127.0.0.1", "127.0.0.1:", "h:65536", "h:+1", "::1:2379", "[::1]", "[x]:1", "a b:1"]
        {
            assert!(listening(bad).is_err(), "{bad}");
        }
        for bad in ["0.0.0.0:1", "[::]:1", "h:0"] {
            assert!(reachable(bad).is_err(), "{bad}");
        }
        assert!(reachable("foo").unwrap_err().contains("127.0.0.1:2379"));
        assert!(peer_reachable("foo").unwrap_err().contains("127.0.0.1:2380"));
        assert!(peer_listening("foo").unwrap_err().contains("127.0.0.1:2380"));
        let loopback = |text| Address::parse(text).expect("an address").is_loopback();
        assert!(loopback("127.0.0.2:1") && loopback("[::1]:1") && loopback("localhost:1"));
        assert!(!loopback("10.0.0.1:1") && !loopback("0.0.0.0:1") && !loopback("example.org:1"));
    }

    #[test]
    fn names_and_labels() {
        assert_eq!(name("n-1.a_B").as_deref(), Ok("n-1.a_B"));
        for bad in ["", "a b", "ü", "a/b", &"x".repeat(65)] {
            assert!(name(bad).is_err(), "{bad}");
        }
        assert_eq!(labels("zone=a, rack=7").map(|labels| labels.len()), Ok(2));
        for bad in ["", "zone", "zone=", "zone=a,zone=b"] {
            assert!(labels(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn clusters() {
        assert_eq!(cluster("n1=h:1, n2=h:2").map(|nodes| nodes.len()), Ok(2));
        for (bad, why) in [
            ("", "no such pair"),
            ("n1=h:1,", "no such pair"),
            ("n1", "no such pair"),
            ("n1=h", "host:port"),
            ("n1=0.0.0.0:1", "connect to"),
            ("n 1=h:1", "names a node"),
            ("n1=h:1,n1=h:2", "n1 twice"),
            ("n1=h:1,n2=h:1", "n1 and n2 the same address h:1"),
        ] {
            let found = cluster(bad).expect_err(bad);
            assert!(found.contains(why), "{bad}: {found}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("64MiB", &(0..=u64::MAX)), Ok(64 << 20));
        assert_eq!(bytes("1 KiB", &(0..=u64::MAX)), Ok(1024));
        assert_eq!(bytes("7", &(0..=u64::MAX)), Ok(7));
        for bad in ["", "MiB", "-1", "1MB", "1.5GiB", "99999999999999999999", "18446744073709551615KiB"] {
            assert!(bytes(bad, &(0..=u64::MAX)).is_err(), "{bad}");
        }
        assert!(bytes("7", &(8..=9)).is_err());
        assert!(number("10", &(1..=9)).is_err_and(|why| why.contains("1 to 9")));
    }
}
