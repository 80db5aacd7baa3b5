//! Handshakes between certificates that fit and certificates that do not, and files that change.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::env::Env;
use crate::env::net::Stream;

/// A CA, and the directory for what it signs.
struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
    path: PathBuf,
}

const BOTH: [ExtendedKeyUsagePurpose; 2] = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        fs::write(&path, issuer.pem()).unwrap();
        Self { issuer, dir, path }
    }

    fn signed(&self, file: &str, name: &str, change: impl FnOnce(&mut CertificateParams)) -> TlsIdentity {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "a certificate");
        params.extended_key_usages = BOTH.into();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let identity = self.at(file);
        fs::write(&identity.cert, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(&identity.key, key.serialize_pem()).unwrap();
        identity
    }

    fn at(&self, file: &str) -> TlsIdentity {
        let at = |kind: &str| self.dir.path().join(format!("{file}.{kind}"));
        TlsIdentity { cert: at("pem"), key: at("key") }
    }

    fn peer(&self, name: &str) -> PeerTls {
        self.peer_with(self.signed(name, name, |_| {}), name)
    }

    fn peer_with(&self, identity: TlsIdentity, name: &str) -> PeerTls {
        PeerTls::start(&Env::real(), PeerFiles { identity, ca: self.path.clone() }, name).unwrap()
    }
}

fn expired(params: &mut CertificateParams) {
    params.not_after = date_time_ymd(2001, 1, 1);
}

fn somewhere() -> SocketAddr {
    "127.0.0.1:1".parse().unwrap()
}

fn pipe() -> (Box<dyn Stream>, Box<dyn Stream>) {
    let (one, other) = tokio::io::duplex(64 * 1024);
    (Box::new(one), Box::new(other))
}

/// Why the connecting end cannot talk to the accepting one; `None` when it can.
async fn between(connecting: &PeerTls, accepting: &PeerTls) -> Option<String> {
    let (near, far) = pipe();
    let verdict = Verdict::default();
    let talk = async {
        let (mut stream, certificate) = connecting.connect(near, verdict.clone()).await.map_err(|e| e.to_string())?;
        certificate.check_name("n2")?;
        let mut heard = [0; 2];
        match stream.read_exact(&mut heard).await {
            Ok(_) if heard == *b"hi" => Ok(()),
            other => Err(verdict.refused().map_or_else(|| format!("{other:?}"), str::to_owned)),
        }
    };
    let answer = async {
        let (mut stream, certificate) = accepting.accept(far, somewhere()).await?;
        certificate.check_name("n1").unwrap();
        stream.write_all(b"hi").await.ok()?;
        stream.flush().await.ok()?;
        Some(stream)
    };
    let (talked, _open) = tokio::join!(talk, answer);
    talked.err()
}

#[tokio::test]
async fn nodes_of_one_cluster_trust_each_other() {
    let ca = Ca::new("cluster");
    assert_eq!(between(&ca.peer("n1"), &ca.peer("n2")).await, None);
}

#[tokio::test]
async fn neither_end_trusts_what_it_must_not() {
    let ca = Ca::new("cluster");
    let (n1, n2) = (ca.peer("n1"), ca.peer("n2"));
    for (other, what) in [(Ca::new("another"), "another CA"), (Ca::new("cluster"), "another CA of the same name")] {
        let why = between(&n1, &other.peer("n2")).await.expect(what);
        assert!(why.contains("its certificate is not signed by a CA which is trusted here"), "{what}: {why}");
    }
    // A stranger that trusts the cluster is not trusted by it.
    let another = Ca::new("another");
    let stranger = another.signed("n1", "n1", |_| {});
    let why = between(&ca.peer_with(stranger, "n1"), &n2).await.expect("a stranger");
    assert!(why.contains("not signed by a CA which it trusts"), "{why}");
    let late = ca.peer_with(ca.signed("late", "n1", expired), "n1");
    let why = between(&late, &n2).await.expect("an expired certificate");
    assert!(why.contains("the certificate of this end has expired"), "{why}");
    let late = ca.peer_with(ca.signed("late", "n2", expired), "n2");
    let why = between(&n1, &late).await.expect("an expired certificate");
    assert!(why.contains("its certificate has expired"), "{why}");
}

