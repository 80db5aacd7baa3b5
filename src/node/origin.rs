//! Who this node is at its start: one of the first members, one that joined before, or one that joins
//! now.

use std::sync::Arc;
use std::time::Duration;

use crate::env::Env;
use crate::env::time::{self, Instant};
use crate::env::tls::PeerTls;
use crate::proto::v1;
use crate::raft::{self, HelloError, HostError, Identity, IdentityError};
use crate::types::{ClusterId, NodeId};

use super::founding::Founders;
use super::space::SpaceGuard;
use super::{NodeConfig, StartError};

/// Pause before a member is asked again to take this node in.
const RETRY: Duration = Duration::from_millis(500);
/// How often a wait for the same reason is said aloud.
const REPORT: Duration = Duration::from_secs(5);

/// Where this node's identity comes from.
pub(super) struct Origin {
    /// Its id.
    pub(super) node: NodeId,
    /// 0 for a node that joined later.
    pub(super) founding_hash: u64,
    /// Of a node that joins now.
    pub(super) cluster_id: Option<ClusterId>,
    /// Of a node that was there when the cluster was founded, or founds it.
    pub(super) founders: Option<Founders>,
}

impl Origin {
    /// What the data directory says; for an empty one what the settings say, which may mean to ask the
    /// cluster and to wait for its answer.
    pub(super) async fn of(config: &NodeConfig, env: &Env) -> Result<Self, StartError> {
        let known = Identity::known(&*env.disk, &config.data_dir)?;
        match (known, &config.join) {
            (Some(known), _) if !known.is_founding => {
                if known.name != config.name {
                    let (stored, given) = (format!("{} ({})", known.name, known.node), config.name.clone());
                    return Err(IdentityError::OtherNode { stored, given }.into());
                }
                Ok(Self { node: known.node, founding_hash: 0, cluster_id: None, founders: None })
            }
            (Some(known), Some(_)) => Err(StartError::Refused(format!(
                "the data directory {} is that of `{}`, a member from the beginning, which needs no --join: leave it \
                 out and name the first members with --cluster, or choose another --data-dir",
                config.data_dir.display(),
                known.name
            ))),
            (None, Some(member)) => Self::join(config, env, member).await,
            (_, None) => {
                let founders = Founders::new(config)?;
                let (node, founding_hash) = (founders.node, Founders::hash(config));
                Ok(Self { node, founding_hash, cluster_id: None, founders: Some(founders) })
            }
        }
    }

    async fn join(config: &NodeConfig, env: &Env, member: &str) -> Result<Self, StartError> {
        let token = raft::joining_token(&*env.disk, &config.data_dir, &config.name);
        let token = token.map_err(IdentityError::from)?;
        let node = v1::Node {
            name: config.name.clone(),
            client_address: config.client_advertise.clone(),
            peer_address: config.peer_advertise.clone(),
            labels: config.labels.clone().into_iter().collect(),
            ..Default::default()
        };
        let replace = config.replace.as_deref().unwrap_or_default();
        let tls = config.peer_tls.clone().map(|files| PeerTls::start(env, files, &config.name)).transpose();
        let tls = tls.map_err(HostError::from)?.map(Arc::new);
        let space = SpaceGuard::of(config);
        let mut told: Option<(String, Instant)> = None;
        loop {
            // Once it is in the map the cluster counts on it: what its start needs is held back before.
            let held_back = space.check(&*env.disk, &config.data_dir);
            held_back.map_err(|error| StartError::DataDir { dir: config.data_dir.clone(), error })?;
            if space.is_full() {
                tell(&mut told, member, space.shortage());
                time::sleep(RETRY).await;
                continue;
            }
            match raft::join(&*env.net, tls.as_ref(), member, node.clone(), token, replace).await {
                Ok((cluster_id, node)) => {
                    tracing::info!(cluster = %cluster_id, node = node.0, "joined the cluster");
                    // The answer may have taken long, and others may have filled the disk meanwhile.
                    space.give_room(&*env.disk, &config.data_dir);
                    return Ok(Self { node, founding_hash: 0, cluster_id: Some(cluster_id), founders: None });
                }
                Err(HelloError::Refused(why)) => {
                    space.give_up(&*env.disk, &config.data_dir);
                    return Err(StartError::Refused(format!("cannot join: {why}")));
                }
                Err(HelloError::Unreachable(why)) => {
                    tell(&mut told, member, why);
                    time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Names of all, as far as the settings say.
    pub(super) fn names(&self) -> impl Iterator<Item = (NodeId, &str)> {
        self.founders.iter().flat_map(Founders::names)
    }

    /// Peer addresses of the others, as far as the settings name them.
    pub(super) fn peers(&self) -> impl Iterator<Item = (NodeId, &str)> {
        self.founders.iter().flat_map(Founders::peers)
    }
}

/// Says why this node is not a member yet: each reason once, and again from time to time.
fn tell(told: &mut Option<(String, Instant)>, member: &str, why: String) {
    if told.as_ref().is_none_or(|(before, at)| *before != why || time::now() - *at > REPORT) {
        tracing::info!(member, why, "not a member of the cluster yet");
        *told = Some((why, time::now()));
    }
}
