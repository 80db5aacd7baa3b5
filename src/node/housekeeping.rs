//! What the leader of a shard does when time passes: it ends leases and sessions, and keeps what is
//! left of them on record.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;

use crate::env::time;
use crate::raft::{GroupStatus, ProposeError, Role};
use crate::storage::engine::EngineError;

use super::leases::Leases;

/// How long one command may take before it is proposed anew.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before this replica counts again as leader.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest sleep, so that a clock that is wrong about the future does no lasting harm.
const NAP_MAX: Duration = Duration::from_secs(60);

/// Counts the time of leases and sessions whenever this replica leads. Ends with the group.
pub(super) async fn run(leases: Arc<Leases>) {
    let mut status = leases.group.watch();
    loop {
        match status.wait_for(|status| matches!(status.role, Role::Leader | Role::Stopped)).await {
            Ok(status) if status.role == Role::Leader => {}
            Ok(_) | Err(_) => return,
        }
        let led = lead(&leases).await;
        leases.end();
        if let Err(error) = led {
            tracing::error!(shard = leases.id.0, %error, "leases and sessions cannot be read; they do not expire");
            time::sleep(NAP_MAX).await;
        }
        // Leadership that is lost is not known at once; asking again at once would not help.
        time::sleep(PAUSE).await;
    }
}

async fn lead(leases: &Leases) -> Result<(), EngineError> {
    let (id, group) = (leases.id, &leases.group);
    let mut status = group.watch();
    let term = status.borrow().term;
    // Only a state that shows all that was acknowledged may say what there is to expire.
    if let Err(error) = group.read_index(time::now() + PROPOSE_TIMEOUT).await {
        tracing::debug!(shard = id.0, %error, "not ready to count leases");
        return Ok(());
    }
    leases.begin(term)?;
    loop {
        // What another leader granted and renewed meanwhile, these times know nothing of: what they say is for
        // this term's log alone.
        let leads = |status: &GroupStatus| status.role == Role::Leader && status.term == term;
        let Some(cuts) = leases.counted(|expiry, now| expiry.cuts_at(now))? else { return Ok(()) };
        let mut alone = if cuts { Some(leases.record.write().await) } else { None };
        let counted = leases.counted(|expiry, now| (expiry.due(now, alone.is_some()), expiry.wake_at()))?;
        let Some((due, wake_at)) = counted else { return Ok(()) };
        // The first is the one that cuts.
        for command in due {
            if !leads(&status.borrow()) {
                return Ok(());
            }
            let deadline = time::now() + PROPOSE_TIMEOUT;
            match group.propose_in(term, command.encode_to_vec().into(), deadline).await {
                Ok(_) => {}
                Err(ProposeError::NotLeader { .. }) => return Ok(()),
                // It is proposed again when it is still due: applying it twice does no harm.
                Err(error) => tracing::debug!(shard = id.0, %error, "an expiry was not confirmed"),
            }
            alone = None;
        }
        drop(alone);
        let nap = time::now() + NAP_MAX;
        let wake = wake_at.map_or(nap, |wake| wake.min(nap));
        tokio::select! {
            biased;
            ended = status.wait_for(|status| !leads(status)) => {
                drop(ended);
                return Ok(());
            }
            () = leases.machine.changed() => {}
            () = time::sleep_until(wake) => {}
        }
    }
}
