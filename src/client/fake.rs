//! A scripted cluster in memory for tests: nodes that serve the public API over in-memory streams,
//! and do what a test tells them to.

mod lease;
mod service;
mod watch;
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use tonic::{Code, Status};

use super::{Client, ClientConfig};
use crate::env::Env;
use crate::proto::rpc;
use crate::proto::v1::{self, ErrorCode, ErrorDetail, MapResponse, Record, ResponseHeader, TransactionResult};

pub(crate) const SHARD: u64 = 2;

/// What happens to one request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// It is refused with this detail.
    Refuse(ErrorDetail),
    /// It is executed, and the node's connections break before the answer is sent.
    LoseAnswer,
    /// The node's connections break and it is never executed.
    LoseRequest,
    /// It is executed but never answered.
    Hang,
}

/// Everything the nodes share.
pub(crate) struct State {
    pub(crate) records: BTreeMap<Bytes, Record>,
    pub(crate) revision: u64,
    pub(crate) leader: usize,
    pub(crate) term: u64,
    pub(crate) map: MapResponse,
    /// Whether nodes that do not lead execute requests, too: reads that any replica may serve.
    pub(crate) all_serve: bool,
    /// Whether nodes that do not lead name who does.
    pub(crate) hints: bool,
    pub(crate) sessions: BTreeMap<u64, BTreeMap<u64, TransactionResult>>,
    pub(crate) next_session: u64,
    pub(crate) faults: VecDeque<(&'static str, Fault)>,
    /// Requests as they arrived: node, method, session sequence.
    pub(crate) seen: Vec<(usize, &'static str, u64)>,
    /// The last deadline that a request carried, as gRPC spells it.
    pub(crate) grpc_timeout: Option<String>,
    pub(crate) in_flight: usize,
    pub(crate) in_flight_max: usize,
    /// Page size that the nodes allow.
    pub(crate) page_max: usize,
    /// All changes ever.
    pub(crate) log: Vec<v1::Event>,
    /// The oldest revision that a watch may begin with.
    pub(crate) compacted: u64,
    /// Events in one answer of a watch.
    pub(crate) answer_events_max: usize,
    pub(crate) leases: BTreeMap<u64, Duration>,
}

/// A cluster of scripted nodes with the addresses `n1:1`, `n2:1` ….
#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) net: Arc<wire::MemoryNetwork>,
    pub(crate) map_changed: Arc<tokio::sync::Notify>,
    pub(crate) changed: Arc<tokio::sync::Notify>,
}

impl Fake {
    pub(crate) fn start(nodes: usize) -> Self {
        let addresses: Vec<_> = (1..=nodes).map(|node| format!("n{node}:1")).collect();
        let borrowed: Vec<_> = addresses.iter().map(String::as_str).collect();
        let state = State {
            records: BTreeMap::new(),
            revision: 1,
            leader: 1,
            term: 1,
            map: map(&borrowed),
            all_serve: false,
            hints: true,
            sessions: BTreeMap::new(),
            next_session: 1,
            faults: VecDeque::new(),
            seen: Vec::new(),
            grpc_timeout: None,
            in_flight: 0,
            in_flight_max: 0,
            page_max: 1_000,
            log: Vec::new(),
            compacted: 0,
            answer_events_max: 1_000,
            leases: BTreeMap::new(),
        };
        let fake = Self {
            state: Arc::new(Mutex::new(state)),
            net: Arc::default(),
            map_changed: Arc::default(),
            changed: Arc::default(),
        };
        for (index, address) in addresses.iter().enumerate() {
            wire::serve(&fake.net, address, service::Node { fake: fake.clone(), index: index + 1 });
        }
        fake
    }

    pub(crate) fn env(&self) -> Env {
        Env { net: self.net.clone(), ..Env::real() }
    }

    /// A client that knows all nodes, and does not watch the map.
    pub(crate) async fn client(&self, timeout: Duration) -> Client {
        let nodes = self.state.lock().map.nodes.len();
        let config = ClientConfig::new((1..=nodes).map(|node| format!("n{node}:1")));
        Client::connect(&self.env(), config.timeout(timeout).watch_map(false)).await.unwrap()
    }

    pub(crate) fn fault(&self, method: &'static str, fault: Fault) {
        self.state.lock().faults.push_back((method, fault));
    }

    pub(crate) fn elect(&self, leader: usize) {
        let mut state = self.state.lock();
        state.leader = leader;
        state.term += 1;
    }

