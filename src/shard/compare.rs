//! Compares: the conditions of a transaction.

use std::cmp::Ordering;

use super::Interval;
use super::table::latest;
use super::visible::{self, At};
use crate::proto::internal::v1::StoredRecord;
use crate::proto::v1::Compare;
use crate::proto::v1::compare::{Operand, Relation};
use crate::storage::engine::{Direction, EngineError, View};

/// Whether a compare holds: on its key, or on every live key of its range.
pub(super) fn holds(view: &dyn View, compare: &Compare) -> Result<bool, EngineError> {
    if compare.range_end.is_empty() {
        return Ok(one_holds(latest::live(view, &compare.key)?.as_ref(), compare));
    }
    let interval = Interval::of_operation(&compare.key, &compare.range_end);
    let mut walk = visible::records(view, &interval, At::Present, Direction::Forward).peekable();
    if walk.peek().is_none() {
        return Ok(one_holds(None, compare));
    }
    for shown in walk {
        if !one_holds(Some(&shown?.1), compare) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// One on the value of a key that does not exist never holds, as in etcd.
fn one_holds(live: Option<&StoredRecord>, compare: &Compare) -> bool {
    let number = |of: fn(&StoredRecord) -> u64, wanted: &u64| live.map_or(0, of).cmp(wanted);
    let order = match &compare.operand {
        Some(Operand::Value(value)) => match live {
            Some(found) => found.value.cmp(value),
            None => return false,
        },
        Some(Operand::Version(version)) => number(|found| found.version, version),
        Some(Operand::CreateRevision(revision)) => number(|found| found.create_revision, revision),
        Some(Operand::ModRevision(revision)) => number(|found| found.mod_revision, revision),
        Some(Operand::Lease(lease)) => number(|found| found.lease, lease),
        Some(Operand::Exists(wanted)) => live.is_some().cmp(wanted),
        None => return false,
    };
    relates(order, compare.relation())
}

fn relates(order: Ordering, relation: Relation) -> bool {
    match relation {
        Relation::Equal => order.is_eq(),
        Relation::NotEqual => order.is_ne(),
        Relation::Greater => order.is_gt(),
        Relation::Less => order.is_lt(),
        Relation::Unspecified => false,
    }
}
