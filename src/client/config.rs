//! What a client is told at its start.

use std::path::PathBuf;
use std::time::Duration;

use super::error::{Error, Result};
use super::limits::{ATTEMPT_TIMEOUT_DEFAULT, ENDPOINTS_MAX, PORT_DEFAULT};
use super::options::Consistency;
use crate::env::tls::{ClientFiles, TlsIdentity};
use crate::proto::v1::ErrorCode;
use crate::types::limits::{REQUEST_TIMEOUT_DEFAULT, REQUEST_TIMEOUT_MAX};

/// Settings of a [`Client`](super::Client).
///
/// ```
/// use std::time::Duration;
/// use quorate::client::ClientConfig;
///
/// let config = ClientConfig::new(["10.0.0.1:2379", "10.0.0.2:2379"])
///     .keyspace("sessions")
///     .timeout(Duration::from_secs(2));
/// assert_eq!(config.endpoints.len(), 2);
/// ```
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `host:port` of some nodes; the others are learned from them. A scheme `http://`, or `https://`
    /// with [`tls`](Self::tls), and a missing port (2379) are tolerated.
    pub endpoints: Vec<String>,
    /// Keyspace of requests that name none.
    pub keyspace: String,
    /// Time a call may take in all, retries included.
    pub timeout: Duration,
    /// Time one attempt may take before another node is asked; for calls that may be repeated.
    pub attempt_timeout: Duration,
    /// How new reads must be that do not say.
    pub consistency: Consistency,
    /// Where this client stands, as the label `zone` of nodes says it: reads that any replica may serve go
    /// there first.
    pub zone: Option<String>,
    /// Whether to follow changes of the map in the background. Without it the map is refreshed
    /// when a node says that it is old.
    pub watch_map: bool,
    /// TLS to the nodes: who signs their certificates, and what this client presents. The certificate of a
    /// node must name the host or the IP address of its endpoint. Files that change are read again, if the
    /// map is followed.
    pub tls: Option<ClientFiles>,
}

impl ClientConfig {
    /// The default settings for a cluster with these nodes.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            keyspace: "default".to_owned(),
            timeout: REQUEST_TIMEOUT_DEFAULT,
            attempt_timeout: ATTEMPT_TIMEOUT_DEFAULT,
            consistency: Consistency::Linearizable,
            zone: None,
            watch_map: true,
            tls: None,
        }
    }

    /// Sets the keyspace.
    #[must_use]
    pub fn keyspace(self, keyspace: impl Into<String>) -> Self {
        Self { keyspace: keyspace.into(), ..self }
    }

    /// Sets the time a call may take in all.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Sets the time one attempt may take.
    #[must_use]
    pub fn attempt_timeout(self, attempt_timeout: Duration) -> Self {
        Self { attempt_timeout, ..self }
    }

    /// Sets how new reads must be that do not say.
    #[must_use]
    pub fn consistency(self, consistency: Consistency) -> Self {
        Self { consistency, ..self }
    }

    /// Sets where this client stands.
    #[must_use]
    pub fn zone(self, zone: impl Into<String>) -> Self {
        Self { zone: Some(zone.into()), ..self }
    }

    /// Sets whether the map is followed in the background.
    #[must_use]
    pub fn watch_map(self, watch_map: bool) -> Self {
        Self { watch_map, ..self }
    }

    /// Speaks TLS to nodes whose certificates one of the CAs in this PEM file has signed.
    #[must_use]
    pub fn tls_ca(self, ca: impl Into<PathBuf>) -> Self {
        let identity = self.tls.and_then(|files| files.identity);
        Self { tls: Some(ClientFiles { ca: ca.into(), identity }), ..self }
    }

    /// Presents a certificate to nodes that ask for one; both are PEM files. Call it after
    /// [`tls_ca`](Self::tls_ca): without TLS there is nobody to present it to.
    #[must_use]
    pub fn tls_identity(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        if let Some(files) = &mut self.tls {
            files.identity = Some(TlsIdentity { cert: cert.into(), key: key.into() });
        }
        self
    }

    /// Checks everything, and brings endpoints into the form `host:port`.
    pub(crate) fn normalized(mut self) -> Result<Self> {
        let invalid = |message: String| Err(Error::not_applied(ErrorCode::InvalidArgument, message));
        if self.endpoints.is_empty() {
            return invalid("no endpoint given: name at least one node as host:port".into());
        }
        if self.endpoints.len() > ENDPOINTS_MAX {
            return Err(Error::limit("endpoints_max", ENDPOINTS_MAX, self.endpoints.len()));
        }
        if self.keyspace.is_empty() {
            return invalid("the keyspace has no name: leave it out to use `default`".into());
        }
        for (name, value) in [("timeout", self.timeout), ("attempt timeout", self.attempt_timeout)] {
            if value.is_zero() || value > REQUEST_TIMEOUT_MAX {
                return invalid(format!("the {name} must lie between 1ms and {}s", REQUEST_TIMEOUT_MAX.as_secs()));
            }
        }
        let mut endpoints = Vec::new();
        for endpoint in &self.endpoints {
            let endpoint = normalize(endpoint, self.tls.is_some())?;
            if !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
        self.endpoints = endpoints;
        Ok(self)
    }
}

