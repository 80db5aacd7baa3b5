//! What a node that is no member yet asks of one that is.

use std::sync::Arc;

use super::connect::{Dialed, NotDialed, connect};
use super::{CONNECT_TIMEOUT, JOIN_TIMEOUT, LinkError};
use crate::env::net::Network;
use crate::env::time;
use crate::env::tls::PeerTls;
use crate::proto::internal as wire;
use crate::proto::internal::join_response::{Joined, Kind};
use crate::proto::internal::peer_client::PeerClient;
use crate::proto::internal::peer_error::Code;
use crate::proto::v1::{ErrorDetail, Outcome};
use crate::raft::host::HelloError;
use crate::types::{ClusterId, NodeId};

/// Asks the member whose peer port is at `address` to be taken in. Asking again with the same token
/// does no harm.
pub(in crate::raft) async fn join(
    net: &dyn Network,
    tls: Option<&Arc<PeerTls>>,
    address: &str,
    request: wire::JoinRequest,
) -> Result<(ClusterId, NodeId), HelloError> {
    let unreachable = |why: String| HelloError::Unreachable(format!("{address}: {why}"));
    let Dialed { channel, verdict, .. } = match time::timeout(CONNECT_TIMEOUT, connect(net, tls, address)).await {
        Ok(Ok(dialed)) => dialed,
        Ok(Err(NotDialed::Unreachable(why))) => return Err(unreachable(why)),
        Ok(Err(NotDialed::Untrusted(why))) => return Err(HelloError::Refused(format!("{address}: {why}"))),
        Err(_) => return Err(unreachable("connecting took too long".into())),
    };
    let answer = match time::timeout(JOIN_TIMEOUT, PeerClient::new(channel).join(request)).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) if status.code() == tonic::Code::Unimplemented => {
            let message = format!("{address} is no peer port: give the peer address of a member to --join");
            return Err(HelloError::Refused(message));
        }
        Ok(Err(status)) => {
            if let Some(why) = verdict.refused() {
                return Err(HelloError::Refused(format!("{address}: {why}")));
            }
            let error = LinkError::from_status(NodeId(0), &status);
            if let LinkError::Refused(refusal) = &error
                && refusal.code != Code::Unspecified
            {
                return Err(HelloError::Refused(refusal.message.clone()));
            }
            return Err(unreachable(error.to_string()));
        }
        Err(_) => return Err(unreachable("it did not answer in time".into())),
    };
    match answer.kind {
        Some(Kind::Joined(Joined { cluster_id, node_id })) if node_id > 0 => match ClusterId::from_bytes(&cluster_id) {
            Some(cluster) => Ok((cluster, NodeId(node_id))),
            None => Err(unreachable("its answer names no cluster".into())),
        },
        // What may have been done is asked for again, too: the token makes that safe.
        Some(Kind::Refusal(refusal)) if refusal.detail.as_ref().is_some_and(is_passing) => {
            Err(unreachable(refusal.message))
        }
        Some(Kind::Refusal(refusal)) => Err(HelloError::Refused(refusal.message)),
        Some(Kind::Joined(_)) | None => Err(unreachable("its answer names no node".into())),
    }
}

fn is_passing(detail: &ErrorDetail) -> bool {
    detail.retryable || detail.outcome() != Outcome::NotApplied
}
