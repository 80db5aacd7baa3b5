//! Lets clients in that name the server by a URL where HTTP/2 wants `HOST:PORT`.
//!
//! `etcdctl` 3.4 does so for the calls that go to a certain endpoint, if that is written `http://…`; the HTTP/2
//! library here refuses it. Nothing here reads that name, so another is put in its place, in the first headers
//! of a connection and nowhere else: what follows refers to them by their place in HPACK's table (RFC 7541). The
//! other name is shorter, so that whatever is in the client's table is in ours as well.

use bytes::{Buf, BufMut, BytesMut};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes before a frame's payload: its length in three, its type, its flags, its stream in four.
const FRAME_HEADER_BYTES: usize = 9;
/// Longer frames are not looked into.
const FRAME_BYTES_MAX: usize = 4096;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
/// The flag of headers that are whole.
const END_HEADERS: u8 = 4;
/// Flags of headers before which something else stands.
const PADDED_OR_PRIORITY: u8 = 0x28;
/// Place of `:authority` in HPACK's static table.
const AUTHORITY: usize = 1;
/// What stands in for a URL: not longer than the shortest.
const STAND_IN: &[u8] = b"kvd";

/// Passes on what a client sends, with another name in place of a URL.
#[derive(Default)]
pub(super) struct Authority {
    stage: Stage,
    /// Not decided on yet; bounded by what one frame may have.
    held: BytesMut,
    /// To be passed on.
    ready: BytesMut,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    #[default]
    Preface,
    Frames,
    /// Whatever comes is passed on.
    Done,
}

impl Authority {
    /// Takes in what was received.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        self.held.put_slice(bytes);
        while self.decide() {}
        if self.stage == Stage::Done {
            self.ready.unsplit(self.held.split());
        }
    }

    /// Nothing more comes.
    pub(super) fn end(&mut self) {
        self.stage = Stage::Done;
        self.receive(&[]);
    }

    /// Moves what can be passed on into `room`, and tells how much that is.
    pub(super) fn pass_on(&mut self, room: &mut [u8]) -> usize {
        let bytes = room.len().min(self.ready.len());
        self.ready.split_to(bytes).copy_to_slice(room.split_at_mut(bytes).0);
        bytes
    }

    /// Whether there is nothing more to do here, and nothing left to pass on.
    pub(super) fn is_done(&self) -> bool {
        self.stage == Stage::Done && self.ready.is_empty()
    }

    /// Returns whether there may be more to decide.
    fn decide(&mut self) -> bool {
        match self.stage {
            Stage::Preface if self.held.starts_with(PREFACE) => {
                self.ready.unsplit(self.held.split_to(PREFACE.len()));
                self.stage = Stage::Frames;
                true
            }
            Stage::Preface => {
                if !PREFACE.starts_with(&self.held) {
                    self.stage = Stage::Done;
                }
                false
            }
            Stage::Frames => self.frame(),
            Stage::Done => false,
        }
    }

    fn frame(&mut self) -> bool {
        let Some(&[a, b, c, kind, flags, ..]) = self.held.first_chunk::<FRAME_HEADER_BYTES>() else { return false };
        let bytes = FRAME_HEADER_BYTES + u32::from_be_bytes([0, a, b, c]) as usize;
        if bytes > FRAME_BYTES_MAX || ![HEADERS, SETTINGS, WINDOW_UPDATE].contains(&kind) {
            self.stage = Stage::Done;
            return false;
        }
        if self.held.len() < bytes {
            return false;
        }
        let mut frame = self.held.split_to(bytes);
        if kind == HEADERS {
            self.stage = Stage::Done;
            if flags & (END_HEADERS | PADDED_OR_PRIORITY) == END_HEADERS {
                rename(&mut frame);
            }
        }
        self.ready.unsplit(frame);
        true
    }
}

/// Puts the stand-in in the place of a URL.
fn rename(frame: &mut BytesMut) {
    let Some((start, end)) = frame.get(FRAME_HEADER_BYTES..).and_then(url) else { return };
    let rest = frame.split_off(FRAME_HEADER_BYTES + end);
    frame.truncate(FRAME_HEADER_BYTES + start);
    frame.put_u8(u8::try_from(STAND_IN.len()).unwrap_or_default());
    frame.put_slice(STAND_IN);
    frame.put_slice(&rest);
    let payload = u32::try_from(frame.len() - FRAME_HEADER_BYTES).unwrap_or_default();
    if let (Some(length), [_, bytes @ ..]) = (frame.first_chunk_mut::<3>(), payload.to_be_bytes()) {
        *length = bytes;
    }
}

/// Where in a header block the value of `:authority` is, its length included, if it is a URL.
fn url(block: &[u8]) -> Option<(usize, usize)> {
    let mut rest = block;
    while let Some(first) = rest.first() {
        match first {
            // A field of the table.
            0x80.. => drop(integer(&mut rest, 7)?),
            // Another size of the table.
            0x20..0x40 => drop(integer(&mut rest, 5)?),
            // A literal: with a name from the table or one of its own.
            _ => {
                let name = integer(&mut rest, if first & 0x40 == 0 { 4 } else { 6 })?;
                if name == 0 {
                    string(&mut rest)?;
                }
                let start = block.len() - rest.len();
                let (is_packed, value) = string(&mut rest)?;
                if name == AUTHORITY {
                    let end = block.len() - rest.len();
                    return is_url(is_packed, value).then_some((start, end));
                }
            }
        }
    }
    None
}

