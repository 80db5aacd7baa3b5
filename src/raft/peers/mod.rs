//! Who is who: this node's identity on disk, what it remembers of every other node, and the check
//! that nothing which went back in time is listened to.
//!
//! A disk that was emptied or set back under its old identity would forget votes it gave and entries
//! it acknowledged, and Raft would lose writes. So each start raises a counter in the identity file,
//! each node durably remembers the newest start (and log position) it has seen of every peer, and
//! whoever comes back older is refused, by both ends of a connection, before it may say anything
//! else. A start also names the nonces of those before it, so that a disk which is merely started often
//! enough does not pass for the one that was seen. Knows no group's content.

mod admission;
mod book;
mod certified;
mod file;
mod identity;
mod joining;

pub(super) use admission::{Introduction, Ours, Refusal, Session, Target, TargetGroup, check_envelope};
pub use book::{PeerBook, PeerBookError};
pub use file::FileError;
pub use identity::{Identity, IdentityError, Known};
pub use joining::joining_token;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::env::tls::{Certificate, PeerTls, Refusals};
use crate::env::work::Worker;
use crate::proto::internal as wire;
use crate::types::{ClusterId, Epoch, GroupId, NodeId, ReplicaId};

/// Protocol between nodes that this code speaks.
pub(super) const PROTOCOL: u32 = 1;

/// Members as of the newest map that this node has seen.
#[derive(Default)]
struct Members {
    ids: BTreeSet<NodeId>,
    /// Below it every id was given; who is not among the members has left.
    next: NodeId,
}

/// This node among its peers.
pub(super) struct Peers {
    identity: RwLock<Identity>,
    book: Arc<PeerBook>,
    /// Peers that introduced themselves since this process started.
    sessions: Mutex<BTreeMap<NodeId, Session>>,
    /// Introductions are recorded one after the other, so that none overtakes a newer one.
    meeting: tokio::sync::Mutex<()>,
    /// Who is a member, once a map was seen.
    members: RwLock<Members>,
    disk: Worker,
    refused: watch::Sender<Option<String>>,
    /// Proves who this node is and who the others are; `None` where the network is trusted.
    tls: Option<Arc<PeerTls>>,
    /// Who was refused and tries again, where there is no TLS that remembers it.
    refusals: Refusals,
    /// Names of the nodes that are known to belong to the cluster.
    names: Mutex<BTreeMap<NodeId, String>>,
    position: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl Peers {
    pub(super) fn new(
        identity: Identity,
        book: PeerBook,
        disk: Worker,
        position: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        Self {
            identity: RwLock::new(identity),
            book: Arc::new(book),
            sessions: Mutex::default(),
            meeting: tokio::sync::Mutex::default(),
            members: RwLock::default(),
            disk,
            refused: watch::Sender::new(None),
            tls: None,
            refusals: Refusals::default(),
            names: Mutex::default(),
            position: Box::new(position),
        }
    }

    /// The same, over TLS.
    pub(super) fn with_tls(self, tls: Option<Arc<PeerTls>>) -> Self {
        Self { tls, ..self }
    }

    pub(super) fn tls(&self) -> Option<&Arc<PeerTls>> {
        self.tls.as_ref()
    }

    /// Where refusals of peers that try again are logged.
    pub(super) fn refusals(&self) -> &Refusals {
        self.tls.as_ref().map_or(&self.refusals, |tls| tls.refusals())
    }

    /// Says which node an id belongs to: no certificate of another will do for it.
    pub(super) fn set_name(&self, node: NodeId, name: &str) {
        let mut names = self.names.lock();
        if names.get(&node).is_none_or(|known| known != name) {
            names.insert(node, name.to_owned());
        }
    }

    /// Whether the certificate that was presented is one of node `node`, as far as its name is known.
    pub(super) fn check_expected(&self, node: NodeId, certificate: Option<&Certificate>) -> Result<(), Refusal> {
        let known = self.names.lock().get(&node).cloned();
        certified::check_expected(certificate, node, known.as_deref())
    }

    pub(super) fn node(&self) -> NodeId {
        self.identity.read().node
    }

    pub(super) fn ours(&self) -> Ours {
        let identity = self.identity.read();
        Ours { node: identity.node, cluster_id: identity.cluster_id, founding_hash: identity.founding_hash }
    }

    /// Makes the cluster id durable and says it from now on.
    pub(super) fn set_cluster_id(&self, id: ClusterId) -> Result<(), IdentityError> {
        self.identity.write().set_cluster_id(id)
    }

    /// Says who the members are. Whoever is none any more is not listened to.
    pub(super) fn set_members(&self, ids: BTreeSet<NodeId>, next: NodeId) {
        *self.members.write() = Members { ids, next };
        self.sessions.lock().retain(|node, _| !self.has_left(*node));
    }

    fn has_left(&self, node: NodeId) -> bool {
        let members = self.members.read();
        node < members.next && !members.ids.contains(&node)
    }

    /// Position in this node's log that is durable.
    pub(super) fn position(&self) -> u64 {
        (self.position)()
    }

    /// What this node says of itself.
    pub(super) fn introduction(&self) -> Introduction {
        let position = self.position();
        let identity = self.identity.read();
        Introduction {
            name: identity.name.clone(),
            node: identity.node,
            boot: identity.boot,
            nonce: identity.nonce,
            cluster_id: identity.cluster_id,
            founding_hash: identity.founding_hash,
            position,
            earlier: identity.earlier.clone(),
        }
    }

    /// Takes a peer's introduction: checks it, against its certificate if there is one, and remembers it
    /// durably.
    pub(super) async fn meet(&self, theirs: Introduction, certificate: Option<&Certificate>) -> Result<(), Refusal> {
        certified::check_introduction(certificate, &theirs)?;
        self.check_expected(theirs.node, certificate)?;
        let _one_at_a_time = self.meeting.lock().await;
        admission::admit(&self.ours(), self.book.seen(theirs.node).as_ref(), &theirs)?;
        if self.has_left(theirs.node) {
            return Err(admission::removed(theirs.node, &theirs.name));
        }
        let (node, session) = (theirs.node, theirs.session());
        if self.sessions.lock().get(&node) == Some(&session) {
            self.book.note_position(node, theirs.position);
            return Ok(());
        }
        let book = self.book.clone();
        let recorded = self.disk.run(move || book.record(&theirs)).await;
        match recorded {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Refusal::unable(format!("cannot remember node {node}: {error}"))),
            Err(error) => return Err(Refusal::unable(error.to_string())),
        }
        self.sessions.lock().insert(node, session);
        Ok(())
    }

