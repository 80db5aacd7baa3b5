//! Keys are byte strings, ordered bytewise.

use bytes::Bytes;

/// `range_end` that stands for "no upper bound" in requests of single keys and ranges.
pub const UNBOUNDED: &[u8] = &[0];

/// The smallest key that is greater than every key with this prefix; `None` when there is none.
pub fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

/// The smallest key greater than `key`.
pub fn successor(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

#[cfg(test)]
mod tests {
    use super::{prefix_end, successor};

    #[test]
    fn prefix_end_skips_trailing_ff() {
        assert_eq!(prefix_end(b"a\xff\xff").as_deref(), Some(b"b".as_slice()));
        assert_eq!(prefix_end(b"ab").as_deref(), Some(b"ac".as_slice()));
        assert_eq!(prefix_end(b"\xff\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }

    #[test]
    fn successor_is_adjacent() {
        assert!(successor(b"a").as_ref() > b"a".as_slice());
        assert!(successor(b"a").as_ref() < b"a\x01".as_slice());
    }
}
