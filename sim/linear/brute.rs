//! The same question answered the slow way: every order of a small history is tried, and each is held
//! to the meaning of the operations as a person would write it down.

use crate::history::{Answer, Before, Effect, Operation, When};

/// Whether some order explains all answers.
pub(crate) fn is_linearizable(operations: &[Operation]) -> bool {
    agree(operations) && some_order(operations, &mut Vec::new())
}

fn some_order(operations: &[Operation], order: &mut Vec<usize>) -> bool {
    let missing = |order: &[usize], at: usize| !order.contains(&at);
    let answered_left =
        || (0..operations.len()).filter(|at| missing(order, *at)).filter_map(|at| operations[at].returned());
    let Some(first_return) = answered_left().min() else { return is_legal(operations, order) };
    for at in 0..operations.len() {
        if missing(order, at) && operations[at].call < first_return {
            order.push(at);
            if some_order(operations, order) {
                return true;
            }
            order.pop();
        }
    }
    false
}

/// All that was shown of one value in any two answers is the same, and somebody wrote it.
fn agree(operations: &[Operation]) -> bool {
    let shown: Vec<_> = operations
        .iter()
        .filter_map(|operation| match operation.answer?.1.before? {
            Before::Present(shown) => shown,
            Before::Absent => None,
        })
        .collect();
    let differ = |one: Option<u64>, other: Option<u64>| one.is_some() && other.is_some() && one != other;
    let clash = shown.iter().any(|one| {
        shown.iter().filter(|other| other.value == one.value).any(|other| {
            differ(one.version, other.version)
                || differ(one.created, other.created)
                || differ(one.modified, other.modified)
        })
    });
    let misdated = shown.iter().any(|shown| {
        let writes = operations.iter().filter(|operation| operation.effect == Effect::Put(shown.value));
        writes.filter(|write| write.changed()).any(|write| differ(write.revision(), shown.modified))
    });
    let written = |value| operations.iter().any(|operation| operation.effect == Effect::Put(value));
    !clash && !misdated && shown.iter().all(|shown| written(shown.value))
}

fn written_at(operations: &[Operation], value: u64) -> Option<u64> {
    operations.iter().find_map(|operation| match (operation.effect, operation.answer?.1.before) {
        (Effect::Put(put), _) if put == value && operation.changed() && operation.revision().is_some() => {
            operation.revision()
        }
        (_, Some(Before::Present(Some(shown)))) if shown.value == value => shown.modified,
        _ => None,
    })
}

fn is_legal(operations: &[Operation], order: &[usize]) -> bool {
    // Value, version, and the value that began the life.
    let mut key: Option<(u64, u64, u64)> = None;
    let mut revision = 0;
    for at in order {
        let Operation { when, effect, answer, .. } = operations[*at];
        let is_open = answer.is_none();
        let answer = answer.map_or(Answer::default(), |(_, answer)| answer);
        let before_fits = match (answer.before, key) {
            (None, _) | (Some(Before::Absent), None) | (Some(Before::Present(None)), Some(_)) => true,
            (Some(Before::Present(Some(shown))), Some((value, version, first))) => {
                shown.value == value
                    && shown.version.is_none_or(|shown| shown == version)
                    && shown.created.is_none_or(|shown| written_at(operations, first).is_none_or(|at| at == shown))
            }
            (Some(Before::Present(_)), None) | (Some(Before::Absent), Some(_)) => false,
        };
        let held = match when {
            When::Always => true,
            When::Exists(wanted) => wanted == key.is_some(),
            When::Value(wanted) => key.is_some_and(|(value, ..)| value == wanted),
            When::Version(wanted) => wanted == key.map_or(0, |(_, version, _)| version),
            When::Modified(0) => key.is_none(),
            When::Modified(wanted) => key.is_some_and(|(value, ..)| written_at(operations, value) == Some(wanted)),
        };
        if !before_fits || answer.held.is_some_and(|told| told != held) {
            return false;
        }
        let mut told = answer.revision;
        let mut rises = 0;
        match effect {
            Effect::Put(value) if held => {
                rises = 1;
                told = told.or(written_at(operations, value));
                key = Some(key.map_or((value, 1, value), |(_, version, first)| (value, version + 1, first)));
            }
            Effect::Delete if held => rises = u64::from(key.take().is_some()),
            Effect::Put(_) | Effect::Delete | Effect::Nothing => {}
        }
        if told.is_some_and(|told| told < revision + rises) {
            return false;
        }
        revision = told.unwrap_or(if is_open { revision } else { revision + rises });
    }
    true
}
