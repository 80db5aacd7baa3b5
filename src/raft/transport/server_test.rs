//! What the peer port does with frames that no honest peer sends, and how append sessions end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use openraft::base::BoxStream;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::append::Session;
use super::connect;
use super::lane::{Client, Lane, Use};
use super::snapshot::SNAPSHOT_FORMAT;
use super::*;
use crate::env::disk::RealDisk;
use crate::env::net::{Fate, TcpNetwork};
use crate::env::work::Workers;
use crate::env::{self, time};
use crate::proto::internal::peer_error::Code as PeerCode;
use crate::proto::internal::peer_server::{Peer, PeerServer};
use crate::raft::codec;
use crate::raft::peers::{Identity, Introduction, PeerBook, Route};
use crate::raft::registry::Registry;
use crate::raft::test_bed::Disk;
use crate::raft::test_cluster::{Cluster, FOUNDING, GROUP, soon, until};
use crate::raft::types::{AppendRequest, Vote};
use crate::storage::engine::stream::{CHUNK_BYTES_TARGET, Sender};
use crate::storage::engine::{Batch, StoreId};
use crate::types::{ClusterId, Epoch, ReplicaId};

/// A process that is a peer in name only.
fn stranger(node: u64) -> (Arc<Peers>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk);
    let name = format!("node-{node}");
    let identity = Identity::open(disk.clone(), dir.path(), &name, NodeId(node), FOUNDING, None).unwrap();
    let book = PeerBook::open(disk, dir.path()).unwrap();
    (Arc::new(Peers::new(identity, book, Workers::inline().start("peers"), || 1)), dir)
}

async fn client(peers: &Peers, cluster: &Cluster, at: usize) -> Client {
    let node = &cluster.nodes[at];
    let address = node.process().host.listening().unwrap().to_string();
    greet(&TcpNetwork, peers, &address, node.id).await.unwrap().0
}

fn route(to: u64) -> Route {
    Route { group: GROUP, from: ReplicaId(40), to: ReplicaId(to), epoch: Epoch(1) }
}

fn request() -> AppendRequest {
    AppendRequest { vote: Vote::new_committed(1, 40), prev_log_id: None, entries: Vec::new(), leader_commit: None }
}

fn frame(peers: &Peers, to: u64) -> wire::AppendFrame {
    let envelope = Some(peers.envelope(NodeId(to / 10), route(to)));
    wire::AppendFrame { envelope, request: Some(codec::append_to_wire(&request())) }
}

fn refused_with(reply: &wire::AppendReply) -> Option<PeerCode> {
    match &reply.result {
        Some(wire::append_reply::Result::Error(error)) => Some(error.code()),
        _ => None,
    }
}

#[tokio::test]
async fn trap_1_the_answers_end_when_the_requests_have_ended() {
    let mut cluster = Cluster::new(1, 100);
    cluster.start(0).await;
    let (peers, _dir) = stranger(4);
    let mut client = client(&peers, &cluster, 0).await;
    let frames = [frame(&peers, 10), frame(&peers, 10)];
    let replies = client.append(stream::iter(frames)).await.unwrap().into_inner();
    let replies: Vec<_> = replies.map(Result::unwrap).collect().await;
    assert_eq!(replies.len(), 2, "and then the stream ended: {replies:?}");
    assert!(replies.iter().all(|reply| refused_with(reply).is_none()), "{replies:?}");
}

#[tokio::test]
async fn frames_that_do_not_fit_end_a_session_with_the_reason() {
    let mut cluster = Cluster::new(1, 100);
    cluster.start(0).await;
    cluster.nodes[0].process().host.set_cluster_id(ClusterId([3; 16])).unwrap();
    let (peers, _dir) = stranger(4);
    let mut client = client(&peers, &cluster, 0).await;
    type Change = fn(&mut wire::AppendFrame);
    let table: [(&str, Change, PeerCode); 6] = [
        ("no envelope", |frame| frame.envelope = None, PeerCode::Malformed),
        ("no request", |frame| frame.request = None, PeerCode::Malformed),
        ("no leader", |frame| frame.request.as_mut().unwrap().vote = None, PeerCode::Malformed),
        ("wrong node", |frame| frame.envelope.as_mut().unwrap().to_node_id = 9, PeerCode::WrongNode),
        ("wrong group", |frame| frame.envelope.as_mut().unwrap().group_id = 9, PeerCode::UnknownGroup),
        (
            "wrong cluster",
            |frame| frame.envelope.as_mut().unwrap().cluster_id = Bytes::from_static(&[7; 16]),
            PeerCode::WrongCluster,
        ),
    ];
    for (name, change, code) in table {
        let mut bad = frame(&peers, 10);
        change(&mut bad);
        let frames = [frame(&peers, 10), bad, frame(&peers, 10)];
        let replies = client.append(stream::iter(frames)).await.unwrap().into_inner();
        let replies: Vec<_> = replies.map(|reply| refused_with(&reply.unwrap())).collect().await;
        assert_eq!(replies, [None, Some(code)], "{name}");
    }
    assert_eq!(*cluster.nodes[0].process().group().watch().borrow(), cluster.nodes[0].process().group().status());
}

