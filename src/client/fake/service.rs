//! What a scripted node answers: a small, correct key-value store, plus the faults of the script.

use std::pin::Pin;

use bytes::Bytes;
use futures_core::Stream;
use prost::Message;
use tonic::{Code, Request, Response, Status};

use super::watch::{WatchStream, inside, watch};
use super::{Fake, Fault, State, detail, status};
use crate::proto::v1::admin_server::Admin;
use crate::proto::v1::cluster_server::Cluster;
use crate::proto::v1::kv_server::Kv;
use crate::proto::v1::{
    self, BatchRequest, BatchResponse, CloseSessionRequest, CloseSessionResponse, CountRequest, CountResponse,
    DeleteRequest, DeleteResponse, ErrorCode, ErrorDetail, GetRequest, GetResponse, MapRequest, MapResponse,
    MembersRequest, MembersResponse, MoveLeaderRequest, MoveLeaderResponse, OpenSessionRequest, OpenSessionResponse,
    Operation, OperationResult, PutRequest, PutResponse, Record, ScanRequest, ScanResponse, SessionStamp,
    ShardsRequest, ShardsResponse, StatusRequest, StatusResponse, Target, TransactionResult, TxnRequest, TxnResponse,
    WatchMapRequest, compare, operation, operation_result,
};

#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) fake: Fake,
    pub(crate) index: usize,
}

impl Node {
    /// Carries out one request of the key-value API under the script.
    pub(super) async fn run<R, A>(
        &self,
        method: &'static str,
        request: Request<R>,
        sequence: u64,
        apply: impl FnOnce(&mut State, R) -> Result<A, Status>,
        target: impl FnOnce(&R) -> Option<Target>,
    ) -> Result<Response<A>, Status> {
        let fault = self.admit(method, &request, sequence);
        if let Some(Fault::LoseRequest) = fault {
            self.fake.net.break_connections(&format!("n{}:1", self.index));
            return std::future::pending().await;
        }
        if let Some(Fault::Refuse(detail)) = fault {
            return Err(status(Code::FailedPrecondition, "as scripted", detail));
        }
        self.fake.state.lock().in_flight += 1;
        // Others get in between, so that pipelining shows.
        tokio::task::yield_now().await;
        let answer = {
            let mut state = self.fake.state.lock();
            state.in_flight_max = state.in_flight_max.max(state.in_flight);
            state.in_flight -= 1;
            let request = request.into_inner();
            self.check_target(&state, target(&request)).and_then(|()| apply(&mut state, request))?
        };
        self.fake.changed.notify_waiters();
        match fault {
            Some(Fault::LoseAnswer) => {
                self.fake.net.break_connections(&format!("n{}:1", self.index));
                std::future::pending().await
            }
            Some(Fault::Hang) => std::future::pending().await,
            _ => Ok(Response::new(answer)),
        }
    }

    fn admit<R>(&self, method: &'static str, request: &Request<R>, sequence: u64) -> Option<Fault> {
        let mut state = self.fake.state.lock();
        state.seen.push((self.index, method, sequence));
        let timeout = request.metadata().get("grpc-timeout").and_then(|value| value.to_str().ok());
        state.grpc_timeout = timeout.map(str::to_owned);
        let at = state.faults.iter().position(|(faulty, _)| *faulty == method)?;
        state.faults.remove(at).map(|(_, fault)| fault)
    }

    fn check_target(&self, state: &State, target: Option<Target>) -> Result<(), Status> {
        let target = target.unwrap_or_default();
        let shard = state.map.shards.iter().find(|shard| shard.id == target.shard_id);
        if target.shard_id != 0 && shard.is_none_or(|shard| shard.epoch != target.shard_epoch) {
            let detail = detail(ErrorCode::WrongShard, v1::Outcome::NotApplied, true);
            return Err(status(Code::FailedPrecondition, "old map", detail));
        }
        if state.leader == self.index || state.all_serve {
            return Ok(());
        }
        let mut detail = detail(ErrorCode::NoLeader, v1::Outcome::NotApplied, true);
        if state.hints && state.leader != 0 {
            detail.leader_address = format!("n{}:1", state.leader);
        }
        Err(status(Code::Unavailable, "not the leader", detail))
    }
}

