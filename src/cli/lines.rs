//! The lines that `import` reads and `export` writes. Pure.
//!
//! JSON lines carry every key and value. TSV lines are verbatim bytes: the key up to the first
//! tabulator, then the value; what cannot be told apart on such a line is refused, never escaped.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::args::LineFormat;
use super::text::{need_bytes, put_bytes};
use crate::types::limits::{KEY_BYTES_MAX, REQUEST_BYTES_MAX};

/// Fields of a record that `scan -w json` prints and import has no use for.
const DERIVED: [&str; 4] = ["create_revision", "mod_revision", "version", "lease"];
/// Room for a request's framing around one record.
const FRAMING_BYTES: usize = 4 * 1024;

/// Finds out the form of a file by its first line.
pub(crate) fn detect(line: &[u8]) -> LineFormat {
    let json = line.starts_with(b"{") && serde_json::from_slice::<Map<String, Value>>(line).is_ok();
    // Without a tabulator it is no TSV either; then the JSON reader's complaint says more.
    let broken_json = line.starts_with(b"{") && !line.contains(&b'\t');
    if json || broken_json { LineFormat::Json } else { LineFormat::Tsv }
}

/// Reads one line, without its line feed.
pub(crate) fn parse(format: LineFormat, line: &[u8]) -> Result<(Bytes, Bytes), String> {
    let (key, value) = match format {
        LineFormat::Json => parse_json(line)?,
        LineFormat::Tsv => parse_tsv(line)?,
    };
    if key.is_empty() {
        return Err("the key is empty".into());
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(format!("the key has {} bytes, more than the limit KEY_BYTES_MAX of {KEY_BYTES_MAX}", key.len()));
    }
    let largest = REQUEST_BYTES_MAX - FRAMING_BYTES - KEY_BYTES_MAX;
    if value.len() > largest {
        return Err(format!("the value has {} bytes, more than fit a request ({largest})", value.len()));
    }
    Ok((key, value))
}

fn parse_json(line: &[u8]) -> Result<(Bytes, Bytes), String> {
    let object: Map<String, Value> =
        serde_json::from_slice(line).map_err(|error| format!("is no JSON object: {error}"))?;
    let key = need_bytes(&object, "key")?;
    let value = need_bytes(&object, "value")?;
    let known = |name: &str| ["key", "key_base64", "value", "value_base64"].contains(&name) || DERIVED.contains(&name);
    match object.keys().find(|name| !known(name)) {
        Some(unknown) => Err(format!("has a field `{unknown}` that import does not know")),
        None => Ok((key, value)),
    }
}

fn parse_tsv(line: &[u8]) -> Result<(Bytes, Bytes), String> {
    let tab = line.iter().position(|byte| *byte == b'\t').ok_or("has no tabulator between key and value")?;
    let (key, value) = line.split_at(tab);
    Ok((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value.get(1..).unwrap_or_default())))
}

/// Writes one line, with its line feed.
pub(crate) fn write(format: LineFormat, key: &[u8], value: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    match format {
        LineFormat::Json => {
            let mut object = Map::new();
            put_bytes(&mut object, "key", key);
            put_bytes(&mut object, "value", value);
            out.extend_from_slice(Value::from(object).to_string().as_bytes());
        }
        LineFormat::Tsv => {
            if key.iter().any(|byte| matches!(byte, b'\t' | b'\n')) || value.contains(&b'\n') {
                return Err(format!(
                    "the record `{}` holds a tabulator or a line feed where a TSV line cannot",
                    key.escape_ascii()
                ));
            }
            out.extend_from_slice(key);
            out.push(b'\t');
            out.extend_from_slice(value);
        }
    }
    out.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{LineFormat, detect, parse, write};

    proptest! {
        #[test]
        fn import_reads_what_export_wrote(
            key in proptest::collection::vec(any::<u8>(), 1..30),
            value in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            for format in [LineFormat::Json, LineFormat::Tsv] {
                let mut line = Vec::new();
                let written = write(format, &key, &value, &mut line);
                let fits = format == LineFormat::Json
                    || !(key.contains(&b'\t') || key.contains(&b'\n') || value.contains(&b'\n'));
                prop_assert_eq!(written.is_ok(), fits);
                if fits {
                    prop_assert_eq!(line.pop(), Some(b'\n'));
                    prop_assert!(!line.contains(&b'\n'));
                    prop_assert_eq!(detect(&line), format);
                    let (key_back, value_back) = parse(format, &line).unwrap();
                    prop_assert_eq!(key_back.as_ref(), key.as_slice());
                    prop_assert_eq!(value_back.as_ref(), value.as_slice());
                }
            }
        }

        #[test]
        fn no_line_panics(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            for format in [LineFormat::Json, LineFormat::Tsv] {
                if let Ok((key, _)) = parse(format, &line) {
                    prop_assert!(!key.is_empty());
                }
            }
        }
    }

    #[test]
    fn bad_lines_are_refused() {
        for line in [
            "",
            "{}",
            "[]",
            "{\"key\":\"a\"}",
            "{\"key\":\"\",\"value\":\"\"}",
            "{\"key\":\"a\",\"value\":\"b\",\"ttl\":1}",
        ] {
            assert!(parse(LineFormat::Json, line.as_bytes()).is_err(), "{line}");
        }
        for line in ["", "key", "\tvalue"] {
            assert!(parse(LineFormat::Tsv, line.as_bytes()).is_err(), "{line}");
        }
        assert!(parse(LineFormat::Tsv, format!("{}\tv", "k".repeat(9_000)).as_bytes()).is_err());
    }

    #[test]
    fn what_scan_prints_can_be_imported_and_a_value_may_hold_tabulators() {
        let line = br#"{"key":"a","value":"b","create_revision":2,"mod_revision":2,"version":1,"lease":0}"#;
        assert_eq!(parse(LineFormat::Json, line).unwrap().0, "a");
        assert_eq!(parse(LineFormat::Tsv, b"a\tb\tc").unwrap().1, "b\tc");
        assert_eq!(detect(b"{not json\tvalue"), LineFormat::Tsv);
        assert_eq!(detect(b"{not json"), LineFormat::Json);
    }
}
