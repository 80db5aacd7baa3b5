//! What a client asks about the cluster itself.

use super::call::{Plan, Route, Safety};
use super::error::Error;
use super::{
    Client, CreateKeyspaceRequest, CreateKeyspaceResponse, DropKeyspaceResponse, MembersResponse, MoveLeaderResponse,
    Node, Result, ShardOperation, ShardsResponse, StatusResponse, UpdateKeyspaceRequest, UpdateKeyspaceResponse,
};
use crate::env::time;
use crate::proto::v1::{
    AddMemberRequest, CancelOperationRequest, ChangeReplicasRequest, DropKeyspaceRequest, ErrorCode, MembersRequest,
    MoveLeaderRequest, OperationsRequest, RemoveMemberRequest, ShardsRequest, StatusRequest,
};
use crate::types::map::{ShardMap, Standing};
use crate::types::{GroupId, KeyspaceId, NodeId, OperationId};

impl Client {
    /// The shard map as the client now knows it; fetched when it has none.
    ///
    /// # Errors
    /// When no endpoint answers in time.
    pub async fn map(&self) -> Result<ShardMap> {
        if self.core.routes.lock().map().version == 0 {
            self.core.refresh_until(0, time::now() + self.timeout).await?;
        }
        Ok(self.core.routes.lock().map().clone())
    }

    /// The members of the cluster.
    ///
    /// # Errors
    /// When no endpoint answers in time.
    pub async fn members(&self) -> Result<MembersResponse> {
        self.core.call(&MembersRequest {}, &self.read(Route::Any)).await
    }

    /// The state of the node at `endpoint`, asked once: its silence is an answer too.
    ///
    /// # Errors
    /// When that node does not answer in time.
    pub async fn status(&self, endpoint: &str) -> Result<StatusResponse> {
        let plan = Plan {
            route: Route::Node(endpoint),
            safety: Safety::Read,
            deadline: time::now() + self.timeout,
            once: true,
        };
        self.core.call(&StatusRequest {}, &plan).await
    }

    /// The shards of the client's keyspace, or of all keyspaces with the metadata group.
    ///
    /// # Errors
    /// When no endpoint answers in time.
    pub async fn shards(&self, all_keyspaces: bool) -> Result<ShardsResponse> {
        let keyspace = if all_keyspaces { String::new() } else { self.keyspace.to_string() };
        self.core.call(&ShardsRequest { keyspace }, &self.read(Route::Any)).await
    }

    /// Makes a keyspace. Its shards elect their leaders then: a request at once may wait for that.
    ///
    /// # Errors
    /// `ALREADY_EXISTS` when the name is taken.
    pub async fn create_keyspace(&self, request: CreateKeyspaceRequest) -> Result<CreateKeyspaceResponse> {
        self.core.call(&request, &self.change()).await
    }

    /// Changes what a keyspace keeps of its history; what the request does not say stays. Safe to repeat.
    ///
    /// # Errors
    /// `KEYSPACE_NOT_FOUND` when there is none of this name.
    pub async fn update_keyspace(&self, request: UpdateKeyspaceRequest) -> Result<UpdateKeyspaceResponse> {
        self.core.call(&request, &self.change()).await
    }

    /// Takes a keyspace and all it holds away for good. It serves nothing any more when this returns, and
    /// its name is free. The id is the one that the map has, or the answer to its making: a late copy of
    /// this request drops no other of the same name.
    ///
    /// # Errors
    /// `KEYSPACE_NOT_FOUND` when there is none of this name and id; `TIMEOUT` with the outcome applied when
    /// some shard has not confirmed it yet.
    pub async fn drop_keyspace(&self, name: &str, id: KeyspaceId) -> Result<DropKeyspaceResponse> {
        let request = DropKeyspaceRequest { name: name.to_owned(), keyspace_id: id.0 };
        self.core.call(&request, &self.change()).await
    }

    fn change(&self) -> Plan<'static> {
        Plan { route: Route::Any, safety: Safety::Write, deadline: time::now() + self.timeout, once: false }
    }

    /// Hands the leadership of a shard to its replica on another node. Safe to repeat.
    ///
    /// # Errors
    /// `NODE_NOT_FOUND` when the node holds no voter of the shard.
    pub async fn move_leader(&self, shard: GroupId, to: NodeId) -> Result<MoveLeaderResponse> {
        let request = MoveLeaderRequest { shard_id: shard.0, to_node_id: to.0 };
        self.core.call(&request, &self.read(Route::Any)).await
    }

    /// Makes a replica of a shard on one node, and takes the one on another away once the new one votes;
    /// either alone, too. Returns the operation that does it, which goes on by itself.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when the shard cannot be changed so; the message says why.
    pub async fn change_replicas(
        &self,
        shard: GroupId,
        add: Option<NodeId>,
        remove: Option<NodeId>,
    ) -> Result<OperationId> {
        let id = |node: Option<NodeId>| node.map_or(0, |node| node.0);
        let request = ChangeReplicasRequest { shard_id: shard.0, add_node_id: id(add), remove_node_id: id(remove) };
        Ok(OperationId(self.core.call(&request, &self.change()).await?.operation_id))
    }

    /// The operations on shards that run.
    ///
    /// # Errors
    /// When the metadata group has no leader in time.
    pub async fn operations(&self) -> Result<Vec<ShardOperation>> {
        Ok(self.core.call(&OperationsRequest {}, &self.read(Route::Any)).await?.operations)
    }

    /// Has an operation undone. One that has already given its new replica a vote is carried on.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when it does not run.
    pub async fn cancel_operation(&self, id: OperationId) -> Result<()> {
        let request = CancelOperationRequest { operation_id: id.0 };
        self.core.call(&request, &self.change()).await.map(|_| ())
    }

    /// Announces a node, so that its name is taken until it joins.
    ///
    /// # Errors
    /// `ALREADY_EXISTS` when the name is taken.
    pub async fn add_member(&self, name: &str, peer_address: &str) -> Result<Node> {
        let request = AddMemberRequest { name: name.to_owned(), peer_address: peer_address.to_owned() };
        Ok(self.core.call(&request, &self.change()).await?.member.unwrap_or_default())
    }

    /// Begins to take a node out: its replicas are made again elsewhere, then it is forgotten.
    /// [`Client::members`] shows when.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when it cannot go.
    pub async fn remove_member(&self, node: NodeId) -> Result<()> {
        self.core.call(&RemoveMemberRequest { node_id: node.0 }, &self.change()).await.map(|_| ())
    }

    /// The node with this name, or else, for a bare number, with this id. A name is never read as an id:
    /// a node called `n5` may have any, and the node with the id 5 any name.
    ///
    /// # Errors
    /// `NODE_NOT_FOUND` when there is none.
    pub async fn find_node(&self, name: &str) -> Result<NodeId> {
        let map = self.map().await?;
        // A node that leaves may have given its name to the one that takes its place.
        let named = map.nodes.values().filter(|node| node.name == name);
        let named = named.min_by_key(|node| node.standing == Standing::Leaving).map(|node| node.id);
        let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
        let id = || name.parse().ok().filter(|_| is_number).map(NodeId);
        let found = named.or_else(|| id().filter(|id| map.nodes.contains_key(id)));
        found.ok_or_else(|| {
            let names: Vec<_> = map.nodes.values().map(|node| node.name.as_str()).collect();
            let message = format!("no member {name}; there are {}", names.join(", "));
            Error::not_applied(ErrorCode::NodeNotFound, message)
        })
    }
}
