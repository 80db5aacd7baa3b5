//! The metadata state machine: commands in, a new version of the map out.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tokio::sync::watch;

use crate::proto::internal::meta_command::{Bootstrap, Kind, SetSetting};
use crate::proto::internal::{MetaCommand, MetaResult, MetaState, Refusal, meta_result};
use crate::proto::v1::{self, ErrorCode, ErrorDetail, Outcome};
use crate::raft::apply::{Apply, LogPosition};
use crate::storage::engine::{EngineError, View, WriteSet};
use crate::types::map::{DEFAULT_KEYSPACE, ShardMap};
use crate::types::{ClusterId, GroupId, NodeId};

use super::{keyspaces, nodes, operations, plan, tables};

/// Longest name and value of a setting, in bytes.
const SETTING_BYTES_MAX: usize = 4096;

/// Applies metadata commands and publishes the map after each run of them.
///
/// Invariants: every change raises the map's version by one; ids come from counters and are never
/// reused; the cluster is founded once.
pub struct MetaMachine {
    map: watch::Sender<Arc<ShardMap>>,
}

impl MetaMachine {
    /// A machine that has published nothing yet.
    pub fn new() -> Self {
        Self { map: watch::Sender::new(Arc::default()) }
    }

    /// The map as of the last applied entry.
    pub fn map(&self) -> watch::Receiver<Arc<ShardMap>> {
        self.map.subscribe()
    }
}

impl Default for MetaMachine {
    fn default() -> Self {
        Self::new()
    }
}

impl Apply for MetaMachine {
    fn apply(&self, state: &mut WriteSet<'_>, _at: LogPosition, command: &Bytes) -> Result<Bytes, EngineError> {
        let result = match MetaCommand::decode(command.clone()) {
            Ok(MetaCommand { kind: Some(kind) }) => execute(state, kind)?,
            Ok(MetaCommand { kind: None }) => refuse(ErrorCode::Internal, "unknown metadata command").into(),
            Err(error) => refuse(ErrorCode::Internal, format!("malformed metadata command: {error}")).into(),
        };
        Ok(result.encode_to_vec().into())
    }

    fn applied(&self, view: &dyn View, _at: LogPosition) {
        match tables::map(view) {
            Ok(map) => {
                self.map.send_if_modified(|current| {
                    let changed = current.version != map.version;
                    if changed {
                        *current = Arc::new(map);
                    }
                    changed
                });
            }
            Err(error) => tracing::error!(%error, "cannot read the shard map; the node keeps the one it has"),
        }
    }
}

fn execute(state: &mut WriteSet<'_>, kind: Kind) -> Result<MetaResult, EngineError> {
    Ok(match kind {
        Kind::Bootstrap(command) => bootstrap(state, command)?.into(),
        Kind::UpdateNode(command) => nodes::update(state, command)?.into(),
        Kind::SetSetting(command) => set_setting(state, command)?.into(),
        Kind::CreateKeyspace(command) => keyspaces::create(state, command)?.into(),
        Kind::UpdateKeyspace(command) => keyspaces::update(state, command)?.into(),
        Kind::DropKeyspace(command) => keyspaces::drop(state, &command)?.into(),
        Kind::ForgetShards(command) => keyspaces::forget(state, &command)?.into(),
        Kind::AddNode(command) => nodes::add(state, command)?,
        Kind::RemoveNode(command) => nodes::remove(state, &command)?.into(),
        Kind::ForgetNode(command) => nodes::forget(state, &command)?.into(),
        Kind::StartOperation(command) => operations::start(state, command)?,
        Kind::CancelOperation(command) => operations::cancel(state, &command)?.into(),
        Kind::FinishOperation(command) => operations::finish(state, &command)?.into(),
        Kind::PreferLeader(command) => operations::prefer(state, &command)?.into(),
    })
}

impl From<meta_result::Kind> for MetaResult {
    fn from(kind: meta_result::Kind) -> Self {
        Self { kind: Some(kind), id: 0 }
    }
}

