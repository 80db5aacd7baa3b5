//! Splits a line of a batch or a transaction into words, as a shell would: quotes, and backslash
//! escapes with `\xHH` for bytes.

use bytes::Bytes;

/// The words of a line.
pub(crate) fn split(line: &str) -> Result<Vec<Bytes>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (word, after) = word(rest)?;
        words.push(word);
        rest = after.trim_start();
    }
    Ok(words)
}

/// The first word of `text` and what follows it.
pub(crate) fn word(text: &str) -> Result<(Bytes, &str), String> {
    let mut bytes = Vec::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => return Ok((bytes.into(), text.get(at..).unwrap_or_default())),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (Some('\''), c) => push(&mut bytes, c),
            (_, '\\') => escape(&mut chars, &mut bytes)?,
            (_, c) => push(&mut bytes, c),
        }
    }
    match quote {
        Some(open) => Err(format!("the quote {open} is never closed")),
        None => Ok((bytes.into(), "")),
    }
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

fn escape(chars: &mut std::str::CharIndices<'_>, bytes: &mut Vec<u8>) -> Result<(), String> {
    match chars.next().map(|(_, c)| c) {
        Some('n') => bytes.push(b'\n'),
        Some('t') => bytes.push(b'\t'),
        Some('r') => bytes.push(b'\r'),
        Some('0') => bytes.push(0),
        Some('x') => {
            let digits: String = chars.by_ref().take(2).map(|(_, c)| c).collect();
            let byte = u8::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 2 && !digits.starts_with('+'));
            bytes.push(byte.ok_or_else(|| format!("`\\x{digits}` is no byte: write two hexadecimal digits"))?);
        }
        Some(other) if other.is_alphanumeric() => return Err(format!("`\\{other}` is no escape")),
        Some(other) => push(bytes, other),
        None => return Err("the line ends in a backslash".into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::split;

    #[test]
    fn quotes_and_escapes() {
        let words = split(r#"  put "a key" 'it''s' \xff\n "" b"c d"e "#).unwrap();
        let expected: [&[u8]; 6] = [b"put", b"a key", b"its", b"\xff\n", b"", b"bc de"];
        assert_eq!(words, expected);
        assert_eq!(split("   ").unwrap().len(), 0);
        for bad in ["\"open", "\\", "\\q", "\\x1", "\\x+1", "\\xzz"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn escaped_bytes_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let word: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            let words = split(&format!("\"{word}\"")).unwrap();
            prop_assert_eq!(words, vec![bytes]);
        }

        #[test]
        fn no_line_panics(line in "\\PC*") {
            split(&line).ok();
        }
    }
}
