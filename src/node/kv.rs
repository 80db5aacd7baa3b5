//! Client requests as requests to shards, and the shards' answers as answers to clients.

mod leases;

use std::sync::Arc;

use futures_util::future;
use prost::Message;

use crate::env::time::Instant;
use crate::proto::internal::{
    CloseSessions, CommandResult, OpenSession, ShardCommand, ShardRead, ShardReadResult, ShardRequest, ShardResponse,
    close_sessions, command_result, shard_command, shard_read, shard_read_result, shard_request, shard_response,
};
use crate::proto::v1::{self, ErrorCode, Operation, Transaction, operation, operation_result};
use crate::shard::check::{self, WriteLimits};
use crate::types::limits::SESSION_TTL_DEFAULT;
use crate::types::map::{Shard, ShardMap};
use crate::types::{GroupId, KeyspaceId};

use super::Failure;
use super::near::{self, Level};
use super::route::{self, KeyRange};
use super::router::Router;
use super::scan::{PagePlan, limit_exceeded};

/// Serves the data requests of clients.
pub(super) struct Kv {
    router: Arc<Router>,
    node: u64,
    limits: WriteLimits,
}

/// A shard's answer to a command, with where it came from.
struct Executed<T> {
    header: v1::ResponseHeader,
    result: T,
}

impl Kv {
    pub(super) fn new(router: Arc<Router>, node: u64, limits: WriteLimits) -> Self {
        Self { router, node, limits }
    }

    pub(super) async fn get(&self, request: v1::GetRequest, deadline: Instant) -> Result<v1::GetResponse, Failure> {
        let map = self.router.map();
        let shard = route::shard_of_key(&map, request.target.as_ref(), &request.key)?;
        let level = Level::of(request.level(), request.max_stale_ms)?;
        let get = shard_read::Get { key: request.key, revision: request.revision };
        let read = self.read(&map, shard, shard_read::Kind::Get(get), level, deadline).await?;
        match read.result.kind {
            Some(shard_read_result::Kind::Get(get)) => {
                Ok(v1::GetResponse { header: Some(read.header), record: get.record })
            }
            _ => Err(unexpected()),
        }
    }

    pub(super) async fn put(&self, request: v1::PutRequest, deadline: Instant) -> Result<v1::PutResponse, Failure> {
        let v1::PutRequest { target, key, value, ttl_ms, previous, session } = request;
        let put = operation::Kind::Put(v1::Put { key, value, ttl_ms, previous, ..Default::default() });
        let (header, kind) = self.one_operation(target, put, session, deadline).await?;
        let operation_result::Kind::Put(put) = kind else { return Err(unexpected()) };
        Ok(v1::PutResponse { header, previous: put.previous })
    }

    pub(super) async fn delete(
        &self,
        request: v1::DeleteRequest,
        deadline: Instant,
    ) -> Result<v1::DeleteResponse, Failure> {
        let v1::DeleteRequest { target, key, range_end, previous, session } = request;
        let delete = operation::Kind::Delete(v1::DeleteRange { key, range_end, previous });
        let (header, kind) = self.one_operation(target, delete, session, deadline).await?;
        let operation_result::Kind::Delete(delete) = kind else { return Err(unexpected()) };
        Ok(v1::DeleteResponse { header, deleted: delete.deleted, previous: delete.previous })
    }

    async fn one_operation(
        &self,
        target: Option<v1::Target>,
        kind: operation::Kind,
        session: Option<v1::SessionStamp>,
        deadline: Instant,
    ) -> Result<(Option<v1::ResponseHeader>, operation_result::Kind), Failure> {
        let transaction = Transaction { success: vec![Operation { kind: Some(kind) }], ..Default::default() };
        let executed = self.transact(target, transaction, session, deadline).await?;
        let result = executed.result.results.into_iter().next().and_then(|result| result.kind);
        Ok((Some(executed.header), result.ok_or_else(unexpected)?))
    }

