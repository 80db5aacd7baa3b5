//! What is refused before it is proposed: malformed commands, and those beyond a limit.
//!
//! [`structure`] and [`stamp`] are also part of applying, so they depend on nothing that a node can
//! be configured with, and their verdicts are for ever: a log may hold what they judge.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;

use super::Interval;
use super::error::{ShardError, beyond, invalid};
use super::sessions;
use crate::proto::internal::v1::shard_command::Kind as CommandKind;
use crate::proto::internal::v1::shard_read::Kind as ReadKind;
use crate::proto::internal::v1::{Refusal, ShardCommand, ShardRead};
use crate::proto::v1::compare::{Operand, Relation};
use crate::proto::v1::operation::Kind;
use crate::proto::v1::{Compare, Operation, SessionStamp, Transaction};
use crate::types::limits::{
    EXPIRY_BATCH_MAX, KEY_BYTES_MAX, PAGE_RECORDS_MAX, REQUEST_BYTES_MAX, SESSION_WINDOW, TTL_MS_MAX,
    TXN_OPERATIONS_MAX, VALUE_BYTES_MAX,
};

/// A verdict. The refusal is boxed because it is large and rare.
pub type Verdict = Result<(), Box<Refusal>>;

/// The limits of requests, as a node is configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WriteLimits {
    /// Longest key, in bytes.
    pub key_bytes_max: usize,
    /// Longest value, in bytes.
    pub value_bytes_max: usize,
    /// Operations in a branch, or compares.
    pub operations_max: usize,
    /// Largest command, in bytes.
    pub request_bytes_max: usize,
}

impl Default for WriteLimits {
    fn default() -> Self {
        Self {
            key_bytes_max: KEY_BYTES_MAX,
            value_bytes_max: VALUE_BYTES_MAX,
            operations_max: TXN_OPERATIONS_MAX,
            request_bytes_max: REQUEST_BYTES_MAX,
        }
    }
}

/// Whether a command may be proposed.
///
/// # Errors
/// A refusal that says what to change.
pub fn command(command: &ShardCommand, limits: &WriteLimits) -> Verdict {
    at_most("request_bytes_max", limits.request_bytes_max, command.encoded_len(), "send several smaller requests")?;
    if let Some(session) = &command.session {
        if !matches!(command.kind, Some(CommandKind::Transaction(_))) {
            return Err(invalid("only a transaction may carry a session stamp: leave it out"));
        }
        stamp(session)?;
    }
    let batch = |entries: usize| at_most("expiry_batch_max", EXPIRY_BATCH_MAX, entries, "name fewer in one command");
    match &command.kind {
        Some(CommandKind::Transaction(wanted)) => transaction(wanted, limits),
        Some(CommandKind::OpenSession(open)) => match sessions::ttl_ms(open) {
            Err(ShardError::Refused(refusal)) => Err(refusal),
            Ok(_) | Err(ShardError::Engine(_)) => Ok(()),
        },
        Some(CommandKind::CloseSessions(close)) => batch(close.sessions.len()),
        Some(CommandKind::CheckpointLeases(checkpoint)) => batch(checkpoint.leases.len()),
        Some(CommandKind::ExpireLeases(expire)) => batch(expire.leases.len()),
        Some(CommandKind::Compact(compact)) if compact.revision == 0 || compact.step_max == 0 => {
            Err(invalid("a compaction needs a revision and a step of at least one event: set both"))
        }
        Some(CommandKind::Compact(_) | CommandKind::Fence(_)) => Ok(()),
        None => Err(invalid("the command has no kind: set one")),
    }
}

/// Whether a transaction may be proposed, the size of its command aside.
///
/// # Errors
/// A refusal that says what to change.
pub fn transaction(transaction: &Transaction, limits: &WriteLimits) -> Verdict {
    let lists = [transaction.compares.len(), transaction.success.len(), transaction.failure.len()]
        .into_iter()
        .max()
        .unwrap_or(0);
    at_most("txn_operations_max", limits.operations_max, lists, "split it into several transactions")?;
    structure(transaction)?;
    for compare in &transaction.compares {
        key_size(&compare.key, limits)?;
        if let Some(Operand::Value(value)) = &compare.operand {
            value_size(value, limits)?;
        }
    }
    transaction.success.iter().chain(&transaction.failure).try_for_each(|operation| sizes(operation, limits))
}

/// Whether a read may be executed.
///
/// # Errors
/// A refusal that says what to change.
pub fn read(read: &ShardRead, limits: &WriteLimits) -> Verdict {
    match &read.kind {
        Some(ReadKind::Get(get)) => {
            named(&get.key)?;
            key_size(&get.key, limits)
        }
        Some(ReadKind::Scan(scan)) => {
            bound_size(&scan.start, limits)?;
            bound_size(&scan.end, limits)?;
            let limit = usize::try_from(scan.limit).unwrap_or(usize::MAX);
            at_most("page_records_max", PAGE_RECORDS_MAX, limit, "ask for smaller pages")
        }
        Some(ReadKind::Count(count)) => {
            bound_size(&count.start, limits)?;
            bound_size(&count.end, limits)
        }
        None => Err(invalid("the read says neither get, scan nor count: set one")),
    }
}