#[tokio::test]
async fn a_certificate_for_one_end_only_opens_no_way_among_nodes() {
    let ca = Ca::new("cluster");
    for usage in BOTH {
        let only = |params: &mut CertificateParams| params.extended_key_usages = vec![usage.clone()];
        let n1 = ca.peer_with(ca.signed("only", "n1", only), "n1");
        let why = between(&n1, &ca.peer("n2")).await.expect("refused");
        assert!(why.contains("extended key usage"), "{usage:?}: {why}");
        let only = |params: &mut CertificateParams| params.extended_key_usages = vec![usage.clone()];
        let n2 = ca.peer_with(ca.signed("only", "n2", only), "n2");
        let why = between(&ca.peer("n1"), &n2).await.expect("refused");
        assert!(why.contains("extended key usage"), "{usage:?}: {why}");
    }
}

#[tokio::test]
async fn a_node_does_not_start_with_another_ones_certificate() {
    let ca = Ca::new("cluster");
    let files = PeerFiles { identity: ca.signed("n3", "n3", |_| {}), ca: ca.path.clone() };
    let error = PeerTls::start(&Env::real(), files, "n2").err().expect("refused").to_string();
    assert!(error.contains("its certificate names n3, not n2"), "{error}");
}

/// Why a client cannot talk to a server at `address`; `None` when it can.
async fn ask(client: &ClientTls, server: Option<&ServerTls>, address: &str) -> Option<String> {
    let (near, far) = pipe();
    let verdict = Verdict::default();
    let talk = async {
        let stream = client.connect(near, address, verdict.clone()).await;
        let heard = stream.map_err(|error| error.to_string())?.read_u8().await;
        heard.map_err(|error| verdict.refused().map_or_else(|| error.to_string(), str::to_owned))
    };
    let answer = async {
        let mut stream = match server {
            Some(server) => server.accept(far, somewhere()).await?,
            None => far,
        };
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.ok()?;
        stream.flush().await.ok()?;
        Some(stream)
    };
    let (talked, _open) = tokio::join!(talk, answer);
    talked.err()
}

fn client(ca: &Path, identity: Option<TlsIdentity>) -> ClientTls {
    ClientTls::start(&Env::real(), ClientFiles { ca: ca.to_owned(), identity }, false).unwrap()
}

fn server(identity: TlsIdentity, ca: Option<&Path>) -> ServerTls {
    ServerTls::start(&Env::real(), ServerFiles { identity, ca: ca.map(Path::to_owned) }).unwrap()
}

#[tokio::test]
async fn a_client_checks_the_server_it_asked_for() {
    let ca = Ca::new("servers");
    let trusting = client(&ca.path, None);
    let by_name = server(ca.signed("name", "db.example.org", |_| {}), None);
    assert_eq!(ask(&trusting, Some(&by_name), "db.example.org:2379").await, None);
    assert_eq!(ask(&trusting, Some(&server(ca.signed("v4", "10.0.0.1", |_| {}), None)), "10.0.0.1:1").await, None);
    assert_eq!(ask(&trusting, Some(&server(ca.signed("v6", "::1", |_| {}), None)), "[::1]:1").await, None);
    let late = server(ca.signed("late", "db", expired), None);
    let other = Ca::new("others");
    let unknown = server(other.signed("db", "db", |_| {}), None);
    for (server, address, why) in [
        (Some(&by_name), "other.example.org:1", "its certificate names db.example.org, not other.example.org"),
        (Some(&late), "db:1", "its certificate has expired"),
        (Some(&unknown), "db:1", "not signed by a CA which is trusted here"),
        (None, "db:1", "it does not speak TLS"),
    ] {
        let found = ask(&trusting, server, address).await.expect(why);
        assert!(found.contains(why), "{found}");
    }
}