fn bootstrap(writes: &mut WriteSet<'_>, command: Bootstrap) -> Result<meta_result::Kind, EngineError> {
    if let Some(state) = tables::state(writes)? {
        return Ok(if state.cluster_id == command.cluster_id {
            meta_result::Kind::Version(state.version)
        } else {
            refuse(ErrorCode::InvalidArgument, "the cluster is founded already, under another id")
        });
    }
    if ClusterId::from_bytes(&command.cluster_id).is_none() || command.nodes.is_empty() {
        return Ok(refuse(ErrorCode::InvalidArgument, "founding needs a cluster id of 16 bytes and at least one node"));
    }
    let node_ids = command.nodes.iter().map(|node| NodeId(node.id));
    let placed = plan::founding_replicas(node_ids.clone(), command.replication_factor);
    let highest = node_ids.map(|id| id.0).max().unwrap_or(0);
    // The metadata group's founding replicas carry their nodes' ids.
    let replicas =
        (highest + 1..).zip(placed).map(|(id, node)| v1::Replica { id, node_id: node.0, voter: true, founding: true });
    let replicas: Vec<_> = replicas.collect();
    let shard = GroupId::META.0 + 1;
    let state = MetaState {
        cluster_id: command.cluster_id,
        version: 1,
        next_node_id: highest + 1,
        next_keyspace_id: 2,
        next_shard_id: shard + 1,
        next_replica_id: highest + 1 + replicas.len() as u64,
        next_operation_id: 1,
    };
    let single = v1::sharding::Kind::Single(v1::sharding::Single {});
    let keyspace = v1::Keyspace {
        id: 1,
        name: DEFAULT_KEYSPACE.to_owned(),
        sharding: Some(v1::Sharding { kind: Some(single) }),
        replication_factor: command.replication_factor,
        history_revisions: 0,
        history_ms: 0,
        dropping: false,
    };
    let all = v1::span::Kind::Keys(v1::span::Keys::default());
    let span = Some(v1::Span { kind: Some(all) });
    tables::put_shard(writes, &v1::Shard { id: shard, keyspace_id: keyspace.id, span, epoch: 1, replicas });
    tables::put_keyspace(writes, &keyspace);
    command.nodes.iter().for_each(|node| tables::put_node(writes, node));
    tables::put_state(writes, &state);
    Ok(meta_result::Kind::Version(state.version))
}

fn set_setting(writes: &mut WriteSet<'_>, command: SetSetting) -> Result<meta_result::Kind, EngineError> {
    let Some(state) = tables::state(writes)? else { return Ok(not_founded()) };
    if command.name.is_empty() || command.name.len().max(command.value.len()) > SETTING_BYTES_MAX {
        return Ok(refuse(ErrorCode::InvalidArgument, "a setting needs a name; both are at most 4,096 bytes"));
    }
    tables::put_setting(writes, &command.name, command.value);
    Ok(raise_version(writes, state))
}

pub(super) fn raise_version(writes: &mut WriteSet<'_>, mut state: MetaState) -> meta_result::Kind {
    state.version += 1;
    tables::put_state(writes, &state);
    meta_result::Kind::Version(state.version)
}

pub(super) fn not_founded() -> meta_result::Kind {
    refuse(ErrorCode::Unavailable, "the cluster is not founded yet")
}