impl State {
    fn put(&mut self, key: &Bytes, value: &Bytes, lease: u64) -> Option<Record> {
        let previous = self.records.get(key).cloned();
        let revision = self.revision;
        let record = Record {
            key: key.clone(),
            value: value.clone(),
            create_revision: previous.as_ref().map_or(revision, |previous| previous.create_revision),
            mod_revision: revision,
            version: previous.as_ref().map_or(1, |previous| previous.version + 1),
            lease,
        };
        self.changed(record.clone(), previous.clone());
        self.records.insert(key.clone(), record);
        previous
    }

    fn keys(&self, key: &Bytes, range_end: &Bytes) -> Vec<Bytes> {
        self.records.keys().filter(|candidate| inside(candidate, key, range_end)).cloned().collect()
    }

    pub(super) fn remove(&mut self, key: &Bytes) -> Option<Record> {
        let previous = self.records.remove(key)?;
        let gone = Record { key: key.clone(), mod_revision: self.revision, ..Record::default() };
        self.changed(gone, Some(previous.clone()));
        Some(previous)
    }

    fn operate(&mut self, operation: &Operation) -> OperationResult {
        let kind = match operation.kind.as_ref().unwrap() {
            operation::Kind::Put(put) => {
                let previous = self.put(&put.key, &put.value, put.lease).filter(|_| put.previous);
                operation_result::Kind::Put(operation_result::PutResult { previous })
            }
            operation::Kind::Delete(delete) => {
                let keys = self.keys(&delete.key, &delete.range_end);
                let gone: Vec<_> = keys.iter().filter_map(|key| self.remove(key)).collect();
                let deleted = gone.len() as u64;
                let previous = if delete.previous { gone } else { Vec::new() };
                operation_result::Kind::Delete(operation_result::DeleteResult { deleted, previous })
            }
            operation::Kind::Transaction(_) => unreachable!("clients nest no transactions"),
            operation::Kind::Range(range) => {
                let keys = self.keys(&range.key, &range.range_end);
                let mut records: Vec<_> = keys.iter().map(|key| self.records[key].clone()).collect();
                let count = records.len() as u64;
                if range.sort() == v1::range::SortTarget::CreateRevision {
                    records.sort_by_key(|record| record.create_revision);
                }
                if range.reverse {
                    records.reverse();
                }
                let newest = if range.create_revision_max == 0 { u64::MAX } else { range.create_revision_max };
                records.retain(|record| record.create_revision <= newest);
                records.truncate(if range.limit == 0 { usize::MAX } else { range.limit as usize });
                operation_result::Kind::Range(operation_result::RangeResult { records, count, more: false })
            }
        };
        OperationResult { kind: Some(kind) }
    }

    /// The universal command: compares and operations, under a session if there is a stamp.
    fn transact(
        &mut self,
        transaction: &v1::Transaction,
        stamp: Option<SessionStamp>,
    ) -> Result<TransactionResult, Status> {
        if let Some(stamp) = stamp {
            let Some(session) = self.sessions.get(&stamp.session_id) else {
                let detail = detail(ErrorCode::SessionNotFound, v1::Outcome::NotApplied, false);
                return Err(status(Code::FailedPrecondition, "no such session", detail));
            };
            if let Some(result) = session.get(&stamp.sequence) {
                return Ok(result.clone());
            }
            if stamp.sequence < stamp.lowest_unacknowledged || stamp.sequence - stamp.lowest_unacknowledged > 1_024 {
                let detail = detail(ErrorCode::SessionSequence, v1::Outcome::NotApplied, false);
                return Err(status(Code::FailedPrecondition, "bad sequence", detail));
            }
        }
        let succeeded = transaction.compares.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &transaction.success } else { &transaction.failure };
        for operation in branch {
            if let Some(operation::Kind::Put(v1::Put { lease: lease @ 1.., .. })) = &operation.kind {
                self.need_lease(*lease)?;
            }
        }
        let changes = branch.iter().any(|operation| !matches!(operation.kind, Some(operation::Kind::Range(_))));
        self.revision += u64::from(changes);
        let results = branch.iter().map(|operation| self.operate(operation)).collect();
        let result = TransactionResult { succeeded, results, revision: self.revision };
        if let Some(stamp) = stamp {
            let session = self.sessions.get_mut(&stamp.session_id).unwrap();
            session.retain(|sequence, _| *sequence >= stamp.lowest_unacknowledged);
            session.insert(stamp.sequence, result.clone());
        }
        Ok(result)
    }

    fn holds(&self, compare: &v1::Compare) -> bool {
        let record = self.records.get(&compare.key).cloned().unwrap_or_default();
        let order = match compare.operand.as_ref().unwrap() {
            compare::Operand::Value(value) => record.value.cmp(value),
            compare::Operand::Version(version) => record.version.cmp(version),
            compare::Operand::CreateRevision(revision) => record.create_revision.cmp(revision),
            compare::Operand::ModRevision(revision) => record.mod_revision.cmp(revision),
            compare::Operand::Lease(lease) => record.lease.cmp(lease),
            compare::Operand::Exists(exists) => (record.version > 0).cmp(exists),
        };
        match compare.relation() {
            compare::Relation::Equal => order.is_eq(),
            compare::Relation::NotEqual => order.is_ne(),
            compare::Relation::Greater => order.is_gt(),
            compare::Relation::Less => order.is_lt(),
            compare::Relation::Unspecified => false,
        }
    }

    fn scan(&self, request: &ScanRequest) -> ScanResponse {
        let after = (!request.page_token.is_empty()).then(|| request.page_token.clone());
        let inside = |record: &&Record| {
            let passed = after
                .as_ref()
                .is_some_and(|after| if request.reverse { record.key >= *after } else { record.key <= *after });
            record.key >= request.start && (request.end.is_empty() || record.key < request.end) && !passed
        };
        let mut records: Vec<_> = self.records.values().filter(inside).cloned().collect();
        if request.reverse {
            records.reverse();
        }
        let page = (request.limit as usize).min(self.page_max);
        let more = records.len() > page;
        records.truncate(page);
        if request.keys_only {
            records.iter_mut().for_each(|record| record.value.clear());
        }
        let next_page = if more { records.last().unwrap().key.clone() } else { Bytes::new() };
        ScanResponse { header: Some(self.header()), records, next_page, revision: self.revision }
    }
}

