//! What a node offers to the faces that clients see: requests in, answers or a [`Failure`] out.
//!
//! Knows the public wire types and no transport: the rooms above decide how a client reaches it.

use std::future::Future;

use tokio::sync::watch;

use super::Failure;
use crate::env::time::Instant;
use crate::proto::v1;
use crate::types::{NodeId, Revision};

/// Whether a node can serve, and if not, why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Readiness {
    /// It serves.
    pub ready: bool,
    /// Why it does not; empty when it does.
    pub reason: String,
}

/// A shard that is a whole keyspace, as its node sees it at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct OnlyShard {
    /// Its id.
    pub id: u64,
    /// Whether a replica is here.
    pub has_replica: bool,
    /// The revision that is applied here; 0 without a replica.
    pub revision: u64,
    /// The term of its group as far as it is known here.
    pub term: u64,
    /// Who leads it by what was heard lately; 0 while not known.
    pub leader_node_id: u64,
}

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident: $request:ident -> $response:ident;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Errors
            /// A [`Failure`], which says whether the request took effect.
            fn $name(
                &self,
                request: v1::$request,
                deadline: Instant,
            ) -> impl Future<Output = Result<v1::$response, Failure>> + Send;
        )*
    };
}

/// A node as its clients use it.
///
/// Requests are checked by the implementation, not by its caller. A request must be answered by its
/// deadline, if only with `TIMEOUT` and the outcome as far as it is known; one that is not is
/// dropped soon after, and its outcome reported as unknown if it was a write.
pub trait Service: Send + Sync + 'static {
    requests! {
        /// Reads one key.
        get: GetRequest -> GetResponse;
        /// Writes one key.
        put: PutRequest -> PutResponse;
        /// Deletes a key or a range.
        delete: DeleteRequest -> DeleteResponse;
        /// Reads one page.
        scan: ScanRequest -> ScanResponse;
        /// Counts the keys of a range.
        count: CountRequest -> CountResponse;
        /// Executes a transaction on one shard.
        txn: TxnRequest -> TxnResponse;
        /// Executes puts and deletes, atomic within each shard.
        batch: BatchRequest -> BatchResponse;
        /// Reads one page of changes.
        events: EventsRequest -> EventsResponse;
        /// Reads changes for a watch that has shown all before `from_revision`, from the replica here: as
        /// `events`, but read once for all watches that are as far, so that what is still at hand is shown even if
        /// it was compacted meanwhile, and a page may be longer.
        changes: EventsRequest -> EventsResponse;
        /// Forgets old history of one shard.
        compact: CompactRequest -> CompactResponse;
        /// Grants a lease.
        grant_lease: GrantLeaseRequest -> GrantLeaseResponse;
        /// Ends a lease and deletes its keys.
        revoke_lease: RevokeLeaseRequest -> RevokeLeaseResponse;
        /// Begins the time of a lease anew.
        renew_lease: RenewLeaseRequest -> RenewLeaseResponse;
        /// How much time a lease has left.
        lease_time: LeaseTimeRequest -> LeaseTimeResponse;
        /// The leases of one shard.
        leases: LeasesRequest -> LeasesResponse;
        /// Opens a session on one shard.
        open_session: OpenSessionRequest -> OpenSessionResponse;
        /// Ends a session.
        close_session: CloseSessionRequest -> CloseSessionResponse;
        /// Hands over the leadership of a shard.
        move_leader: MoveLeaderRequest -> MoveLeaderResponse;
        /// Makes a replica of a shard, or takes one away.
        change_replicas: ChangeReplicasRequest -> ChangeReplicasResponse;
        /// The running operations on shards.
        operations: OperationsRequest -> OperationsResponse;
        /// Has an operation undone.
        cancel_operation: CancelOperationRequest -> CancelOperationResponse;
        /// Announces a node.
        add_member: AddMemberRequest -> AddMemberResponse;
        /// Begins to take a node out.
        remove_member: RemoveMemberRequest -> RemoveMemberResponse;
        /// Makes a keyspace.
        create_keyspace: CreateKeyspaceRequest -> CreateKeyspaceResponse;
        /// Changes what a keyspace keeps of its history.
        update_keyspace: UpdateKeyspaceRequest -> UpdateKeyspaceResponse;
        /// Ends the service of a keyspace, and takes it away.
        drop_keyspace: DropKeyspaceRequest -> DropKeyspaceResponse;
    }

    /// Changes where the others look for a node. A running node says at its next start where it is.
    ///
    /// # Errors
    /// A [`Failure`], which says whether the request took effect.
    fn relocate_member(
        &self,
        node: NodeId,
        peer_address: String,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The nodes of the cluster.
    fn members(&self) -> v1::MembersResponse;

    /// The map as this node holds it.
    fn map(&self) -> v1::MapResponse;

    /// The only shard of a keyspace (`default` if it has no name), for faces that know one order of revisions.
    ///
    /// # Errors
    /// When the keyspace does not exist, or has several.
    fn only_shard(&self, keyspace: &str) -> Result<OnlyShard, Failure>;

    /// The shard whose changes are all that happens to these keys, none meaning all: the one that they are in, or
    /// the one of theirs that the target names.
    ///
    /// # Errors
    /// When there is no such shard, or there are several and none is named.
    fn watched_shard(&self, target: Option<&v1::Target>, ranges: &[v1::KeyRange]) -> Result<u64, Failure>;

    /// The revision that a replica here has applied, and its changes; `None` without a replica.
    fn watch_revision(&self, shard: u64) -> Option<watch::Receiver<Revision>>;

    /// Cluster and node, as two numbers: the first eight bytes of the cluster's id, and the node's.
    fn identity(&self) -> (u64, u64);

    /// Whether the client port speaks TLS, and whether the peer port does.
    fn speaks_tls(&self) -> (bool, bool);

    /// The version of the map, now and after every change. Closed when the node stops.
    fn watch_map(&self) -> watch::Receiver<u64>;

    /// The state of this node.
    fn status(&self) -> v1::StatusResponse;

    /// The shards of one keyspace or of all.
    ///
    /// # Errors
    /// When the keyspace does not exist.
    fn shards(&self, request: v1::ShardsRequest) -> Result<v1::ShardsResponse, Failure>;

    /// Whether the node can serve requests now.
    fn readiness(&self) -> Readiness;

    /// Metrics of node, Raft, log and engine, in the OpenMetrics text format. What is registered
    /// with [`Telemetry`](super::Telemetry) is not repeated here.
    fn metrics(&self) -> String;
}