    /// Checks a frame's envelope.
    pub(super) fn check(&self, envelope: Option<&wire::Envelope>, target: Target) -> Result<NodeId, Refusal> {
        let from = envelope.and_then(|envelope| envelope.from.as_ref()).map_or(NodeId(0), |from| NodeId(from.node_id));
        let session = self.sessions.lock().get(&from).cloned();
        check_envelope(&self.ours(), session.as_ref(), target, envelope)?;
        Ok(from)
    }

    /// The envelope of a frame from this process.
    pub(super) fn envelope(&self, to: NodeId, route: Route) -> wire::Envelope {
        let identity = self.identity.read();
        wire::Envelope {
            cluster_id: identity.wire_cluster(),
            from: Some(identity.incarnation()),
            to_node_id: to.0,
            group_id: route.group.0,
            from_replica: route.from.0,
            to_replica: route.to.0,
            shard_epoch: route.epoch.0,
        }
    }

    /// Raises what is remembered of a peer's log; durable with the next [`Peers::save`].
    pub(super) fn note_position(&self, node: NodeId, position: u64) {
        self.book.note_position(node, position);
    }

    /// Makes noted positions durable.
    pub(super) async fn save(&self) -> Result<(), PeerBookError> {
        if !self.book.is_dirty() {
            return Ok(());
        }
        let book = self.book.clone();
        match self.disk.run(move || book.save()).await {
            Ok(saved) => saved,
            Err(error) => Err(PeerBookError::Worker(error.to_string())),
        }
    }

    /// A peer said that this node is not who it was. It must stop.
    pub(super) fn refused_by(&self, address: &str, message: &str) {
        let message = format!("refused by the node at {address}: {message}");
        self.refused.send_if_modified(|refused| refused.is_none() && refused.replace(message).is_none());
    }

    /// Becomes the message when a peer refuses this node for good.
    pub(super) fn watch_refused(&self) -> watch::Receiver<Option<String>> {
        self.refused.subscribe()
    }
}

/// Which replica of which group speaks to which.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Route {
    pub(super) group: GroupId,
    pub(super) from: ReplicaId,
    pub(super) to: ReplicaId,
    pub(super) epoch: Epoch,
}