    pub(super) async fn txn(&self, request: v1::TxnRequest, deadline: Instant) -> Result<v1::TxnResponse, Failure> {
        let level = Level::of(request.level(), request.max_stale_ms)?;
        let transaction = request.transaction.unwrap_or_default();
        let reads = request.session.is_none() && check::is_read_only(&transaction);
        if !reads && level != Level::Leader {
            let message = "only a transaction that writes nothing has a level: leave it out";
            return Err(Failure::refused(ErrorCode::InvalidArgument, message));
        }
        let executed = if reads {
            self.read_transaction(request.target, transaction, level, deadline).await?
        } else {
            self.transact(request.target, transaction, request.session, deadline).await?
        };
        Ok(v1::TxnResponse { header: Some(executed.header), result: Some(executed.result) })
    }

    /// A transaction that writes nothing needs no entry in the log.
    async fn read_transaction(
        &self,
        target: Option<v1::Target>,
        transaction: Transaction,
        level: Level,
        deadline: Instant,
    ) -> Result<Executed<v1::TransactionResult>, Failure> {
        let map = self.router.map();
        let shard = route::shard_of_transaction(&map, target.as_ref(), &transaction)?;
        let read = self.read(&map, shard, shard_read::Kind::Transaction(transaction), level, deadline).await?;
        match read.result.kind {
            Some(shard_read_result::Kind::Transaction(result)) => Ok(Executed { header: read.header, result }),
            _ => Err(unexpected()),
        }
    }

    async fn transact(
        &self,
        target: Option<v1::Target>,
        transaction: Transaction,
        session: Option<v1::SessionStamp>,
        deadline: Instant,
    ) -> Result<Executed<v1::TransactionResult>, Failure> {
        let map = self.router.map();
        let shard = route::shard_of_transaction(&map, target.as_ref(), &transaction)?;
        self.transact_on(&map, shard, transaction, session, deadline).await
    }

    async fn transact_on(
        &self,
        map: &ShardMap,
        shard: &Shard,
        transaction: Transaction,
        session: Option<v1::SessionStamp>,
        deadline: Instant,
    ) -> Result<Executed<v1::TransactionResult>, Failure> {
        let kind = Some(shard_command::Kind::Transaction(transaction));
        let executed = self.command(map, shard, ShardCommand { kind, session, epoch: shard.epoch.0 }, deadline).await?;
        match executed.result.kind {
            Some(command_result::Kind::Transaction(result)) => Ok(Executed { header: executed.header, result }),
            _ => Err(unexpected()),
        }
    }

    pub(super) async fn scan(&self, request: v1::ScanRequest, deadline: Instant) -> Result<v1::ScanResponse, Failure> {
        let map = self.router.map();
        let keyspace = route::keyspace(&map, request.target.as_ref())?;
        let plan = PagePlan::new(keyspace.id, &request)?;
        let level = Level::of(request.level(), request.max_stale_ms)?;
        let shards = self.shards_of_scan(&map, keyspace.id, request.target.as_ref(), &plan.start, &plan.end)?;
        let level = if shards.len() > 1 { level.gathered() } else { level };
        if request.revision != 0 && shards.len() > 1 {
            let message = "a revision belongs to one shard, and this range spans several; scan without a revision";
            return Err(Failure::refused(ErrorCode::InvalidArgument, message));
        }
        let pages = shards.iter().map(|shard| async {
            let scan = shard_read::Kind::Scan(plan.read(shard.id)?);
            let read = self.read(&map, shard, scan, level, deadline).await?;
            match read.result.kind {
                Some(shard_read_result::Kind::Scan(scan)) => Ok((shard.id, read.header, scan)),
                _ => Err(unexpected()),
            }
        });
        let answers = future::try_join_all(pages).await?;
        let header = common_header(answers.iter().map(|(_, header, _)| header));
        let revision = if let [(_, _, scan)] = answers.as_slice() { scan.revision } else { 0 };
        let page = plan.merge(answers.into_iter().map(|(shard, _, scan)| (shard, scan)).collect());
        Ok(v1::ScanResponse { header, records: page.records, next_page: page.next, revision })
    }

