//! A transaction as lines: compares, an empty line, operations if all hold, an empty line,
//! operations if not. The form for people.

use bytes::Bytes;

use super::json_form::relation;
use crate::cli::args::duration;
use crate::cli::words::{split, word};
use crate::client::{Condition, Keys, Op, PutOptions, Txn};

pub(super) fn parse(text: &str) -> Result<Txn, String> {
    let mut txn = Txn::new();
    let mut part = 0;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        let place = |error: String| format!("line {}: {error}", at + 1);
        if line.is_empty() {
            part += 1;
            continue;
        }
        txn = match part {
            0 => txn.when(condition(line).map_err(place)?),
            1 => txn.then(operation(line).map_err(place)?),
            2 => txn.otherwise(operation(line).map_err(place)?),
            _ => return Err(place("a transaction has three parts; there is one empty line too many".into())),
        };
    }
    Ok(txn)
}

/// `property(key) relation operand`, the key and the operand quoted where needed.
fn condition(line: &str) -> Result<Condition, String> {
    let form = || format!("`{line}` is no compare: write for instance value(\"key\") = \"text\"");
    let (property, rest) = line.split_once('(').ok_or_else(form)?;
    let (key, rest) = key_in_parentheses(rest).ok_or_else(form)?;
    let words = split(rest)?;
    let [symbol, operand] = words.as_slice() else {
        return Err(match words.get(2) {
            Some(extra) => format!("`{}` is one word too many", extra.escape_ascii()),
            None => form(),
        });
    };
    let relation = relation(&String::from_utf8_lossy(symbol))?;
    let number = || {
        let text = String::from_utf8_lossy(operand);
        text.parse::<u64>().map_err(|_| format!("`{text}` is no whole number"))
    };
    match property.trim() {
        "value" | "val" => Ok(Condition::value(key, relation, operand.clone())),
        "version" | "ver" => Ok(Condition::version(key, relation, number()?)),
        "create" | "c" => Ok(Condition::create_revision(key, relation, number()?)),
        "mod" | "m" => Ok(Condition::mod_revision(key, relation, number()?)),
        "lease" => Ok(Condition::lease(key, relation, number()?)),
        "exists" => match (operand.as_ref(), relation) {
            (b"true", crate::client::Relation::Equal) => Ok(Condition::exists(key)),
            (b"false", crate::client::Relation::Equal) => Ok(Condition::missing(key)),
            _ => Err("exists is compared as `= true` or `= false`".into()),
        },
        other => Err(format!("`{other}` is no property: write value, version, create, mod, lease or exists")),
    }
}

/// The key before the closing parenthesis: one word in quotes, or everything up to it.
fn key_in_parentheses(text: &str) -> Option<(Bytes, &str)> {
    let text = text.trim_start();
    if text.starts_with(['"', '\'']) {
        let quote = text.chars().next()?;
        let end = closing_quote(text, quote)?;
        let (key, _) = word(text.get(..=end)?).ok()?;
        let rest = text.get(end + 1..)?.trim_start();
        return Some((key, rest.strip_prefix(')')?));
    }
    let (key, rest) = text.split_once(')')?;
    Some((Bytes::copy_from_slice(key.trim_end().as_bytes()), rest))
}

/// Where the quote that `text` begins with is closed.
fn closing_quote(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' if quote == '"' => escaped = true,
            c if c == quote => return Some(at),
            _ => {}
        }
    }
    None
}

/// `put KEY VALUE [--ttl T]`, `get KEY`, `del KEY`, the latter two with `--prefix`.
fn operation(line: &str) -> Result<Op, String> {
    let words = split(line)?;
    let (name, rest) = words.split_first().ok_or("an operation is missing")?;
    let is_option = |word: &&Bytes| word.as_ref() == b"--prefix";
    let prefix = rest.iter().any(|word| is_option(&word));
    let plain: Vec<_> = rest.iter().filter(|word| !is_option(word)).collect();
    match (name.as_ref(), plain.as_slice(), prefix) {
        (b"put", [key, value], false) => Ok(Op::put(Bytes::clone(key), Bytes::clone(value))),
        (b"put", [key, value, option, ttl], false) if option.as_ref() == b"--ttl" => {
            let options = PutOptions::new().ttl(duration(&String::from_utf8_lossy(ttl))?);
            Ok(Op::put_with(Bytes::clone(key), Bytes::clone(value), &options))
        }
        (b"del" | b"delete", [key], false) => Ok(Op::delete(Bytes::clone(key))),
        (b"del" | b"delete", [key], true) => Ok(Op::delete_range(&Keys::prefix(Bytes::clone(key)))),
        (b"get", [key], false) => Ok(Op::get(Bytes::clone(key))),
        (b"get", [key], true) => Ok(Op::range(&Keys::prefix(Bytes::clone(key)), 0)),
        _ => Err(format!("`{line}` is no operation: write put KEY VALUE, get KEY or del KEY")),
    }
}