fn single(kind: operation::Kind) -> v1::Transaction {
    v1::Transaction { success: vec![Operation { kind: Some(kind) }], ..Default::default() }
}

fn sequence(stamp: &Option<SessionStamp>) -> u64 {
    stamp.as_ref().map_or(0, |stamp| stamp.sequence)
}

#[tonic::async_trait]
impl Kv for Node {
    type WatchStream = WatchStream;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<WatchStream>, Status> {
        if let Some(Fault::Refuse(detail)) = self.admit("watch", &request, 0) {
            return Err(status(Code::FailedPrecondition, "as scripted", detail));
        }
        Ok(watch(self.fake.clone(), request.into_inner()))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let apply = |state: &mut State, request: GetRequest| {
            Ok(GetResponse { header: Some(state.header()), record: state.records.get(&request.key).cloned() })
        };
        self.run("get", request, 0, apply, |request| request.target.clone()).await
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let sequence = sequence(&request.get_ref().session);
        let apply = |state: &mut State, request: PutRequest| {
            let PutRequest { key, value, ttl_ms, previous, .. } = request;
            let put = operation::Kind::Put(v1::Put { key, value, ttl_ms, previous, ..v1::Put::default() });
            let mut result = state.transact(&single(put), request.session)?;
            let Some(operation_result::Kind::Put(put)) = result.results.remove(0).kind else { unreachable!() };
            Ok(PutResponse { header: Some(state.header()), previous: put.previous })
        };
        self.run("put", request, sequence, apply, |request| request.target.clone()).await
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let sequence = sequence(&request.get_ref().session);
        let apply = |state: &mut State, request: DeleteRequest| {
            let DeleteRequest { key, range_end, previous, .. } = request;
            let delete = operation::Kind::Delete(v1::DeleteRange { key, range_end, previous });
            let mut result = state.transact(&single(delete), request.session)?;
            let Some(operation_result::Kind::Delete(gone)) = result.results.remove(0).kind else { unreachable!() };
            Ok(DeleteResponse { header: Some(state.header()), deleted: gone.deleted, previous: gone.previous })
        };
        self.run("delete", request, sequence, apply, |request| request.target.clone()).await
    }

    async fn scan(&self, request: Request<ScanRequest>) -> Result<Response<ScanResponse>, Status> {
        let apply = |state: &mut State, request: ScanRequest| Ok(state.scan(&request));
        self.run("scan", request, 0, apply, |request| request.target.clone()).await
    }

