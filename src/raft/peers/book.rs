//! What this node durably remembers of every other node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::admission::Introduction;
use super::file::{self, FileError};
use crate::env::disk::Disk;
use crate::proto::internal as wire;
use crate::types::NodeId;

const MAGIC: [u8; 4] = *b"QRPB";
/// Name of the file within the data directory.
const FILE: &str = "peers";
/// Nodes that are remembered; a cluster has no more.
const PEERS_MAX: usize = 4_096;

/// Why the book cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum PeerBookError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// More nodes than a cluster has.
    #[error("more than {PEERS_MAX} nodes introduced themselves")]
    Full,
    /// The worker that writes the file has ended.
    #[error("{0}")]
    Worker(String),
}

/// The newest that was ever seen of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(super) boot: u64,
    pub(super) nonce: u64,
    pub(super) position: u64,
}

/// The newest that was ever seen of every other node.
pub struct PeerBook {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    pages: Mutex<Pages>,
    /// Held while the file is replaced, so that no older content overtakes a newer one.
    writing: Mutex<()>,
}

#[derive(Default)]
struct Pages {
    seen: BTreeMap<NodeId, Seen>,
    dirty: bool,
}

impl PeerBook {
    /// Opens the book of a data directory, which must exist.
    ///
    /// # Errors
    /// When the file is damaged or the device refuses.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Self, PeerBookError> {
        let path = dir.join(FILE);
        let stored: wire::StoredPeers = file::read(&*disk, &path, MAGIC)?.unwrap_or_default();
        let seen = |peer: wire::stored_peers::Peer| {
            (NodeId(peer.node_id), Seen { boot: peer.boot, nonce: peer.nonce, position: peer.log_position })
        };
        let pages = Pages { seen: stored.peers.into_iter().map(seen).collect(), dirty: false };
        Ok(Self { disk, path, pages: Mutex::new(pages), writing: Mutex::default() })
    }

    pub(super) fn seen(&self, node: NodeId) -> Option<Seen> {
        self.pages.lock().seen.get(&node).copied()
    }

    /// Durably remembers a start of a peer that was checked.
    pub(super) fn record(&self, theirs: &Introduction) -> Result<(), PeerBookError> {
        {
            let mut pages = self.pages.lock();
            if pages.seen.len() >= PEERS_MAX && !pages.seen.contains_key(&theirs.node) {
                return Err(PeerBookError::Full);
            }
            let position = pages.seen.get(&theirs.node).map_or(0, |seen| seen.position).max(theirs.position);
            pages.seen.insert(theirs.node, Seen { boot: theirs.boot, nonce: theirs.nonce, position });
        }
        self.save()
    }

    /// Raises the remembered log position of a node that is known.
    pub(super) fn note_position(&self, node: NodeId, position: u64) {
        let pages = &mut *self.pages.lock();
        if let Some(seen) = pages.seen.get_mut(&node).filter(|seen| seen.position < position) {
            seen.position = position;
            pages.dirty = true;
        }
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.pages.lock().dirty
    }

    /// Makes all that is remembered durable.
    pub(super) fn save(&self) -> Result<(), PeerBookError> {
        let _in_order = self.writing.lock();
        let stored = {
            let mut pages = self.pages.lock();
            pages.dirty = false;
            let peer = |(node, seen): (&NodeId, &Seen)| wire::stored_peers::Peer {
                node_id: node.0,
                boot: seen.boot,
                nonce: seen.nonce,
                log_position: seen.position,
            };
            wire::StoredPeers { peers: pages.seen.iter().map(peer).collect() }
        };
        let saved = file::write(&*self.disk, &self.path, MAGIC, &stored);
        if saved.is_err() {
            self.pages.lock().dirty = true;
        }
        Ok(saved?)
    }
}
