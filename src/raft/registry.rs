//! The groups on this node, and whether a frame may reach one.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;

use super::group::Core;
use super::peers::{Peers, Refusal, Target, TargetGroup};
use crate::proto::internal as wire;
use crate::types::{Epoch, GroupId, NodeId, ReplicaId};

/// The groups on this node.
#[derive(Clone)]
pub(super) struct Registry {
    pub(super) peers: Arc<Peers>,
    groups: Arc<RwLock<BTreeMap<GroupId, Arc<Core>>>>,
    /// Set where frames come over a connection whose other end proved who it is: only that node's are
    /// listened to, and none before it has introduced itself there.
    speaker: Option<Arc<OnceLock<NodeId>>>,
}

impl Registry {
    pub(super) fn new(peers: Arc<Peers>) -> Self {
        Self { peers, groups: Arc::default(), speaker: None }
    }

    /// The same groups, as one connection may reach them whose other end shows a certificate.
    pub(super) fn on_certified_connection(&self) -> Self {
        Self { speaker: Some(Arc::default()), ..self.clone() }
    }

    /// A node has introduced itself on this connection, with a certificate that names it.
    pub(super) fn introduced(&self, node: NodeId) -> Result<(), Refusal> {
        let Some(speaker) = &self.speaker else { return Ok(()) };
        let first = *speaker.get_or_init(|| node);
        if first == node {
            return Ok(());
        }
        let message = format!("node {first} has introduced itself on this connection, and now it is node {node}");
        Err(Refusal::new(wire::peer_error::Code::WrongNode, message))
    }

    fn check_speaker(&self, envelope: Option<&wire::Envelope>) -> Result<(), Refusal> {
        let Some(speaker) = &self.speaker else { return Ok(()) };
        let from = envelope.and_then(|envelope| envelope.from.as_ref()).map(|from| NodeId(from.node_id));
        if from.is_some() && from.as_ref() == speaker.get() {
            return Ok(());
        }
        let message = "the sender has not introduced itself on this connection";
        Err(Refusal::new(wire::peer_error::Code::UnknownIncarnation, message))
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
        self.check_speaker(envelope)?;
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
        self.check_speaker(envelope)?;
        self.peers.check(envelope, Target::Node)
    }
}
