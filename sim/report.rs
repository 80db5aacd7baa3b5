//! What a run showed: counts, and the first promise that was broken.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::fault;

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Violation {
    /// Which check saw it, for instance `election safety`.
    pub(crate) check: String,
    /// What it saw.
    pub(crate) detail: String,
    /// When, in simulated milliseconds.
    pub(crate) at_ms: u64,
}

/// The result of one run, also as the JSON line that its process prints.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    /// Simulated time.
    pub(crate) simulated_ms: u64,
    /// How often each kind of fault really fired.
    pub(crate) faults: BTreeMap<String, u64>,
    /// Operations whose result a check has used, by workload.
    pub(crate) operations: BTreeMap<String, u64>,
    /// How often each invariant was checked.
    pub(crate) invariants: BTreeMap<String, u64>,
    pub(crate) violation: Option<Violation>,
    /// Checks that ran out of time, and so said nothing.
    pub(crate) unknown: Vec<String>,
    /// Of the whole trace, if one was asked for.
    pub(crate) trace_hash: Option<u64>,
}

/// The report of the running run: everybody writes into it.
#[derive(Clone, Default)]
pub(crate) struct Seen(Rc<RefCell<Report>>);

impl Seen {
    pub(crate) fn fired(&self, fault: &str) {
        self.fired_times(fault, 1);
    }

    pub(crate) fn fired_times(&self, fault: &str, times: u64) {
        debug_assert!(fault::is_row(fault), "no kind of fault counts {fault:?}");
        if times > 0 {
            *self.0.borrow_mut().faults.entry(fault.to_owned()).or_default() += times;
        }
    }

    pub(crate) fn checked(&self, workload: &str, operations: u64) {
        *self.0.borrow_mut().operations.entry(workload.to_owned()).or_default() += operations;
    }

    pub(crate) fn held(&self, invariant: &str, times: u64) {
        *self.0.borrow_mut().invariants.entry(invariant.to_owned()).or_default() += times;
    }

    pub(crate) fn unknown(&self, check: impl Into<String>) {
        self.0.borrow_mut().unknown.push(check.into());
    }

    /// Records a broken promise; the first one counts.
    pub(crate) fn violation(&self, check: &str, detail: impl Into<String>) {
        let at_ms = super::now_ms();
        let mut report = self.0.borrow_mut();
        if report.violation.is_none() {
            let detail = detail.into();
            tracing::error!(check, detail, "VIOLATION");
            report.violation = Some(Violation { check: check.to_owned(), detail, at_ms });
        }
    }

    pub(crate) fn is_violated(&self) -> bool {
        self.0.borrow().violation.is_some()
    }

    pub(crate) fn report(&self) -> Report {
        self.0.borrow().clone()
    }
}
