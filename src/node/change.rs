//! Changes of the map that a caller waits for.

use crate::env::time::{self, Instant};
use crate::proto::internal::MetaCommand;
use crate::proto::internal::meta_command::Kind;
use crate::proto::v1::{ErrorCode, Outcome};

use super::Failure;
use super::router::{MetaDone, Router};

/// Changes the map, and waits until this node's shows it: who asks this node next must find it.
pub(super) async fn metadata(router: &Router, kind: Kind, deadline: Instant) -> Result<MetaDone, Failure> {
    let done = router.change_meta(MetaCommand { kind: Some(kind) }, deadline).await?;
    let mut map = router.watch_map();
    let shown = map.wait_for(|map| map.version >= done.version);
    if time::timeout_at(deadline, shown).await.is_err() {
        let message = "the change is made, but this node has not heard of it in time";
        let mut failure = Failure::refused(ErrorCode::Timeout, message);
        failure.detail.set_outcome(Outcome::Applied);
        return Err(failure);
    }
    Ok(done)
}
