//! Between openraft's types and our own wire and storage types. Total: what does not fit is an
//! error, never a panic, and never reaches openraft, which asserts where we must refuse.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::raft::StreamAppendError;
use openraft::{EntryPayload, LogIdOptionExt};
use prost::Message;

use super::apply::LogPosition;
use super::types::{
    AppendRequest, AppendResult, Command, Entry, LogId, Membership, Payload, Place, SnapshotMeta, StoredMembership,
    Vote, VoteReply, VoteRequest,
};
use crate::proto::internal as wire;
use crate::types::NodeId;
use crate::types::limits::COMMAND_BYTES_MAX;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what}: {why}")]
pub(super) struct Malformed {
    what: &'static str,
    why: String,
}

pub(super) fn malformed(what: &'static str, why: impl ToString) -> Malformed {
    Malformed { what, why: why.to_string() }
}

/// The position of a log id.
pub(super) fn position(id: &LogId) -> LogPosition {
    LogPosition { term: id.leader_id.term, index: id.index }
}

pub(super) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

pub(super) fn log_id_to_wire(id: &LogId) -> wire::LogId {
    wire::LogId { term: id.leader_id.term, index: id.index }
}

pub(super) fn log_id_from_wire(id: wire::LogId) -> LogId {
    log_id(id.term, id.index)
}

pub(super) fn vote_to_wire(vote: &Vote) -> wire::Vote {
    wire::Vote { term: vote.leader_id.term, replica_id: vote.leader_id.voted_for, committed: vote.committed }
}

pub(super) fn vote_from_wire(vote: wire::Vote) -> Vote {
    if vote.committed { Vote::new_committed(vote.term, vote.replica_id) } else { Vote::new(vote.term, vote.replica_id) }
}

fn vote_required(vote: Option<wire::Vote>, what: &'static str) -> Result<Vote, Malformed> {
    vote.map(vote_from_wire).ok_or_else(|| malformed(what, "no vote"))
}

/// Reads what [`vote_to_bytes`] wrote.
pub(super) fn vote_from_bytes(bytes: &[u8]) -> Result<Vote, Malformed> {
    wire::Vote::decode(bytes).map(vote_from_wire).map_err(|error| malformed("vote", error))
}

pub(super) fn vote_to_bytes(vote: &Vote) -> Bytes {
    vote_to_wire(vote).encode_to_vec().into()
}

/// Reads what [`log_id_to_bytes`] wrote.
pub(super) fn log_id_from_bytes(bytes: &[u8]) -> Result<LogId, Malformed> {
    wire::LogId::decode(bytes).map(log_id_from_wire).map_err(|error| malformed("log id", error))
}

pub(super) fn log_id_to_bytes(id: &LogId) -> Bytes {
    log_id_to_wire(id).encode_to_vec().into()
}

pub(super) fn membership_to_wire(membership: &Membership) -> wire::Membership {
    let config = |voters: &BTreeSet<u64>| wire::membership::Config { voters: voters.iter().copied().collect() };
    let member =
        |(replica, place): (&u64, &Place)| wire::membership::Member { replica_id: *replica, node_id: place.node.0 };
    wire::Membership {
        configs: membership.get_joint_config().iter().map(config).collect(),
        members: membership.nodes().map(member).collect(),
    }
}

pub(super) fn membership_from_wire(membership: wire::Membership) -> Result<Membership, Malformed> {
    let configs: Vec<BTreeSet<u64>> =
        membership.configs.into_iter().map(|config| config.voters.into_iter().collect()).collect();
    let members: BTreeMap<u64, Place> = membership
        .members
        .into_iter()
        .map(|member| (member.replica_id, Place { node: NodeId(member.node_id) }))
        .collect();
    if configs.len() > 2 {
        return Err(malformed("membership", format_args!("{} configs", configs.len())));
    }
    Membership::new(configs, members).map_err(|error| malformed("membership", error))
}

pub(super) fn stored_membership_to_wire(stored: &StoredMembership) -> wire::StoredMembership {
    wire::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_wire),
        membership: Some(membership_to_wire(stored.membership())),
    }
}

pub(super) fn stored_membership_from_wire(stored: wire::StoredMembership) -> Result<StoredMembership, Malformed> {
    let membership = membership_from_wire(stored.membership.unwrap_or_default())?;
    Ok(StoredMembership::new(stored.log_id.map(log_id_from_wire), membership))
}