/// Whether a value, which Huffman's code may have packed, begins like a URL.
fn is_url(is_packed: bool, value: &[u8]) -> bool {
    if !is_packed {
        return value.starts_with(b"http://") || value.starts_with(b"https://");
    }
    // The same in the code's bits: 41 and 46 of them.
    match value {
        [0x9d, 0x29, 0xae, 0xe3, 0x0c, last, ..] => last & 0x80 == 0,
        [0x9d, 0x29, 0xad, 0x17, 0x18, last, ..] => last & 0xfc == 0x60,
        _ => false,
    }
}

/// HPACK's string: whether it is packed, and its bytes.
fn string<'a>(rest: &mut &'a [u8]) -> Option<(bool, &'a [u8])> {
    let is_packed = rest.first()? & 0x80 != 0;
    let bytes = integer(rest, 7)?;
    let (value, after) = rest.split_at_checked(bytes)?;
    *rest = after;
    Some((is_packed, value))
}

/// HPACK's integer in the last so many bits of a byte, and in those that follow if these are all set.
fn integer(rest: &mut &[u8], bits: u32) -> Option<usize> {
    let mask = 0xff_u8 >> (8 - bits);
    let mut number = usize::from(take(rest)? & mask);
    if number < usize::from(mask) {
        return Some(number);
    }
    // Nothing in a frame of this length needs more.
    for shift in [0, 7] {
        let byte = take(rest)?;
        number += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take(rest: &mut &[u8]) -> Option<u8> {
    let (first, after) = rest.split_first()?;
    *rest = after;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Authority, FRAME_BYTES_MAX, PREFACE, STAND_IN};

    /// What comes out when this comes in, in pieces of so many bytes.
    fn passed(sent: &[u8], piece: usize) -> Vec<u8> {
        let mut authority = Authority::default();
        let mut out = Vec::new();
        let mut room = [0; 7];
        let mut drain = |authority: &mut Authority| {
            loop {
                match authority.pass_on(&mut room) {
                    0 => return,
                    bytes => out.extend_from_slice(&room[..bytes]),
                }
            }
        };
        for piece in sent.chunks(piece) {
            authority.receive(piece);
            drain(&mut authority);
        }
        authority.end();
        drain(&mut authority);
        assert!(authority.is_done());
        out
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What a client sends first: its settings, and the headers of a request to `authority`.
    fn opening(authority: &[u8]) -> Vec<u8> {
        let path = [b"\x45\x11".as_slice(), b"/etcdserverpb.KV/"].concat();
        let own = b"\x40\x02te\x08trailers";
        let block = [b"\x3f\xe1\x1f\x83\x86", path.as_slice(), b"\x41", authority, own, b"\x0f\x0d\x011"].concat();
        [PREFACE, &frame(4, 0, &[]), &frame(8, 0, &[0, 0, 1, 0]), &frame(1, 4, &block), b"rest of the stream"].concat()
    }

    fn value(text: &[u8]) -> Vec<u8> {
        [&[u8::try_from(text.len()).unwrap()], text].concat()
    }

    #[test]
    fn a_url_is_renamed_and_nothing_else_is() {
        let renamed = opening(&value(STAND_IN));
        // Of the last two, Huffman's code makes `https://www.example.com` and `http://h`.
        let packed = b"\x91\x9d\x29\xad\x17\x18\x63\xc7\x8f\x0b\x97\xc8\xe9\xae\x82\xae\x43\xd3";
        let short = b"\x86\x9d\x29\xae\xe3\x0c\x4f";
        for url in [&value(b"http://127.0.0.1:2379"), &value(b"https://h:1"), packed.as_slice(), short] {
            (1..60).for_each(|piece| assert_eq!(passed(&opening(url), piece), renamed, "pieces of {piece}"));
        }
        for host in [b"127.0.0.1:2379".as_slice(), b"http", b"h://", b""] {
            let sent = opening(&value(host));
            (1..60).for_each(|piece| assert_eq!(passed(&sent, piece), sent, "pieces of {piece}"));
        }
        let named = b"\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
        assert_eq!(passed(&opening(named), 9), opening(named), "www.example.com, packed");
    }

    #[test]
    fn only_the_first_whole_headers_are_looked_into() {
        let block = [b"\x41".as_slice(), &value(b"http://h")].concat();
        let long = vec![0; FRAME_BYTES_MAX];
        for first in
            [frame(1, 0, &block), frame(1, 0x2c, &block), frame(0, 0, b""), frame(4, 0, &long), frame(1, 4, b"")]
        {
            let sent = [PREFACE, &first, &frame(1, 4, &block)].concat();
            assert_eq!(passed(&sent, 11), sent);
        }
    }

    proptest! {
        #[test]
        fn whatever_else_comes_is_passed_on_as_it_is(
            is_second: bool, kind in 0u8..10, flags: u8, noise in prop::collection::vec(any::<u8>(), 0..200),
            piece in 1usize..40
        ) {
            let sent = if is_second { [PREFACE, &frame(kind, flags, &noise), &noise].concat() } else { noise };
            prop_assert_eq!(passed(&sent, piece), sent);
        }

        #[test]
        fn any_value_that_is_no_url_stays(host in "[a-z0-9.:]{0,40}", noise in prop::collection::vec(any::<u8>(), 0..40)) {
            let sent = opening(&value(host.as_bytes()));
            prop_assert_eq!(passed(&sent, 13), sent);
            let torn = [&opening(&value(b"http://h"))[..70], &noise].concat();
            prop_assert!(passed(&torn, 13).len() <= torn.len());
        }
    }
}
