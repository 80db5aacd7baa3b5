//! The groups on this node, and whether a frame may reach one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::RwLock;

use super::group::Core;
use super::peers::{Peers, Refusal, Target, TargetGroup};
use crate::proto::internal as wire;
use crate::types::{Epoch, GroupId, NodeId, ReplicaId};

/// The groups on this node.
pub(super) struct Registry {
    pub(super) peers: Arc<Peers>,
    groups: RwLock<BTreeMap<GroupId, Arc<Core>>>,
}

impl Registry {
    pub(super) fn new(peers: Arc<Peers>) -> Self {
        Self { peers, groups: RwLock::default() }
    }

    pub(super) fn get(&self, group: GroupId) -> Option<Arc<Core>> {
        self.groups.read().get(&group).cloned()
    }

    /// All groups, by id.
    pub(super) fn all(&self) -> Vec<Arc<Core>> {
        self.groups.read().values().cloned().collect()
    }

    pub(super) fn insert(&self, core: Arc<Core>) {
        self.groups.write().insert(core.group, core);
    }

    pub(super) fn remove(&self, group: GroupId) -> Option<Arc<Core>> {
        self.groups.write().remove(&group)
    }

    /// The group that a frame is for, if the frame fits: who sent it, and to whom.
    pub(super) fn admit(&self, envelope: Option<&wire::Envelope>) -> Result<Arc<Core>, Refusal> {
        let core = envelope.and_then(|envelope| self.get(GroupId(envelope.group_id)));
        let target = core.as_ref().map(|core| TargetGroup {
            replica: core.replica,
            epoch: Epoch(core.epoch.load(Ordering::Relaxed)),
            sender_home: envelope.and_then(|envelope| core.home_of(ReplicaId(envelope.from_replica))),
        });
        self.peers.check(envelope, Target::Group(target))?;
        core.ok_or_else(|| Refusal::new(wire::peer_error::Code::UnknownGroup, "the group has gone"))
    }

    /// The node that sent a frame which is for no group.
    pub(super) fn admit_to_node(&self, envelope: Option<&wire::Envelope>) -> Result<NodeId, Refusal> {
        self.peers.check(envelope, Target::Node)
    }
}