    async fn count(&self, request: Request<CountRequest>) -> Result<Response<CountResponse>, Status> {
        let apply = |state: &mut State, request: CountRequest| {
            let scan = ScanRequest { start: request.start, end: request.end, limit: u32::MAX, ..Default::default() };
            let page_max = std::mem::replace(&mut state.page_max, usize::MAX);
            let count = state.scan(&scan).records.len() as u64;
            state.page_max = page_max;
            Ok(CountResponse { header: Some(state.header()), count })
        };
        self.run("count", request, 0, apply, |request| request.target.clone()).await
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let sequence = sequence(&request.get_ref().session);
        let apply = |state: &mut State, request: TxnRequest| {
            let result = state.transact(&request.transaction.unwrap_or_default(), request.session)?;
            Ok(TxnResponse { header: Some(state.header()), result: Some(result) })
        };
        self.run("txn", request, sequence, apply, |request| request.target.clone()).await
    }

    async fn batch(&self, request: Request<BatchRequest>) -> Result<Response<BatchResponse>, Status> {
        let sequence = sequence(&request.get_ref().session);
        let shard_id = request.get_ref().target.as_ref().map_or(0, |target| target.shard_id);
        let target = request.get_ref().target.clone();
        let apply = |state: &mut State, request: BatchRequest| {
            let operations = (0_u32..).take(request.operations.len()).collect();
            let transaction = v1::Transaction { success: request.operations, ..Default::default() };
            // As a server does: what befalls a shard's part is told inside the answer.
            let executed =
                self.check_target(state, target).and_then(|()| state.transact(&transaction, request.session));
            let (header, error) = match executed {
                Ok(_) => (Some(state.header()), None),
                Err(status) => (None, Some(batch_error(&status))),
            };
            let shard = v1::batch_response::ShardResult { shard_id, operations, header, error };
            Ok(BatchResponse { shards: vec![shard] })
        };
        let leader = || Target::default();
        let is_leader = self.fake.state.lock().leader == self.index;
        if is_leader {
            return self.run("batch", request, sequence, apply, |_| Some(leader())).await;
        }
        self.admit("batch", &request, sequence);
        let answer = apply(&mut self.fake.state.lock(), request.into_inner());
        answer.map(Response::new)
    }

    async fn events(&self, _: Request<v1::EventsRequest>) -> Result<Response<v1::EventsResponse>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn compact(&self, request: Request<v1::CompactRequest>) -> Result<Response<v1::CompactResponse>, Status> {
        let apply = |state: &mut State, request: v1::CompactRequest| {
            let refuse =
                |code| Err(status(Code::OutOfRange, "not this one", detail(code, v1::Outcome::NotApplied, false)));
            if request.revision > state.revision {
                return refuse(ErrorCode::FutureRevision);
            }
            if request.revision < state.compacted || (request.anew && request.revision == state.compacted) {
                return refuse(ErrorCode::Compacted);
            }
            state.compacted = request.revision;
            Ok(v1::CompactResponse { header: Some(state.header()) })
        };
        self.run("compact", request, 0, apply, |request| request.target.clone()).await
    }

    async fn open_session(
        &self,
        request: Request<OpenSessionRequest>,
    ) -> Result<Response<OpenSessionResponse>, Status> {
        let apply = |state: &mut State, request: OpenSessionRequest| {
            let session_id = state.next_session;
            state.next_session += 1;
            state.sessions.insert(session_id, std::collections::BTreeMap::new());
            Ok(OpenSessionResponse { header: Some(state.header()), session_id, ttl_ms: request.ttl_ms })
        };
        self.run("open_session", request, 0, apply, |request| request.target.clone()).await
    }

    async fn close_session(
        &self,
        request: Request<CloseSessionRequest>,
    ) -> Result<Response<CloseSessionResponse>, Status> {
        let apply = |state: &mut State, request: CloseSessionRequest| {
            state.sessions.remove(&request.session_id);
            Ok(CloseSessionResponse { header: Some(state.header()) })
        };
        self.run("close_session", request, 0, apply, |request| request.target.clone()).await
    }
}

fn batch_error(status: &Status) -> v1::batch_response::BatchError {
    let details = crate::proto::rpc::Status::decode(status.details()).unwrap();
    let detail = ErrorDetail::decode(details.details[0].value.as_ref()).unwrap();
    v1::batch_response::BatchError { message: status.message().into(), detail: detail.encode_to_vec().into() }
}

#[tonic::async_trait]
impl Cluster for Node {
    async fn members(&self, _: Request<MembersRequest>) -> Result<Response<MembersResponse>, Status> {
        let state = self.fake.state.lock();
        let cluster_id = state.map.cluster_id.clone();
        Ok(Response::new(MembersResponse { cluster_id, members: state.map.nodes.clone() }))
    }

