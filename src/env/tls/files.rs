//! Certificates and keys in PEM files: where they lie, and what is in them.

use std::io;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use xxhash_rust::xxh3::Xxh3;

use crate::env::disk::Disk;

/// Longest file of certificates or keys that is read, in bytes.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// A certificate, with those between it and its CA behind it, and its private key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsIdentity {
    /// PEM file of the certificates.
    pub cert: PathBuf,
    /// PEM file of the key.
    pub key: PathBuf,
}

/// What a port for clients needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerFiles {
    /// What it presents.
    pub identity: TlsIdentity,
    /// PEM file of the CAs that sign clients' certificates. Without it none is asked for.
    pub ca: Option<PathBuf>,
}

/// What a node needs among its peers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerFiles {
    /// What it presents, to whoever connects and wherever it connects.
    pub identity: TlsIdentity,
    /// PEM file of the CAs that sign the nodes' certificates.
    pub ca: PathBuf,
}

/// What a client needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientFiles {
    /// PEM file of the CAs that sign the servers' certificates.
    pub ca: PathBuf,
    /// What it presents to a server that asks for it.
    pub identity: Option<TlsIdentity>,
}

/// Files that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TlsError {
    /// The file system does not give it.
    #[error("cannot read {}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        why: String,
    },
    /// Its content is not what it should be. The content itself is not told.
    #[error("{}: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl TlsError {
    pub(super) fn unusable(path: &Path, why: impl Into<String>) -> Self {
        Self::Unusable { path: path.to_owned(), why: why.into() }
    }
}

/// Every file of a role.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) identity: Option<TlsIdentity>,
    pub(super) ca: Option<PathBuf>,
}

/// Certificates, that of this end first, and its key.
pub(super) type Presented = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What they held when they were read.
pub(super) struct Material {
    /// Tells one content from another.
    pub(super) fingerprint: u64,
    identity: Option<Presented>,
    roots: Option<RootCertStore>,
}

impl Material {
    pub(super) fn read(disk: &dyn Disk, files: &Files) -> Result<Self, TlsError> {
        let mut hash = Xxh3::new();
        let mut read = |path: &Path| -> Result<Vec<u8>, TlsError> {
            let content = disk.read(path, FILE_BYTES_MAX);
            let content = content.map_err(|error| TlsError::Read { path: path.to_owned(), why: why(&error) })?;
            hash.update(&(content.len() as u64).to_le_bytes());
            hash.update(&content);
            Ok(content)
        };
        let identity = match &files.identity {
            None => None,
            Some(TlsIdentity { cert, key }) => Some((chain(cert, &read(cert)?)?, private_key(key, &read(key)?)?)),
        };
        let roots = match &files.ca {
            None => None,
            Some(ca) => Some(roots(ca, &read(ca)?)?),
        };
        Ok(Self { fingerprint: hash.digest(), identity, roots })
    }

    /// Certificates and key, for a role that has them.
    pub(super) fn identity(&mut self) -> Option<Presented> {
        self.identity.take()
    }

    /// The CAs that are trusted, for a role that names some.
    pub(super) fn roots(&mut self) -> Option<RootCertStore> {
        self.roots.take()
    }
}

fn why(error: &io::Error) -> String {
    let kind = error.kind();
    if kind == io::ErrorKind::NotFound {
        "there is no such file".to_owned()
    } else if kind == io::ErrorKind::PermissionDenied {
        "this process may not read it".to_owned()
    } else {
        error.to_string()
    }
}

fn chain(path: &Path, content: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    // The reader's own errors quote the file.
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(content).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(TlsError::unusable(path, "it holds no certificate in PEM form")),
        Err(_) => Err(TlsError::unusable(path, "it is damaged, or not in PEM form")),
    }
}

fn private_key(path: &Path, content: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    let key = PrivateKeyDer::from_pem_slice(content);
    key.map_err(|_| TlsError::unusable(path, "it holds no private key in PEM form that is not encrypted"))
}

fn roots(path: &Path, content: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(path, content)? {
        roots.add(certificate).map_err(|_| TlsError::unusable(path, "it holds a certificate that is not valid"))?;
    }
    Ok(roots)
}
