//! Both ends between nodes: each presents a certificate of the cluster's CA, which is checked for its
//! signature, its dates and its use at once, and for the node's name when the node has said who it is.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, DnsName, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
};
use tokio_rustls::TlsConnector;

use super::current::{Current, Made};
use super::files::{Files, Material, PeerFiles, TlsError, TlsIdentity};
use super::refusals::Refusals;
use super::stream::{Verdict, attentive_tls};
use super::{Calendar, explain, failed, provider, server};
use crate::env::Env;
use crate::env::net::Stream;

/// Protocols on a connection between nodes.
const PROTOCOLS: [&[u8]; 1] = [b"h2"];

/// TLS between nodes.
pub struct PeerTls {
    current: Arc<Current<Configs>>,
    refusals: Refusals,
}

struct Configs {
    accepting: Arc<ServerConfig>,
    connecting: Arc<ClientConfig>,
}

impl PeerTls {
    /// Reads the files of the node `name`, and follows them from then on. Needs a tokio runtime.
    ///
    /// # Errors
    /// When a file cannot be read or used, or the certificate does not name the node.
    pub fn start(env: &Env, files: PeerFiles, name: &str) -> Result<Self, TlsError> {
        let PeerFiles { identity, ca } = files;
        let all = Files { identity: Some(identity.clone()), ca: Some(ca) };
        let name = name.to_owned();
        let current = Current::open(&*env.disk, all, move |material| make(material, &identity, &name))?;
        current.follow(env);
        Ok(Self { current, refusals: Refusals::default() })
    }

    /// Shakes hands on a connection to a peer. `verdict` becomes the reason if the peer refuses this end.
    ///
    /// # Errors
    /// The handshake failed; the error says what to do.
    pub async fn connect(
        &self,
        stream: Box<dyn Stream>,
        verdict: Verdict,
    ) -> io::Result<(Box<dyn Stream>, Certificate)> {
        let config = self.current.get().connecting.clone();
        // Not asked for: nodes are known by their names, not by those of machines.
        let anybody = ServerName::try_from("peer").map_err(io::Error::other)?;
        let stream = TlsConnector::from(config).connect(anybody, stream).await.map_err(|error| failed(&error))?;
        let certificate = presented(stream.get_ref().1.peer_certificates())?;
        Ok((attentive_tls(stream, verdict), certificate))
    }

    /// Shakes hands with a peer that connected; `None` when that failed, which is logged.
    pub async fn accept(&self, stream: Box<dyn Stream>, from: SocketAddr) -> Option<(Box<dyn Stream>, Certificate)> {
        let config = self.current.get().accepting.clone();
        let what = "refused a connection on the peer port";
        let stream = server::accept(config, stream, from, &self.refusals, what).await?;
        let certificate = presented(stream.get_ref().1.peer_certificates()).ok()?;
        Some((Box::new(stream), certificate))
    }

    /// Where refusals are logged.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }
}

fn presented(chain: Option<&[CertificateDer<'static>]>) -> io::Result<Certificate> {
    let first = chain.and_then(<[_]>::first);
    first.cloned().map(Certificate).ok_or_else(|| failed(&io::Error::other(Error::NoCertificatesPresented)))
}

/// What the other end presented: signed by the cluster's CA, valid, and made for both ends.
#[derive(Clone, Debug)]
pub struct Certificate(CertificateDer<'static>);

impl Certificate {
    /// Whether it names a node.
    ///
    /// # Errors
    /// In words, which begin with "its certificate".
    pub fn check_name(&self, node: &str) -> Result<(), String> {
        let name = DnsName::try_from(node.to_owned());
        let name = name.map_err(|_| format!("its certificate cannot name {node}, which is no DNS name"))?;
        let checked = ParsedCertificate::try_from(&self.0)
            .and_then(|certificate| verify_server_name(&certificate, &ServerName::DnsName(name)));
        checked.map_err(|error| explain::tls(&error))
    }

    #[cfg(test)]
    pub(crate) fn of(der: CertificateDer<'static>) -> Self {
        Self(der)
    }
}

fn make(mut material: Material, own: &TlsIdentity, name: &str) -> Result<Made<Configs>, TlsError> {
    let unread = || TlsError::unusable(&own.cert, "it was not read");
    let roots = material.roots().ok_or_else(unread)?;
    let trust = Arc::new(Trust::new(roots, own)?);
    let (chain, key) = material.identity().ok_or_else(unread)?;
    let first = chain.first().ok_or_else(unread)?;
    Certificate(first.clone()).check_name(name).map_err(|why| {
        let why = format!("{why}: peers would refuse this node; it needs a certificate with its name (--name)");
        TlsError::unusable(&own.cert, why)
    })?;
    let today = Calendar::today().ok_or_else(|| TlsError::unusable(&own.cert, "the clock shows no date"))?;
    let doubt = trust.check(first, &chain[1..], today).err();
    let doubt = doubt.map(|error| {
        let why = format!("{}; peers with the same CA refuse this node", explain::tls(&error));
        TlsError::unusable(&own.cert, why)
    });
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(Calendar));
    let builder = builder.with_protocol_versions(&[&TLS13]).map_err(|error| server::unfit(own, &error))?;
    let builder = builder.dangerous().with_custom_certificate_verifier(trust.clone());
    let connecting = builder.with_client_auth_cert(chain.clone(), key.clone_key());
    let mut connecting = connecting.map_err(|error| server::unfit(own, &error))?;
    connecting.alpn_protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
    connecting.enable_sni = false;
    connecting.resumption = Resumption::disabled();
    let accepting = server::config((chain, key), own, Some(trust), &PROTOCOLS)?;
    Ok(Made { value: Configs { accepting: Arc::new(accepting), connecting: Arc::new(connecting) }, doubt })
}

/// Nodes are servers and clients to each other: whoever connects or is connected to, its certificate must be
/// good for both, so that one which is made for a client opens no way among the nodes.
#[derive(Debug)]
struct Trust {
    roots: RootCertStore,
    clients: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    fn new(roots: RootCertStore, own: &TlsIdentity) -> Result<Self, TlsError> {
        let clients = server::clients(roots.clone(), own)?;
        Ok(Self { roots, clients, algorithms: provider().signature_verification_algorithms })
    }

    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)?;
        self.clients.verify_client_cert(end_entity, intermediates, now).map(drop)
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Trust {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
