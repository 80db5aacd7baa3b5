//! What is refused before it is proposed: malformed commands, and those beyond a limit.
//!
//! [`structure`] and [`stamp`] are also part of applying, so they depend on nothing that a node can
//! be configured with, and their verdicts are for ever: a log may hold what they judge.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;

use super::Interval;
use super::error::{ShardError, beyond, invalid, refused};
use super::sessions;
use crate::proto::internal::v1::shard_command::Kind as CommandKind;
use crate::proto::internal::v1::shard_read::Kind as ReadKind;
use crate::proto::internal::v1::{Refusal, ShardCommand, ShardRead};
use crate::proto::v1::compare::{Operand, Relation};
use crate::proto::v1::operation::Kind;
use crate::proto::v1::{Compare, ErrorCode, Operation, Put, SessionStamp, Transaction};
use crate::types::limits::{
    EXPIRY_BATCH_MAX, KEY_BYTES_MAX, PAGE_RECORDS_MAX, REQUEST_BYTES_MAX, SESSION_WINDOW, TTL_MS_MAX, TXN_DEPTH_MAX,
    TXN_OPERATIONS_MAX, VALUE_BYTES_MAX, WATCH_RANGES_MAX,
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
        Some(
            CommandKind::Compact(_) | CommandKind::Fence(_) | CommandKind::GrantLease(_) | CommandKind::RevokeLease(_),
        ) => Ok(()),
        None => Err(invalid("the command has no kind: set one")),
    }
}

/// Whether a transaction may be proposed, the size of its command aside.
///
/// # Errors
/// A refusal that says what to change.
pub fn transaction(transaction: &Transaction, limits: &WriteLimits) -> Verdict {
    operations(transaction, limits.operations_max)?;
    structure(transaction)?;
    sizes_within(transaction, limits)
}

/// Each list may have `most` entries, and those of a transaction within it what the longest list leaves.
fn operations(transaction: &Transaction, most: usize) -> Verdict {
    let lists = [transaction.compares.len(), transaction.success.len(), transaction.failure.len()];
    let longest = lists.into_iter().max().unwrap_or(0);
    at_most("txn_operations_max", most, longest, "split it into several transactions")?;
    nested(transaction).try_for_each(|nested| operations(nested, most - longest))
}

/// Transactions directly within this one.
fn nested(transaction: &Transaction) -> impl Iterator<Item = &Transaction> {
    transaction.success.iter().chain(&transaction.failure).filter_map(|operation| match &operation.kind {
        Some(Kind::Transaction(nested)) => Some(nested),
        Some(Kind::Put(_) | Kind::Delete(_) | Kind::Range(_)) | None => None,
    })
}

fn sizes_within(transaction: &Transaction, limits: &WriteLimits) -> Verdict {
    for compare in &transaction.compares {
        key_size(&compare.key, limits)?;
        bound_size(&compare.range_end, limits)?;
        if let Some(Operand::Value(value)) = &compare.operand {
            value_size(value, limits)?;
        }
    }
    transaction.success.iter().chain(&transaction.failure).try_for_each(|operation| sizes(operation, limits))
}

/// Whether neither branch can write anything.
pub fn is_read_only(transaction: &Transaction) -> bool {
    transaction.success.iter().chain(&transaction.failure).all(|operation| match &operation.kind {
        Some(Kind::Range(_)) | None => true,
        Some(Kind::Transaction(nested)) => is_read_only(nested),
        Some(Kind::Put(_) | Kind::Delete(_)) => false,
    })
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
        Some(ReadKind::Transaction(wanted)) if !is_read_only(wanted) => {
            Err(invalid("a transaction that is sent as a read writes: send it as a command"))
        }
        Some(ReadKind::Transaction(wanted)) => transaction(wanted, limits),
        Some(ReadKind::Lease(_) | ReadKind::Leases(_)) => Ok(()),
        Some(ReadKind::Events(events)) => {
            let limit = usize::try_from(events.limit).unwrap_or(usize::MAX);
            at_most("page_records_max", PAGE_RECORDS_MAX, limit, "ask for smaller pages")?;
            at_most("watch_ranges_max", WATCH_RANGES_MAX, events.ranges.len(), "watch fewer ranges at a time")?;
            events.ranges.iter().try_for_each(|range| {
                key_size(&range.key, limits)?;
                bound_size(&range.range_end, limits)
            })
        }
        None => Err(invalid("the read has no known kind: set one")),
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
    structure_at(transaction, 1).map(|_| ())
}

