//! The changes of one key after each other: versions, creations, and the records before.

use std::collections::BTreeMap;

use super::{Broken, Event, Ledger, Shown, Told, What};

/// Holds the changes of each key against those before. Returns how many were compared.
pub(super) fn check(ledger: &Ledger<'_>, newest: u64) -> Result<u64, Broken> {
    let mut compared = 0;
    for (key, events) in &ledger.events {
        let mut last: Option<(u64, &What)> = None;
        for (&revision, what) in events {
            compared += 1;
            let is_next = last.is_some_and(|(before, _)| ledger.is_seen(key, before + 1, revision));
            if let What::Put(shown) = what
                && let Err(why) = follows(last, shown, is_next)
            {
                return Err((
                    "an event is what was written",
                    format!("{key} at {revision}: {why}: {shown:?}, after {last:?}"),
                ));
            }
            if let (What::Delete, Some((before, What::Delete)), true) = (what, last, is_next) {
                return Err((
                    "an event is what was written",
                    format!("{key} deleted at {before}, again at {revision}"),
                ));
            }
            last = Some((revision, what));
        }
    }
    for write in ledger.writes {
        if let Told::Applied(_, events) = &write.told {
            for event in events {
                check_before(ledger, event).map_err(|why| ("an answer has the record before", why))?;
            }
        }
    }
    for view in ledger.views.iter().filter(|view| view.previous) {
        for event in &view.events {
            let is_forgotten = event.before.is_none() && ledger.may_be_compacted(event.revision, newest);
            if !is_forgotten {
                let why = check_before(ledger, event);
                why.map_err(|why| ("a watch has the record before", format!("{}: {why}", view.name)))?;
            }
        }
    }
    Ok(compared)
}

/// Whether a record can come after the change before; `is_next` where nothing lies in between.
fn follows(last: Option<(u64, &What)>, shown: &Shown, is_next: bool) -> Result<(), &'static str> {
    if shown.version == 0 || (shown.version == 1) != (shown.created == shown.modified) {
        return Err("the first version is the one that creates the key");
    }
    match last {
        Some((_, What::Put(before))) if before.created == shown.created => {
            let rises = shown.version - before.version.min(shown.version);
            if rises == 0 || (is_next && rises != 1) { Err("the version must be the next") } else { Ok(()) }
        }
        Some((_, What::Put(before))) if is_next || shown.created <= before.modified => {
            Err("it was not created in between")
        }
        Some((at, What::Delete)) if shown.created <= at => Err("it is older than the delete"),
        Some((_, What::Delete)) if is_next && shown.version != 1 => Err("it was deleted just before"),
        Some(_) | None => Ok(()),
    }
}

/// The record that an event replaced is the last one before it that is known.
fn check_before(ledger: &Ledger<'_>, event: &Event) -> Result<(), String> {
    let empty = BTreeMap::new();
    let events = ledger.events.get(&event.key).unwrap_or(&empty);
    let last = events.range(..event.revision).next_back();
    match (last, &event.before) {
        // The record before is known itself, so that nothing known may lie after it.
        (Some((at, what)), Some(before)) if before.modified < *at => {
            Err(format!("{event:?}, but at {at} came {what:?}"))
        }
        (Some((at, what @ What::Put(_))), None) if ledger.is_seen(&event.key, at + 1, event.revision) => {
            Err(format!("{event:?}, but at {at} came {what:?}"))
        }
        _ => Ok(()),
    }
}
