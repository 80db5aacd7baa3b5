//! The accepting end: the port for clients, and what it shares with the port for peers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::current::{Current, Made};
use super::files::{Files, Presented, ServerFiles, TlsError, TlsIdentity};
use super::refusals::Refusals;
use super::{Calendar, HANDSHAKE_TIMEOUT, explain, provider};
use crate::env::Env;
use crate::env::net::Stream;
use crate::env::time;

/// Time for the other end to hear why it was refused.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes that are read from it meanwhile.
const FAREWELL_BYTES_MAX: u64 = 64 * 1024;

/// TLS on the port for clients.
pub struct ServerTls {
    current: Arc<Current<ServerConfig>>,
    refusals: Refusals,
}

impl ServerTls {
    /// Reads the files, and follows them from then on. Needs a tokio runtime.
    ///
    /// # Errors
    /// When a file cannot be read or used.
    pub fn start(env: &Env, files: ServerFiles) -> Result<Self, TlsError> {
        let ServerFiles { identity, ca } = files;
        let all = Files { identity: Some(identity.clone()), ca };
        let current = Current::open(&*env.disk, all, move |mut material| {
            let clients = material.roots().map(|roots| clients(roots, &identity)).transpose()?;
            let own = material.identity().ok_or_else(|| TlsError::unusable(&identity.cert, "it was not read"))?;
            let config = config(own, &identity, clients, &[b"h2", b"http/1.1"])?;
            Ok(Made { value: config, doubt: None })
        })?;
        current.follow(env);
        Ok(Self { current, refusals: Refusals::default() })
    }

    /// Shakes hands with a client; `None` when that failed, which is logged.
    pub async fn accept(&self, stream: Box<dyn Stream>, from: SocketAddr) -> Option<Box<dyn Stream>> {
        let stream =
            accept(self.current.get(), stream, from, &self.refusals, "refused a connection on the client port").await?;
        Some(Box::new(stream))
    }

    #[cfg(test)]
    pub(super) fn look(&self, env: &Env) {
        self.current.look(&*env.disk);
    }
}

/// Whoever presents a certificate of these CAs that is made for clients.
pub(super) fn clients(roots: RootCertStore, own: &TlsIdentity) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let built = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    built.map_err(|error| TlsError::unusable(&own.cert, format!("its clients' CA cannot be used: {error}")))
}

pub(super) fn config(
    (chain, key): Presented,
    own: &TlsIdentity,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    protocols: &[&[u8]],
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_details(provider(), Arc::new(Calendar));
    let builder = builder.with_protocol_versions(&[&TLS13]).map_err(|error| unfit(own, &error))?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| unfit(own, &error))?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Why certificate and key cannot be presented.
pub(super) fn unfit(own: &TlsIdentity, error: &rustls::Error) -> TlsError {
    let why = if matches!(error, rustls::Error::InconsistentKeys(_)) {
        "it is not the key of the certificate".to_owned()
    } else {
        format!("certificate and key cannot be used: {error}")
    };
    TlsError::unusable(&own.key, format!("{why} in {}", own.cert.display()))
}

/// A handshake within its time. Who is refused hears why, and so does the log, once.
pub(super) async fn accept(
    config: Arc<ServerConfig>,
    stream: Box<dyn Stream>,
    from: SocketAddr,
    refusals: &Refusals,
    what: &str,
) -> Option<TlsStream<Box<dyn Stream>>> {
    let shaking = TlsAcceptor::from(config).accept(stream).into_fallible();
    match time::timeout(HANDSHAKE_TIMEOUT, shaking).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err((error, stream))) => {
            if explain::of(&error).is_some() {
                refusals.log(what, &from.ip().to_string(), &explain::handshake(&error));
                farewell(stream).await;
            } else {
                tracing::debug!(%from, %error, "a connection ended during the TLS handshake");
            }
            None
        }
        Err(_) => {
            tracing::debug!(%from, "a TLS handshake took too long");
            None
        }
    }
}

/// Lets the reason arrive: a connection that is closed while something is unread is reset, and what was
/// sent last may be lost.
async fn farewell(mut stream: Box<dyn Stream>) {
    let heard = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(FAREWELL_BYTES_MAX), &mut tokio::io::sink()).await?;
        io::Result::Ok(())
    };
    // Whether it heard does not matter to this end.
    time::timeout(FAREWELL_TIMEOUT, heard).await.ok();
}