    pub(super) async fn count(
        &self,
        request: v1::CountRequest,
        deadline: Instant,
    ) -> Result<v1::CountResponse, Failure> {
        let map = self.router.map();
        let keyspace = route::keyspace(&map, request.target.as_ref())?;
        let level = Level::of(request.level(), request.max_stale_ms)?;
        let target = request.target.as_ref();
        let shards = self.shards_of_scan(&map, keyspace.id, target, &request.start, &request.end)?;
        let level = if shards.len() > 1 { level.gathered() } else { level };
        let counts = shards.iter().map(|shard| async {
            let count = shard_read::Count { start: request.start.clone(), end: request.end.clone(), revision: 0 };
            let read = self.read(&map, shard, shard_read::Kind::Count(count), level, deadline).await?;
            match read.result.kind {
                Some(shard_read_result::Kind::Count(count)) => Ok((read.header, count.count)),
                _ => Err(unexpected()),
            }
        });
        let counts = future::try_join_all(counts).await?;
        let header = common_header(counts.iter().map(|(header, _)| header));
        Ok(v1::CountResponse { header, count: counts.iter().map(|(_, count)| count).sum() })
    }

    fn shards_of_scan<'m>(
        &self,
        map: &'m ShardMap,
        keyspace: KeyspaceId,
        target: Option<&v1::Target>,
        start: &[u8],
        end: &[u8],
    ) -> Result<Vec<&'m Shard>, Failure> {
        let keyspace = map.keyspaces.get(&keyspace).ok_or_else(unexpected)?;
        let mut shards: Vec<_> = route::shards_of_range(map, keyspace, KeyRange::of_scan(start, end)).collect();
        if let Some(target) = target.filter(|target| target.shard_id != 0) {
            shards.retain(|shard| shard.id == GroupId(target.shard_id));
            let shard = map.shards.get(&GroupId(target.shard_id)).filter(|shard| shard.keyspace == keyspace.id);
            let shard = shard.ok_or_else(|| {
                let message = format!("shard {} is not part of keyspace `{}`", target.shard_id, keyspace.name);
                Failure::retry(ErrorCode::WrongShard, message)
            })?;
            route::confirm(Some(target), shard)?;
        }
        Ok(shards)
    }

    pub(super) async fn batch(
        &self,
        request: v1::BatchRequest,
        deadline: Instant,
    ) -> Result<v1::BatchResponse, Failure> {
        let most = self.limits.operations_max;
        if request.operations.len() > most {
            let actual = request.operations.len();
            let message = format!("a batch has at most {most} operations, not {actual}; send several");
            return Err(limit_exceeded("batch_operations_max", most, actual, message));
        }
        let map = self.router.map();
        let whole = Transaction { success: request.operations, ..Default::default() };
        check::transaction(&whole, &self.limits)?;
        let parts = split_batch(&map, request.target.as_ref(), whole.success)?;
        if parts.len() > 1 && request.session.is_some() {
            let message = "a session belongs to one shard, and this batch touches several; send a batch for each shard";
            return Err(Failure::refused(ErrorCode::CrossShard, message));
        }
        let shards = parts.into_iter().map(|(shard, indexes, success)| {
            let transaction = Transaction { success, ..Default::default() };
            let transacted = self.transact_on(&map, shard, transaction, request.session, deadline);
            async move { shard_result(shard.id, indexes, transacted.await) }
        });
        Ok(v1::BatchResponse { shards: future::join_all(shards).await })
    }

    pub(super) async fn open_session(
        &self,
        request: v1::OpenSessionRequest,
        deadline: Instant,
    ) -> Result<v1::OpenSessionResponse, Failure> {
        let ttl_ms = match request.ttl_ms {
            0 => u64::try_from(SESSION_TTL_DEFAULT.as_millis()).unwrap_or(u64::MAX),
            ttl_ms => ttl_ms,
        };
        let map = self.router.map();
        let shard = only_shard(&map, request.target.as_ref())?;
        let kind = Some(shard_command::Kind::OpenSession(OpenSession { ttl_ms }));
        let executed =
            self.command(&map, shard, ShardCommand { kind, session: None, epoch: shard.epoch.0 }, deadline).await?;
        match executed.result.kind {
            Some(command_result::Kind::SessionId(session_id)) => {
                Ok(v1::OpenSessionResponse { header: Some(executed.header), session_id, ttl_ms })
            }
            _ => Err(unexpected()),
        }
    }

    pub(super) async fn close_session(
        &self,
        request: v1::CloseSessionRequest,
        deadline: Instant,
    ) -> Result<v1::CloseSessionResponse, Failure> {
        let map = self.router.map();
        let shard = only_shard(&map, request.target.as_ref())?;
        let entry = close_sessions::Entry { session_id: request.session_id, seen_sequence: 0, any: true };
        let kind = Some(shard_command::Kind::CloseSessions(CloseSessions { sessions: vec![entry] }));
        let executed =
            self.command(&map, shard, ShardCommand { kind, session: None, epoch: shard.epoch.0 }, deadline).await?;
        Ok(v1::CloseSessionResponse { header: Some(executed.header) })
    }

    async fn command_of(
        &self,
        map: &ShardMap,
        shard: &Shard,
        kind: shard_command::Kind,
        deadline: Instant,
    ) -> Result<Executed<CommandResult>, Failure> {
        self.command(map, shard, ShardCommand { kind: Some(kind), session: None, epoch: shard.epoch.0 }, deadline).await
    }

    async fn command(
        &self,
        map: &ShardMap,
        shard: &Shard,
        command: ShardCommand,
        deadline: Instant,
    ) -> Result<Executed<CommandResult>, Failure> {
        check::command(&command, &self.limits)?;
        let response = self.execute(shard, shard_request::Kind::Command(command), Level::Leader, deadline).await?;
        let mut header = self.header(map, shard, &response);
        match response.kind {
            Some(shard_response::Kind::Command(result)) => {
                header.revision = match &result.kind {
                    Some(command_result::Kind::Transaction(result)) => result.revision,
                    Some(command_result::Kind::Done(done)) => done.revision,
                    _ => 0,
                };
                Ok(Executed { header, result })
            }
            _ => Err(unexpected()),
        }
    }

    async fn read(
        &self,
        map: &ShardMap,
        shard: &Shard,
        kind: shard_read::Kind,
        level: Level,
        deadline: Instant,
    ) -> Result<Executed<ShardReadResult>, Failure> {
        let read = ShardRead { kind: Some(kind) };
        check::read(&read, &self.limits)?;
        let response = self.execute(shard, shard_request::Kind::Read(read), level, deadline).await?;
        let mut header = self.header(map, shard, &response);
        match response.kind {
            Some(shard_response::Kind::Read(result)) => {
                header.revision = result.revision;
                Ok(Executed { header, result })
            }
            _ => Err(unexpected()),
        }
    }

    async fn execute(
        &self,
        shard: &Shard,
        kind: shard_request::Kind,
        level: Level,
        deadline: Instant,
    ) -> Result<ShardResponse, Failure> {
        let request = ShardRequest { shard_id: shard.id.0, shard_epoch: shard.epoch.0, kind: Some(kind) };
        near::execute(&self.router, request, level, deadline).await.map_err(|mut failure| {
            let leader = crate::types::NodeId(failure.detail.leader_node_id);
            if let Some(node) = self.router.map().nodes.get(&leader) {
                failure.detail.leader_address.clone_from(&node.client_address);
            }
            failure
        })
    }

    /// Of an answer that says nothing of the shard's state.
    fn bare_header(&self, map: &ShardMap, shard: &Shard) -> v1::ResponseHeader {
        self.header(map, shard, &ShardResponse { shard_epoch: shard.epoch.0, ..ShardResponse::default() })
    }

    fn header(&self, map: &ShardMap, shard: &Shard, response: &ShardResponse) -> v1::ResponseHeader {
        let node_id = if response.node_id == 0 { self.node } else { response.node_id };
        v1::ResponseHeader {
            cluster_id: map.cluster_id.map(|id| id.0.to_vec().into()).unwrap_or_default(),
            node_id,
            shard_id: shard.id.0,
            shard_epoch: response.shard_epoch,
            revision: 0,
            raft_term: response.raft_term,
        }
    }
}

