//! Reads on a replica that need not lead. What proves that its state shows enough is always the same: at a
//! moment of this node's own clock the leader was asked for a read index, and the replica has applied it.
//!
//! A follower read waits for a proof that begins after the read. A stale read takes the last one there is,
//! if it is not older than the bound; nothing that the leader said unasked is ever taken for one, because
//! nobody knows how long that was on its way. `docs/decisions/0009-reads.md` has the argument.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::env::net::BoxFuture;
use crate::env::time::{self, Instant};
use crate::proto::internal::{ShardRequest, ShardResponse};
use crate::proto::v1::{ErrorCode, ReadLevel};
use crate::raft::{Confirm, Group, IndexApplied, ReadError, ReadIndex};
use crate::types::limits::{STALE_PROOF_EVERY_MAX, STALE_PROOF_EVERY_MIN, STALE_PROOF_KEPT};
use crate::types::{GroupId, NodeId};

use super::Failure;
use super::recent::Recent;
use super::router::{BACKOFF_MIN, Router};

/// How long the leader may take to give a read index. Only one is asked for at a time.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long before its deadline a read gives up, so that the caller hears why.
const LAST_WORDS: Duration = Duration::from_millis(10);
/// How long this replica may take to apply it.
const APPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// What a read may miss.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Level {
    /// Nothing; the leader serves it.
    Leader,
    /// Nothing; a replica here serves it.
    Follower,
    /// What was written in the last `max`; a replica here serves it at once or not at all.
    Stale { max: Duration, refuses: bool },
    /// Anything; a replica here serves it at once.
    Local,
}

impl Level {
    /// From the form of requests.
    pub(super) fn of(level: ReadLevel, max_stale_ms: u64) -> Result<Self, Failure> {
        match (level, max_stale_ms) {
            (ReadLevel::Linearizable, 0) => Ok(Self::Leader),
            (ReadLevel::Follower, 0) => Ok(Self::Follower),
            (ReadLevel::Local, 0) => Ok(Self::Local),
            (ReadLevel::Stale, 0) => {
                let message = "a stale read needs a bound: set max_stale_ms to 1 or more";
                Err(Failure::refused(ErrorCode::InvalidArgument, message))
            }
            (ReadLevel::Stale, bound) => Ok(Self::Stale { max: Duration::from_millis(bound), refuses: true }),
            (ReadLevel::Linearizable | ReadLevel::Follower | ReadLevel::Local, _) => {
                let message = "max_stale_ms bounds stale reads only: leave it out, or set the level";
                Err(Failure::refused(ErrorCode::InvalidArgument, message))
            }
        }
    }

    /// For a read of several shards: what a replica here cannot serve the leader does, because no other
    /// node need hold them all.
    pub(super) fn gathered(self) -> Self {
        match self {
            Self::Stale { max, .. } => Self::Stale { max, refuses: false },
            Self::Leader | Self::Follower | Self::Local => self,
        }
    }
}

/// Executes a request at `level`: on the replica that runs here, or on the leader.
pub(super) async fn execute(
    router: &Router,
    request: ShardRequest,
    level: Level,
    deadline: Instant,
) -> Result<ShardResponse, Failure> {
    let near = if level == Level::Leader { None } else { router.near(GroupId(request.shard_id)) };
    let Some(near) = near else { return router.execute(request, deadline).await };
    match level {
        Level::Leader | Level::Follower => {
            near.prove(router, deadline).await?;
            router.execute_as_is(&near.group, &request).await
        }
        Level::Local => router.execute_as_is(&near.group, &request).await,
        Level::Stale { max, refuses } => {
            // The age counts from when the read came, and the state is looked at after that.
            let age = near.age();
            near.keep_proved(max);
            if age.is_none_or(|age| age > max) {
                // Whoever leads proves it for this read.
                return if !refuses || near.leads(router.node()) {
                    router.execute(request, deadline).await
                } else {
                    Err(near.too_stale(router.node(), age, max))
                };
            }
            match router.execute_as_is(&near.group, &request).await {
                // Another replica has shown this revision.
                Err(failure) if failure.detail.code() == ErrorCode::FutureRevision => {
                    router.execute(request, deadline).await
                }
                done => done,
            }
        }
    }
}

/// A replica that runs here, as reads that need no leader see it.
pub(super) struct Near {
    id: GroupId,
    group: Group,
    /// Reads that wait for a proof; they share one as long as it is not asked for yet.
    proofs: Arc<ReadIndex<Ask>>,
    proved: Arc<Mutex<Proved>>,
    wanted: Mutex<Wanted>,
    /// The newest changes, for watches.
    pub(super) recent: Recent,
}

/// When the newest proof was asked for: the state shows all that was acknowledged before.
type Proved = Option<Instant>;

/// Proofs for stale reads are renewed as long as such reads come.
struct Wanted {
    until: Instant,
    every: Duration,
    is_renewed: bool,
}

impl Near {
    pub(super) fn new(id: GroupId, group: Group, router: Weak<Router>) -> Self {
        let proved = Arc::<Mutex<Proved>>::default();
        let ask = Ask { id, group: group.clone(), router, proved: proved.clone() };
        let wanted = Wanted { until: time::now(), every: STALE_PROOF_EVERY_MAX, is_renewed: false };
        Self {
            id,
            group,
            proofs: Arc::new(ReadIndex::new(ask)),
            proved,
            wanted: Mutex::new(wanted),
            recent: Recent::default(),
        }
    }

