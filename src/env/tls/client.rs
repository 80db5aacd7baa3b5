//! The connecting end of a client: the server's certificate must name the host that was asked for.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use tokio_rustls::TlsConnector;

use super::current::{Current, Made};
use super::files::{ClientFiles, Files, Material, TlsError};
use super::stream::{Verdict, attentive_tls};
use super::{Calendar, explain, failed, provider};
use crate::env::Env;
use crate::env::net::Stream;

/// TLS to servers.
pub struct ClientTls {
    current: Arc<Current<ClientConfig>>,
}

impl ClientTls {
    /// Reads the files, and follows them from then on if told so. Needs a tokio runtime.
    ///
    /// # Errors
    /// When a file cannot be read or used.
    pub fn start(env: &Env, files: ClientFiles, follow: bool) -> Result<Self, TlsError> {
        let all = Files { identity: files.identity.clone(), ca: Some(files.ca.clone()) };
        let current = Current::open(&*env.disk, all, move |material| {
            let config = config(material, &files)?;
            Ok(Made { value: config, doubt: None })
        })?;
        if follow {
            current.follow(env);
        }
        Ok(Self { current })
    }

    /// Shakes hands on a connection to `host:port`. `verdict` becomes the reason if one end refuses the
    /// other.
    ///
    /// # Errors
    /// The handshake failed; the error says what to do.
    pub async fn connect(
        &self,
        stream: Box<dyn Stream>,
        address: &str,
        verdict: Verdict,
    ) -> io::Result<Box<dyn Stream>> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let unnamed = |_| {
            let why = format!("no certificate can name {host}, which is neither a DNS name nor an IP address");
            io::Error::new(io::ErrorKind::InvalidInput, why)
        };
        let name = ServerName::try_from(host.to_owned()).map_err(unnamed)?;
        match TlsConnector::from(self.current.get()).connect(name, stream).await {
            Ok(stream) => Ok(attentive_tls(stream, verdict)),
            Err(error) if explain::of(&error).is_some() => Err(verdict.set(&explain::handshake(&error))),
            Err(error) => Err(failed(&error)),
        }
    }
}

fn config(mut material: Material, files: &ClientFiles) -> Result<ClientConfig, TlsError> {
    let roots = material.roots().ok_or_else(|| TlsError::unusable(&files.ca, "it was not read"))?;
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(Calendar));
    let builder = builder.with_protocol_versions(&[&TLS13]);
    let unfit = |error: rustls::Error| match &files.identity {
        Some(own) => super::server::unfit(own, &error),
        None => TlsError::unusable(&files.ca, format!("it cannot be used: {error}")),
    };
    let builder = builder.map_err(unfit)?.with_root_certificates(roots);
    let mut config = match material.identity() {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(unfit)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}
