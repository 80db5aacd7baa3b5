//! The bytes of a snapshot: one view cut into checksummed chunks, and put together again.
//!
//! Knows stores and the wire's chunk and footer, nothing of Raft. A [`Sender`] reads lazily; a
//! [`Receiver`] believes nothing: what it has not verified to the end never leaves its staging
//! store. The layout is in `docs/format.md`.

use std::ops::Bound;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use xxhash_rust::xxh3::Xxh3Default;

use super::check::{STORE_KEY_BYTES_MAX, STORE_VALUE_BYTES_MAX, check_pair};
use super::{Batch, Direction, Engine, EngineError, StoreId, View, Write};
use crate::proto::internal::v1::{SnapshotChunk, SnapshotFooter};
use crate::types::limits::PEER_FRAME_BYTES_MAX;

/// By default a chunk takes no further pair once it holds this many bytes.
pub const CHUNK_BYTES_TARGET: usize = 256 * 1024;
/// Largest chunk, in bytes: one pair of the largest size, or a pair that crosses the target.
pub const CHUNK_BYTES_MAX: usize = PAIR_HEADER_BYTES + STORE_KEY_BYTES_MAX + STORE_VALUE_BYTES_MAX;
/// Before each pair: length of the key, length of the value, both little-endian.
const PAIR_HEADER_BYTES: usize = 8;

const _: () = assert!(CHUNK_BYTES_TARGET <= CHUNK_BYTES_MAX && CHUNK_BYTES_MAX < PEER_FRAME_BYTES_MAX);

/// Why a snapshot was not taken over. Nothing of it is visible.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// This node's engine has failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A chunk is missing, or came twice.
    #[error("snapshot chunk {got} came where {expected} was due")]
    Sequence {
        /// The next in order.
        expected: u64,
        /// What came.
        got: u64,
    },
    /// A chunk was changed on its way.
    #[error("snapshot chunk {0} fails its checksum")]
    Checksum(u64),
    /// A chunk cannot be what a sender made.
    #[error("snapshot chunk {sequence} is malformed: {reason}")]
    Malformed {
        /// Which.
        sequence: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// The chunks are not those that the sender sent.
    #[error("snapshot has {what} {got:#x}, its footer says {expected:#x}")]
    Footer {
        /// What does not fit.
        what: &'static str,
        /// By the footer.
        expected: u64,
        /// By the chunks.
        got: u64,
    },
}

/// Counts and hashes what went by; both ends must agree.
#[derive(Default)]
struct Tally {
    chunks: u64,
    pairs: u64,
    hash: Xxh3Default,
}

impl Tally {
    fn footer(&self) -> SnapshotFooter {
        SnapshotFooter { chunks: self.chunks, pairs: self.pairs, hash: self.hash.digest() }
    }
}

/// Cuts a view into chunks. Ends after the last chunk or the first error.
pub struct Sender {
    view: Box<dyn View>,
    /// The last key sent.
    after: Option<Bytes>,
    ended: bool,
    tally: Tally,
    chunk_bytes: usize,
}

impl Sender {
    /// Nothing is read yet. A chunk takes no further pair once it holds `chunk_bytes`, which are at
    /// most [`CHUNK_BYTES_TARGET`].
    pub fn new(view: Box<dyn View>, chunk_bytes: usize) -> Self {
        let chunk_bytes = chunk_bytes.min(CHUNK_BYTES_TARGET);
        Self { view, after: None, ended: false, tally: Tally::default(), chunk_bytes }
    }

    /// What the receiver must have seen; of the whole snapshot once the chunks have ended.
    pub fn footer(&self) -> SnapshotFooter {
        self.tally.footer()
    }

    /// The next chunk's pairs; empty at the end.
    fn read(&mut self) -> Result<Vec<u8>, EngineError> {
        let start = self.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut data = Vec::new();
        let mut last = None;
        self.ended = true;
        for pair in self.view.scan((start, Bound::Unbounded), Direction::Forward) {
            let (key, value) = pair?;
            let bytes = PAIR_HEADER_BYTES + key.len() + value.len();
            if !data.is_empty() && data.len() + bytes > self.chunk_bytes {
                self.ended = false;
                break;
            }
            write_pair(&mut data, &key, &value)?;
            self.tally.pairs += 1;
            last = Some(key);
        }
        if let Some(last) = last {
            // A copy: the key may be a part of a block that it would keep in memory.
            self.after = Some(Bytes::copy_from_slice(&last));
        }
        Ok(data)
    }
}

impl Iterator for Sender {
    type Item = Result<SnapshotChunk, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let data = match self.read() {
            Ok(data) => data,
            Err(error) => {
                self.ended = true;
                return Some(Err(error));
            }
        };
        if data.is_empty() {
            return None;
        }
        let sequence = self.tally.chunks;
        self.tally.chunks += 1;
        self.tally.hash.update(&data);
        Some(Ok(SnapshotChunk { sequence, checksum: checksum(&data, sequence), data: data.into() }))
    }
}

