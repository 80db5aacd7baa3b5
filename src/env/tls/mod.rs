//! TLS around the byte streams of [`super::net`]: certificates from files that may be replaced while they
//! are in use, and plain words for whatever goes wrong.
//!
//! Three roles: [`ServerTls`] for the port that clients use, [`PeerTls`] for both ends between nodes, and
//! [`ClientTls`] for a client. Knows certificates and handshakes; who may do what is decided above. Only TLS
//! 1.3 is spoken, and no session is resumed: a resumed one would outlive the certificate it began with.
//!
//! Validity is the one decision here that follows the wall clock, since certificates name dates. Keys and
//! nonces of TLS come from the provider's own random source. Without TLS nothing in this room runs, so that
//! a simulation, which uses none, stays deterministic. What a file holds appears in no error and no log.

mod client;
mod current;
mod explain;
mod files;
mod peer;
mod refusals;
mod server;
mod stream;

#[cfg(test)]
mod tests;

pub use client::ClientTls;
pub use files::{ClientFiles, PeerFiles, ServerFiles, TlsError, TlsIdentity};
pub use peer::{Certificate, PeerTls};
pub use refusals::Refusals;
pub use server::ServerTls;
pub use stream::{Verdict, attentive};

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use super::time;

/// Time for a handshake on a connection that was accepted.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the files are looked at.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The one implementation of cryptography that is compiled in.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Tells rustls the date.
#[derive(Debug)]
struct Calendar;

impl Calendar {
    fn today() -> Option<UnixTime> {
        time::wall().duration_since(SystemTime::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

impl TimeProvider for Calendar {
    fn current_time(&self) -> Option<UnixTime> {
        Self::today()
    }
}

/// A failed handshake in words.
fn failed(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), explain::handshake(error))
}