/// Brings an endpoint into the form `host:port`.
fn normalize(endpoint: &str, tls: bool) -> Result<String> {
    let invalid = |why: &str| {
        let message = format!("endpoint `{endpoint}` {why}: write it as host:port");
        Err(Error::not_applied(ErrorCode::InvalidArgument, message))
    };
    let address = endpoint.trim();
    let (scheme, address) = address.split_once("://").unwrap_or((if tls { "https" } else { "http" }, address));
    match (scheme, tls) {
        ("https", true) | ("http", false) => {}
        ("https", false) => return invalid("asks for TLS: name the CA of the certificates there (--tls-ca), or"),
        ("http", true) => return invalid("asks for no TLS, but a CA is named (--tls-ca): leave out one of them, or"),
        _ => return invalid("has an unknown scheme"),
    }
    let address = address.trim_end_matches('/');
    if address.is_empty() || address.contains(['/', '@', ' ', '?', '#']) {
        return invalid("is no address");
    }
    let bare_ipv6 = address.matches(':').count() > 1 && !address.starts_with('[');
    if bare_ipv6 {
        return invalid("is an IPv6 address without brackets");
    }
    let address = if address.rfind(':').is_some_and(|colon| !address[colon..].contains(']')) {
        address.to_owned()
    } else {
        format!("{address}:{PORT_DEFAULT}")
    };
    let port = address.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
    if port.is_none_or(|port| port == 0) || address.starts_with(':') {
        return invalid("has no usable host or port");
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::{ClientConfig, normalize};

    #[test]
    fn endpoints_are_brought_into_one_form() {
        assert_eq!(normalize("http://a:1/", false).unwrap(), "a:1");
        assert_eq!(normalize("https://a:1/", true).unwrap(), "a:1");
        for tls in [false, true] {
            assert_eq!(normalize(" a ", tls).unwrap(), "a:2379");
            assert_eq!(normalize("[::1]", tls).unwrap(), "[::1]:2379");
            assert_eq!(normalize("[::1]:5", tls).unwrap(), "[::1]:5");
            for bad in ["", "::1", "a:", "a:0", "a:99999", "a/b", ":2379", "http://", "https://", "ftp://a:1"] {
                assert!(normalize(bad, tls).is_err(), "{bad}");
            }
        }
        assert!(normalize("https://a:1", false).unwrap_err().message.contains("--tls-ca"));
        assert!(normalize("http://a:1", true).unwrap_err().message.contains("--tls-ca"));
    }

    #[test]
    fn bad_settings_are_refused() {
        assert!(ClientConfig::new(Vec::<String>::new()).normalized().is_err());
        assert!(ClientConfig::new(["a:1"]).timeout(std::time::Duration::ZERO).normalized().is_err());
        assert!(ClientConfig::new(["a:1"]).keyspace("").normalized().is_err());
        let twice = ClientConfig::new(["a:1", "http://a:1"]).normalized().unwrap();
        assert_eq!(twice.endpoints, ["a:1"]);
    }
}