    /// Breaks a node's connections; it refuses new ones until it is started.
    pub(crate) fn stop(&self, node: usize) {
        self.net.stop(&format!("n{node}:1"));
    }

    pub(crate) fn restart(&self, node: usize) {
        self.net.restart(&format!("n{node}:1"));
    }

    /// New connections to the node neither succeed nor fail.
    pub(crate) fn blackhole(&self, node: usize) {
        self.net.blackhole(&format!("n{node}:1"));
    }

    /// Nodes that were asked for a method, in order.
    pub(crate) fn asked(&self, method: &str) -> Vec<usize> {
        self.state.lock().seen.iter().filter(|seen| seen.1 == method).map(|seen| seen.0).collect()
    }

    pub(crate) fn sequences(&self, method: &str) -> Vec<u64> {
        self.state.lock().seen.iter().filter(|seen| seen.1 == method).map(|seen| seen.2).collect()
    }

    pub(crate) fn version(&self, key: &str) -> u64 {
        self.state.lock().records.get(key.as_bytes()).map_or(0, |record| record.version)
    }
}

impl State {
    pub(crate) fn header(&self) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.map.cluster_id.clone(),
            node_id: self.leader as u64,
            shard_id: SHARD,
            shard_epoch: self.map.shards[0].epoch,
            revision: self.revision,
            raft_term: self.term,
        }
    }
}

/// A detail with the usual three fields.
pub(crate) fn detail(code: ErrorCode, outcome: v1::Outcome, retryable: bool) -> ErrorDetail {
    ErrorDetail { code: code.into(), outcome: outcome.into(), retryable, ..Default::default() }
}

/// A status as Quorate's servers send it.
pub(crate) fn status(code: Code, message: &str, detail: ErrorDetail) -> Status {
    let any = prost_types::Any {
        type_url: "type.googleapis.com/quorate.v1.ErrorDetail".into(),
        value: detail.encode_to_vec(),
    };
    let details = rpc::Status { code: code as i32, message: message.into(), details: vec![any] };
    Status::with_details(code, message, details.encode_to_vec().into())
}

/// A map with the keyspace `default` on all nodes.
pub(crate) fn map(addresses: &[&str]) -> MapResponse {
    let node = |(index, address): (usize, &&str)| v1::Node {
        id: index as u64 + 1,
        name: format!("n{}", index + 1),
        client_address: (*address).to_owned(),
        ..Default::default()
    };
    let replica =
        |index: usize| v1::Replica { id: index as u64 + 1, node_id: index as u64 + 1, voter: true, founding: true };
    let all = v1::span::Kind::Keys(v1::span::Keys::default());
    MapResponse {
        cluster_id: vec![7; 16].into(),
        version: 1,
        nodes: addresses.iter().enumerate().map(node).collect(),
        keyspaces: vec![keyspace(1, "default", v1::sharding::Kind::Single(v1::sharding::Single {}))],
        shards: vec![v1::Shard {
            id: SHARD,
            keyspace_id: 1,
            span: Some(v1::Span { kind: Some(all) }),
            epoch: 1,
            replicas: (0..addresses.len()).map(replica).collect(),
        }],
        leaders: Vec::new(),
        next_shard_id: 100,
    }
}

fn keyspace(id: u64, name: &str, kind: v1::sharding::Kind) -> v1::Keyspace {
    v1::Keyspace {
        id,
        name: name.into(),
        sharding: Some(v1::Sharding { kind: Some(kind) }),
        replication_factor: 3,
        history_revisions: 0,
        history_ms: 0,
        dropping: false,
    }
}

/// The same with a keyspace `h` of two hash shards, cut after `last`.
pub(crate) fn hash_map(addresses: &[&str], last: u64) -> MapResponse {
    let mut map = map(addresses);
    map.keyspaces.push(keyspace(2, "h", v1::sharding::Kind::Hash(v1::sharding::Hash { shards: 2 })));
    for (id, first, last) in [(11, 0, last), (12, last + 1, u64::MAX)] {
        let span = v1::span::Kind::Slots(v1::span::Slots { first, last });
        let replicas = map.shards[0].replicas.clone();
        let span = Some(v1::Span { kind: Some(span) });
        map.shards.push(v1::Shard { id, keyspace_id: 2, span, epoch: 1, replicas });
    }
    map
}
