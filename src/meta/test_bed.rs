//! A metadata state machine on an ordered map, for the tests of this room.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::machine::MetaMachine;
use super::tables;
use crate::proto::internal::meta_command::{AddNode, Bootstrap, Kind, StartOperation};
use crate::proto::internal::{MetaCommand, MetaResult, meta_result};
use crate::proto::v1::{self, ErrorCode};
use crate::raft::apply::{Apply, LogPosition};
use crate::storage::engine::{Direction, EngineError, KeyRange, PairResult, StoreId, View, WriteSet};
use crate::types::map::ShardMap;

#[derive(Default, Clone)]
struct Store(BTreeMap<Bytes, Bytes>);

impl View for Store {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan<'a>(&'a self, range: KeyRange<'_>, _: Direction) -> Box<dyn Iterator<Item = PairResult> + 'a> {
        Box::new(self.0.range::<[u8], _>(range).map(|(key, value)| Ok((key.clone(), value.clone()))))
    }
}

pub(super) struct Meta {
    machine: MetaMachine,
    store: Store,
}

impl Meta {
    /// A founded cluster of so many nodes.
    pub(super) fn new(nodes: u64) -> Self {
        let mut meta = Self { machine: MetaMachine::new(), store: Store::default() };
        let node = |id| v1::Node { id, name: format!("n{id}"), ..Default::default() };
        let bootstrap =
            Bootstrap { cluster_id: vec![7; 16].into(), nodes: (1..=nodes).map(node).collect(), replication_factor: 3 };
        assert!(meta.command(Kind::Bootstrap(bootstrap)).is_ok());
        meta
    }

    /// Applies a command; returns the map's version after it. A refusal must change nothing.
    pub(super) fn command(&mut self, kind: Kind) -> Result<u64, ErrorCode> {
        self.apply(kind).map(|(version, _)| version)
    }

    /// The same, with the id that the command gave.
    pub(super) fn apply(&mut self, kind: Kind) -> Result<(u64, u64), ErrorCode> {
        let command = MetaCommand { kind: Some(kind) }.encode_to_vec().into();
        let at = LogPosition { term: 1, index: 1 };
        let before = self.store.clone();
        let mut writes = WriteSet::new(&before);
        let answer = self.machine.apply(&mut writes, at, &command).unwrap();
        for (_, key, value) in writes.into_batch(StoreId(1)).writes {
            match value {
                Some(value) => self.store.0.insert(key, value),
                None => self.store.0.remove(&key),
            };
        }
        let result = MetaResult::decode(answer).unwrap();
        match result.kind.unwrap() {
            meta_result::Kind::Version(version) => Ok((version, result.id)),
            meta_result::Kind::Refusal(refusal) => {
                assert_eq!(self.store.0, before.0, "a refusal changes nothing: {}", refusal.message);
                Err(refusal.detail.unwrap().code())
            }
        }
    }

    /// A node joins; its id.
    pub(super) fn join(&mut self, name: &str, token: u64, replace: &str) -> Result<u64, ErrorCode> {
        let node = v1::Node { name: name.into(), peer_address: format!("{name}:2380"), ..Default::default() };
        self.apply(Kind::AddNode(AddNode { node: Some(node), token, replace: replace.into() })).map(|(_, id)| id)
    }

    /// An operation begins; its id.
    pub(super) fn start(&mut self, shard_id: u64, add_node_id: u64, remove_replica_id: u64) -> Result<u64, ErrorCode> {
        let start = StartOperation { shard_id, add_node_id, remove_replica_id, reason: "a test".into() };
        self.apply(Kind::StartOperation(start)).map(|(_, id)| id)
    }

    pub(super) fn map(&self) -> ShardMap {
        tables::map(&self.store).unwrap()
    }
}