/// Whether a session stamp makes sense. Every copy of a request gets the same verdict.
///
/// # Errors
/// A refusal that says what to change.
pub fn stamp(stamp: &SessionStamp) -> Verdict {
    let SessionStamp { session_id, sequence, lowest_unacknowledged } = *stamp;
    if session_id == 0 || sequence == 0 || lowest_unacknowledged == 0 {
        return Err(invalid(
            "a session stamp needs session_id, sequence and lowest_unacknowledged, each at least 1: set them",
        ));
    }
    let Some(ahead) = sequence.checked_sub(lowest_unacknowledged) else {
        return Err(invalid(format!(
            "sequence {sequence} lies below lowest_unacknowledged {lowest_unacknowledged}, which says that its answer \
             was seen: send neither again"
        )));
    };
    if ahead > SESSION_WINDOW {
        let mut refusal = beyond("session_window", SESSION_WINDOW, ahead, "wait for the answers to earlier writes");
        if let Some(detail) = &mut refusal.detail {
            detail.code = crate::proto::v1::ErrorCode::SessionSequence.into();
        }
        return Err(refusal);
    }
    Ok(())
}

/// Whether every part of a transaction is there and no key is written twice.
///
/// # Errors
/// A refusal that says what to change.
pub(crate) fn structure(transaction: &Transaction) -> Verdict {
    for compare in &transaction.compares {
        comparable(compare)?;
    }
    written_once(&transaction.success)?;
    written_once(&transaction.failure)
}

fn comparable(compare: &Compare) -> Verdict {
    named(&compare.key)?;
    match (&compare.operand, compare.relation()) {
        (None, _) => Err(invalid("a compare has no operand: set value, version, a revision, lease or exists")),
        (_, Relation::Unspecified) => Err(invalid("a compare has no known relation: set one")),
        (Some(Operand::Exists(_)), Relation::NotEqual | Relation::Greater | Relation::Less) => {
            Err(invalid("a compare on existence goes with EQUAL only: turn its operand round instead"))
        }
        (Some(_), Relation::Equal | Relation::NotEqual | Relation::Greater | Relation::Less) => Ok(()),
    }
}

/// A branch may put a key once, and not delete it besides; as etcd.
fn written_once(branch: &[Operation]) -> Verdict {
    let mut put = BTreeSet::new();
    let mut deleted = Vec::new();
    for operation in branch {
        match &operation.kind {
            Some(Kind::Put(kind)) => {
                named(&kind.key)?;
                if !put.insert(&kind.key) {
                    return Err(written_twice(&kind.key));
                }
            }
            Some(Kind::Delete(kind)) => {
                named(&kind.key)?;
                deleted.push(Interval::of_operation(&kind.key, &kind.range_end));
            }
            Some(Kind::Range(kind)) => named(&kind.key)?,
            None => return Err(invalid("an operation has no kind: set put, delete or range")),
        }
    }
    for interval in deleted {
        // The first key put at or after the start decides, whatever the end.
        if let Some(key) = put.range::<Bytes, _>(&interval.start..).next().filter(|key| interval.contains(key)) {
            return Err(written_twice(key));
        }
    }
    Ok(())
}

fn sizes(operation: &Operation, limits: &WriteLimits) -> Verdict {
    match &operation.kind {
        Some(Kind::Put(put)) => {
            key_size(&put.key, limits)?;
            value_size(&put.value, limits)?;
            if put.ttl_ms > TTL_MS_MAX {
                return Err(beyond("ttl_ms_max", TTL_MS_MAX, put.ttl_ms, "set 0 to keep the key for ever"));
            }
            Ok(())
        }
        Some(Kind::Delete(delete)) => {
            key_size(&delete.key, limits)?;
            bound_size(&delete.range_end, limits)
        }
        Some(Kind::Range(range)) => {
            key_size(&range.key, limits)?;
            bound_size(&range.range_end, limits)
        }
        None => Ok(()),
    }
}

fn named(key: &Bytes) -> Verdict {
    if key.is_empty() {
        return Err(invalid("the key is empty: a key has at least one byte (a range may start at the key 00)"));
    }
    Ok(())
}

fn written_twice(key: &Bytes) -> Box<Refusal> {
    invalid(format!("key {} is written twice in one transaction: keep one of the writes", key.escape_ascii()))
}

fn key_size(key: &Bytes, limits: &WriteLimits) -> Verdict {
    at_most("key_bytes_max", limits.key_bytes_max, key.len(), "use a shorter key")
}

/// The end of a range may be the successor of the longest key.
fn bound_size(bound: &Bytes, limits: &WriteLimits) -> Verdict {
    if bound.len() == limits.key_bytes_max.saturating_add(1) {
        return Ok(());
    }
    key_size(bound, limits)
}

fn value_size(value: &Bytes, limits: &WriteLimits) -> Verdict {
    at_most("value_bytes_max", limits.value_bytes_max, value.len(), "store a smaller value, or several parts of it")
}

fn at_most(name: &str, limit: usize, actual: usize, remedy: &str) -> Verdict {
    if actual <= limit { Ok(()) } else { Err(beyond(name, limit as u64, actual as u64, remedy)) }
}
