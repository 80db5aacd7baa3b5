//! The batch frame: what one write and one sync put on the disk.
//!
//! Knows the header and its two checksums, no records. The body's checksum also covers where the
//! frame belongs (log, segment, offset, sequence), so that neither another segment nor an older life
//! of the same place can pass for it. The header's own checksum lets a torn frame still testify to
//! what was durable before it.

/// Frames and segment headers start at multiples of this: writing one never rewrites a block of the
/// device that holds another.
pub(super) const BLOCK_BYTES: usize = 4096;
/// Bytes of a frame header.
pub(super) const HEADER_BYTES: usize = 72;

const MAGIC: [u8; 4] = *b"QLF1";
const CHECKED_BYTES: usize = 64;

/// The header of a frame.
///
/// Invariant: `durable < sequence`; the frame lies in whole blocks within its segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FrameHeader {
    /// Which log this is: random, chosen when the log was made.
    pub(super) log: u64,
    /// The segment that holds the frame.
    pub(super) segment: u64,
    /// Where in the segment the frame starts.
    pub(super) offset: u64,
    /// 1, 2, 3 … over the life of the log.
    pub(super) sequence: u64,
    /// Every frame up to this sequence was durable when this one was written.
    pub(super) durable: u64,
    /// Segments below this one are no longer needed.
    pub(super) low: u64,
    /// Bytes of the body.
    pub(super) length: u32,
    /// The frame holds nothing that was acknowledged.
    pub(super) seal: bool,
}

impl FrameHeader {
    /// Completes a frame: `buffer` is room for the header, then the body. Pads to whole blocks.
    pub(super) fn finish(&self, buffer: &mut Vec<u8>) {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&MAGIC);
        header[4] = u8::from(self.seal);
        for (at, value) in [
            (8, self.log),
            (16, self.segment),
            (24, self.offset),
            (32, self.sequence),
            (40, self.durable),
            (48, self.low),
        ] {
            header[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        header[56..60].copy_from_slice(&self.length.to_le_bytes());
        let body = buffer.get(HEADER_BYTES..).unwrap_or_default();
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&header[..CHECKED_BYTES]), body);
        header[64..68].copy_from_slice(&checksum.to_le_bytes());
        let checksum = crc32c::crc32c(&header[..68]);
        header[68..72].copy_from_slice(&checksum.to_le_bytes());
        buffer[..HEADER_BYTES].copy_from_slice(&header);
        buffer.resize(buffer.len().next_multiple_of(BLOCK_BYTES), 0);
    }

    /// Reads a header; `None` unless it is whole and belongs where it was found.
    pub(super) fn parse(block: &[u8], log: u64, segment: u64, offset: u64) -> Option<Self> {
        let header = block.get(..HEADER_BYTES)?;
        if header[..4] != MAGIC || crc32c::crc32c(&header[..68]) != u32_at(header, 68)? {
            return None;
        }
        let header = Self {
            log: u64_at(header, 8)?,
            segment: u64_at(header, 16)?,
            offset: u64_at(header, 24)?,
            sequence: u64_at(header, 32)?,
            durable: u64_at(header, 40)?,
            low: u64_at(header, 48)?,
            length: u32_at(header, 56)?,
            seal: header[4] & 1 != 0,
        };
        let belongs = header.log == log && header.segment == segment && header.offset == offset;
        (belongs && header.durable < header.sequence).then_some(header)
    }

    /// Bytes of header and body.
    pub(super) fn frame_bytes(&self) -> usize {
        HEADER_BYTES + usize::try_from(self.length).unwrap_or(usize::MAX - HEADER_BYTES)
    }

    /// Bytes of the whole blocks that the frame takes.
    pub(super) fn extent(&self) -> u64 {
        (self.frame_bytes() as u64).next_multiple_of(BLOCK_BYTES as u64)
    }

    /// The body of the frame that starts `bytes`, if its checksum holds.
    pub(super) fn body<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let frame = bytes.get(..self.frame_bytes())?;
        let (header, body) = frame.split_at(HEADER_BYTES);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&header[..CHECKED_BYTES]), body);
        (checksum == u32_at(header, 64)?).then_some(body)
    }
}

/// The little-endian number at `at`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The little-endian number at `at`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> (FrameHeader, Vec<u8>) {
        let header =
            FrameHeader { log: 7, segment: 3, offset: 8192, sequence: 9, durable: 8, low: 2, length: 100, seal: false };
        let mut buffer = vec![0x5a; HEADER_BYTES + 100];
        header.finish(&mut buffer);
        (header, buffer)
    }

    fn valid(bytes: &[u8]) -> bool {
        FrameHeader::parse(bytes, 7, 3, 8192).is_some_and(|header| header.body(bytes).is_some())
    }

    #[test]
    fn reads_what_it_wrote() {
        let (header, buffer) = frame();
        assert_eq!(buffer.len(), BLOCK_BYTES);
        assert_eq!(FrameHeader::parse(&buffer, 7, 3, 8192), Some(header));
        assert_eq!(header.body(&buffer), Some([0x5a; 100].as_slice()));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (header, mut buffer) = frame();
        for bit in 0..header.frame_bytes() * 8 {
            buffer[bit / 8] ^= 1 << (bit % 8);
            assert!(!valid(&buffer), "bit {bit}");
            buffer[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(valid(&buffer));
    }

    #[test]
    fn belongs_to_one_place_only() {
        let (_, buffer) = frame();
        assert_eq!(FrameHeader::parse(&buffer, 8, 3, 8192), None, "another log");
        assert_eq!(FrameHeader::parse(&buffer, 7, 4, 8192), None, "another segment");
        assert_eq!(FrameHeader::parse(&buffer, 7, 3, 4096), None, "another offset");
        assert_eq!(FrameHeader::parse(&buffer[..HEADER_BYTES - 1], 7, 3, 8192), None, "cut");
    }
}
