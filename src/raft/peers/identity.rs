//! This node's identity: a file in its data directory, raised at every start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::file::{self, FileError};
use crate::env::chance;
use crate::env::disk::Disk;
use crate::proto::internal as wire;
use crate::types::{ClusterId, NodeId};

const MAGIC: [u8; 4] = *b"QRID";
/// Earlier starts that a node can prove to have been its own. One that was seen longer ago is judged
/// by its log alone.
pub(super) const EARLIER_STARTS_MAX: usize = 128;
/// Name of the file within the data directory.
const FILE: &str = "identity";

/// Why a data directory cannot be started from.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The directory belongs to another node.
    #[error("the data directory belongs to node `{stored}`, not to `{given}`: choose another --data-dir or --name")]
    OtherNode {
        /// As stored.
        stored: String,
        /// As started.
        given: String,
    },
    /// The directory belongs to another cluster.
    #[error("the data directory belongs to another cluster: {0}; choose another --data-dir, or correct --cluster")]
    OtherCluster(String),
}

/// Who this process is. The boot counter was raised and made durable when it was opened.
#[derive(Clone)]
pub struct Identity {
    /// Unique name.
    pub name: String,
    /// Node id.
    pub node: NodeId,
    /// `None` until known.
    pub cluster_id: Option<ClusterId>,
    /// Hash of the first cluster's definition; 0 for a node that joined later.
    pub founding_hash: u64,
    /// Starts from this directory, this one included.
    pub boot: u64,
    /// Random, once per start.
    pub nonce: u64,
    /// Nonces of the starts before this one, the latest first. They tell this directory from another
    /// one that was started as often.
    pub(super) earlier: Vec<u64>,
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

/// What a data directory says of the node that it belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// Its id.
    pub node: NodeId,
    /// Whether it was there when the cluster was founded; else it joined later.
    pub is_founding: bool,
}

impl Identity {
    /// Whose `dir` is; `None` when nobody has started from it.
    ///
    /// # Errors
    /// When the identity is damaged, or the device refuses.
    pub fn known(disk: &dyn Disk, dir: &Path) -> Result<Option<Known>, IdentityError> {
        let stored = file::read::<wire::StoredIdentity>(disk, &dir.join(FILE), MAGIC)?;
        let stored = stored.filter(|stored| stored.boot > 0);
        Ok(stored.map(|stored| Known {
            name: stored.name,
            node: NodeId(stored.node_id),
            is_founding: stored.founding_hash != 0,
        }))
    }

