//! Whether the operations on one key, as clients saw them, can be put in one order that explains all
//! answers and keeps what came before what.
//!
//! `search` finds the order, `register` is the key, `facts` is what answers say without any order,
//! `past` holds reads of old revisions and the order of revisions to their promises, and `stale` says
//! from when on a stale read may have its place.

mod bits;
mod facts;
pub(crate) mod past;
mod register;
mod search;
pub(crate) mod stale;

use std::fmt::Write as _;

use self::facts::Facts;
use self::register::{Register, State};
use self::search::{Found, Order, Span};
use crate::history::KeyHistory;

/// Operations of the longest order that an explanation shows.
const SHOWN: usize = 12;

/// What the checker says of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Ok,
    /// No order explains the answers: why, for people.
    Violation(String),
    /// Not decided within the steps or the time.
    Unknown,
}

/// Checks the operations on one key. Gives up after `steps_max` steps, or when `is_late` says so,
/// which is asked now and then.
pub(crate) fn check(history: &KeyHistory, steps_max: u64, is_late: &mut dyn FnMut() -> bool) -> Verdict {
    let facts = match Facts::collect(history) {
        Ok(facts) => facts,
        Err(why) => return Verdict::Violation(why),
    };
    let register = Register { history, facts };
    let span = |operation: &crate::history::Operation| Span { call: operation.call, returned: operation.returned() };
    let spans: Vec<_> = history.operations.iter().map(span).collect();
    match search::search(&register, &spans, steps_max, is_late) {
        Found::All(_) => Verdict::Ok,
        Found::None(longest) => Verdict::Violation(explain(&register, &spans, &longest)),
        Found::Unknown => Verdict::Unknown,
    }
}

/// The longest order there is, and why nothing can follow it.
fn explain(register: &Register<'_>, spans: &[Span], longest: &Order<State>) -> String {
    let operations = &register.history.operations;
    let left: Vec<_> = (0..operations.len()).filter(|operation| !longest.operations.contains(operation)).collect();
    let mut text = format!("{} of {} operations have an order", longest.operations.len(), operations.len());
    let skipped = longest.operations.len().saturating_sub(SHOWN);
    if longest.operations.len() > skipped {
        text.push_str(if skipped > 0 { ", which ends with" } else { ":" });
    }
    for operation in &longest.operations[skipped..] {
        line(&mut text, &operations[*operation].to_string());
    }
    line(&mut text, &format!("now the key is {}; none of these can be next:", longest.state));
    let first_return = left.iter().filter_map(|operation| spans[*operation].returned).min().unwrap_or(u64::MAX);
    for operation in left.into_iter().filter(|operation| spans[*operation].call < first_return) {
        match register.apply(&longest.state, operation) {
            Err(why) => line(&mut text, &format!("{}: {why}", operations[operation])),
            Ok(_) => line(&mut text, &format!("{}: then no longer order follows", operations[operation])),
        }
    }
    text
}

fn line(text: &mut String, line: &str) {
    let written = write!(text, "\n  {line}");
    debug_assert!(written.is_ok());
}
