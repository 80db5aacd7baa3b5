//! TLS at both ports: who is refused, how often that is said, and certificates that change under load.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hyper_util::rt::TokioIo;
use prost::Message;
use quorate::client::{Client, ClientConfig, ClientFiles, TlsIdentity};
use quorate::env::Env;
use quorate::env::tls::{ClientTls, PeerFiles, PeerTls, Verdict};
use quorate::proto::internal::peer_client::PeerClient;
use quorate::proto::internal::peer_error::Code as PeerCode;
use quorate::proto::internal::{AppendFrame, Envelope, HelloRequest, Incarnation, PeerError, append_reply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::transport::{Channel, Endpoint};

use super::harness::{Cluster, Node, STUCK, check_filled, eventually, fill, free_port};
use super::pki::{Ca, Files, Made, replace};

/// Lines of a node's log at a level that hold all these words.
fn lines(node: &Node, level: &str, words: &[&str]) -> usize {
    let output = node.output();
    output.lines().filter(|line| line.contains(level) && words.iter().all(|word| line.contains(word))).count()
}

/// Runs kvctl with other files, in vain; returns what it said.
fn refused(cluster: &Cluster, tls: &[&str], words: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_kvctl"))
        .args(["--endpoints", &cluster.nodes[0].client, "--timeout", "2s"])
        .args(tls)
        .args(["put", "intruder", "was here"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{tls:?}: {said}");
    assert!(said.contains(words) && said.contains("hint: check --tls-ca"), "{tls:?}: {said}");
    said
}

/// Options of kvctl.
fn options(ca: &std::path::Path, identity: Option<&TlsIdentity>) -> Vec<String> {
    let mut options = vec!["--tls-ca".to_owned(), ca.display().to_string()];
    if let Some(TlsIdentity { cert, key }) = identity {
        options.extend(["--tls-cert".to_owned(), cert.display().to_string()]);
        options.extend(["--tls-key".to_owned(), key.display().to_string()]);
    }
    options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_not_trusted_are_refused_and_told_why() {
    let (ca, other) = (Ca::new("the cluster"), Ca::new("another"));
    let mut cluster = Cluster::new(1, &["--log", "debug"]);
    let files = Files::guard(&mut cluster, &ca);
    cluster.start_all();
    cluster.wait_ready().await;
    let dir = &files.dir;
    let good = cluster.tls.clone().unwrap().identity;
    let foreign = other.sign(dir, "foreign", &["a client"], Made::ForClients);
    let late = ca.sign(dir, "late", &["a client"], Made::LongAgo);
    let other_ca = dir.join("other-ca.pem");
    replace(&other_ca, &other.pem());
    let mut said = Vec::new();
    for (options, words, logged) in [
        (vec![], "speaks TLS and this end does not", "it does not speak TLS"),
        (options(&other_ca, good.as_ref()), "its certificate is not signed by a CA", "it says that the certificate"),
        (options(&files.ca, None), "it wants a certificate from this end", "it presented no certificate"),
        (options(&files.ca, Some(&foreign)), "is not signed by a CA which it trusts", "its certificate is not signed"),
        (options(&files.ca, Some(&late)), "the certificate of this end has expired", "its certificate has expired"),
    ] {
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        said.push(refused(&cluster, &options, words));
        said.push(refused(&cluster, &options, words));
        let what = ["refused a connection on the client port", logged];
        // The client may be gone before the node has said so.
        let tried_again = || async { (lines(&cluster.nodes[0], " DEBUG ", &what) > 0).then_some(()) };
        eventually(&format!("second refusal: {logged}"), tried_again).await;
        assert_eq!(lines(&cluster.nodes[0], " WARN ", &what), 1, "{logged}:\n{}", cluster.nodes[0].output());
    }
    // A client that stays, and follows the map, hears it as well.
    let config = |identity: &TlsIdentity| {
        let tls = Some(ClientFiles { ca: files.ca.clone(), identity: Some(identity.clone()) });
        ClientConfig { tls, ..ClientConfig::new(cluster.endpoints()) }
    };
    let client = Client::connect(&Env::real(), config(&foreign)).await.unwrap();
    let error = client.get("a").await.unwrap_err();
    assert!(error.message.contains("is not signed by a CA which it trusts"), "{error}");
    // A name that the certificate does not hold.
    let port = cluster.nodes[0].client.rsplit_once(':').unwrap().1.to_owned();
    let by_name = ClientConfig { tls: cluster.tls.clone(), ..ClientConfig::new([format!("localhost:{port}")]) };
    let client = Client::connect(&Env::real(), by_name).await.unwrap();
    let error = client.get("a").await.unwrap_err();
    assert!(error.message.contains("its certificate names 127.0.0.1, not localhost"), "{error}");
    let (code, out, err) = cluster.kvctl(&["count"]);
    assert_eq!((code, out.trim()), (0, "0"), "nothing came through: {err}");
    files.nothing_leaked(&cluster.nodes, &said);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_metrics_are_behind_tls_as_well() {
    let ca = Ca::new("the cluster");
    let mut cluster = Cluster::new(1, &[]);
    let files = Files::guard(&mut cluster, &ca);
    cluster.start_all();
    cluster.wait_ready().await;
    let (env, address) = (Env::real(), cluster.nodes[0].client.clone());
    let tls = ClientTls::start(&env, cluster.tls.clone().unwrap(), false).unwrap();
    for (path, words) in [("/health", r#""health":"true""#), ("/metrics", "quorate_api_connections")] {
        let stream = env.net.connect(&address).await.unwrap();
        let mut stream = tls.connect(stream, &address, Verdict::default()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // Whether the end of the stream is announced does not matter here.
        stream.read_to_end(&mut answer).await.ok();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(words), "{answer}");
    }
    let mut plain = env.net.connect(&address).await.unwrap();
    plain.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).await.ok();
    assert!(!String::from_utf8_lossy(&answer).contains("quorate"), "metrics in the clear");
    files.nothing_leaked(&cluster.nodes, &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_trusted_stays_out_until_it_is() {
    let (ca, other) = (Ca::new("the cluster"), Ca::new("another"));
    let mut cluster = Cluster::new(3, &["--log", "debug"]);
    let files = Files::guard(&mut cluster, &ca);
    cluster.start_all();
    cluster.wait_ready().await;
    let client = cluster.client().await;
    fill(&client, "a", 0..50, 20).await;
    let dir = files.dir.clone();
    let other_ca = dir.join("other-ca.pem");
    replace(&other_ca, &other.pem());
    let foreign = other.sign(&dir, "foreign", &["n3"], Made::ForBoth);
    let late = ca.sign(&dir, "late", &["n3"], Made::LongAgo);
    let own = TlsIdentity { cert: dir.join("n3.pem"), key: dir.join("n3.key") };
    let peer_of_n3 = cluster.nodes[2].peer.clone();
    // How often n3 was connected to the others, by both ends.
    let connected = |cluster: &Cluster| {
        let by_n3 = lines(&cluster.nodes[2], " INFO ", &["connected node="]);
        by_n3 + cluster.nodes[..2].iter().map(|node| lines(node, " INFO ", &["connected node=n3"])).sum::<usize>()
    };
    for (identity, trusts, accepting, dialing) in [
        (&foreign, &other_ca, "it says that the certificate of this end", "its certificate is not signed by a CA"),
        (&late, &files.ca, "its certificate has expired", "its certificate has expired"),
    ] {
        cluster.nodes[2].kill();
        let before = connected(&cluster);
        set_peer_files(&mut cluster.nodes[2], identity, trusts);
        cluster.nodes[2].start();
        let others = &cluster.nodes[..2];
        let accepted = ["refused a connection on the peer port", accepting];
        let dialed = ["no connection to a peer", dialing, peer_of_n3.as_str()];
        for words in [&accepted[..], &dialed] {
            // It is tried again and again (the leader connects more often than the other one), and said once.
            let retries = || others.iter().map(|node| lines(node, " DEBUG ", words)).sum::<usize>();
            eventually(&format!("retries: {words:?}"), || async { (retries() > 8).then_some(()) }).await;
            let said: Vec<_> = others.iter().map(|node| lines(node, " WARN ", words)).collect();
            assert!(said.contains(&1) && said.iter().all(|times| *times <= 1), "{words:?}: {said:?}");
        }
        assert!(cluster.nodes[2].is_running(), "{}", cluster.nodes[2].output());
        assert_eq!(connected(&cluster), before, "nobody was let in");
    }
    // The files are mended: nobody needs to be started again.
    fill(&client, "b", 0..50, 20).await;
    let before = connected(&cluster);
    for (from, to) in [(&own.cert, &late.cert), (&own.key, &late.key)] {
        replace(to, &std::fs::read_to_string(from).unwrap());
    }
    eventually("n3 among the others", || async { (connected(&cluster) > before).then_some(()) }).await;
    cluster.wait_ready().await;
    check_filled(&client, "b", 0..50, 20).await;
    files.nothing_leaked(&cluster.nodes, &[]);
}

fn set_peer_files(node: &mut Node, identity: &TlsIdentity, ca: &std::path::Path) {
    node.set_flag("--peer-tls-cert", identity.cert.to_str().unwrap());
    node.set_flag("--peer-tls-key", identity.key.to_str().unwrap());
    node.set_flag("--peer-tls-ca", ca.to_str().unwrap());
}

/// A connection to a peer port, with whatever certificate.
async fn dial(node: &Node, files: &Files, identity: TlsIdentity, name: &str) -> Result<Channel, String> {
    let env = Env::real();
    let peer_files = PeerFiles { identity, ca: files.ca.clone() };
    let tls = PeerTls::start(&env, peer_files, name).map_err(|error| error.to_string())?;
    let stream = env.net.connect(&node.peer).await.map_err(|error| error.to_string())?;
    let (stream, _) = tls.connect(stream, Verdict::default()).await.map_err(|error| error.to_string())?;
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower_service_fn(move || stream.take());
    Endpoint::from_static("http://peer").connect_with_connector(connector).await.map_err(|error| error.to_string())
}

/// Says hello as node `node`, which is what the answer is about.
async fn hello(channel: &Channel, node: u64, name: &str) -> Option<PeerError> {
    let request = HelloRequest {
        from: Some(Incarnation { node_id: node, boot: 1_000, nonce: 7 }),
        name: name.to_owned(),
        protocol: 1,
        to_node_id: 1,
        ..HelloRequest::default()
    };
    let status = PeerClient::new(channel.clone()).hello(request).await.unwrap_err();
    (!status.details().is_empty()).then(|| PeerError::decode(status.details()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_speaks_for_a_node() {
    let ca = Ca::new("the cluster");
    let mut cluster = Cluster::new(3, &[]);
    let files = Files::guard(&mut cluster, &ca);
    cluster.start_all();
    cluster.wait_ready().await;
    let node = &cluster.nodes[0];
    // Made for clients: not even a handshake.
    let client = ca.sign(&files.dir, "a-client", &["n2"], Made::ForClients);
    let channel = dial(node, &files, client, "n2").await;
    if let Ok(channel) = channel {
        assert_eq!(hello(&channel, 2, "n2").await, None, "it was answered");
    }
    let words = ["refused a connection on the peer port", "extended key usage"];
    eventually("a refusal", || async { (lines(node, " WARN ", &words) == 1).then_some(()) }).await;
    // A certificate of the cluster's CA that names somebody else, and one of another node.
    let stranger = ca.sign(&files.dir, "stranger", &["app"], Made::ForBoth);
    let stranger = dial(node, &files, stranger, "app").await.unwrap();
    let n3 = TlsIdentity { cert: files.dir.join("n3.pem"), key: files.dir.join("n3.key") };
    let n3 = dial(node, &files, n3, "n3").await.unwrap();
    for (channel, name, words) in [
        (&stranger, "n2", "its certificate names app, not n2"),
        (&n3, "n2", "its certificate names n3, not n2"),
        // Its own name, for the id of another.
        (&n3, "n3", "its certificate names n3, not n2"),
    ] {
        for _ in 0..5 {
            let error = hello(channel, 2, name).await.unwrap();
            assert_eq!(error.code(), PeerCode::Untrusted, "{error:?}");
            assert!(error.message.contains(words), "{error:?}");
        }
        assert_eq!(lines(node, " WARN ", &["refused a node", words]), 1, "{words}:\n{}", node.output());
    }
    // Without an introduction nothing is heard, whatever a frame says of itself.
    for channel in [stranger, n3] {
        let from = Some(Incarnation { node_id: 2, boot: 1, nonce: 7 });
        let envelope =
            Envelope { from, to_node_id: 1, group_id: 1, from_replica: 2, to_replica: 1, ..Default::default() };
        let frame = AppendFrame { envelope: Some(envelope), request: None };
        let replies = PeerClient::new(channel).append(tokio_stream::once(frame)).await.unwrap();
        match replies.into_inner().message().await.unwrap().unwrap().result {
            Some(append_reply::Result::Error(error)) => assert_eq!(error.code(), PeerCode::UnknownIncarnation),
            other => panic!("it was listened to: {other:?}"),
        }
    }
    cluster.wait_ready().await;
    files.nothing_leaked(&cluster.nodes, &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_under_the_name_in_its_certificate_only() {
    let ca = Ca::new("the cluster");
    let mut cluster = Cluster::new(1, &[]);
    let files = Files::guard(&mut cluster, &ca);
    cluster.start_all();
    cluster.wait_ready().await;
    let at = cluster.add("n2", 0, &["--tls-cert", "x", "--tls-key", "x"]);
    let server = ca.sign(&files.dir, "n2-server", &["127.0.0.1"], Made::ForBoth);
    let (other, own) =
        (ca.sign(&files.dir, "n9", &["n9"], Made::ForBoth), ca.sign(&files.dir, "n2", &["n2"], Made::ForBoth));
    let node = &mut cluster.nodes[at];
    node.set_flag("--tls-cert", server.cert.to_str().unwrap());
    node.set_flag("--tls-key", server.key.to_str().unwrap());
    set_peer_files(node, &other, &files.ca);
    let said = node.start_in_vain();
    assert!(said.contains("n9"), "{said}");
    set_peer_files(node, &own, &files.ca);
    node.start();
    cluster.wait_ready().await;
    let members = cluster.client().await.members().await.unwrap().members;
    assert_eq!(members.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["n1", "n2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_in_the_clear_and_one_with_tls_tell_each_other_apart() {
    let ca = Ca::new("the cluster");
    let mut secure = Cluster::new(1, &[]);
    let files = Files::guard(&mut secure, &ca);
    let mut clear = Cluster::new(1, &[]);
    for cluster in [&mut secure, &mut clear] {
        cluster.start_all();
        cluster.wait_ready().await;
    }
    let at = secure.add("n2", 0, &[]);
    let said = secure.nodes[at].start_in_vain();
    assert!(said.contains("it speaks TLS and this end does not: give this node its files (--peer-tls-cert"), "{said}");
    let words = ["refused a connection on the peer port", "it does not speak TLS"];
    assert_eq!(lines(&secure.nodes[0], " WARN ", &words), 1, "{}", secure.nodes[0].output());
    // Nor is anything of the protocol heard in the clear.
    let channel = Endpoint::from_shared(format!("http://{}", secure.nodes[0].peer)).unwrap().connect_lazy();
    let request = HelloRequest::default();
    PeerClient::new(channel).hello(request).await.unwrap_err();

    let at = clear.add("n2", 0, &[]);
    let own = ca.sign(&files.dir, "n2", &["n2"], Made::ForBoth);
    set_peer_files(&mut clear.nodes[at], &own, &files.ca);
    let said_too = clear.nodes[at].start_in_vain();
    assert!(said_too.contains("it does not speak TLS"), "{said_too}");
    for cluster in [&secure, &clear] {
        let members = cluster.client().await.members().await.unwrap().members;
        assert_eq!(members.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["n1"]);
    }
    files.nothing_leaked(&secure.nodes, &[said, said_too]);
}

/// Hands out what there is, once.
fn tower_service_fn<S>(
    take: impl FnMut() -> Option<S> + Send + 'static,
) -> impl tower_service::Service<
    http::Uri,
    Response = S,
    Error = std::io::Error,
    Future = std::future::Ready<std::io::Result<S>>,
> + Send
+ 'static
where
    S: Send + 'static,
{
    struct Once<F>(F);
    impl<S, F: FnMut() -> Option<S>> tower_service::Service<http::Uri> for Once<F> {
        type Response = S;
        type Error = std::io::Error;
        type Future = std::future::Ready<std::io::Result<S>>;

        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Uri) -> Self::Future {
            std::future::ready((self.0)().ok_or_else(|| std::io::Error::other("used up")))
        }
    }
    Once(take)
}

/// Clients that write for as long as they are told to; every write must succeed.
struct Load {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    /// Half of the clients stay, half are made anew for every few writes.
    async fn start(cluster: &Cluster) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let config = ClientConfig { tls: cluster.tls.clone(), ..ClientConfig::new(cluster.endpoints()).timeout(STUCK) };
        let mut tasks = Vec::new();
        for writer in 0..8 {
            let (stop, written, config) = (stop.clone(), written.clone(), config.clone());
            tasks.push(tokio::spawn(async move {
                let mut client = Client::connect(&Env::real(), config.clone()).await.unwrap();
                for number in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    if writer % 2 == 0 && number % 8 == 7 {
                        client = Client::connect(&Env::real(), config.clone()).await.unwrap();
                    }
                    let put = client.put(format!("w{writer}/{number}"), "x").await;
                    put.unwrap_or_else(|error| panic!("a request failed: {error:?}"));
                    written.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        Self { stop, written, tasks }
    }

    /// Waits until more was written, and nothing failed.
    async fn goes_on(&self) {
        let before = self.written.load(Ordering::Relaxed);
        eventually("progress", || async { (self.written.load(Ordering::Relaxed) > before + 200).then_some(()) }).await;
        assert!(!self.tasks.iter().any(tokio::task::JoinHandle::is_finished), "a writer has ended");
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.written.load(Ordering::Relaxed)
    }
}

/// Waits until both ports of all nodes have read their files so many times since they started.
async fn reread(cluster: &Cluster, times: usize) {
    for node in &cluster.nodes {
        let read = || async { (lines(node, " INFO ", &["TLS files have changed"]) == 2 * times).then_some(()) };
        eventually(&format!("new files at {}", node.name), read).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_their_ca_change_under_load() {
    let (old, new) = (Ca::new("the old one"), Ca::new("the new one"));
    // Patient, so that a machine that is busy otherwise makes no elections of its own.
    let mut cluster = Cluster::new(3, &["--election-min-ms", "5000", "--election-max-ms", "8000"]);
    let files = Files::guard(&mut cluster, &old);
    cluster.start_all();
    cluster.wait_ready().await;
    let load = Load::start(&cluster).await;
    load.goes_on().await;
    // The same CA signs anew.
    files.renew(&cluster, &old);
    reread(&cluster, 1).await;
    load.goes_on().await;
    // Another CA takes over: first it is trusted, then it signs, then the old one is forgotten.
    replace(&files.ca, &format!("{}{}", old.pem(), new.pem()));
    reread(&cluster, 2).await;
    load.goes_on().await;
    files.renew(&cluster, &new);
    reread(&cluster, 3).await;
    load.goes_on().await;
    replace(&files.ca, &new.pem());
    reread(&cluster, 4).await;
    load.goes_on().await;
    let written = load.end().await;
    let (code, out, err) = cluster.kvctl(&["count"]);
    assert_eq!((code, out.trim()), (0, written.to_string().as_str()), "{err}");
    // What the old CA signed is of no use any more, and nodes find each other with what the new one did.
    let before = old.sign(&files.dir, "before", &["a client"], Made::ForClients);
    let before = ClientFiles { ca: files.ca.clone(), identity: Some(before) };
    let config = ClientConfig { tls: Some(before), ..ClientConfig::new(cluster.endpoints()) };
    let error = Client::connect(&Env::real(), config).await.unwrap().get("w0/0").await.unwrap_err();
    assert!(error.message.contains("not signed by a CA which it trusts"), "{error}");
    cluster.kill_all();
    cluster.start_all();
    cluster.wait_ready().await;
    let (code, out, err) = cluster.kvctl(&["count"]);
    assert_eq!((code, out.trim()), (0, written.to_string().as_str()), "{err}");
    let warned: BTreeSet<_> = cluster
        .nodes
        .iter()
        .flat_map(|node| node.output().lines().map(str::to_owned).collect::<Vec<_>>())
        .filter(|line| line.contains("cannot be used"))
        .collect();
    assert_eq!(warned, BTreeSet::new(), "half of a change is no reason to warn");
    files.nothing_leaked(&cluster.nodes, &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_cannot_be_used_stop_the_start_or_change_nothing() {
    let ca = Ca::new("the cluster");
    let mut cluster = Cluster::new(1, &[]);
    let files = Files::guard(&mut cluster, &ca);
    let missing = files.dir.join("missing.key");
    let name = |file: &str| files.dir.join(file).to_str().unwrap().to_owned();
    let other = ca.sign(&files.dir, "n9", &["n9"], Made::ForBoth);
    for (flag, path, words) in [
        ("--tls-key", missing.to_str().unwrap(), "missing.key: there is no such file"),
        ("--tls-key", other.key.to_str().unwrap(), "it is not the key of the certificate"),
        ("--peer-tls-cert", &name("ca.pem"), "ca.pem: "),
        ("--peer-tls-cert", other.cert.to_str().unwrap(), "its certificate names n9, not n1"),
    ] {
        let good = if flag == "--tls-key" { name("n1-server.key") } else { name("n1.pem") };
        cluster.nodes[0].set_flag(flag, path);
        let said = cluster.nodes[0].start_in_vain();
        assert!(said.contains(words) && said.contains("TLS files cannot be used"), "{said}");
        let last = said.lines().last().unwrap_or_default();
        assert_eq!(last.matches(words).count(), 1, "{last}");
        cluster.nodes[0].set_flag(flag, &good);
    }
    cluster.start_all();
    cluster.wait_ready().await;
    // A bad file in place of a good one: said once, and what was read before stays.
    let (bad, good) = (files.dir.join("n1-server.pem"), std::fs::read_to_string(name("n1-server.pem")).unwrap());
    replace(&bad, "-----BEGIN CERTIFICATE-----\ngarbage\n");
    let words = ["TLS files have changed and cannot be used", "n1-server.pem"];
    eventually("a warning", || async { (lines(&cluster.nodes[0], " WARN ", &words) > 0).then_some(()) }).await;
    assert_eq!(cluster.kvctl(&["put", "a", "1"]).0, 0);
    replace(&bad, &good);
    files.renew(&cluster, &ca);
    reread(&cluster, 1).await;
    assert_eq!(cluster.kvctl(&["get", "a"]).1, "1\n");
    assert_eq!(lines(&cluster.nodes[0], " WARN ", &words), 1, "{}", cluster.nodes[0].output());
    files.nothing_leaked(&cluster.nodes, &[]);
}

#[test]
fn nothing_is_open_to_others_without_tls_unless_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let ports = [free_port(), free_port()];
    let start = |extra: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvd"));
        command.args(["--data-dir", dir.path().to_str().unwrap(), "--peer-addr", &format!("127.0.0.1:{}", ports[1])]);
        command.args(["--client-addr", &format!("0.0.0.0:{}", ports[0])]);
        command.args(["--client-advertise", &format!("127.0.0.1:{}", ports[0])]).args(extra);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let output = start(&[]).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("there is no TLS: set tls_cert and tls_key") && said.contains("--insecure"), "{said}");
    let mut node = start(&["--insecure"]);
    let since = std::time::Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", ports[0])).is_err() {
        assert!(node.try_wait().unwrap().is_none(), "it ended");
        assert!(since.elapsed() < STUCK, "it does not listen");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    node.kill().unwrap();
    let said = String::from_utf8_lossy(&node.wait_with_output().unwrap().stderr).into_owned();
    assert!(said.contains("without TLS: whoever reaches it can read and write everything"), "{said}");
}