fn structure_at(transaction: &Transaction, depth: usize) -> Result<(Written<'_>, Written<'_>), Box<Refusal>> {
    at_most("txn_depth_max", TXN_DEPTH_MAX, depth, "nest transactions less deeply")?;
    transaction.compares.iter().try_for_each(comparable)?;
    Ok((written_once(&transaction.success, depth)?, written_once(&transaction.failure, depth)?))
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

/// What a branch writes.
#[derive(Default)]
struct Written<'t> {
    put: BTreeSet<&'t Bytes>,
    deleted: Vec<Interval>,
}

impl<'t> Written<'t> {
    /// Both branches of one transaction: only one of them is executed.
    fn either(mut self, other: Self) -> Self {
        self.put.extend(other.put);
        self.deleted.extend(other.deleted);
        self
    }

    /// Takes in what another operation of the branch writes.
    fn and(&mut self, other: Self) -> Verdict {
        if let Some(twice) = self.put.intersection(&other.put).next() {
            return Err(written_twice(twice));
        }
        self.meets(&other.deleted)?;
        other.meets(&self.deleted)?;
        self.put.extend(other.put);
        self.deleted.extend(other.deleted);
        Ok(())
    }

    /// Refuses a key that is put here and lies in one of these.
    fn meets(&self, deleted: &[Interval]) -> Verdict {
        for interval in deleted {
            // The first key put at or after the start decides, whatever the end.
            let first = self.put.range::<&Bytes, _>(&interval.start..).next();
            if let Some(key) = first.filter(|key| interval.contains(key)) {
                return Err(written_twice(key));
            }
        }
        Ok(())
    }
}

/// A branch may put a key once, and not delete it besides; as etcd, but for a key that is put in one
/// transaction within it and deleted in a later one, which etcd lets pass.
fn written_once(branch: &[Operation], depth: usize) -> Result<Written<'_>, Box<Refusal>> {
    let (mut written, mut deleted) = (Written::default(), Vec::new());
    for operation in branch {
        let more = match &operation.kind {
            Some(Kind::Put(kind)) => {
                named(&kind.key)?;
                kept(kind)?;
                Written { put: BTreeSet::from([&kind.key]), ..Written::default() }
            }
            Some(Kind::Delete(kind)) => {
                named(&kind.key)?;
                deleted.push(Interval::of_operation(&kind.key, &kind.range_end));
                continue;
            }
            Some(Kind::Range(kind)) => {
                named(&kind.key)?;
                continue;
            }
            Some(Kind::Transaction(kind)) => {
                let (success, failure) = structure_at(kind, depth + 1)?;
                success.either(failure)
            }
            None => return Err(invalid("an operation has no kind: set put, delete, range or transaction")),
        };
        written.and(more)?;
    }
    written.meets(&deleted)?;
    written.deleted.extend(deleted);
    Ok(written)
}

/// What a put keeps it must not name as well.
fn kept(put: &Put) -> Verdict {
    if put.keep_value && !put.value.is_empty() {
        return Err(invalid("a put that keeps its key's value must leave `value` empty"));
    }
    if put.keep_lease && (put.lease != 0 || put.ttl_ms != 0) {
        return Err(invalid("a put that keeps its key's lease must leave `lease` and `ttl_ms` at 0"));
    }
    if put.lease != 0 && put.ttl_ms != 0 {
        return Err(invalid("a put has a lease or a time to live, not both: set one of `lease` and `ttl_ms`"));
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
        Some(Kind::Transaction(nested)) => sizes_within(nested, limits),
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
    let message = format!("key {} is written twice in one transaction: keep one of the writes", key.escape_ascii());
    refused(ErrorCode::DuplicateKey, message)
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
