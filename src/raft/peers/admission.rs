//! Who is listened to: pure decisions over introductions and envelopes.

use bytes::Bytes;

use super::PROTOCOL;
use super::book::Seen;
use super::identity::EARLIER_STARTS_MAX;
use crate::proto::internal as wire;
use crate::proto::internal::peer_error::Code;
use crate::types::{ClusterId, Epoch, NodeId, ReplicaId};

/// Longest node name that is read, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Why a peer is not listened to.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// This node cannot decide now; the peer may try again.
    pub(super) fn unable(message: String) -> Self {
        Self::new(Code::Unspecified, message)
    }

    pub(crate) fn to_wire(&self) -> wire::PeerError {
        wire::PeerError { code: self.code.into(), message: self.message.clone() }
    }
}

/// What a process says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Introduction {
    pub(crate) name: String,
    pub(crate) node: NodeId,
    pub(crate) boot: u64,
    pub(crate) nonce: u64,
    pub(crate) cluster_id: Option<ClusterId>,
    pub(crate) founding_hash: u64,
    pub(crate) position: u64,
    /// Nonces of the starts before this one, the latest first.
    pub(crate) earlier: Vec<u64>,
}

impl Introduction {
    pub(crate) fn from_request(hello: wire::HelloRequest) -> Result<Self, Refusal> {
        let (founding_hash, position) = (hello.founding_hash, hello.log_position);
        let read = Self::read(hello.protocol, hello.from, hello.name, &hello.cluster_id, founding_hash, position)?;
        read.after(hello.earlier_nonces)
    }

    pub(crate) fn from_response(hello: wire::HelloResponse) -> Result<Self, Refusal> {
        let (founding_hash, position) = (hello.founding_hash, hello.log_position);
        let read = Self::read(hello.protocol, hello.from, hello.name, &hello.cluster_id, founding_hash, position)?;
        read.after(hello.earlier_nonces)
    }

    fn after(self, earlier: Vec<u64>) -> Result<Self, Refusal> {
        if earlier.len() > EARLIER_STARTS_MAX {
            return Err(Refusal::new(Code::Malformed, format!("the introduction names {} starts", earlier.len())));
        }
        Ok(Self { earlier, ..self })
    }

    /// Nonce of an earlier start, if it is told.
    fn nonce_of(&self, boot: u64) -> Option<u64> {
        let starts_ago = usize::try_from(self.boot.checked_sub(boot)?).ok()?;
        self.earlier.get(starts_ago.checked_sub(1)?).copied()
    }

    fn read(
        protocol: u32,
        from: Option<wire::Incarnation>,
        name: String,
        cluster_id: &Bytes,
        founding_hash: u64,
        position: u64,
    ) -> Result<Self, Refusal> {
        let malformed = |message: String| Err(Refusal::new(Code::Malformed, message));
        if protocol != PROTOCOL {
            return malformed(format!("peer protocol {protocol} is not spoken here, {PROTOCOL} is"));
        }
        let Some(from) = from else { return malformed("the introduction names no node".into()) };
        let cluster = ClusterId::from_bytes(cluster_id);
        if from.node_id == 0
            || from.boot == 0
            || name.len() > NAME_BYTES_MAX
            || cluster.is_none() != cluster_id.is_empty()
        {
            return malformed("the introduction is incomplete".into());
        }
        let (node, boot, nonce) = (NodeId(from.node_id), from.boot, from.nonce);
        Ok(Self { name, node, boot, nonce, cluster_id: cluster, founding_hash, position, earlier: Vec::new() })
    }

    pub(crate) fn to_request(&self, to: NodeId) -> wire::HelloRequest {
        wire::HelloRequest {
            cluster_id: self.wire_cluster_id(),
            founding_hash: self.founding_hash,
            from: Some(self.incarnation()),
            to_node_id: to.0,
            name: self.name.clone(),
            log_position: self.position,
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            earlier_nonces: self.earlier.clone(),
        }
    }

