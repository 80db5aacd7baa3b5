//! A transaction as JSON: the form for programs. Unknown fields are mistakes, not extensions.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::cli::text::{need_bytes, take_bytes};
use crate::client::{Condition, Keys, Op, PutOptions, Relation, Txn};

type Object = Map<String, Value>;

pub(super) fn parse(text: &str) -> Result<Txn, String> {
    let root: Object =
        serde_json::from_str(text).map_err(|error| format!("the transaction is no JSON object: {error}"))?;
    allow(&root, &["compares", "success", "failure"]).map_err(|error| format!("the transaction {error}"))?;
    if root.values().all(|part| part.as_array().is_some_and(Vec::is_empty)) {
        return Err("the transaction is empty".to_owned());
    }
    let mut txn = Txn::new();
    for (at, compare) in list(&root, "compares")?.into_iter().enumerate() {
        txn = txn.when(condition(compare).map_err(|error| format!("compares[{at}] {error}"))?);
    }
    for (at, op) in list(&root, "success")?.into_iter().enumerate() {
        txn = txn.then(operation(op).map_err(|error| format!("success[{at}] {error}"))?);
    }
    for (at, op) in list(&root, "failure")?.into_iter().enumerate() {
        txn = txn.otherwise(operation(op).map_err(|error| format!("failure[{at}] {error}"))?);
    }
    Ok(txn)
}

fn list<'a>(root: &'a Object, name: &str) -> Result<Vec<&'a Object>, String> {
    let Some(value) = root.get(name) else { return Ok(Vec::new()) };
    let items = value.as_array().ok_or_else(|| format!("`{name}` is no list"))?;
    let object = |(at, item): (usize, &'a Value)| item.as_object().ok_or_else(|| format!("{name}[{at}] is no object"));
    items.iter().enumerate().map(object).collect()
}

fn allow(object: &Object, names: &[&str]) -> Result<(), String> {
    match object.keys().find(|name| !names.contains(&name.as_str())) {
        Some(unknown) => Err(format!("has a field `{unknown}` that is not known here")),
        None => Ok(()),
    }
}

fn number(object: &Object, name: &str) -> Result<Option<u64>, String> {
    object.get(name).map(|value| value.as_u64().ok_or_else(|| format!("`{name}` is no whole number"))).transpose()
}

fn flag(object: &Object, name: &str) -> Result<Option<bool>, String> {
    object
        .get(name)
        .map(|value| value.as_bool().ok_or_else(|| format!("`{name}` is neither true nor false")))
        .transpose()
}

fn condition(object: &Object) -> Result<Condition, String> {
    const OPERANDS: [&str; 5] = ["version", "create_revision", "mod_revision", "lease", "exists"];
    allow(object, &[&["key", "key_base64", "relation", "value", "value_base64"][..], &OPERANDS[..]].concat())?;
    let key = need_bytes(object, "key")?;
    let value = take_bytes(object, "value")?;
    let operands = OPERANDS.iter().filter(|name| object.contains_key(**name)).count() + usize::from(value.is_some());
    if operands != 1 {
        return Err(format!("has {operands} operands where exactly one is wanted"));
    }
    let relation = match object.get("relation") {
        None => Relation::Equal,
        Some(Value::String(text)) => relation(text)?,
        Some(other) => return Err(format!("`relation` is {other}: write one of = != > <")),
    };
    if let Some(value) = value {
        return Ok(Condition::value(key, relation, value));
    }
    if let Some(exists) = flag(object, "exists")? {
        if relation != Relation::Equal {
            return Err("`exists` knows only the relation =".into());
        }
        return Ok(if exists { Condition::exists(key) } else { Condition::missing(key) });
    }
    if let Some(version) = number(object, "version")? {
        return Ok(Condition::version(key, relation, version));
    }
    if let Some(revision) = number(object, "create_revision")? {
        return Ok(Condition::create_revision(key, relation, revision));
    }
    if let Some(revision) = number(object, "mod_revision")? {
        return Ok(Condition::mod_revision(key, relation, revision));
    }
    let lease = number(object, "lease")?.ok_or("has no operand")?;
    Ok(Condition::lease(key, relation, lease))
}

pub(super) fn relation(text: &str) -> Result<Relation, String> {
    match text {
        "=" | "==" => Ok(Relation::Equal),
        "!=" => Ok(Relation::NotEqual),
        ">" => Ok(Relation::Greater),
        "<" => Ok(Relation::Less),
        other => Err(format!("`{other}` is no relation: write one of = != > <")),
    }
}

fn operation(object: &Object) -> Result<Op, String> {
    let mut fields = object.iter();
    let (Some((name, body)), None) = (fields.next(), fields.next()) else {
        return Err("must have exactly one of `put`, `delete`, `get`".into());
    };
    let body = body.as_object().ok_or_else(|| format!("`{name}` is no object"))?;
    let key = need_bytes(body, "key")?;
    match name.as_str() {
        "put" => {
            allow(body, &["key", "key_base64", "value", "value_base64", "ttl_ms"])?;
            let options = match number(body, "ttl_ms")? {
                Some(ms) if ms > 0 => PutOptions::new().ttl(Duration::from_millis(ms)),
                _ => PutOptions::new(),
            };
            Ok(Op::put_with(key, need_bytes(body, "value")?, &options))
        }
        "delete" => {
            allow(body, &["key", "key_base64", "prefix"])?;
            let prefix = flag(body, "prefix")?.unwrap_or(false);
            Ok(if prefix { Op::delete_range(&Keys::prefix(key)) } else { Op::delete(key) })
        }
        "get" => {
            allow(body, &["key", "key_base64", "prefix"])?;
            let prefix = flag(body, "prefix")?.unwrap_or(false);
            Ok(if prefix { Op::range(&Keys::prefix(key), 0) } else { Op::get(key) })
        }
        other => Err(format!("`{other}` is no operation: write put, delete or get")),
    }
}
