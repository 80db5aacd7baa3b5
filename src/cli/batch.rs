//! `batch`: a few puts and deletes, in one step per shard.

use serde_json::{Map, Value, json};

use super::Context;
use super::args::{Format, InputArgs};
use super::exit::Failure;
use super::text::{need_bytes, take_bytes};
use super::words::split;
use crate::client::BatchOperation;

const HINT: &str = "`kvctl help batch` shows the form of a line";

pub(crate) async fn batch(context: &mut Context<'_>, args: InputArgs) -> Result<(), Failure> {
    let input = context.read(args.file).await?;
    let operations = parse(&input).map_err(|message| Failure::usage(message, HINT))?;
    let client = context.client().await?;
    let outcomes = client.batch(&operations).await?;
    let applied: usize =
        outcomes.iter().filter(|outcome| outcome.result.is_ok()).map(|outcome| outcome.operations.len()).sum();
    let mut shards = Vec::new();
    let mut failures = Vec::new();
    for outcome in outcomes {
        match outcome.result {
            Ok(revision) => shards.push(json!({
                "shard_id": outcome.shard.0,
                "revision": revision,
                "operations": outcome.operations,
            })),
            Err(error) => failures.push(Failure::from(error).at(&format!("shard {}", outcome.shard.0))),
        }
    }
    match context.format() {
        Format::Json => context.print_json(&json!({ "applied": applied, "shards": shards })).await?,
        Format::Simple | Format::Table if failures.is_empty() => context.print("OK\n").await?,
        Format::Simple | Format::Table => {}
    }
    // The worst of them: a part whose outcome is unknown matters most.
    failures.sort_by_key(|failure| failure.exit);
    match failures.pop() {
        Some(failure) if applied > 0 => {
            let message = format!("{} ({applied} operations of other shards were applied)", failure.message);
            Err(Failure { message, ..failure })
        }
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

fn parse(input: &[u8]) -> Result<Vec<BatchOperation>, String> {
    let text = std::str::from_utf8(input)
        .map_err(|_| "the batch is not UTF-8: write other bytes as \\xHH or, in JSON, as base64".to_owned())?;
    let mut operations = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let operation = if line.starts_with('{') { json_line(line) } else { word_line(line) };
        operations.push(operation.map_err(|error| format!("line {}: {error}", at + 1))?);
    }
    if operations.is_empty() { Err("the batch is empty".into()) } else { Ok(operations) }
}

fn word_line(line: &str) -> Result<BatchOperation, String> {
    let words = split(line)?;
    match words.as_slice() {
        [name, key, value] if name.as_ref() == b"put" => Ok(BatchOperation::put(key.clone(), value.clone())),
        [name, key] if matches!(name.as_ref(), b"del" | b"delete") => Ok(BatchOperation::delete(key.clone())),
        _ => Err("write put KEY VALUE or del KEY".into()),
    }
}

fn json_line(line: &str) -> Result<BatchOperation, String> {
    let object: Map<String, Value> = serde_json::from_str(line).map_err(|error| format!("no JSON object: {error}"))?;
    const FIELDS: [&str; 5] = ["op", "key", "key_base64", "value", "value_base64"];
    if let Some(unknown) = object.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        return Err(format!("the field `{unknown}` is not known here"));
    }
    let key = need_bytes(&object, "key")?;
    match object.get("op").and_then(Value::as_str) {
        Some("put") => Ok(BatchOperation::put(key, need_bytes(&object, "value")?)),
        Some("delete" | "del") if take_bytes(&object, "value")?.is_some() => Err("a delete has no value".into()),
        Some("delete" | "del") => Ok(BatchOperation::delete(key)),
        _ => Err("`op` must be \"put\" or \"delete\"".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;
    use crate::client::BatchOperation;

    #[test]
    fn lines_and_json_mix() {
        let text = "put a \"1 2\"\n\n{\"op\":\"delete\",\"key\":\"b\"}\n{\"op\":\"put\",\"key_base64\":\"/w==\",\"value\":\"\"}\n";
        let expected =
            [BatchOperation::put("a", "1 2"), BatchOperation::delete("b"), BatchOperation::put(vec![0xff], "")];
        assert_eq!(parse(text.as_bytes()).unwrap(), expected);
        for bad in [
            "",
            "put a",
            "get a",
            "{\"op\":\"put\",\"key\":\"a\"}",
            "{\"op\":\"del\",\"key\":\"a\",\"value\":\"\"}",
            "{\"key\":\"a\"}",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse(b"del a\nput b").unwrap_err().starts_with("line 2"));
    }
}