#[tokio::test]
async fn nothing_is_heard_before_an_introduction() {
    let mut cluster = Cluster::new(1, 100);
    cluster.start(0).await;
    let (introduced, _dir) = stranger(4);
    let mut client = client(&introduced, &cluster, 0).await;
    let (other, _dir) = stranger(5);
    let replies = client.append(stream::iter([frame(&other, 10)])).await.unwrap().into_inner();
    let replies: Vec<_> = replies.map(|reply| refused_with(&reply.unwrap())).collect().await;
    assert_eq!(replies, [Some(PeerCode::UnknownIncarnation)]);
}

/// A snapshot's frames, with something in them that is not as it should be.
fn snapshot(peers: &Peers, damage: impl FnOnce(&mut Vec<wire::SnapshotFrame>)) -> Vec<wire::SnapshotFrame> {
    let disk = Disk::new();
    let catalog = disk.catalog();
    let store: StoreId = catalog.engine().create_store().unwrap();
    let pair = |n: u8| (store, Bytes::from(vec![b'k', n]), Some(Bytes::from(vec![n; 100])));
    catalog.engine().commit(Batch { writes: (0..50).map(pair).collect() }).unwrap();
    let kind = |kind| wire::SnapshotFrame { kind: Some(kind) };
    let membership = wire::Membership {
        configs: vec![wire::membership::Config { voters: vec![10, 20, 30] }],
        members: (1..=3).map(|id| wire::membership::Member { replica_id: id * 10, node_id: id }).collect(),
    };
    let header = wire::SnapshotHeader {
        envelope: Some(peers.envelope(NodeId(1), route(10))),
        vote: Some(wire::Vote { term: 1_000, replica_id: 40, committed: true }),
        last: Some(wire::LogId { term: 1_000, index: 1_000_000 }),
        membership: Some(wire::StoredMembership {
            log_id: Some(wire::LogId { term: 1, index: 0 }),
            membership: Some(membership),
        }),
        format: SNAPSHOT_FORMAT,
    };
    let mut sender = Sender::new(catalog.engine().view(store).unwrap(), CHUNK_BYTES_TARGET);
    let mut frames = vec![kind(wire::snapshot_frame::Kind::Header(header))];
    frames.extend((&mut sender).map(|chunk| kind(wire::snapshot_frame::Kind::Chunk(chunk.unwrap()))));
    frames.push(kind(wire::snapshot_frame::Kind::Footer(sender.footer())));
    assert_eq!(frames.len(), 3);
    damage(&mut frames);
    frames
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused_and_changes_nothing() {
    let cluster = Cluster::founded(100).await;
    let last = cluster.put("x").await.at.index;
    cluster.agree(last).await;
    let (peers, _dir) = stranger(4);
    let mut client = client(&peers, &cluster, 0).await;
    type Damage = fn(&mut Vec<wire::SnapshotFrame>);
    let table: [(&str, Damage, &str); 6] = [
        (
            "a flipped bit",
            |frames| {
                let Some(wire::snapshot_frame::Kind::Chunk(chunk)) = &mut frames[1].kind else { panic!("no chunk") };
                let mut data = chunk.data.to_vec();
                data[700] ^= 1;
                chunk.data = data.into();
            },
            "fails its checksum",
        ),
        ("a missing chunk", |frames| drop(frames.remove(1)), "its footer says"),
        ("no end", |frames| drop(frames.pop()), "ends before its footer"),
        ("no header", |frames| drop(frames.remove(0)), "does not begin with a header"),
        ("an empty frame", |frames| frames[1].kind = None, "malformed snapshot frame"),
        ("content that is not what the header says", |_| {}, "the snapshot announced"),
    ];
    for (name, damage, why) in table {
        let frames = snapshot(&peers, damage);
        let reply = client.snapshot(stream::iter(frames)).await.unwrap().into_inner();
        let error = reply.error.unwrap_or_else(|| panic!("{name} was taken over"));
        assert!(error.message.contains(why), "{name}: {}", error.message);
    }
    let catalog = cluster.nodes[0].disk.catalog();
    assert_eq!(catalog.engine().stores().unwrap().len(), 2, "catalog and replica, no staging");
    let after = cluster.put("y").await.at.index;
    assert_eq!(after, last + 1);
    cluster.agree(after).await;
}

/// A follower that answers, and whose streams never end by themselves.
struct Endless {
    peers: Arc<Peers>,
    answer: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl Peer for Endless {
    type AppendStream = BoxStream<'static, Result<wire::AppendReply, Status>>;
    type ControlStream = BoxStream<'static, Result<wire::ControlReply, Status>>;

    async fn hello(&self, hello: Request<wire::HelloRequest>) -> Result<Response<wire::HelloResponse>, Status> {
        Introduction::from_request(hello.into_inner()).unwrap();
        Ok(Response::new(self.peers.introduction().to_response()))
    }

    async fn append(
        &self,
        frames: Request<Streaming<wire::AppendFrame>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let answer = self.answer.clone();
        let replies = frames.into_inner().filter_map(move |_| {
            let matched = wire::append_reply::Result::Accepted(wire::AppendAccepted { matched: None });
            let reply = wire::AppendReply { result: Some(matched), log_position: 7 };
            std::future::ready(answer.load(Ordering::SeqCst).then_some(Ok(reply)))
        });
        Ok(Response::new(Box::pin(replies.chain(stream::pending()))))
    }

    async fn control(
        &self,
        _: Request<Streaming<wire::ControlFrame>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        Ok(Response::new(Box::pin(stream::pending())))
    }

    async fn snapshot(
        &self,
        _: Request<Streaming<wire::SnapshotFrame>>,
    ) -> Result<Response<wire::SnapshotReply>, Status> {
        std::future::pending().await
    }

    async fn join(&self, _: Request<wire::JoinRequest>) -> Result<Response<wire::JoinResponse>, Status> {
        std::future::pending().await
    }

    async fn forward(&self, _: Request<wire::ForwardRequest>) -> Result<Response<wire::ForwardResponse>, Status> {
        std::future::pending().await
    }
}

/// Serves [`Endless`] as node 2 and makes a lane to it.
async fn endless() -> (Arc<Lane>, Arc<Peers>, [tempfile::TempDir; 2]) {
    let listener = TcpNetwork.listen("127.0.0.1:0").await.unwrap();
    let address = listener.local_address().unwrap().to_string();
    let (theirs, one) = stranger(2);
    let (ours, two) = stranger(1);
    let service = PeerServer::new(Endless { peers: theirs, answer: Arc::new(AtomicBool::new(true)) });
    tokio::spawn(async move {
        let (_running, stop) = watch::channel(false);
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connect::serve_connection(Arc::new(connect::http()), stream, service.clone(), stop.clone()));
        }
    });
    let address = Arc::new(RwLock::new(Some(address)));
    let lane = Lane::new(NodeId(2), Use::Append, address, Arc::new(TcpNetwork), ours.clone());
    (Arc::new(lane), ours, [one, two])
}

