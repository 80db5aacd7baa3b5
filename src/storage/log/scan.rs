//! Finding the frames of a segment, damaged or not.
//!
//! Knows frames and blocks, no records. Every block is looked at, because what follows damage decides
//! what the damage means.

use std::io;

use super::frame::{BLOCK_BYTES, FrameHeader, HEADER_BYTES};
use super::segment::{FRAMES_AT, Segment};

const READ_STEP_BYTES: usize = 256 * 1024;
const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// What a segment holds.
#[derive(Default)]
pub(super) struct Scanned {
    /// The whole segment, if it holds frames.
    pub(super) data: Vec<u8>,
    /// Whole frames, ascending.
    pub(super) frames: Vec<FrameHeader>,
    /// Headers of frames whose body is damaged: they still testify to what was durable before them.
    pub(super) broken: Vec<FrameHeader>,
    /// Offsets of blocks outside of whole frames that are not zero.
    pub(super) dirty: Vec<u64>,
    /// Blocks that the device could not read.
    pub(super) unreadable: Vec<u64>,
}

impl Scanned {
    /// The body of a whole frame.
    pub(super) fn body(&self, header: &FrameHeader) -> &[u8] {
        let start = usize::try_from(header.offset).unwrap_or(usize::MAX);
        let frame = self.data.get(start..).and_then(|data| data.get(..header.frame_bytes())).unwrap_or_default();
        frame.get(HEADER_BYTES..).unwrap_or_default()
    }

    /// Where the last whole frame ends.
    pub(super) fn end(&self) -> u64 {
        self.frames.last().map_or(FRAMES_AT, |last| last.offset + last.extent())
    }
}

/// Reads a segment's first block; zeros where the device cannot.
pub(super) fn first_block(segment: &Segment) -> Vec<u8> {
    let mut block = vec![0; BLOCK_BYTES];
    if segment.file.read_at(&mut block, 0).is_err() {
        block.fill(0);
    }
    block
}

/// Reads a segment and finds its frames.
pub(super) fn scan(segment: &Segment, log: u64) -> Scanned {
    let mut scanned = Scanned::default();
    let data = read(segment, &mut scanned.unreadable);
    let mut at = BLOCK_BYTES;
    while let Some(rest) = data.get(at..).filter(|rest| rest.len() >= BLOCK_BYTES) {
        let offset = at as u64;
        let header = FrameHeader::parse(rest, log, segment.id, offset);
        match header.map(|header| (header, header.body(rest).is_some())) {
            Some((header, true)) => {
                scanned.frames.push(header);
                at += header.frame_bytes().next_multiple_of(BLOCK_BYTES);
                continue;
            }
            Some((header, false)) => scanned.broken.push(header),
            None => {}
        }
        if rest[..BLOCK_BYTES] != ZEROS {
            scanned.dirty.push(offset);
        }
        at += BLOCK_BYTES;
    }
    if !scanned.frames.is_empty() {
        scanned.data = data;
    }
    scanned
}

/// Reads all of a segment, with zeros for the blocks that the device cannot read.
fn read(segment: &Segment, unreadable: &mut Vec<u64>) -> Vec<u8> {
    let mut data = vec![0; usize::try_from(segment.bytes).unwrap_or(0)];
    let mut at = 0_u64;
    for step in data.chunks_mut(READ_STEP_BYTES) {
        if segment.file.read_at(step, at).is_err() {
            read_blocks(segment, step, at, unreadable);
        }
        at += step.len() as u64;
    }
    data
}

fn read_blocks(segment: &Segment, step: &mut [u8], mut at: u64, unreadable: &mut Vec<u64>) {
    for block in step.chunks_mut(BLOCK_BYTES) {
        let read: io::Result<()> = segment.file.read_at(block, at);
        if read.is_err() {
            block.fill(0);
            unreadable.push(at);
        }
        at += block.len() as u64;
    }
}