    pub(crate) fn to_response(&self) -> wire::HelloResponse {
        wire::HelloResponse {
            cluster_id: self.wire_cluster_id(),
            founding_hash: self.founding_hash,
            from: Some(self.incarnation()),
            name: self.name.clone(),
            log_position: self.position,
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            earlier_nonces: self.earlier.clone(),
            founded: self.cluster_id.is_some(),
        }
    }

    fn wire_cluster_id(&self) -> Bytes {
        self.cluster_id.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id.0))
    }

    fn incarnation(&self) -> wire::Incarnation {
        wire::Incarnation { node_id: self.node.0, boot: self.boot, nonce: self.nonce }
    }

    pub(super) fn session(&self) -> Session {
        Session { boot: self.boot, nonce: self.nonce, cluster_id: self.cluster_id }
    }
}

/// A peer that introduced itself since this process started.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Session {
    boot: u64,
    nonce: u64,
    cluster_id: Option<ClusterId>,
}

/// This node, as far as it matters to admission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ours {
    pub(crate) node: NodeId,
    pub(crate) cluster_id: Option<ClusterId>,
    pub(crate) founding_hash: u64,
}

/// Whether a process may be listened to at all, given the newest that was ever seen of its node.
pub(super) fn admit(ours: &Ours, seen: Option<&Seen>, theirs: &Introduction) -> Result<(), Refusal> {
    if theirs.node == ours.node {
        return Err(Refusal::new(
            Code::WrongNode,
            format!("node {} `{}` reached itself, or another process uses its identity", theirs.node, theirs.name),
        ));
    }
    let same_cluster = match (ours.cluster_id, theirs.cluster_id) {
        (Some(ours), Some(theirs)) => ours == theirs,
        // Until both know the id, the definition of the first cluster stands for it.
        _ => ours.founding_hash != 0 && ours.founding_hash == theirs.founding_hash,
    };
    if !same_cluster {
        let name = |id: Option<ClusterId>| id.map_or_else(|| "not known yet".to_owned(), |id| id.to_string());
        let message = format!(
            "node `{}` is of another cluster: its cluster id is {} and ours {}; check --cluster and the addresses",
            theirs.name,
            name(theirs.cluster_id),
            name(ours.cluster_id)
        );
        return Err(Refusal::new(Code::WrongCluster, message));
    }
    let Some(seen) = seen else { return Ok(()) };
    let why = if theirs.boot < seen.boot {
        format!("start {} of its data directory was seen, this is start {}", seen.boot, theirs.boot)
    } else if theirs.boot == seen.boot && theirs.nonce != seen.nonce {
        format!("start {} of its data directory was seen from another disk", seen.boot)
    } else if theirs.nonce_of(seen.boot).is_some_and(|nonce| nonce != seen.nonce) {
        format!("start {} of its data directory was seen from another disk than this start {}", seen.boot, theirs.boot)
    } else if theirs.boot > seen.boot && theirs.position < seen.position {
        // Not asked of the same start: its introduction may be older than its latest reply.
        format!("its log had reached position {} and is now at {}", seen.position, theirs.position)
    } else {
        return Ok(());
    };
    Err(stale(theirs.node, &theirs.name, &why))
}

fn stale(node: NodeId, name: &str, why: &str) -> Refusal {
    let message = format!(
        "node {node} `{name}` came back with an older or an empty disk: {why}. It may have forgotten what it \
         acknowledged, so it must not return under its old identity: empty its data directory and start it with \
         `kvd --join HOST:PORT --replace {name}`"
    );
    Refusal::new(Code::StaleIncarnation, message)
}

/// What a node hears that was taken out of the cluster.
pub(super) fn removed(node: NodeId, name: &str) -> Refusal {
    let message = format!(
        "node {node} `{name}` was removed from the cluster. Its data directory is of no more use; to bring the machine \
         back, empty it and start it with `kvd --join HOST:PORT`"
    );
    Refusal::new(Code::Removed, message)
}