type BatchPart<'m> = (&'m Shard, Vec<u32>, Vec<Operation>);

/// Deals operations out to their shards, in the order of shard ids.
fn split_batch<'m>(
    map: &'m ShardMap,
    target: Option<&v1::Target>,
    operations: Vec<Operation>,
) -> Result<Vec<BatchPart<'m>>, Failure> {
    let mut parts = std::collections::BTreeMap::<GroupId, BatchPart<'m>>::new();
    for (index, operation) in (0u32..).zip(operations) {
        if matches!(operation.kind, Some(operation::Kind::Range(_) | operation::Kind::Transaction(_))) {
            return Err(Failure::refused(ErrorCode::InvalidArgument, "a batch holds puts and deletes only"));
        }
        let one = Transaction { success: vec![operation], ..Default::default() };
        let shard = route::shard_of_transaction(map, target, &one)?;
        let part = parts.entry(shard.id).or_insert_with(|| (shard, Vec::new(), Vec::new()));
        part.1.push(index);
        part.2.extend(one.success);
    }
    Ok(parts.into_values().collect())
}

fn shard_result(
    shard: GroupId,
    operations: Vec<u32>,
    result: Result<Executed<v1::TransactionResult>, Failure>,
) -> v1::batch_response::ShardResult {
    let (header, error) = match result {
        Ok(executed) => (Some(executed.header), None),
        Err(failure) => {
            let detail = failure.detail.encode_to_vec().into();
            (None, Some(v1::batch_response::BatchError { message: failure.message, detail }))
        }
    };
    v1::batch_response::ShardResult { shard_id: shard.0, operations, header, error }
}