    /// Opens or founds the identity of `dir`, which must exist, and durably counts this start. A node
    /// that joins knows its cluster from the beginning.
    ///
    /// # Errors
    /// When the directory belongs to another node or cluster, or the device refuses.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        name: &str,
        node: NodeId,
        founding_hash: u64,
        cluster_id: Option<ClusterId>,
    ) -> Result<Self, IdentityError> {
        let path = dir.join(FILE);
        let stored: wire::StoredIdentity = file::read(&*disk, &path, MAGIC)?.unwrap_or_default();
        let known = stored.boot > 0;
        if known && (stored.name != name || stored.node_id != node.0) {
            let stored = format!("{} ({})", stored.name, NodeId(stored.node_id));
            return Err(IdentityError::OtherNode { stored, given: format!("{name} ({node})") });
        }
        if known && founding_hash != 0 && stored.founding_hash != founding_hash {
            return Err(IdentityError::OtherCluster("it was started with another --cluster".into()));
        }
        let mut earlier = stored.earlier_nonces;
        if known {
            earlier.insert(0, stored.nonce);
            earlier.truncate(EARLIER_STARTS_MAX);
        }
        let identity = Self {
            name: name.to_owned(),
            node,
            cluster_id: ClusterId::from_bytes(&stored.cluster_id).or(cluster_id),
            founding_hash: if known { stored.founding_hash } else { founding_hash },
            boot: stored.boot.saturating_add(1),
            nonce: chance::bits(),
            earlier,
            disk,
            path,
        };
        identity.save()?;
        Ok(identity)
    }

    /// Makes the cluster id durable.
    pub(super) fn set_cluster_id(&mut self, id: ClusterId) -> Result<(), IdentityError> {
        match self.cluster_id {
            Some(known) if known == id => return Ok(()),
            Some(known) => return Err(IdentityError::OtherCluster(format!("it is part of {known}, not of {id}"))),
            None => {}
        }
        let with_id = Self { cluster_id: Some(id), ..self.clone() };
        with_id.save()?;
        *self = with_id;
        Ok(())
    }

    fn save(&self) -> Result<(), FileError> {
        let stored = wire::StoredIdentity {
            name: self.name.clone(),
            node_id: self.node.0,
            cluster_id: self.cluster_id.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id.0)),
            founding_hash: self.founding_hash,
            boot: self.boot,
            nonce: self.nonce,
            earlier_nonces: self.earlier.clone(),
        };
        file::write(&*self.disk, &self.path, MAGIC, &stored)
    }

    pub(super) fn incarnation(&self) -> wire::Incarnation {
        wire::Incarnation { node_id: self.node.0, boot: self.boot, nonce: self.nonce }
    }

    /// What frames carry: the cluster id or, until it is known, the founding hash.
    pub(super) fn wire_cluster(&self) -> Bytes {
        match self.cluster_id {
            Some(id) => Bytes::copy_from_slice(&id.0),
            None => Bytes::copy_from_slice(&self.founding_hash.to_le_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::disk::RealDisk;

    fn open(dir: &Path, name: &str, node: u64, hash: u64) -> Result<Identity, IdentityError> {
        Identity::open(Arc::new(RealDisk), dir, name, NodeId(node), hash, None)
    }

    #[test]
    fn each_start_is_counted_and_has_its_own_nonce() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), "n1", 1, 5).unwrap();
        let mut second = open(dir.path(), "n1", 1, 5).unwrap();
        assert_eq!((first.boot, second.boot), (1, 2));
        assert_ne!(first.nonce, second.nonce);
        assert_eq!((first.earlier.clone(), second.earlier.clone()), (Vec::new(), vec![first.nonce]));
        second.set_cluster_id(ClusterId([7; 16])).unwrap();
        assert!(second.set_cluster_id(ClusterId([8; 16])).is_err());
        let third = open(dir.path(), "n1", 1, 0).unwrap();
        assert_eq!((third.boot, third.cluster_id, third.founding_hash), (3, Some(ClusterId([7; 16])), 5));
        assert_eq!(third.earlier, [second.nonce, first.nonce]);
        for _ in 0..EARLIER_STARTS_MAX {
            open(dir.path(), "n1", 1, 5).unwrap();
        }
        assert_eq!(open(dir.path(), "n1", 1, 5).unwrap().earlier.len(), EARLIER_STARTS_MAX);
    }

    #[test]
    fn a_directory_of_another_node_or_cluster_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), "n1", 1, 5).unwrap();
        assert!(matches!(open(dir.path(), "n2", 1, 5), Err(IdentityError::OtherNode { .. })));
        assert!(matches!(open(dir.path(), "n1", 2, 5), Err(IdentityError::OtherNode { .. })));
        assert!(matches!(open(dir.path(), "n1", 1, 6), Err(IdentityError::OtherCluster(_))));
        assert_eq!(open(dir.path(), "n1", 1, 5).unwrap().boot, 2, "a refused start does not count");
    }

    #[test]
    fn a_node_that_joins_knows_its_cluster_at_once() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Identity::known(&RealDisk, dir.path()).unwrap(), None);
        let id = ClusterId([7; 16]);
        let joined = Identity::open(Arc::new(RealDisk), dir.path(), "n9", NodeId(9), 0, Some(id)).unwrap();
        assert_eq!((joined.cluster_id, joined.founding_hash), (Some(id), 0));
        assert_eq!(open(dir.path(), "n9", 9, 0).unwrap().cluster_id, Some(id));
        let known = Known { name: "n9".into(), node: NodeId(9), is_founding: false };
        assert_eq!(Identity::known(&RealDisk, dir.path()).unwrap(), Some(known));
    }

    #[test]
    fn a_damaged_identity_is_no_fresh_one() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), "n1", 1, 5).unwrap();
        let file = RealDisk.open(&dir.path().join(FILE)).unwrap();
        file.write_at(b"\xff", 20).unwrap();
        assert!(matches!(open(dir.path(), "n1", 1, 5), Err(IdentityError::File(FileError::Damaged { .. }))));
    }
}