fn payload_to_wire(payload: &Payload) -> wire::entry::Payload {
    match payload {
        EntryPayload::Blank => wire::entry::Payload::Blank(true),
        EntryPayload::Normal(Command(bytes)) => wire::entry::Payload::Command(bytes.clone()),
        EntryPayload::Membership(membership) => wire::entry::Payload::Membership(membership_to_wire(membership)),
    }
}

fn payload_from_wire(payload: Option<wire::entry::Payload>) -> Result<Payload, Malformed> {
    match payload {
        Some(wire::entry::Payload::Blank(_)) => Ok(EntryPayload::Blank),
        Some(wire::entry::Payload::Command(bytes)) => Ok(EntryPayload::Normal(Command(bytes))),
        Some(wire::entry::Payload::Membership(membership)) => {
            let membership = membership_from_wire(membership)?;
            if membership.get_joint_config().is_empty() {
                return Err(malformed("entry", "a membership without voters"));
            }
            Ok(EntryPayload::Membership(membership))
        }
        None => Err(malformed("entry", "no payload")),
    }
}

/// An entry's payload as the log holds it: the wire form of the entry without its log id.
pub(super) fn payload_to_bytes(payload: &Payload) -> Bytes {
    wire::Entry { log_id: None, payload: Some(payload_to_wire(payload)) }.encode_to_vec().into()
}

/// The entry the log holds at a position. The command shares memory with `data`.
pub(super) fn entry_from_log(term: u64, index: u64, data: Bytes) -> Result<Entry, Malformed> {
    let stored = wire::Entry::decode(data).map_err(|error| malformed("log entry", error))?;
    Ok(Entry::new(log_id(term, index), payload_from_wire(stored.payload)?))
}

fn entry_to_wire(entry: &Entry) -> wire::Entry {
    wire::Entry { log_id: Some(log_id_to_wire(&entry.log_id)), payload: Some(payload_to_wire(&entry.payload)) }
}

fn entry_from_wire(entry: wire::Entry) -> Result<Entry, Malformed> {
    let id = entry.log_id.ok_or_else(|| malformed("entry", "no log id"))?;
    let payload = payload_from_wire(entry.payload)?;
    match &payload {
        // The log would refuse it, and the core would fail.
        EntryPayload::Normal(Command(command)) if command.len() > COMMAND_BYTES_MAX => {
            Err(malformed("entry", format_args!("a command of {} bytes", command.len())))
        }
        EntryPayload::Blank | EntryPayload::Normal(_) | EntryPayload::Membership(_) => {
            Ok(Entry::new(log_id_from_wire(id), payload))
        }
    }
}

pub(super) fn append_to_wire(request: &AppendRequest) -> wire::AppendRequest {
    wire::AppendRequest {
        vote: Some(vote_to_wire(&request.vote)),
        previous: request.prev_log_id.as_ref().map(log_id_to_wire),
        entries: request.entries.iter().map(entry_to_wire).collect(),
        committed: request.leader_commit.as_ref().map(log_id_to_wire),
    }
}

/// Reads an append request and checks what openraft takes for granted: a leader's vote, entries
/// without a hole after `previous`, terms that never fall and never exceed the vote's.
pub(super) fn append_from_wire(request: wire::AppendRequest) -> Result<AppendRequest, Malformed> {
    let vote = vote_required(request.vote, "append request")?;
    if !vote.committed {
        return Err(malformed("append request", "the vote is no leader's"));
    }
    let prev_log_id = request.previous.map(log_id_from_wire);
    let leader_commit = request.committed.map(log_id_from_wire);
    let term = vote.leader_id.term;
    let too_new = |id: &Option<LogId>| id.as_ref().is_some_and(|id| id.leader_id.term > term);
    if too_new(&prev_log_id) || too_new(&leader_commit) {
        return Err(malformed("append request", "a term above the leader's"));
    }
    let entries = request.entries.into_iter().map(entry_from_wire).collect::<Result<Vec<_>, _>>()?;
    let mut before = prev_log_id;
    for entry in &entries {
        let id = entry.log_id;
        let falls = before.as_ref().is_some_and(|before| id.leader_id < before.leader_id);
        if id.index != before.next_index() || falls || id.leader_id.term > term {
            return Err(malformed("append request", format_args!("entry {id} does not follow {before:?}")));
        }
        before = Some(id);
    }
    Ok(AppendRequest { vote, prev_log_id, entries, leader_commit })
}

