//! Starting a replica: only from a state that its log can prove.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use openraft::Config;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::entry::RaftEntry;
use openraft::errors::Fatal;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::apply::Apply;
use super::codec;
use super::group::{Core, GroupSpec, Raft};
use super::log_store::LogStore;
use super::machine::{Machine, Replica, read_applied};
use super::read_index::ReadIndex;
use super::status::{GroupStatus, Standing};
use super::transport::{Links, NetworkFactory};
use super::types::{Entry, Membership, Place};
use crate::env::work::{Worker, WorkerGone};
use crate::storage::engine::catalog::Catalog;
use crate::storage::engine::{EngineError, StoreId};
use crate::storage::log::{GroupLog, Log, LogError, LogState};
use crate::types::{GroupId, NodeId, ReplicaId};

/// Why a replica does not run.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// It runs already.
    #[error("group {0} is running already")]
    Running(GroupId),
    /// The node holds another replica of the group, which must be removed first.
    #[error("this node still holds replica {found} of group {group}")]
    OtherReplica {
        /// The group.
        group: GroupId,
        /// What is here.
        found: ReplicaId,
    },
    /// Its log and state do not prove what it acknowledged. It must not vote or serve, and has to be
    /// rebuilt from its peers under a new replica id.
    #[error(
        "replica {replica} of group {group} must be rebuilt from its peers: {why}; remove the data directory and bring \
         the node back with `kvd --join HOST:PORT --replace NAME`"
    )]
    NeedsRebuild {
        /// The group.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
        /// What is missing or damaged.
        why: String,
    },
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The log failed.
    #[error("{0}")]
    Log(String),
    /// openraft does not start from this log and state.
    #[error("the replica does not start: {0}")]
    Raft(String),
    /// A worker has ended: the process is going down.
    #[error(transparent)]
    Worker(#[from] WorkerGone),
}

/// What all replicas of a node stand on.
pub(super) struct Ground {
    pub(super) raft: Arc<Config>,
    pub(super) links: Arc<Links>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) log: Log,
    pub(super) apply: Vec<Worker>,
    pub(super) flush: Worker,
    pub(super) reader: Worker,
    /// Becomes the reason why the process must end.
    pub(super) failed: watch::Sender<Option<String>>,
}

impl Ground {
    fn apply_worker(&self, group: GroupId) -> Worker {
        let workers = self.apply.len().max(1) as u64;
        let at = usize::try_from(group.0 % workers).unwrap_or(0);
        self.apply.get(at).unwrap_or(&self.flush).clone()
    }
}

/// Gives a replica that never had anything its group's first entry: these voters. All of them get the
/// same, so that each can be elected, whoever else is lost. Returns whether it was given now.
///
/// A first entry that one of them sends to the others, as openraft has it, would be lost with that one
/// after they had voted for it, and nobody could begin anew.
pub(super) async fn begin(
    ground: &Ground,
    spec: GroupSpec,
    founders: &BTreeMap<ReplicaId, NodeId>,
) -> Result<bool, GroupError> {
    let log = ground.log.group(spec.group);
    let state = log.state();
    let has_state = ground.catalog.list().into_iter().any(|(group, ..)| group == spec.group);
    if state.last.is_some() || state.purged.is_some() || has_state || log.check().is_err() {
        return Ok(false);
    }
    let voters = founders.keys().map(|replica| replica.0).collect::<BTreeSet<_>>();
    let places = founders.iter().map(|(replica, node)| (replica.0, Place { node: *node })).collect::<BTreeMap<_, _>>();
    let members = Membership::new(vec![voters], places).map_err(|error| GroupError::Raft(error.to_string()))?;
    let entry = Entry::new_membership(codec::log_id(0, 0), members);
    LogStore::new(log, spec.replica).begin(&entry).await.map_err(|error| GroupError::Log(error.to_string()))?;
    Ok(true)
}

/// Opens and runs a replica.
pub(super) async fn start(ground: &Ground, spec: GroupSpec, machine: Arc<dyn Apply>) -> Result<Arc<Core>, GroupError> {
    let GroupSpec { group, replica, epoch } = spec;
    let log = ground.log.group(group);
    match log.check() {
        Ok(()) => {}
        Err(LogError::Quarantined { reason, .. }) => {
            return Err(GroupError::NeedsRebuild { group, replica, why: reason });
        }
        Err(error) => return Err(GroupError::Log(error.to_string())),
    }
    let catalog = ground.catalog.clone();
    let worker = ground.apply_worker(group);
    let (state, vote) = (log.state(), log.vote());
    let voted = vote.is_some();
    let open = move || -> Result<Arc<Replica>, GroupError> {
        let rebuild = |why: String| GroupError::NeedsRebuild { group, replica, why };
        let store = store(&catalog, group, replica)?;
        let result = (|| {
            let view = catalog.engine().view(store)?;
            prove(read_applied(&*view)?.map(|id| id.index), state, voted).map_or_else(
                || Replica::open(group, replica, catalog.clone(), store, machine),
                |why| Err(EngineError::Corrupt(why)),
            )
        })();
        match result {
            Ok(opened) => Ok(Arc::new(opened)),
            Err(EngineError::Corrupt(why)) => Err(rebuild(why)),
            Err(error) => Err(error.into()),
        }
    };
    let state = worker.run(open).await??;
    let applied = state.applied().map(|at| codec::log_id(at.term, at.index));
    let vote = vote.and_then(|vote| codec::vote_from_bytes(&vote).ok());
    state.observer().started(&log, applied.as_ref(), vote.as_ref());
    let epoch = Arc::new(AtomicU64::new(epoch.0));
    let network = NetworkFactory {
        links: ground.links.clone(),
        group,
        replica,
        epoch: epoch.clone(),
        reader: ground.reader.clone(),
    };
    let machine = Machine { replica: state.clone(), worker, flusher: ground.flush.clone(), durable: log.durable() };
    let raft = run(ground, replica, network, log.clone(), machine).await?;
    let core = Arc::new(Core {
        group,
        replica,
        epoch,
        reads: Arc::new(ReadIndex::new(raft.clone())),
        raft,
        log,
        state,
        durable_applied: watch::Sender::new(None),
        status: watch::Sender::new(GroupStatus::default()),
        heard: Mutex::new(None),
        transfers: AtomicU64::new(0),
        stopping: AtomicBool::new(false),
    });
    tokio::spawn(observe(core.clone(), ground.failed.clone()));
    Ok(core)
}

