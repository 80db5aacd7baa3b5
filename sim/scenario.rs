//! Named runs that stay: one for every bug that a simulation has found, written as an explicit plan
//! so that it means the same when the drawing of plans changes.

use crate::plan::Plan;

/// A named run.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What went wrong, and when it was mended.
    pub(crate) about: &'static str,
    pub(crate) plan: fn() -> Plan,
}

/// All of them.
pub(crate) const ALL: &[Scenario] = &[Scenario {
    name: "carrying-without-gain",
    about: "Old log segments were emptied for ever when frames were mostly padding: the node wrote the same \
            entries again and again without a pause.",
    plan: || {
        let mut plan = Plan::draw(2);
        plan.topology.log_segment_bytes = 256 << 10;
        plan.topology.log_entries_kept = 8_192;
        plan.think_ms = 0;
        plan.faults.clear();
        plan
    },
}];

/// The scenario of a name.
pub(crate) fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}