#[tokio::test]
async fn trap_1_a_session_ends_even_when_the_peer_ends_nothing() {
    let (lane, peers, _dirs) = endless().await;
    let requests = stream::iter([request(), request(), request()]);
    let answers: Vec<_> = Session::new(lane, peers, route(20), requests).answers().collect().await;
    assert_eq!(answers.len(), 3);
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Ok(None)))), "{answers:?}");
}

#[tokio::test]
async fn a_window_of_requests_is_on_its_way_at_most() {
    let (lane, peers, _dirs) = endless().await;
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    let requests = stream::repeat_with(request).inspect(move |_| *count.lock() += 1);
    let answers = Session::new(lane, peers, route(20), requests).answers();
    let mut answers = std::pin::pin!(answers);
    for answered in 1..=200 {
        answers.next().await.unwrap().unwrap().unwrap();
        assert!(*asked.lock() <= answered + APPEND_WINDOW, "{} asked, {answered} answered", asked.lock());
    }
}

#[tokio::test]
async fn trap_2_nothing_is_connected_before_a_request_has_come() {
    let (lane, peers, _dirs) = endless().await;
    let (hold, mut released) = watch::channel(false);
    let connected = lane.clone();
    let requests = Box::pin(stream::once(async move {
        // openraft's pause after a failure sits here.
        released.wait_for(|released| *released).await.unwrap();
        request()
    }));
    let answers = Session::new(lane, peers, route(20), requests).answers();
    let mut answers = std::pin::pin!(answers);
    for _ in 0..100 {
        let early = tokio::select! { biased; _ = answers.next() => true, () = tokio::task::yield_now() => false };
        assert!(!early && connected.is_idle(), "a connection was made during the pause");
    }
    hold.send_replace(true);
    answers.next().await.unwrap().unwrap().unwrap();
    assert!(!connected.is_idle());
}