async fn run(
    ground: &Ground,
    replica: ReplicaId,
    network: NetworkFactory,
    log: GroupLog,
    machine: Machine,
) -> Result<Raft, GroupError> {
    let raft = Raft::new(replica.0, ground.raft.clone(), network, LogStore::new(log, replica), machine);
    Box::pin(raft).await.map_err(|fatal: Fatal<_>| GroupError::Raft(fatal.to_string()))
}

/// The replica's store; made when the node has never had this replica.
fn store(catalog: &Catalog, group: GroupId, replica: ReplicaId) -> Result<StoreId, GroupError> {
    if let Some((_, found, _)) = catalog.list().into_iter().find(|(of, other, _)| *of == group && *other != replica) {
        return Err(GroupError::OtherReplica { group, found });
    }
    if catalog.lost().contains(&(group, replica)) {
        let why = "the engine has lost its state".to_owned();
        return Err(GroupError::NeedsRebuild { group, replica, why });
    }
    match catalog.get(group, replica) {
        Some(store) => Ok(store),
        None => Ok(catalog.create(group, replica)?),
    }
}

/// Whether log and state together hold all that this replica ever acknowledged; if not, why.
fn prove(applied: Option<u64>, log: LogState, voted: bool) -> Option<String> {
    let purged = log.purged.map(|id| id.index);
    if applied < purged {
        let applied = applied.map_or_else(|| "nothing".to_owned(), |index| format!("entry {index}"));
        return Some(format!(
            "its state has applied {applied}, and the log begins after entry {}",
            purged.unwrap_or(0)
        ));
    }
    // A replica votes or follows a vote before it ever applies anything.
    if applied.is_some() && !voted {
        return Some("its state is there and its log is gone".to_owned());
    }
    None
}

/// The one thing about a healthy group that people ask the log for: who led when.
fn tell_leader(core: &Core, before: &GroupStatus, now: &GroupStatus) {
    if (before.leader, before.term) == (now.leader, now.term) {
        return;
    }
    match now.leader {
        Some((replica, _)) if replica == core.replica => {
            tracing::info!(group = %core.group, term = now.term, "this node leads");
        }
        Some((_, node)) => tracing::info!(group = %core.group, term = now.term, leader = %node, "following"),
        None if before.leader.is_some() => tracing::info!(group = %core.group, term = now.term, "no leader"),
        None => {}
    }
}

/// Publishes a new leader, term, role or members, and a failure that nobody asked for.
async fn observe(core: Arc<Core>, failed: watch::Sender<Option<String>>) {
    let mut metrics = core.raft.metrics();
    let mut known = None;
    loop {
        let state = {
            let seen = metrics.borrow_and_update();
            let standing = Some(Standing::of(&seen));
            // Watchers would otherwise wake with every entry.
            if std::mem::replace(&mut known, standing) != standing {
                let status = GroupStatus::of(&seen, *core.durable_applied.borrow());
                let applied = core.state.applied().map(|at| at.index).or(status.applied);
                let before = core.status.send_replace(GroupStatus { applied, ..status.clone() });
                tell_leader(&core, &before, &status);
            }
            seen.running_state.clone()
        };
        if let Err(fatal) = state {
            return core.ended(&fatal, &failed);
        }
        if metrics.changed().await.is_err() {
            // The core is gone without a word; it says why when it is asked.
            let why = core.raft.is_initialized().await.err().unwrap_or(Fatal::Stopped);
            return core.ended(&why, &failed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::log::EntryId;

    #[test]
    fn a_state_that_the_log_cannot_prove_is_rebuilt() {
        let log = |purged: Option<u64>| {
            let id = |index| EntryId { term: 1, index };
            LogState { purged: purged.map(id), last: Some(id(100)) }
        };
        assert_eq!(prove(None, LogState { purged: None, last: None }, false), None, "new");
        assert_eq!(prove(None, log(None), true), None, "applied again from the log");
        assert_eq!(prove(Some(50), log(Some(50)), true), None);
        assert!(prove(Some(49), log(Some(50)), true).is_some());
        assert!(prove(None, log(Some(50)), true).is_some());
        assert!(prove(Some(50), LogState { purged: None, last: None }, false).is_some());
    }
}