pub(super) fn refuse(code: ErrorCode, message: impl Into<String>) -> meta_result::Kind {
    let detail = ErrorDetail { code: code.into(), outcome: Outcome::NotApplied.into(), ..Default::default() };
    meta_result::Kind::Refusal(Refusal { message: message.into(), detail: Some(detail) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::proto::internal::meta_command::UpdateNode;
    use crate::storage::engine::{Direction, KeyRange, PairResult, StoreId};
    use crate::types::map::Sharding;
    use crate::types::{Epoch, KeyspaceId};

    #[derive(Default)]
    struct Store(BTreeMap<Bytes, Bytes>);

    impl View for Store {
        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
            Ok(self.0.get(key).cloned())
        }

        fn scan<'a>(&'a self, range: KeyRange<'_>, _: Direction) -> Box<dyn Iterator<Item = PairResult> + 'a> {
            Box::new(self.0.range::<[u8], _>(range).map(|(key, value)| Ok((key.clone(), value.clone()))))
        }
    }

    struct Meta {
        machine: MetaMachine,
        store: Store,
        index: u64,
    }

    impl Meta {
        fn new() -> Self {
            Self { machine: MetaMachine::new(), store: Store::default(), index: 0 }
        }

        fn apply(&mut self, command: impl Into<Bytes>) -> meta_result::Kind {
            self.index += 1;
            let at = LogPosition { term: 1, index: self.index };
            let mut writes = WriteSet::new(&self.store);
            let answer = self.machine.apply(&mut writes, at, &command.into()).unwrap();
            for (_, key, value) in writes.into_batch(StoreId(1)).writes {
                match value {
                    Some(value) => self.store.0.insert(key, value),
                    None => self.store.0.remove(&key),
                };
            }
            self.machine.applied(&self.store, at);
            MetaResult::decode(answer).unwrap().kind.unwrap()
        }

        fn command(&mut self, kind: Kind) -> meta_result::Kind {
            self.apply(MetaCommand { kind: Some(kind) }.encode_to_vec())
        }

        fn found(&mut self, cluster_id: &'static [u8], nodes: u64) -> meta_result::Kind {
            let nodes = (1..=nodes).map(node).collect();
            let cluster_id = Bytes::from_static(cluster_id);
            self.command(Kind::Bootstrap(Bootstrap { cluster_id, nodes, replication_factor: 3 }))
        }
    }

    fn node(id: u64) -> v1::Node {
        v1::Node { id, name: format!("n{id}"), peer_address: format!("n{id}:2380"), ..Default::default() }
    }

    const ID: &[u8] = &[7; 16];

    #[test]
    fn founding_makes_the_default_keyspace_and_its_shard() {
        let mut meta = Meta::new();
        assert_eq!(meta.found(ID, 5), meta_result::Kind::Version(1));
        let map = meta.machine.map().borrow().clone();
        let keyspace = map.keyspace("default").unwrap();
        assert_eq!((keyspace.id, keyspace.sharding), (KeyspaceId(1), Sharding::Single));
        let shard = map.shard_of(keyspace.id, b"any").unwrap();
        assert_eq!((shard.id, shard.epoch), (GroupId(2), Epoch(1)));
        let replicas: Vec<_> = shard.replicas.iter().map(|replica| (replica.id.0, replica.node.0)).collect();
        assert_eq!(replicas, [(6, 1), (7, 2), (8, 3)]);
        assert_eq!(map.nodes.len(), 5);
    }

    #[test]
    fn founding_happens_once() {
        let mut meta = Meta::new();
        meta.found(ID, 3);
        let before = meta.store.0.clone();
        assert_eq!(meta.found(ID, 3), meta_result::Kind::Version(1));
        assert!(matches!(meta.found(&[8; 16], 3), meta_result::Kind::Refusal(_)));
        assert_eq!(meta.store.0, before);
    }

    #[test]
    fn nodes_change_addresses_but_not_names() {
        let mut meta = Meta::new();
        let update = |node| Kind::UpdateNode(UpdateNode { node: Some(node) });
        assert!(matches!(meta.command(update(node(1))), meta_result::Kind::Refusal(_)), "not founded");
        meta.found(ID, 3);
        let mut moved = node(2);
        moved.client_address = "elsewhere:1".into();
        assert_eq!(meta.command(update(moved.clone())), meta_result::Kind::Version(2));
        assert_eq!(meta.command(update(moved.clone())), meta_result::Kind::Version(2), "no change, no version");
        assert_eq!(meta.machine.map().borrow().nodes[&NodeId(2)].client_address, "elsewhere:1");
        moved.name = "other".into();
        assert!(matches!(meta.command(update(moved)), meta_result::Kind::Refusal(_)));
        assert!(matches!(meta.command(update(node(9))), meta_result::Kind::Refusal(_)));
    }

    #[test]
    fn nonsense_is_answered_and_changes_nothing() {
        let mut meta = Meta::new();
        meta.found(ID, 3);
        let before = meta.store.0.clone();
        let long = SetSetting { name: "x".repeat(SETTING_BYTES_MAX + 1), value: String::new() };
        assert!(matches!(meta.command(Kind::SetSetting(long)), meta_result::Kind::Refusal(_)));
        assert!(matches!(meta.command(Kind::SetSetting(SetSetting::default())), meta_result::Kind::Refusal(_)));
        assert!(matches!(meta.apply(&b"\xff\xff\xff"[..]), meta_result::Kind::Refusal(_)));
        assert!(matches!(meta.apply(&b""[..]), meta_result::Kind::Refusal(_)));
        assert_eq!(meta.store.0, before);
    }
}
