//! Sessions: a stamped write is applied once, and its answer remembered for retries.
//!
//! Invariants of a session: no result below `floor` or above `highest` is stored, and at most
//! [`SESSION_WINDOW`] + 1 are, since a sequence may only be so far ahead of the floor it was sent
//! with, and floors only rise. Every copy of a write gets the same verdict from
//! [`super::check::stamp`], or meets the stored result, or finds its sequence below the floor.

use bytes::Bytes;

use super::changes::{Changes, SessionTerms};
use super::error::{ShardError, beyond, invalid, refused};
use super::table::meta::{self, Field};
use super::table::{encode, session, session_result};
use crate::proto::internal::v1::{CloseSessions, OpenSession, StoredSession};
use crate::proto::v1::{ErrorCode, Outcome, SessionStamp};
use crate::storage::engine::{EngineError, View, WriteSet};
use crate::types::limits::{SESSION_TTL_DEFAULT, SESSION_TTL_MAX, SESSION_TTL_MIN, SESSION_WINDOW, SESSIONS_MAX};

/// What a stamp says about a write.
pub(crate) enum Admission {
    /// Not applied before: apply it, then [`remember`] the answer in this session.
    Fresh(StoredSession),
    /// Applied before, with this answer.
    Replay(Bytes),
}

/// Looks whether the write was applied before.
///
/// # Errors
/// Refused when the session is unknown, or when the sequence is so old that nobody remembers.
pub(crate) fn admit(view: &dyn View, changes: &mut Changes, stamp: &SessionStamp) -> Result<Admission, ShardError> {
    let SessionStamp { session_id, sequence, lowest_unacknowledged: _ } = *stamp;
    let Some(found) = session::get(view, session_id)? else {
        let message = format!("session {session_id} is unknown or has expired: open another one");
        return Err(refused(ErrorCode::SessionNotFound, message).into());
    };
    let terms = SessionTerms { ttl_ms: found.ttl_ms, highest: found.highest.max(sequence) };
    changes.sessions.insert(session_id, Some(terms));
    if sequence < found.floor {
        let mut refusal = refused(
            ErrorCode::SessionSequence,
            format!(
                "the answer to sequence {sequence} of session {session_id} is forgotten, since the client acknowledged \
                 all below {}: read to learn whether the write was applied",
                found.floor
            ),
        );
        if let Some(detail) = &mut refusal.detail {
            detail.outcome = Outcome::Unknown.into();
        }
        return Err(refusal.into());
    }
    if sequence <= found.highest
        && let Some(result) = view.get(&session_result::key(session_id, sequence))?
    {
        return Ok(Admission::Replay(result));
    }
    Ok(Admission::Fresh(found))
}

/// Remembers the answer to a fresh write and forgets those the client has acknowledged.
pub(crate) fn remember(state: &mut WriteSet<'_>, stamp: &SessionStamp, before: StoredSession, result: Bytes) {
    let floor = before.floor.max(stamp.lowest_unacknowledged);
    let end = floor.min(before.highest.saturating_add(1)).min(before.floor.saturating_add(SESSION_WINDOW + 1));
    for sequence in before.floor..end {
        state.delete(session_result::key(stamp.session_id, sequence));
    }
    state.put(session_result::key(stamp.session_id, stamp.sequence), result);
    let highest = before.highest.max(stamp.sequence);
    state.put(session::key(stamp.session_id), encode(&StoredSession { ttl_ms: before.ttl_ms, floor, highest }));
}

/// Opens a session and answers with its id.
///
/// # Errors
/// Refused when there are too many, or its time to live is out of bounds.
pub(crate) fn open(state: &mut WriteSet<'_>, changes: &mut Changes, open: &OpenSession) -> Result<u64, ShardError> {
    let ttl_ms = ttl_ms(open)?;
    let sessions = meta::sessions(state)?;
    if sessions >= SESSIONS_MAX as u64 {
        let remedy = "close sessions that are no longer used, or wait until they expire";
        return Err(beyond("sessions_max", SESSIONS_MAX as u64, sessions.saturating_add(1), remedy).into());
    }
    let id = meta::draw(state, Field::NextSession)?;
    meta::set(state, Field::Sessions, sessions + 1);
    state.put(session::key(id), encode(&StoredSession { ttl_ms, floor: 1, highest: 0 }));
    changes.sessions.insert(id, Some(SessionTerms { ttl_ms, highest: 0 }));
    Ok(id)
}

/// The time to live a session gets, in milliseconds.
///
/// # Errors
/// Refused when it is out of bounds.
pub(crate) fn ttl_ms(open: &OpenSession) -> Result<u64, ShardError> {
    let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    match open.ttl_ms {
        0 => Ok(ms(SESSION_TTL_DEFAULT)),
        short if short < ms(SESSION_TTL_MIN) => {
            let least = ms(SESSION_TTL_MIN);
            Err(invalid(format!("a session lives {least} ms at least, not {short} ms: ask for more")).into())
        }
        long if long > ms(SESSION_TTL_MAX) => {
            Err(beyond("session_ttl_max", ms(SESSION_TTL_MAX), long, "ask for less, and write before it ends").into())
        }
        ttl_ms => Ok(ttl_ms),
    }
}

/// Closes sessions; those that are unknown, or were written to since the decision, are passed over.
pub(crate) fn close(state: &mut WriteSet<'_>, changes: &mut Changes, close: &CloseSessions) -> Result<(), EngineError> {
    let mut sessions = meta::sessions(state)?;
    for entry in &close.sessions {
        let Some(found) = session::get(state, entry.session_id)? else { continue };
        if !entry.any && found.highest > entry.seen_sequence {
            continue;
        }
        for result in session_result::of_session(state, entry.session_id)? {
            state.delete(result);
        }
        state.delete(session::key(entry.session_id));
        changes.sessions.insert(entry.session_id, None);
        sessions = sessions.saturating_sub(1);
    }
    meta::set(state, Field::Sessions, sessions);
    Ok(())
}
