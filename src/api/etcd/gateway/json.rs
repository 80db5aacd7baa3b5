//! Messages as JSON, the way grpc-gateway maps them for etcd.
//!
//! In: names as in the `.proto` files or in lowerCamelCase; bytes in base64; integers of 64 bits as numbers or
//! strings; enums by name or number; fields that a message does not have are passed over. Out: names as in
//! the `.proto` files, integers of 64 bits as strings, enums by name, defaults left out.
//!
//! The text is not trusted: its length is bounded by who reads it, its depth by `serde_json`.

use prost_reflect::{DeserializeOptions, DynamicMessage, Kind, MessageDescriptor, SerializeOptions};
use serde_json::Value;
use tonic::Status;

use crate::api::error::clipped;
use crate::types::limits::{self, GATEWAY_MESSAGES_MAX};

/// The content type of every answer.
pub(super) const TYPE: &str = "application/json";

/// The one message in `text`. An empty text and `null` are the empty message.
///
/// # Errors
/// When the text is malformed, is more than one message, or has a value that does not fit its field.
pub(super) fn read(kind: &MessageDescriptor, text: &[u8]) -> Result<DynamicMessage, Status> {
    let mut messages = read_all(kind, text)?.into_iter();
    let first = messages.next().unwrap_or_else(|| DynamicMessage::new(kind.clone()));
    match messages.next() {
        None => Ok(first),
        Some(_) => Err(Status::invalid_argument("something follows the JSON object")),
    }
}

/// The messages in `text`, one after the other.
///
/// # Errors
/// As [`read`], and when they are too many.
pub(super) fn read_all(kind: &MessageDescriptor, text: &[u8]) -> Result<Vec<DynamicMessage>, Status> {
    let mut messages = Vec::new();
    for value in serde_json::Deserializer::from_slice(text).into_iter() {
        if messages.len() == GATEWAY_MESSAGES_MAX {
            return Err(Status::invalid_argument(format!("more than {GATEWAY_MESSAGES_MAX} messages in one request")));
        }
        messages.push(value.and_then(|value| message(kind, value)).map_err(malformed)?);
    }
    Ok(messages)
}

fn message(kind: &MessageDescriptor, mut value: Value) -> Result<DynamicMessage, serde_json::Error> {
    if value.is_null() {
        return Ok(DynamicMessage::new(kind.clone()));
    }
    keep_known(kind, &mut value);
    // Not false: that would pass over unknown names of enums, too, which etcd refuses.
    let strict = DeserializeOptions::new().deny_unknown_fields(true);
    DynamicMessage::deserialize_with_options(kind.clone(), value, &strict)
}

/// Leaves out fields that `kind` does not have, and line breaks in base64.
fn keep_known(kind: &MessageDescriptor, value: &mut Value) {
    let Some(fields) = value.as_object_mut() else { return };
    fields.retain(|name, value| {
        let field = kind.get_field_by_json_name(name).or_else(|| kind.get_field_by_name(name));
        let kind = field.as_ref().map(prost_reflect::FieldDescriptor::kind);
        if let Some(Kind::Message(kind)) = &kind {
            each(value, |value| keep_known(kind, value));
        } else if kind == Some(Kind::Bytes) {
            each(value, unbroken);
        }
        kind.is_some()
    });
}

fn each(value: &mut Value, mut change: impl FnMut(&mut Value)) {
    match value.as_array_mut() {
        Some(items) => items.iter_mut().for_each(change),
        None => change(value),
    }
}

fn unbroken(value: &mut Value) {
    const BREAKS: [char; 2] = ['\r', '\n'];
    if let Value::String(text) = value
        && text.contains(BREAKS)
    {
        text.retain(|letter| !BREAKS.contains(&letter));
    }
}

fn malformed(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(clipped(&error.to_string(), limits::ERROR_MESSAGE_BYTES_MAX))
}

/// A message as text.
///
/// # Errors
/// When it cannot be written: a defect.
pub(super) fn write(message: &DynamicMessage) -> Result<Vec<u8>, Status> {
    let mut text = Vec::new();
    append(message, &mut text)?;
    Ok(text)
}

/// A message of a stream as a line.
///
/// # Errors
/// As [`write`].
pub(super) fn line(message: &DynamicMessage) -> Result<Vec<u8>, Status> {
    let mut text = b"{\"result\":".to_vec();
    append(message, &mut text)?;
    text.extend_from_slice(b"}\n");
    Ok(text)
}

fn append(message: &DynamicMessage, text: &mut Vec<u8>) -> Result<(), Status> {
    let options = SerializeOptions::new().use_proto_field_name(true);
    message
        .serialize_with_options(&mut serde_json::Serializer::new(text), &options)
        .map_err(|error| Status::internal(format!("the answer cannot be written as JSON: {error}")))
}
