//! Bytes as text: in JSON a field `x` holds text, and `x_base64` takes its place for other bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value};

use crate::client::Record;

/// Adds bytes to a JSON object.
pub(crate) fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()),
    };
}

/// Reads bytes from a JSON object, in either form; `None` when there is neither.
pub(crate) fn take_bytes(object: &Map<String, Value>, name: &str) -> Result<Option<Bytes>, String> {
    let encoded_name = format!("{name}_base64");
    match (object.get(name), object.get(&encoded_name)) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(format!("has both `{name}` and `{encoded_name}`")),
        (Some(Value::String(text)), None) => Ok(Some(Bytes::copy_from_slice(text.as_bytes()))),
        (None, Some(Value::String(text))) => match STANDARD.decode(text) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) => Err(format!("`{encoded_name}` is not base64: {error}")),
        },
        (Some(_), None) => Err(format!("`{name}` is not a string")),
        (None, Some(_)) => Err(format!("`{encoded_name}` is not a string")),
    }
}

/// The same, but it must be there.
pub(crate) fn need_bytes(object: &Map<String, Value>, name: &str) -> Result<Bytes, String> {
    take_bytes(object, name)?.ok_or_else(|| format!("has no `{name}` or `{name}_base64`"))
}

/// A record as JSON.
pub(crate) fn record(record: &Record, keys_only: bool) -> Value {
    let mut object = Map::new();
    put_bytes(&mut object, "key", &record.key);
    if !keys_only {
        put_bytes(&mut object, "value", &record.value);
    }
    object.insert("create_revision".into(), record.create_revision.into());
    object.insert("mod_revision".into(), record.mod_revision.into());
    object.insert("version".into(), record.version.into());
    object.insert("lease".into(), record.lease.into());
    object.into()
}

/// Bytes for a table: text as it is, control characters and other bytes escaped.
pub(crate) fn printable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::{need_bytes, printable, put_bytes, take_bytes};

    proptest! {
        #[test]
        fn bytes_survive_json(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut object = Map::new();
            put_bytes(&mut object, "key", &bytes);
            let text = Value::from(object).to_string();
            let Value::Object(back) = serde_json::from_str(&text).unwrap() else { unreachable!() };
            prop_assert_eq!(need_bytes(&back, "key").unwrap(), bytes);
        }
    }

    #[test]
    fn what_is_ambiguous_or_wrong_is_refused() {
        let read = |value: Value| take_bytes(value.as_object().unwrap(), "key").is_err();
        assert!(read(json!({"key": "a", "key_base64": "YQ=="})));
        assert!(read(json!({"key": 1})));
        assert!(read(json!({"key_base64": "%"})));
        assert!(!read(json!({"other": 1})));
    }

    #[test]
    fn tables_stay_in_shape() {
        assert_eq!(printable("grün".as_bytes()), "grün");
        assert_eq!(printable(b"a\nb"), "a\\nb");
        assert_eq!(printable(b"\xff"), "\\xff");
    }
}