/// The shard that a request on no key names, or the only one of the keyspace.
fn only_shard<'m>(map: &'m ShardMap, target: Option<&v1::Target>) -> Result<&'m Shard, Failure> {
    let keyspace = route::keyspace(map, target)?;
    let named = target.map_or(0, |target| target.shard_id);
    let mut shards = map.shards_of(keyspace.id).filter(|shard| named == 0 || shard.id.0 == named);
    match (shards.next(), shards.next()) {
        (Some(shard), None) => {
            route::confirm(target, shard)?;
            Ok(shard)
        }
        (None, _) => {
            let message = format!("keyspace `{}` has no shard {named}; refresh the map", keyspace.name);
            Err(Failure::retry(ErrorCode::WrongShard, message))
        }
        (Some(_), Some(_)) => {
            let message = format!("keyspace `{}` has several shards; name the one that is meant", keyspace.name);
            Err(Failure::refused(ErrorCode::InvalidArgument, message))
        }
    }
}

/// The header of an answer from one shard, or what the answers of several have in common.
fn common_header<'a>(headers: impl Iterator<Item = &'a v1::ResponseHeader>) -> Option<v1::ResponseHeader> {
    headers.cloned().reduce(|first, _| v1::ResponseHeader { cluster_id: first.cluster_id, ..Default::default() })
}

fn unexpected() -> Failure {
    Failure::unknown(ErrorCode::Internal, "the shard gave an answer of another kind than was asked for")
}
