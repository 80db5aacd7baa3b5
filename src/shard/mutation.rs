//! What changing one key writes: its record, the record it supersedes, the event, the lease, the
//! count of its block. All changes of one entry share one revision.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::blocks::{self, BlockHints};
use super::changes::{Changes, LeaseTerms};
use super::table::event::{self, Position};
use super::table::meta::{self, Field};
use super::table::{encode, history, latest, lease, lease_key};
use crate::proto::internal::v1::{StoredLease, StoredRecord};
use crate::storage::engine::{EngineError, View, WriteSet};

/// What applying keeps beside the state, and what never flows into it.
#[derive(Default)]
pub(crate) struct Scratch {
    /// What the command changed about leases and sessions.
    pub(crate) changes: Changes,
    /// Where blocks begin.
    pub(crate) hints: BlockHints,
    /// Whether a compaction has more to do.
    pub(crate) compacts: bool,
}

/// The changes of one entry as they are written.
///
/// Invariants: no key is changed twice; the revision is raised by [`Mutation::finish`], and only if
/// something changed.
pub(crate) struct Mutation<'s, 'v> {
    state: &'s mut WriteSet<'v>,
    scratch: &'s mut Scratch,
    /// The shard's revision if this entry changes something.
    revision: u64,
    /// Changes so far.
    sub: u32,
    /// Leases that lost a key.
    left: BTreeSet<u64>,
}

/// What a put writes.
pub(crate) struct Write {
    /// `None` keeps the value that the key has.
    pub(crate) value: Option<Bytes>,
    /// Life of an implicit lease, in milliseconds; 0 for none.
    pub(crate) ttl_ms: u64,
    /// Lease to attach to, 0 for none; `None` keeps the one that the key has.
    pub(crate) lease: Option<u64>,
}

/// The last record of a key, a tombstone perhaps.
struct Last {
    encoded: Bytes,
    record: StoredRecord,
}

impl<'s, 'v> Mutation<'s, 'v> {
    /// Nothing changed yet.
    pub(crate) fn begin(state: &'s mut WriteSet<'v>, scratch: &'s mut Scratch) -> Result<Self, EngineError> {
        let revision = meta::revision(state)?.saturating_add(1);
        Ok(Self { state, scratch, revision, sub: 0, left: BTreeSet::new() })
    }

    /// The state with the changes so far.
    pub(crate) fn view(&self) -> &dyn View {
        &*self.state
    }

    /// Writes `key` and answers with the record it replaced. What is to be kept must be there.
    pub(crate) fn put(&mut self, key: &Bytes, write: Write) -> Result<Option<StoredRecord>, EngineError> {
        let previous = match self.last(key)? {
            Some(last) => self.supersede(key, last)?,
            None => None,
        };
        let had = previous.as_ref().map_or(0, |record| record.lease);
        // The new lease first: one that the key keeps must not end in between.
        let lease = match write.lease {
            None => had,
            Some(0) if write.ttl_ms > 0 => self.grant_implicit(write.ttl_ms)?,
            Some(lease) => lease,
        };
        if lease != had {
            self.attach(key, lease);
            self.detach(key, had);
        }
        let value = write.value.or_else(|| previous.as_ref().map(|record| record.value.clone())).unwrap_or_default();
        let (create_revision, version) = match &previous {
            Some(live) => (live.create_revision, live.version.saturating_add(1)),
            None => (self.revision, 1),
        };
        let (mod_revision, sub) = (self.revision, self.sub);
        let record = StoredRecord { value, create_revision, mod_revision, version, lease, sub };
        self.write(key, &record, event::Kind::Put);
        if previous.is_none() {
            blocks::add(self.state, &mut self.scratch.hints, key)?;
        }
        Ok(previous)
    }