/// What a frame is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// The node itself.
    Node,
    /// A group; `None` when this node has no such group.
    Group(Option<TargetGroup>),
}

/// The receiving replica, as far as it matters to admission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TargetGroup {
    /// The local replica.
    pub(crate) replica: ReplicaId,
    /// The local epoch; 0 when not known.
    pub(crate) epoch: Epoch,
    /// Where the sending replica lives according to the membership; `None` when not known.
    pub(crate) sender_home: Option<NodeId>,
}

/// Whether a frame fits its receiver: cluster, both processes, group, both replicas, epoch.
pub(crate) fn check_envelope(
    ours: &Ours,
    session: Option<&Session>,
    target: Target,
    envelope: Option<&wire::Envelope>,
) -> Result<(), Refusal> {
    let refuse = |code, message: String| Err(Refusal::new(code, message));
    let Some(envelope) = envelope else { return refuse(Code::Malformed, "the frame has no envelope".into()) };
    let Some(from) = &envelope.from else { return refuse(Code::Malformed, "the frame names no sender".into()) };
    let sender = NodeId(from.node_id);
    if envelope.to_node_id != ours.node.0 {
        return refuse(Code::WrongNode, format!("this is node {}, not {}", ours.node, NodeId(envelope.to_node_id)));
    }
    let Some(session) = session else {
        return refuse(Code::UnknownIncarnation, format!("node {sender} has not introduced itself"));
    };
    if from.boot < session.boot {
        return refuse(Code::StaleIncarnation, format!("node {sender} was started again since it sent this"));
    }
    if (from.boot, from.nonce) != (session.boot, session.nonce) {
        return refuse(Code::UnknownIncarnation, format!("this start of node {sender} has not introduced itself"));
    }
    check_cluster(ours, session, &envelope.cluster_id)?;
    match target {
        Target::Node => Ok(()),
        Target::Group(None) => {
            refuse(Code::UnknownGroup, format!("node {} has no replica of group g{}", ours.node, envelope.group_id))
        }
        Target::Group(Some(group)) => check_group(envelope, sender, &group),
    }
}

fn check_cluster(ours: &Ours, session: &Session, cluster: &Bytes) -> Result<(), Refusal> {
    let fits = match (ClusterId::from_bytes(cluster), <[u8; 8]>::try_from(cluster.as_ref())) {
        // A sender that learned the id before we did said so when it introduced itself.
        (Some(theirs), _) => ours.cluster_id.or(session.cluster_id).is_none_or(|known| known == theirs),
        (None, Ok(hash)) => ours.founding_hash != 0 && hash == ours.founding_hash.to_le_bytes(),
        (None, Err(_)) => return Err(Refusal::new(Code::Malformed, "the frame names no cluster")),
    };
    if fits { Ok(()) } else { Err(Refusal::new(Code::WrongCluster, "the frame is of another cluster")) }
}

fn check_group(envelope: &wire::Envelope, sender: NodeId, group: &TargetGroup) -> Result<(), Refusal> {
    if envelope.to_replica != group.replica.0 || envelope.from_replica == 0 {
        let wanted = ReplicaId(envelope.to_replica);
        return Err(Refusal::new(Code::WrongReplica, format!("the replica here is {}, not {wanted}", group.replica)));
    }
    if let Some(home) = group.sender_home.filter(|home| *home != sender) {
        let from = ReplicaId(envelope.from_replica);
        return Err(Refusal::new(Code::WrongReplica, format!("replica {from} lives on node {home}, not on {sender}")));
    }
    if envelope.shard_epoch != 0 && envelope.shard_epoch < group.epoch.0 {
        let theirs = Epoch(envelope.shard_epoch);
        return Err(Refusal::new(Code::StaleEpoch, format!("the shard is at epoch {}, not {theirs}", group.epoch)));
    }
    Ok(())
}

#[cfg(test)]
#[path = "admission_test.rs"]
mod tests;