#[tokio::test]
async fn trap_2_an_unreachable_follower_is_not_hammered() {
    let mut cluster = Cluster::founded(100).await;
    cluster.put("x").await;
    let leader = cluster.leader().await;
    let dead = (leader + 1) % 3;
    cluster.nodes[dead].kill();
    let wire = cluster.nodes[leader].wire.clone();
    let (since, before) = (time::now(), wire.attempts.load(Ordering::SeqCst));
    for n in 0..50 {
        cluster.put(format!("{n}")).await;
    }
    until("it was tried again and again", || wire.attempts.load(Ordering::SeqCst) >= before + 9).await;
    let attempts = wire.attempts.load(Ordering::SeqCst) - before;
    let pauses = since.elapsed().as_millis() / (RECONNECT_PAUSE_MAX / 16).as_millis();
    // Three connections, each with a pause before each attempt but the first.
    assert!(u128::from(attempts) <= 3 * (pauses + 2), "{attempts} attempts in {pauses} of the shortest pauses");
}

#[tokio::test]
async fn heartbeats_do_not_wait_for_appends() {
    let cluster = Cluster::founded(100).await;
    cluster.put("x").await;
    let leader = cluster.leader().await;
    let process = cluster.nodes[leader].process();
    let term = process.group().status().term;
    // More than all windows hold, all at once.
    let writes = (0..64).map(|n| {
        let group = process.group().clone();
        process.run(async move { group.propose(vec![n; 1024 * 1024].into(), soon()).await })
    });
    let writes: Vec<_> = writes.collect();
    for write in writes {
        write.await.unwrap();
    }
    assert_eq!(process.group().status().term, term, "no follower missed its leader");
    env::time::timeout(Duration::from_secs(60), cluster.agree(65)).await.unwrap();
}

#[tokio::test]
async fn frames_that_come_again_or_late_change_nothing() {
    let cluster = Cluster::founded(100).await;
    for fate in [Fate::Twice(Duration::from_millis(30)), Fate::Late(Duration::from_millis(30))] {
        for node in &cluster.nodes {
            node.wire.fate.lock().replace(fate);
        }
        let mut last = 0;
        for n in 0..20 {
            last = cluster.put(format!("{fate:?} {n}")).await.at.index;
        }
        cluster.agree(last).await;
    }
}

#[tokio::test]
async fn over_tls_a_connection_speaks_for_the_one_node_that_introduced_itself_there() {
    let ((here, _dir), (other, _other_dir)) = (stranger(4), stranger(5));
    here.meet(other.introduction(), None).await.unwrap();
    let frame = other.envelope(NodeId(4), Route::default());
    let registry = Registry::new(here);
    assert_eq!(registry.admit_to_node(Some(&frame)), Ok(NodeId(5)), "without TLS");
    let connection = registry.on_certified_connection();
    let refused = |registry: &Registry| registry.admit_to_node(Some(&frame)).unwrap_err().code;
    assert_eq!(refused(&connection), PeerCode::UnknownIncarnation, "introduced elsewhere only");
    connection.introduced(NodeId(5)).unwrap();
    connection.introduced(NodeId(5)).unwrap();
    assert_eq!(connection.admit_to_node(Some(&frame)), Ok(NodeId(5)));
    assert_eq!(connection.introduced(NodeId(6)).unwrap_err().code, PeerCode::WrongNode);
    let of_another = registry.on_certified_connection();
    of_another.introduced(NodeId(6)).unwrap();
    assert_eq!(refused(&of_another), PeerCode::UnknownIncarnation);
}