    /// Returns once the local state shows every write that was acknowledged before this call.
    async fn prove(&self, router: &Router, deadline: Instant) -> Result<(), Failure> {
        let mut backoff = BACKOFF_MIN;
        let deadline = deadline.checked_sub(LAST_WORDS).unwrap_or(deadline);
        loop {
            let Err(error) = self.proofs.wait(deadline).await else { return Ok(()) };
            router.pause(self.id, self.unproved(router.node(), &error), &mut backoff, deadline).await?;
        }
    }

    /// How old the state may be.
    fn age(&self) -> Option<Duration> {
        let proved = *self.proved.lock();
        proved.map(|asked| time::now().saturating_duration_since(asked))
    }

    fn leads(&self, node: NodeId) -> bool {
        self.group.leader().is_some_and(|(_, leader)| leader == node)
    }

    /// Renews the proof in the background: often enough for reads with this bound, for a while.
    fn keep_proved(self: &Arc<Self>, max: Duration) {
        let now = time::now();
        let every = (max / 4).clamp(STALE_PROOF_EVERY_MIN, STALE_PROOF_EVERY_MAX);
        let mut wanted = self.wanted.lock();
        wanted.every = if now < wanted.until { wanted.every.min(every) } else { every };
        wanted.until = now + STALE_PROOF_KEPT;
        if !std::mem::replace(&mut wanted.is_renewed, true) {
            tokio::spawn(renew(Arc::downgrade(self)));
        }
    }

    /// The pause until the proof is to be renewed; `None` when nobody wants it any more.
    fn renewal(&self) -> Option<Duration> {
        let mut wanted = self.wanted.lock();
        wanted.is_renewed = time::now() < wanted.until;
        wanted.is_renewed.then_some(wanted.every)
    }

    fn too_stale(&self, node: NodeId, age: Option<Duration>, max: Duration) -> Failure {
        let proved = match age {
            Some(age) => format!("its state is proved for {} ms ago", age.as_millis()),
            None => "its state is not proved yet".to_owned(),
        };
        let message = format!(
            "shard {} on node {}: {proved}, and the read allows {} ms; ask the leader, or raise the bound",
            self.id.0,
            node.0,
            max.as_millis()
        );
        let mut failure = Failure::retry(ErrorCode::TooStale, message);
        failure.detail.shard_id = self.id.0;
        failure.detail.leader_node_id = self.group.leader().map_or(0, |(_, node)| node.0);
        failure.detail.limit = "max_stale_ms".to_owned();
        failure.detail.limit_value = milliseconds(max);
        failure.detail.actual_value = age.map_or(0, milliseconds);
        failure
    }

    fn unproved(&self, node: NodeId, error: &ReadError) -> Failure {
        let message = format!(
            "shard {}: node {} cannot serve a follower read, because it has no read index of the leader ({error}); \
             try again, or ask another node",
            self.id.0, node.0
        );
        let mut failure = Failure::retry(ErrorCode::NoLeader, message);
        failure.detail.shard_id = self.id.0;
        failure
    }
}

/// Renews a proof again and again, until nobody wants it or the replica has gone.
async fn renew(near: Weak<Near>) {
    while let Some(near) = near.upgrade() {
        let Some(every) = near.renewal() else { return };
        // Without an answer the old proof grows older, which is all there is to say.
        near.proofs.wait(time::now() + ASK_TIMEOUT).await.ok();
        drop(near);
        time::sleep(every).await;
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Asks the leader of a group on behalf of the replica that runs here.
struct Ask {
    id: GroupId,
    group: Group,
    router: Weak<Router>,
    proved: Arc<Mutex<Proved>>,
}

impl Confirm for Ask {
    fn confirm(&self) -> BoxFuture<'_, Result<IndexApplied, ReadError>> {
        Box::pin(async {
            let router = self.router.upgrade().ok_or_else(|| ReadError::Stopped("the node stops".to_owned()))?;
            // Taken before the question leaves: what the answer covers begins at this moment or later.
            let asked = time::now();
            let index = router.ask_read_index(self.id, asked + ASK_TIMEOUT).await;
            let index = index.map_err(|failure| ReadError::NoIndex(failure.message))?;
            let (group, proved) = (self.group.clone(), self.proved.clone());
            Ok(Box::pin(async move {
                let applied = time::timeout(APPLY_TIMEOUT, group.applied(index)).await;
                applied.map_err(|_| ReadError::NoIndex(format!("index {index} is not applied here yet")))?;
                let mut proved = proved.lock();
                *proved = (*proved).max(Some(asked));
                Ok(index)
            }) as IndexApplied)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_stale_reads_and_to_no_others() {
        let stale = |refuses| Level::Stale { max: Duration::from_secs(5), refuses };
        assert_eq!(Level::of(ReadLevel::Linearizable, 0).unwrap(), Level::Leader);
        assert_eq!(Level::of(ReadLevel::Follower, 0).unwrap(), Level::Follower);
        assert_eq!(Level::of(ReadLevel::Stale, 5_000).unwrap(), stale(true));
        assert_eq!(stale(true).gathered(), stale(false));
        for (level, bound) in [(ReadLevel::Stale, 0), (ReadLevel::Follower, 1), (ReadLevel::Linearizable, 1)] {
            assert_eq!(Level::of(level, bound).unwrap_err().detail.code(), ErrorCode::InvalidArgument);
        }
    }
}
