//! TLS of both ports, and the rule that nothing is open to others without it by accident.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::values::{self, Address};
use super::{ConfigError, Values};
use crate::env::tls::{PeerFiles, ServerFiles, TlsIdentity};

/// How the ports are guarded.
pub(super) struct Security {
    pub(super) client: Option<ServerFiles>,
    pub(super) peer: Option<PeerFiles>,
    pub(super) insecure: bool,
}

impl Security {
    pub(super) fn resolve(given: &Values) -> Result<Self, ConfigError> {
        let file = |key| given.parsed(key, file);
        let client = match (file("tls_cert")?, file("tls_key")?, file("tls_ca")?) {
            (None, None, None) => None,
            (Some(cert), Some(key), ca) => Some(ServerFiles { identity: TlsIdentity { cert, key }, ca }),
            _ => {
                let why = "TLS for clients needs both tls_cert and tls_key; tls_ca is for clients' certificates";
                return Err(ConfigError::Conflict(why.to_owned()));
            }
        };
        let peer = match (file("peer_tls_cert")?, file("peer_tls_key")?, file("peer_tls_ca")?) {
            (None, None, None) => None,
            (Some(cert), Some(key), Some(ca)) => Some(PeerFiles { identity: TlsIdentity { cert, key }, ca }),
            _ => {
                let why =
                    "TLS between nodes needs peer_tls_cert, peer_tls_key and peer_tls_ca: each node proves who it is";
                return Err(ConfigError::Conflict(why.to_owned()));
            }
        };
        let insecure = given.parsed("insecure", values::switch)?.unwrap_or(false);
        Ok(Self { client, peer, insecure })
    }

    /// Whoever reaches a port without TLS can read and write everything: that must be meant.
    pub(super) fn check(
        &self,
        client_listen: &str,
        etcd_listen: &BTreeMap<String, String>,
        peer_listen: &str,
    ) -> Result<(), ConfigError> {
        let of_clients = |key, address| (key, address, self.client.is_some(), "tls_cert and tls_key");
        let client = of_clients("client_addr", client_listen);
        let etcd = etcd_listen.values().map(|address| of_clients("etcd_addr", address.as_str()));
        let peer = ("peer_addr", peer_listen, self.peer.is_some(), "peer_tls_cert, peer_tls_key and peer_tls_ca");
        for (key, address, tls, files) in [client, peer].into_iter().chain(etcd) {
            if !tls && !self.insecure && is_open(address) {
                return Err(ConfigError::Conflict(format!(
                    "{key} is {address}, where others can reach this node, and there is no TLS: set {files}, or listen \
                     on 127.0.0.1; if the network keeps everybody else away, say --insecure"
                )));
            }
        }
        Ok(())
    }
}

/// Whether others than this machine may reach a listening address.
pub(super) fn is_open(address: &str) -> bool {
    Address::parse(address).is_ok_and(|address| !address.is_loopback())
}

fn file(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("must name a file".to_owned()) } else { Ok(PathBuf::from(text)) }
}