    async fn map(&self, _: Request<MapRequest>) -> Result<Response<MapResponse>, Status> {
        let mut state = self.fake.state.lock();
        state.seen.push((self.index, "map", 0));
        Ok(Response::new(state.map.clone()))
    }

    type WatchMapStream = Pin<Box<dyn Stream<Item = Result<MapResponse, Status>> + Send>>;

    async fn watch_map(&self, _: Request<WatchMapRequest>) -> Result<Response<Self::WatchMapStream>, Status> {
        self.fake.state.lock().seen.push((self.index, "watch_map", 0));
        let stream = futures_util::stream::unfold((self.fake.clone(), true), |(fake, first)| async move {
            if !first {
                fake.map_changed.notified().await;
            }
            let map = fake.state.lock().map.clone();
            Some((Ok(map), (fake, false)))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

#[tonic::async_trait]
impl Admin for Node {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let state = self.fake.state.lock();
        Ok(Response::new(StatusResponse {
            cluster_id: state.map.cluster_id.clone(),
            node_id: self.index as u64,
            name: format!("n{}", self.index),
            version: "0.1.0".into(),
            ready: state.leader != 0,
            reason: if state.leader == 0 { "no leader".into() } else { String::new() },
            ..Default::default()
        }))
    }

    async fn shards(&self, request: Request<ShardsRequest>) -> Result<Response<ShardsResponse>, Status> {
        let state = self.fake.state.lock();
        let asked = &request.get_ref().keyspace;
        if !asked.is_empty() && state.map.keyspaces.iter().all(|keyspace| keyspace.name != *asked) {
            let detail = detail(ErrorCode::KeyspaceNotFound, v1::Outcome::NotApplied, false);
            return Err(status(Code::NotFound, "no such keyspace", detail));
        }
        let entry = v1::shards_response::Entry {
            shard: Some(state.map.shards[0].clone()),
            keyspace: "default".into(),
            leader_node_id: state.leader as u64,
            term: state.term,
        };
        Ok(Response::new(ShardsResponse { shards: vec![entry] }))
    }

    async fn move_leader(&self, request: Request<MoveLeaderRequest>) -> Result<Response<MoveLeaderResponse>, Status> {
        let mut state = self.fake.state.lock();
        state.leader = usize::try_from(request.get_ref().to_node_id).unwrap();
        state.term += 1;
        Ok(Response::new(MoveLeaderResponse { leader_node_id: state.leader as u64, term: state.term }))
    }

    async fn change_replicas(
        &self,
        _: Request<v1::ChangeReplicasRequest>,
    ) -> Result<Response<v1::ChangeReplicasResponse>, Status> {
        Err(Status::unimplemented("the fake has the replicas it has"))
    }

    async fn operations(&self, _: Request<v1::OperationsRequest>) -> Result<Response<v1::OperationsResponse>, Status> {
        Ok(Response::new(v1::OperationsResponse::default()))
    }

    async fn cancel_operation(
        &self,
        _: Request<v1::CancelOperationRequest>,
    ) -> Result<Response<v1::CancelOperationResponse>, Status> {
        Err(Status::unimplemented("nothing runs"))
    }

    async fn add_member(&self, _: Request<v1::AddMemberRequest>) -> Result<Response<v1::AddMemberResponse>, Status> {
        Err(Status::unimplemented("the fake has the nodes it has"))
    }

    async fn remove_member(
        &self,
        _: Request<v1::RemoveMemberRequest>,
    ) -> Result<Response<v1::RemoveMemberResponse>, Status> {
        Err(Status::unimplemented("the fake has the nodes it has"))
    }

    async fn create_keyspace(
        &self,
        _: Request<v1::CreateKeyspaceRequest>,
    ) -> Result<Response<v1::CreateKeyspaceResponse>, Status> {
        Err(Status::unimplemented("the fake has the keyspaces it has"))
    }

    async fn update_keyspace(
        &self,
        _: Request<v1::UpdateKeyspaceRequest>,
    ) -> Result<Response<v1::UpdateKeyspaceResponse>, Status> {
        Err(Status::unimplemented("the fake has the keyspaces it has"))
    }

    async fn drop_keyspace(
        &self,
        _: Request<v1::DropKeyspaceRequest>,
    ) -> Result<Response<v1::DropKeyspaceResponse>, Status> {
        Err(Status::unimplemented("the fake has the keyspaces it has"))
    }
}
