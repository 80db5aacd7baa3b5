//! Reading entries: from the cached tail, else from their verified frame.
//!
//! Bytes from disk are handed out only after the checksum of their whole frame held.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::frame::{FrameHeader, HEADER_BYTES, u32_at, u64_at};
use super::group::{Place, Slot};
use super::record::ENTRY_PREFIX_BYTES;
use super::segment::Segment;
use super::shared::{Body, Done, Shared};
use super::{LogEntry, LogError};
use crate::types::GroupId;

/// Bodies of verified frames kept for readers that lag: several groups' followers read the same ones.
const FRAME_CACHE_BYTES: usize = 16 * 1024 * 1024;

/// The most recently read frames.
#[derive(Default)]
pub(super) struct FrameCache {
    frames: VecDeque<(u64, u64, Bytes)>,
    bytes: usize,
}

impl FrameCache {
    fn get(&mut self, segment: u64, frame: u64) -> Option<Bytes> {
        let at = self.frames.iter().position(|(s, f, _)| (*s, *f) == (segment, frame))?;
        let found = self.frames.remove(at)?;
        let body = found.2.clone();
        self.frames.push_back(found);
        Some(body)
    }

    fn put(&mut self, segment: u64, frame: u64, body: Bytes) {
        self.bytes += body.len();
        self.frames.push_back((segment, frame, body));
        while self.bytes > FRAME_CACHE_BYTES && self.frames.len() > 1 {
            let Some((_, _, oldest)) = self.frames.pop_front() else { return };
            self.bytes -= oldest.len();
        }
    }

    /// Forgets the frames of a segment that was dropped.
    pub(super) fn forget(&mut self, below: u64) {
        self.frames.retain(|(segment, _, _)| *segment >= below);
        self.bytes = self.frames.iter().map(|(_, _, body)| body.len()).sum();
    }
}

/// An entry found in memory, or where to look for it.
enum Found {
    Here(LogEntry),
    There { index: u64, slot: Slot, segment: Segment, frame: u64, at: u32 },
}

/// Why an entry could not be read.
enum Unreadable {
    Damaged(String),
    Other(LogError),
}

impl Shared {
    /// See [`GroupLog::read`](super::GroupLog::read).
    pub(super) async fn read(
        self: &Arc<Self>,
        id: GroupId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, LogError> {
        let (life, found) = self.find(id, range, bytes_max)?;
        let mut entries = Vec::with_capacity(found.len());
        for found in found {
            match found {
                Found::Here(entry) => entries.push(entry),
                Found::There { index, slot, segment, frame, at } => {
                    match self.read_entry(index, slot, segment, frame, at).await {
                        Ok(entry) => entries.push(entry),
                        Err(Unreadable::Other(error)) => return Err(error),
                        Err(Unreadable::Damaged(reason)) => return Err(self.quarantine(id, life, reason)),
                    }
                }
            }
        }
        Ok(entries)
    }

    fn find(&self, id: GroupId, range: Range<u64>, bytes_max: usize) -> Result<(u64, Vec<Found>), LogError> {
        let state = self.state.lock();
        state.check_group(id)?;
        let Some(group) = state.groups.get(&id) else { return Ok((0, Vec::new())) };
        let (mut found, mut bytes) = (Vec::new(), 0_usize);
        for index in range.start.max(group.first)..range.end.min(group.next()) {
            let Some(slot) = group.slot(index) else { break };
            bytes = bytes.saturating_add(usize::try_from(slot.len).unwrap_or(usize::MAX));
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            if let Some(data) = group.cached(index) {
                found.push(Found::Here(LogEntry { term: slot.term, index, data: data.clone() }));
                continue;
            }
            let Place::Stored { segment, frame, at } = slot.place else { break };
            let Some(segment) = state.segments.get(&segment).cloned() else { break };
            found.push(Found::There { index, slot: *slot, segment, frame, at });
        }
        Ok((group.life, found))
    }

    async fn read_entry(
        &self,
        index: u64,
        slot: Slot,
        segment: Segment,
        frame: u64,
        at: u32,
    ) -> Result<LogEntry, Unreadable> {
        let place = format!("entry {index} in segment {:016x}, frame at {frame}", segment.id);
        let body = self.body(segment, frame, &place).await?;
        let data = entry_data(&body, slot, at).ok_or_else(|| Unreadable::Damaged(format!("{place} is not there")))?;
        Ok(LogEntry { term: slot.term, index, data })
    }

    /// The body of a frame, verified.
    async fn body(&self, segment: Segment, frame: u64, place: &str) -> Result<Bytes, Unreadable> {
        let cached = self.frames.lock().get(segment.id, frame);
        if let Some(body) = cached {
            return Ok(body);
        }
        let (log, id) = (self.log, segment.id);
        let body = self.reader.run(move || read_body(&segment, log, frame)).await;
        let body = body.map_err(|error| Unreadable::Other(LogError::Failed(error.to_string())))?;
        let body = body.map_err(|error| Unreadable::Other(LogError::Io(format!("{place}: {error}"))))?;
        let body = body.ok_or_else(|| Unreadable::Damaged(format!("{place}: the checksum does not hold")))?;
        self.frames.lock().put(id, frame, body.clone());
        Ok(body)
    }

    /// Gives a group up whose durable bytes have rotted; durable with the next frame.
    fn quarantine(&self, id: GroupId, life: u64, reason: String) -> LogError {
        let mut state = self.state.lock();
        let fresh = state.fresh_id();
        if let Some(group) = state.groups.get_mut(&id).filter(|group| group.life == life) {
            let frees = group.quarantine(fresh, reason.clone());
            state.committed_dirty.remove(&id);
            state.queue(id, Body::Quarantine(reason.clone()), frees, Done::Nobody);
            state.publish_durable(id);
            self.work.notify_one();
        }
        LogError::Quarantined { group: id, reason }
    }
}

fn entry_data(body: &Bytes, slot: Slot, at: u32) -> Option<Bytes> {
    let at = usize::try_from(at).ok()?;
    let prefix = at.checked_sub(ENTRY_PREFIX_BYTES)?;
    if u64_at(body, prefix)? != slot.term || u32_at(body, prefix + 8)? != slot.len {
        return None;
    }
    let end = at.checked_add(usize::try_from(slot.len).ok()?)?;
    (end <= body.len()).then(|| body.slice(at..end))
}

/// Reads and verifies a frame's body; `None` when it is damaged.
fn read_body(segment: &Segment, log: u64, offset: u64) -> std::io::Result<Option<Bytes>> {
    let mut header = [0; HEADER_BYTES];
    segment.file.read_at(&mut header, offset)?;
    let Some(header) = FrameHeader::parse(&header, log, segment.id, offset) else { return Ok(None) };
    if offset + header.extent() > segment.bytes {
        return Ok(None);
    }
    let mut frame = vec![0; header.frame_bytes()];
    segment.file.read_at(&mut frame, offset)?;
    let whole = header.body(&frame).is_some();
    Ok(whole.then(|| Bytes::from(frame).slice(HEADER_BYTES..)))
}
