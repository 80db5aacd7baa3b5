//! `txn`: reads a transaction as JSON or as lines, carries it out, prints what it did.

mod json_form;
mod line_form;

use serde_json::{Map, Value, json};

use super::args::{Format, InputArgs};
use super::exit::{Exit, Failure};
use super::{Context, text};
use crate::client::{OperationResult, TransactionResult, Txn, operation_result};

const HINT: &str = "`kvctl help txn` shows both forms of a transaction";

pub(crate) async fn txn(context: &mut Context<'_>, args: InputArgs) -> Result<(), Failure> {
    let input = context.read(args.file).await?;
    let txn = parse(&input).map_err(|message| Failure::usage(message, HINT))?;
    let client = context.client().await?;
    let result = client.txn(txn).await?;
    match context.format() {
        Format::Json => context.print_json(&as_json(&result)).await?,
        Format::Simple | Format::Table => context.print(as_lines(&result)).await?,
    }
    if result.succeeded { Ok(()) } else { Err(Failure::silent(Exit::NotFound)) }
}

fn parse(input: &[u8]) -> Result<Txn, String> {
    let text = std::str::from_utf8(input)
        .map_err(|_| "the transaction is not UTF-8: write other bytes as \\xHH or, in JSON, as base64".to_owned())?;
    if text.trim().is_empty() {
        return Err("the transaction is empty".into());
    }
    if text.trim_start().starts_with('{') { json_form::parse(text) } else { line_form::parse(text) }
}

fn as_json(result: &TransactionResult) -> Value {
    let results: Vec<_> = result.results.iter().map(operation_json).collect();
    json!({ "succeeded": result.succeeded, "revision": result.revision, "results": results })
}

fn operation_json(result: &OperationResult) -> Value {
    let records = |records: &[crate::client::Record]| -> Value {
        records.iter().map(|record| text::record(record, false)).collect::<Vec<_>>().into()
    };
    let (name, body) = match &result.kind {
        Some(operation_result::Kind::Put(put)) => {
            let previous = put.previous.as_ref().map(|record| text::record(record, false));
            ("put", json!({ "previous": previous }))
        }
        Some(operation_result::Kind::Delete(delete)) => {
            ("delete", json!({ "deleted": delete.deleted, "previous": records(&delete.previous) }))
        }
        Some(operation_result::Kind::Range(range)) => {
            ("get", json!({ "count": range.count, "more": range.more, "records": records(&range.records) }))
        }
        Some(operation_result::Kind::Transaction(nested)) => ("txn", as_json(nested)),
        None => ("unknown", Value::Null),
    };
    let mut object = Map::new();
    object.insert(name.to_owned(), body);
    object.into()
}

fn as_lines(result: &TransactionResult) -> Vec<u8> {
    let mut lines = if result.succeeded { b"SUCCESS\n".to_vec() } else { b"FAILURE\n".to_vec() };
    for operation in &result.results {
        match &operation.kind {
            Some(operation_result::Kind::Put(_)) => lines.extend_from_slice(b"OK\n"),
            Some(operation_result::Kind::Delete(delete)) => {
                lines.extend_from_slice(format!("{}\n", delete.deleted).as_bytes());
            }
            Some(operation_result::Kind::Range(range)) => {
                for record in &range.records {
                    lines.extend_from_slice(&[record.key.as_ref(), b"\t", record.value.as_ref(), b"\n"].concat());
                }
            }
            Some(operation_result::Kind::Transaction(nested)) => lines.extend_from_slice(&as_lines(nested)),
            None => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::parse;
    use crate::client::{Condition, Keys, Op, PutOptions, Relation, Txn};

    fn expected() -> Txn {
        Txn::new()
            .when(Condition::value("a b", Relation::Equal, "1"))
            .when(Condition::version("c", Relation::Greater, 3))
            .when(Condition::missing("d"))
            .then(Op::put_with("a b", "x y", &PutOptions::new().ttl(std::time::Duration::from_secs(5))))
            .then(Op::delete("c"))
            .then(Op::delete_range(&Keys::prefix("p/")))
            .otherwise(Op::get("c"))
    }

    #[test]
    fn both_forms_say_the_same() {
        let lines = "value(\"a b\") = 1\nversion(c) > \"3\"\nexists(d) = false\n\n\
                     put 'a b' \"x y\" --ttl 5s\ndel c\ndel --prefix p/\n\nget c\n";
        assert_eq!(parse(lines.as_bytes()).unwrap(), expected());
        let json = r#"{"compares": [
                {"key": "a b", "relation": "=", "value": "1"},
                {"key": "c", "relation": ">", "version": 3},
                {"key_base64": "ZA==", "exists": false}],
            "success": [
                {"put": {"key": "a b", "value": "x y", "ttl_ms": 5000}},
                {"delete": {"key": "c"}},
                {"delete": {"key": "p/", "prefix": true}}],
            "failure": [{"get": {"key": "c"}}]}"#;
        assert_eq!(parse(json.as_bytes()).unwrap(), expected());
    }

    #[test]
    fn what_asks_for_nothing_is_no_transaction() {
        for nothing in ["", " \n", "{}", "{\"compares\":[]}", "{\"success\":[],\"failure\":[]}"] {
            assert_eq!(parse(nothing.as_bytes()).unwrap_err(), "the transaction is empty", "{nothing:?}");
        }
        assert!(parse(b"{\"other\":[]}").unwrap_err().contains("other"));
    }

    #[test]
    fn without_compares_the_first_part_is_empty() {
        let txn = parse(b"\nput a 1\n").unwrap();
        assert_eq!(txn, Txn::new().then(Op::put("a", "1")));
    }

    #[test]
    fn mistakes_are_named() {
        let wrong = |text: &str, word: &str| {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        };
        wrong("", "empty");
        wrong("size(a) = 1\n", "size");
        wrong("value(a) ~ 1\n", "~");
        wrong("version(a) = x\n", "x");
        wrong("value(a) = 1 2\n", "2");
        wrong("value(a = 1\n", "line 1");
        wrong("\nset a 1\n", "set");
        wrong("\nput a\n", "line 2");
        wrong("\nput a 1\n\nget a\n\nget b\n", "three parts");
        wrong("{\"success\": [{\"put\": {\"key\": \"a\"}}]}", "value");
        wrong("{\"succes\": []}", "succes");
        wrong("{\"compares\": [{\"key\": \"a\", \"version\": 1, \"value\": \"\"}]}", "exactly one");
        wrong("{\"compares\": [{\"key\": \"a\", \"relation\": \"like\", \"value\": \"\"}]}", "like");
        wrong("{\"success\": [{\"put\": {\"key\": \"a\", \"value\": \"\", \"tll_ms\": 3}}]}", "tll_ms");
    }
}
