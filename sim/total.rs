//! Many runs together: the tables, and the one line at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::fault;
use crate::pool::Job;
use crate::report::Report;
use crate::workload;

/// A run that broke a promise or could not tell.
pub(crate) struct Failed {
    pub(crate) job: Job,
    pub(crate) why: String,
}

/// Everything that many runs showed.
#[derive(Default)]
pub(crate) struct Total {
    pub(crate) seeds: u64,
    pub(crate) simulated_ms: u64,
    pub(crate) faults: BTreeMap<String, u64>,
    pub(crate) operations: BTreeMap<String, u64>,
    pub(crate) invariants: BTreeMap<String, u64>,
    pub(crate) violations: u64,
    pub(crate) unknowns: u64,
    pub(crate) failed: Vec<Failed>,
}

impl Total {
    /// Adds a run. Returns whether it was clean.
    pub(crate) fn add(&mut self, job: Job, report: &Report) -> bool {
        self.seeds += 1;
        self.simulated_ms += report.simulated_ms;
        for (mine, theirs) in [
            (&mut self.faults, &report.faults),
            (&mut self.operations, &report.operations),
            (&mut self.invariants, &report.invariants),
        ] {
            for (name, count) in theirs {
                *mine.entry(name.clone()).or_default() += count;
            }
        }
        self.violations += u64::from(report.violation.is_some());
        self.unknowns += report.unknown.len() as u64;
        let mut why = Vec::new();
        if let Some(violation) = &report.violation {
            let shortened: String = violation.detail.chars().take(2_000).collect();
            why.push(format!("VIOLATION {} at {} ms: {shortened}", violation.check, violation.at_ms));
        }
        why.extend(report.unknown.iter().map(|check| format!("UNKNOWN {check}: out of time")));
        let clean = why.is_empty();
        if !clean {
            self.failed.push(Failed { job, why: why.join("; ") });
        }
        clean
    }

    /// Kinds of faults that never fired.
    pub(crate) fn never_fired(&self) -> Vec<&'static str> {
        fault::rows().filter(|row| !self.faults.contains_key(*row)).collect()
    }

    /// The tables.
    pub(crate) fn print_tables(&self) {
        let fired = self.faults.iter().map(|(name, count)| (name.as_str(), *count));
        let rows: BTreeMap<&str, u64> = fault::rows().map(|row| (row, 0)).chain(fired).collect();
        print_table("faults fired", &rows);
        let rows: BTreeMap<&str, u64> = workload::ALL
            .iter()
            .map(|(name, _)| (*name, 0))
            .chain(self.operations.iter().map(|(name, count)| (name.as_str(), *count)))
            .collect();
        print_table("operations checked", &rows);
        let rows = self.invariants.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        print_table("invariants checked", &rows);
    }

    pub(crate) fn print_failed(&self) {
        for failed in &self.failed {
            println!("\n{}\n  replay: {}", failed.why, failed.job.replay());
            println!("  shrink: {}", failed.job.replay().replace("--trace", "--shrink"));
        }
    }

    /// The last line.
    pub(crate) fn summary(&self, wall: Duration) -> String {
        let hours = self.simulated_ms as f64 / 3_600_000.0;
        let speed = self.simulated_ms as f64 / 1_000.0 / wall.as_secs_f64().max(0.001);
        format!(
            "{} seeds, {hours:.2} simulated hours ({speed:.1} simulated seconds a second), {} operations checked, \
             {} faults fired, {} violations, {} unknowns",
            self.seeds,
            self.operations.values().sum::<u64>(),
            self.faults.values().sum::<u64>(),
            self.violations,
            self.unknowns,
        )
    }
}

fn print_table(title: &str, rows: &BTreeMap<&str, u64>) {
    println!("\n{title}");
    for (name, count) in rows {
        println!("  {name:<55} {count:>12}");
    }
}
