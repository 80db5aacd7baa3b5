//! The first start of a static cluster, and what each node says of itself at every start.
//!
//! Ids follow the sorted names. The lowest founds, and only after every other named node has said
//! that it is new: two wiped disks must not found a second cluster beside the one that lost them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::env::chance;
use crate::env::time;
use crate::meta;
use crate::proto::internal::{MetaCommand, meta_command};
use crate::proto::v1;
use crate::raft::{Group, HelloError, Host};
use crate::types::map::ShardMap;
use crate::types::{NodeId, ReplicaId};

use super::router::Router;
use super::{NodeConfig, StartError};

const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(100);
/// How often a wait for others is said aloud.
const REPORT: Duration = Duration::from_secs(5);
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// The nodes named by `--cluster`, by id.
pub(super) struct Founders {
    /// This node.
    pub(super) node: NodeId,
    members: BTreeMap<NodeId, (String, String)>,
    replication_factor: u32,
}

impl Founders {
    pub(super) fn new(config: &NodeConfig) -> Result<Self, StartError> {
        let members: BTreeMap<_, _> = meta::founding_members(&config.founding)
            .into_iter()
            .map(|(id, (name, address))| (id, (name.to_owned(), address.to_owned())))
            .collect();
        let own = members.iter().find(|(_, (name, _))| *name == config.name);
        let node = *own.ok_or_else(|| StartError::NotNamed { name: config.name.clone() })?.0;
        Ok(Self { node, members, replication_factor: config.replication_factor })
    }

    /// Identifies the definition of the cluster until its id is known.
    pub(super) fn hash(config: &NodeConfig) -> u64 {
        let lines: Vec<_> = config.founding.iter().map(|(name, address)| format!("{name}={address}\n")).collect();
        // 0 stands for a node that joined later.
        xxhash_rust::xxh3::xxh3_64(lines.concat().as_bytes()).max(1)
    }

    /// Names of all.
    pub(super) fn names(&self) -> impl Iterator<Item = (NodeId, &str)> {
        self.members.iter().map(|(id, (name, _))| (*id, name.as_str()))
    }

    /// Peer addresses of the others.
    pub(super) fn peers(&self) -> impl Iterator<Item = (NodeId, &str)> {
        let others = self.members.iter().filter(|(id, _)| **id != self.node);
        others.map(|(id, (_, address))| (*id, address.as_str()))
    }

    fn is_lowest(&self) -> bool {
        self.members.keys().next() == Some(&self.node)
    }

    /// Voters of the metadata group; their replica ids are their nodes' ids.
    fn meta_voters(&self) -> BTreeMap<ReplicaId, NodeId> {
        let voters = meta::founding_meta_voters(self.members.keys().copied());
        voters.into_iter().map(|node| (ReplicaId(node.0), node)).collect()
    }

    /// Starts the metadata group if this node is to found the cluster and its log is `empty`. Ends
    /// when that is settled.
    pub(super) async fn found(&self, host: &Host, group: &Group, empty: bool) -> Result<(), StartError> {
        if !self.is_lowest() || !empty {
            return Ok(());
        }
        self.wait_for_new_peers(host).await?;
        tracing::info!(nodes = self.members.len(), "all named nodes are here and new: founding the cluster");
        group.initialize(self.meta_voters()).await.map_err(|error| StartError::Founding(error.to_string()))
    }

    async fn wait_for_new_peers(&self, host: &Host) -> Result<(), StartError> {
        let mut waiting: BTreeSet<_> = self.peers().map(|(id, _)| id).collect();
        let mut reported = time::now();
        while !waiting.is_empty() {
            let asked = waiting.clone();
            for (id, address) in self.peers().filter(|(id, _)| asked.contains(id)) {
                match host.hello(address, HELLO_TIMEOUT).await {
                    Ok(peer) if peer.founded => {
                        return Err(StartError::Wiped { peer: peer.name, cluster: peer.cluster_id });
                    }
                    Ok(_) => {
                        waiting.remove(&id);
                    }
                    Err(HelloError::Refused(reason)) => return Err(StartError::Refused(reason)),
                    Err(HelloError::Unreachable(reason)) => tracing::debug!(peer = %id, reason, "not here yet"),
                }
            }
            if !waiting.is_empty() {
                if time::now() - reported > REPORT {
                    reported = time::now();
                    let names: Vec<_> = waiting.iter().map(|id| self.members[id].0.as_str()).collect();
                    tracing::info!(
                        waiting_for = names.join(", "),
                        "a new cluster is founded when all named nodes are here"
                    );
                }
                time::sleep(RETRY).await;
            }
        }
        Ok(())
    }

    /// The command that founds the cluster, under a new random id.
    pub(super) fn bootstrap(&self) -> MetaCommand {
        let mut cluster_id = [0; 16];
        cluster_id[..8].copy_from_slice(&chance::bits().to_le_bytes());
        cluster_id[8..].copy_from_slice(&chance::bits().to_le_bytes());
        let nodes = self.members.iter().map(|(id, (name, address))| v1::Node {
            id: id.0,
            name: name.clone(),
            peer_address: address.clone(),
            ..Default::default()
        });
        let bootstrap = meta_command::Bootstrap {
            cluster_id: cluster_id.to_vec().into(),
            nodes: nodes.collect(),
            replication_factor: self.replication_factor,
        };
        MetaCommand { kind: Some(meta_command::Kind::Bootstrap(bootstrap)) }
    }
}

/// Keeps this node's entry in the map true to its configuration. Ends when it is.
pub(super) async fn register(config: Arc<NodeConfig>, node: NodeId, router: Arc<Router>) {
    let mut map: watch::Receiver<Arc<ShardMap>> = router.watch_map();
    loop {
        let entry = map.borrow_and_update().nodes.get(&node).cloned();
        if let Some(current) = entry {
            let wanted = crate::types::map::Node {
                client_address: config.client_advertise.clone(),
                peer_address: config.peer_advertise.clone(),
                labels: config.labels.clone(),
                ..current.clone()
            };
            if wanted == current {
                return;
            }
            let update = meta_command::UpdateNode { node: Some((&wanted).into()) };
            let command = MetaCommand { kind: Some(meta_command::Kind::UpdateNode(update)) };
            match router.change_meta(command, time::now() + COMMAND_TIMEOUT).await {
                Ok(_) => return,
                Err(failure) => {
                    tracing::warn!(%failure, "cannot register this node's addresses yet");
                    time::sleep(RETRY).await;
                }
            }
        } else if map.changed().await.is_err() {
            return;
        }
    }
}

/// Says hello to a peer until it answers, so that it knows this start of this node.
pub(super) async fn announce(host: Host, address: String) {
    loop {
        match host.hello(&address, HELLO_TIMEOUT).await {
            // A refusal reaches the node through `Host::refused`.
            Ok(_) | Err(HelloError::Refused(_)) => return,
            Err(HelloError::Unreachable(_)) => time::sleep(RETRY).await,
        }
    }
}