    /// Deletes `key` and answers with the record it had; `None` when there was none, and then
    /// nothing changed.
    pub(crate) fn delete(&mut self, key: &Bytes) -> Result<Option<StoredRecord>, EngineError> {
        let Some(last) = self.last(key)?.filter(|last| last.record.version > 0) else { return Ok(None) };
        let previous = self.supersede(key, last)?;
        self.detach(key, previous.as_ref().map_or(0, |record| record.lease));
        let tombstone = StoredRecord { mod_revision: self.revision, sub: self.sub, ..StoredRecord::default() };
        self.write(key, &tombstone, event::Kind::Delete);
        blocks::remove(self.state, &mut self.scratch.hints, key)?;
        Ok(previous)
    }

    /// Ends `lease` itself; its keys are gone already.
    pub(crate) fn end_lease(&mut self, lease: u64) {
        self.state.delete(lease::key(lease));
        self.scratch.changes.leases.insert(lease, None);
    }

    /// The shard's revision after these changes. An implicit lease goes with its last key; another one stays.
    pub(crate) fn finish(mut self) -> Result<u64, EngineError> {
        if self.sub == 0 {
            return Ok(self.revision.saturating_sub(1));
        }
        // Only now: a later change of the same entry may give it another key.
        for id in std::mem::take(&mut self.left) {
            if lease::get(self.state, id)?.is_some_and(|lease| lease.implicit)
                && lease_key::attached(self.state, id).next().is_none()
            {
                self.end_lease(id);
            }
        }
        meta::set(self.state, Field::Revision, self.revision);
        Ok(self.revision)
    }

    fn last(&self, key: &[u8]) -> Result<Option<Last>, EngineError> {
        let stored = latest::key(key);
        let Some(encoded) = self.state.get(&stored)? else { return Ok(None) };
        Ok(Some(Last { record: latest::decode(&stored, encoded.clone())?, encoded }))
    }

    /// Moves the last record of `key` into history as it is; answers with the record if it was alive.
    fn supersede(&mut self, key: &[u8], last: Last) -> Result<Option<StoredRecord>, EngineError> {
        let Last { record, encoded } = last;
        self.state.put(history::key(key, record.mod_revision), encoded);
        Ok(Some(record).filter(|record| record.version > 0))
    }

    fn write(&mut self, key: &Bytes, record: &StoredRecord, kind: event::Kind) {
        let at = Position { revision: self.revision, sub: self.sub };
        self.state.put(latest::key(key), encode(record));
        self.state.put(event::key(at), event::value(kind, key));
        self.sub = self.sub.saturating_add(1);
    }

    /// Grants a lease of an id of the shard's own, which none has now.
    fn grant_implicit(&mut self, ttl_ms: u64) -> Result<u64, EngineError> {
        let mut id = meta::draw(self.state, Field::NextLease)?;
        while lease::get(self.state, id)?.is_some() {
            id = meta::draw(self.state, Field::NextLease)?;
        }
        self.begin_lease(id, StoredLease { ttl_ms, remaining_ms: ttl_ms, implicit: true, serial: 0 });
        Ok(id)
    }

    /// Grants a lease of a chosen id, which none has now.
    pub(crate) fn grant(&mut self, id: u64, ttl_ms: u64) -> Result<(), EngineError> {
        let serial = meta::draw(self.state, Field::NextLease)?;
        self.begin_lease(id, StoredLease { ttl_ms, remaining_ms: ttl_ms, implicit: false, serial });
        Ok(())
    }

    fn begin_lease(&mut self, id: u64, lease: StoredLease) {
        let (ttl_ms, remaining_ms, serial) = (lease.ttl_ms, lease.remaining_ms, lease::serial(id, &lease));
        self.state.put(lease::key(id), encode(&lease));
        self.scratch.changes.leases.insert(id, Some(LeaseTerms { ttl_ms, remaining_ms, serial }));
    }

    fn attach(&mut self, key: &[u8], id: u64) {
        if id != 0 {
            self.state.put(lease_key::key(id, key), Bytes::new());
        }
    }

    fn detach(&mut self, key: &[u8], id: u64) {
        if id != 0 {
            self.state.delete(lease_key::key(id, key));
            self.left.insert(id);
        }
    }
}