#[tokio::test]
async fn a_server_with_a_ca_wants_a_certificate_of_it() {
    let ca = Ca::new("all");
    let strict = server(ca.signed("db", "db", |_| {}), Some(&ca.path));
    assert_eq!(ask(&client(&ca.path, Some(ca.signed("me", "me", |_| {}))), Some(&strict), "db:1").await, None);
    let other = Ca::new("others");
    for (identity, why) in [
        (None, "it wants a certificate from this end: give one and its key (--tls-cert and --tls-key)"),
        (Some(other.signed("me", "me", |_| {})), "not signed by a CA which it trusts"),
        (Some(ca.signed("late", "me", expired)), "the certificate of this end has expired"),
    ] {
        let found = ask(&client(&ca.path, identity), Some(&strict), "db:1").await.expect(why);
        assert!(found.contains(why), "{found}");
    }
}

#[tokio::test]
async fn an_end_in_the_clear_hears_that_the_other_speaks_tls() {
    let ca = Ca::new("servers");
    let server = server(ca.signed("db", "db", |_| {}), None);
    let (near, far) = pipe();
    let verdict = Verdict::default();
    let talk = async {
        let mut stream = attentive(near, verdict.clone(), "do so");
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.read_u8().await.unwrap_err();
    };
    let (accepted, ()) = tokio::join!(server.accept(far, somewhere()), talk);
    assert!(accepted.is_none());
    assert!(verdict.refused().is_some_and(|why| why.contains("speaks TLS")), "{verdict:?}");
}

#[tokio::test]
async fn files_that_change_are_used_and_bad_ones_are_not() {
    let (ca, env) = (Ca::new("servers"), Env::real());
    let trusting = client(&ca.path, None);
    let identity = ca.signed("server", "before", |_| {});
    let server = server(identity.clone(), None);
    assert_eq!(ask(&trusting, Some(&server), "before:1").await, None);
    // Half of a change, garbage, and nothing: what was there stays in use.
    let cert = fs::read(&identity.cert).unwrap();
    let new = ca.signed("new", "after", |_| {});
    fs::copy(&new.cert, &identity.cert).unwrap();
    for step in ["another key's certificate", "garbage", "nothing"] {
        for _ in 0..3 {
            server.look(&env);
        }
        assert_eq!(ask(&trusting, Some(&server), "before:1").await, None, "{step}");
        match step {
            "another key's certificate" => fs::write(&identity.cert, "garbage").unwrap(),
            "garbage" => fs::remove_file(&identity.cert).unwrap(),
            _ => fs::write(&identity.cert, &cert).unwrap(),
        }
    }
    server.look(&env);
    assert_eq!(ask(&trusting, Some(&server), "before:1").await, None);
    fs::copy(&new.cert, &identity.cert).unwrap();
    fs::copy(&new.key, &identity.key).unwrap();
    server.look(&env);
    assert_eq!(ask(&trusting, Some(&server), "after:1").await, None);
}

#[tokio::test]
async fn errors_say_what_is_wrong_and_nothing_of_what_the_file_holds() {
    let ca = Ca::new("servers");
    let good = ca.signed("good", "db", |_| {});
    let other = ca.signed("other", "db", |_| {});
    let secret = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0!secret\n-----END PRIVATE KEY-----\nsecret\n";
    let bad = ca.dir.path().join("bad");
    fs::write(&bad, secret).unwrap();
    let missing = ca.dir.path().join("missing");
    let pair = |cert: &Path, key: &Path| TlsIdentity { cert: cert.to_owned(), key: key.to_owned() };
    for (identity, why) in [
        (pair(&missing, &good.key), "missing: there is no such file"),
        (pair(&bad, &good.key), "bad: it is damaged, or not in PEM form"),
        (pair(&good.key, &good.key), "good.key: it holds no certificate"),
        (pair(&good.cert, &bad), "bad: it holds no private key"),
        (pair(&good.cert, &good.cert), "good.pem: it holds no private key"),
        (pair(&good.cert, &other.key), "other.key: it is not the key of the certificate in"),
    ] {
        let error = ServerTls::start(&Env::real(), ServerFiles { identity, ca: None }).err().expect(why).to_string();
        assert!(error.contains(why), "{error}");
        assert!(!error.contains("secret") && !error.contains("c2Vj") && !error.contains("BEGIN"), "{error}");
    }
}