pub(super) fn append_result_to_wire(result: &AppendResult) -> wire::AppendReply {
    use wire::append_reply::Result as Reply;
    let reply = match result {
        Ok(matched) => Reply::Accepted(wire::AppendAccepted { matched: matched.as_ref().map(log_id_to_wire) }),
        Err(StreamAppendError::Conflict(at)) => Reply::Conflict(log_id_to_wire(at)),
        Err(StreamAppendError::HigherVote(vote)) => Reply::HigherVote(vote_to_wire(vote)),
    };
    wire::AppendReply { result: Some(reply), log_position: 0 }
}

/// What was asked of a follower: enough to tell whether its answer makes sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Asked {
    previous: Option<LogId>,
    last: Option<LogId>,
}

impl Asked {
    pub(super) fn of(request: &AppendRequest) -> Self {
        let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        Self { previous: request.prev_log_id, last }
    }

    /// Reads the answer. A refusal by the transport is `Ok(Err(_))`.
    pub(super) fn read(&self, reply: wire::AppendReply) -> Result<Result<AppendResult, wire::PeerError>, Malformed> {
        use wire::append_reply::Result as Reply;
        match reply.result {
            Some(Reply::Accepted(accepted)) => {
                let matched = accepted.matched.map(log_id_from_wire);
                if matched > self.last {
                    return Err(malformed("append reply", "more was accepted than was sent"));
                }
                Ok(Ok(Ok(matched)))
            }
            Some(Reply::Conflict(at)) => {
                let at = log_id_from_wire(at);
                // openraft takes for granted that only the previous entry can conflict.
                if Some(at) != self.previous {
                    return Err(malformed("append reply", format_args!("conflict at {at}, which was not asked")));
                }
                Ok(Ok(Err(StreamAppendError::Conflict(at))))
            }
            Some(Reply::HigherVote(vote)) => Ok(Ok(Err(StreamAppendError::HigherVote(vote_from_wire(vote))))),
            Some(Reply::Error(error)) => Ok(Err(error)),
            None => Err(malformed("append reply", "empty")),
        }
    }
}

pub(super) fn vote_request_to_wire(request: &VoteRequest) -> wire::VoteRequest {
    wire::VoteRequest {
        vote: Some(vote_to_wire(&request.vote)),
        last: request.last_log_id.as_ref().map(log_id_to_wire),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(super) fn vote_request_from_wire(request: wire::VoteRequest) -> Result<VoteRequest, Malformed> {
    let vote = vote_required(request.vote, "vote request")?;
    if vote.committed {
        return Err(malformed("vote request", "a leader's vote asks for no votes"));
    }
    let mut result = VoteRequest::new(vote, request.last.map(log_id_from_wire));
    result.leadership_transfer = request.leadership_transfer;
    Ok(result)
}

pub(super) fn vote_reply_to_wire(reply: &VoteReply) -> wire::VoteReply {
    wire::VoteReply {
        vote: Some(vote_to_wire(&reply.vote)),
        granted: reply.vote_granted,
        last: reply.last_log_id.as_ref().map(log_id_to_wire),
    }
}

pub(super) fn vote_reply_from_wire(reply: wire::VoteReply) -> Result<VoteReply, Malformed> {
    let vote = vote_required(reply.vote, "vote reply")?;
    Ok(VoteReply::new(vote, reply.last.map(log_id_from_wire), reply.granted))
}

/// Reads a snapshot's header: the sender's vote and what the snapshot covers.
pub(super) fn snapshot_from_wire(
    vote: Option<wire::Vote>,
    last: Option<wire::LogId>,
    membership: Option<wire::StoredMembership>,
) -> Result<(Vote, SnapshotMeta), Malformed> {
    let vote = vote_required(vote, "snapshot header")?;
    let last = last.map(log_id_from_wire).ok_or_else(|| malformed("snapshot header", "no last log id"))?;
    if !vote.committed || last.leader_id.term > vote.leader_id.term {
        return Err(malformed("snapshot header", format_args!("{last} cannot come from the leader of {vote}")));
    }
    let stored = membership.ok_or_else(|| malformed("snapshot header", "no membership"))?;
    let last_membership = stored_membership_from_wire(stored)?;
    let later = |id: &LogId| *id > last || id.index > last.index;
    if last_membership.log_id().as_ref().is_some_and(later)
        || last_membership.membership().get_joint_config().is_empty()
    {
        return Err(malformed("snapshot header", "the membership is not part of the snapshot"));
    }
    Ok((vote, SnapshotMeta { last_log_id: Some(last), last_membership }))
}

#[cfg(test)]
#[path = "codec_test.rs"]
mod tests;