/// CRC-32C over the data, then the little-endian sequence.
fn checksum(data: &[u8], sequence: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(data), &sequence.to_le_bytes())
}

fn write_pair(data: &mut Vec<u8>, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
    let too_long = || EngineError::Corrupt("a pair is longer than a store takes".to_owned());
    check_pair(key.len(), value.len()).map_err(|reason| EngineError::Corrupt(reason.to_owned()))?;
    let key_bytes = u32::try_from(key.len()).map_err(|_| too_long())?;
    let value_bytes = u32::try_from(value.len()).map_err(|_| too_long())?;
    data.extend_from_slice(&key_bytes.to_le_bytes());
    data.extend_from_slice(&value_bytes.to_le_bytes());
    data.extend_from_slice(key);
    data.extend_from_slice(value);
    Ok(())
}

/// Writes chunks into a staging store, which is dropped unless [`Receiver::finish`] hands it out.
pub struct Receiver {
    engine: Arc<dyn Engine>,
    /// `None` once handed out.
    staging: Option<StoreId>,
    last_key: Bytes,
    tally: Tally,
}

impl Receiver {
    /// Makes the staging store.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn new(engine: Arc<dyn Engine>) -> Result<Self, EngineError> {
        let staging = Some(engine.create_store()?);
        Ok(Self { engine, staging, last_key: Bytes::new(), tally: Tally::default() })
    }

    /// Takes the next chunk. After an error the snapshot is void: every later call fails.
    ///
    /// # Errors
    /// When the chunk is not the next one, is damaged or is malformed, or the device refuses.
    pub fn chunk(&mut self, chunk: SnapshotChunk) -> Result<(), StreamError> {
        let result = self.take(chunk);
        if result.is_err() {
            self.abort();
        }
        result
    }

    fn take(&mut self, chunk: SnapshotChunk) -> Result<(), StreamError> {
        let sequence = chunk.sequence;
        let store = self.store()?;
        if sequence != self.tally.chunks {
            return Err(StreamError::Sequence { expected: self.tally.chunks, got: sequence });
        }
        if chunk.data.len() > CHUNK_BYTES_MAX {
            return Err(StreamError::Malformed { sequence, reason: "it is larger than CHUNK_BYTES_MAX" });
        }
        if chunk.checksum != checksum(&chunk.data, sequence) {
            return Err(StreamError::Checksum(sequence));
        }
        let data = chunk.data.clone();
        let writes = self.parse(store, chunk.data).map_err(|reason| StreamError::Malformed { sequence, reason })?;
        self.tally.pairs += writes.len() as u64;
        self.engine.commit(Batch { writes })?;
        self.tally.chunks += 1;
        self.tally.hash.update(&data);
        Ok(())
    }

    fn parse(&mut self, store: StoreId, mut data: Bytes) -> Result<Vec<Write>, &'static str> {
        if data.is_empty() {
            return Err("it holds no pair");
        }
        let mut writes = Vec::new();
        while !data.is_empty() {
            let (key, value) = read_pair(&mut data)?;
            if key <= self.last_key {
                return Err("its keys do not ascend");
            }
            self.last_key = key.clone();
            writes.push((store, key, Some(value)));
        }
        Ok(writes)
    }

    /// Compares with the sender's footer. The store that it hands out belongs to the caller; it is
    /// visible but durable only after a flush.
    ///
    /// # Errors
    /// [`StreamError::Footer`] when anything is missing.
    pub fn finish(mut self, footer: &SnapshotFooter) -> Result<StoreId, StreamError> {
        let store = self.store()?;
        let got = self.tally.footer();
        let fields = [
            ("chunks", footer.chunks, got.chunks),
            ("pairs", footer.pairs, got.pairs),
            ("hash", footer.hash, got.hash),
        ];
        for (what, expected, got) in fields {
            if expected != got {
                return Err(StreamError::Footer { what, expected, got });
            }
        }
        self.staging = None;
        Ok(store)
    }

    fn store(&self) -> Result<StoreId, StreamError> {
        let reason = "an earlier chunk was refused";
        self.staging.ok_or(StreamError::Malformed { sequence: self.tally.chunks, reason })
    }

    fn abort(&mut self) {
        let Some(store) = self.staging.take() else { return };
        if let Err(error) = self.engine.drop_store(store) {
            // The catalog drops it at the next start.
            tracing::warn!(store = store.0, %error, "cannot drop the staging store of a snapshot");
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.abort();
    }
}

fn read_pair(data: &mut Bytes) -> Result<(Bytes, Bytes), &'static str> {
    let key = data.try_get_u32_le().map_err(|_| "a pair's lengths are cut off")?;
    let value = data.try_get_u32_le().map_err(|_| "a pair's lengths are cut off")?;
    let too_long = "a length does not fit";
    let key = usize::try_from(key).map_err(|_| too_long)?;
    let value = usize::try_from(value).map_err(|_| too_long)?;
    check_pair(key, value)?;
    if data.len() < key + value {
        return Err("a pair is cut off");
    }
    Ok((data.split_to(key), data.split_to(value)))
}

#[cfg(test)]
mod tests;
