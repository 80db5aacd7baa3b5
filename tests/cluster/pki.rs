//! Certificates as an operator would make them, and the files of a cluster that speaks TLS.

use std::fs;
use std::path::{Path, PathBuf};

use quorate::client::{ClientFiles, TlsIdentity};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};

use super::harness::{Cluster, Node};

/// One certificate authority.
pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

/// What a certificate is made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Made {
    /// Both ends: nodes.
    ForBoth,
    /// Clients only.
    ForClients,
    /// Its time is over.
    LongAgo,
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Signs a certificate with these names and leaves it and its key in `dir`.
    pub(crate) fn sign(&self, dir: &Path, file: &str, names: &[&str], made: Made) -> TlsIdentity {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, file);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if made != Made::ForClients {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if made == Made::LongAgo {
            params.not_after = date_time_ymd(2001, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let identity = TlsIdentity { cert: dir.join(format!("{file}.pem")), key: dir.join(format!("{file}.key")) };
        replace(&identity.cert, &params.signed_by(&key, &self.0).unwrap().pem());
        replace(&identity.key, &key.serialize_pem());
        identity
    }
}

/// Replaces a file at once, as tools that renew certificates do.
pub(crate) fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(new, path).unwrap();
}

/// The files of a cluster, all in one directory.
pub(crate) struct Files {
    pub(crate) dir: PathBuf,
    pub(crate) ca: PathBuf,
}

impl Files {
    /// Lets a cluster that is not started yet speak TLS at both ports, and its clients with it.
    pub(crate) fn guard(cluster: &mut Cluster, ca: &Ca) -> Self {
        let dir = cluster.root.path().join("tls");
        fs::create_dir(&dir).unwrap();
        let files = Self { ca: dir.join("ca.pem"), dir };
        replace(&files.ca, &ca.pem());
        for node in &mut cluster.nodes {
            let server = ca.sign(&files.dir, &format!("{}-server", node.name), &["127.0.0.1"], Made::ForBoth);
            let peer = ca.sign(&files.dir, &node.name, &[&node.name], Made::ForBoth);
            for (flag, path) in [
                ("--tls-cert", &server.cert),
                ("--tls-key", &server.key),
                ("--tls-ca", &files.ca),
                ("--peer-tls-cert", &peer.cert),
                ("--peer-tls-key", &peer.key),
                ("--peer-tls-ca", &files.ca),
            ] {
                node.set_flag(flag, path.to_str().unwrap());
            }
        }
        let identity = files.sign_client(ca);
        cluster.tls = Some(ClientFiles { ca: files.ca.clone(), identity: Some(identity) });
        files
    }

    /// Signs everything anew, under the names of before.
    pub(crate) fn renew(&self, cluster: &Cluster, ca: &Ca) {
        for node in &cluster.nodes {
            ca.sign(&self.dir, &format!("{}-server", node.name), &["127.0.0.1"], Made::ForBoth);
            ca.sign(&self.dir, &node.name, &[&node.name], Made::ForBoth);
        }
        self.sign_client(ca);
    }

    /// Certificate and key in one file: a client that starts at any moment finds what belongs together.
    fn sign_client(&self, ca: &Ca) -> TlsIdentity {
        let TlsIdentity { cert, key } = ca.sign(&self.dir, "client-new", &["a client"], Made::ForClients);
        let both = self.dir.join("client.key");
        let content = fs::read_to_string(cert).unwrap() + &fs::read_to_string(key).unwrap();
        replace(&both, &content);
        TlsIdentity { cert: both.clone(), key: both }
    }

    /// Fails when something that a node said, or that is given, holds a piece of a key.
    pub(crate) fn nothing_leaked(&self, nodes: &[Node], said: &[String]) {
        let keys = fs::read_dir(&self.dir).unwrap().map(|entry| entry.unwrap().path());
        let keys = keys.filter(|path| path.extension().is_some_and(|extension| extension == "key"));
        let pieces: Vec<String> = keys
            .flat_map(|path| fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
            .filter(|line| line.len() > 20 && !line.starts_with("-----"))
            .collect();
        assert!(pieces.len() > 3, "keys have lines");
        for said in nodes.iter().map(Node::output).chain(said.iter().cloned()) {
            assert!(!said.contains("PRIVATE KEY"), "{said}");
            assert!(!pieces.iter().any(|piece| said.contains(piece.as_str())), "a key was logged");
        }
    }
}
