//! Makes a failure smaller: fewer faults, fewer workloads, fewer operations, a shorter run; the same
//! check must still fail.

use std::path::Path;

use crate::plan::Plan;
use crate::pool::{Job, run_alone};

/// Shrinks a failing job; `None` when it does not fail.
pub(crate) fn shrink(program: &Path, job: &Job, plan: &Plan) -> Option<Job> {
    let report = run_alone(program, job);
    let violation = report.violation?;
    println!("shrinking: {} at {} ms", violation.check, violation.at_ms);
    let mut best = job.clone();
    let fails = |candidate: &Job| {
        let failed = run_alone(program, candidate).violation.is_some_and(|found| found.check == violation.check);
        println!("  {} {}", if failed { "fails " } else { "passes" }, candidate.shown());
        failed
    };
    let take = |best: &mut Job, change: &dyn Fn(&mut Job)| {
        let mut candidate = best.clone();
        change(&mut candidate);
        let better = candidate != *best && fails(&candidate);
        if better {
            *best = candidate;
        }
        better
    };
    // What comes after the failure changes nothing before it.
    let later = violation.at_ms + 500;
    take(&mut best, &|job| job.less.faults_until_ms = Some(later));
    let mut faults = best.less.faults.clone().unwrap_or_else(|| (1..=plan.faults.len()).collect());
    let mut part = faults.len();
    while part > 0 && !faults.is_empty() {
        let mut at = 0;
        while at < faults.len() {
            let mut fewer = faults.clone();
            fewer.drain(at..(at + part).min(faults.len()));
            if take(&mut best, &|job| job.less.faults = Some(fewer.clone())) {
                faults = fewer;
            } else {
                at += part;
            }
        }
        part /= 2;
    }
    let mut workloads: Vec<String> = plan.workloads.iter().map(|name| (*name).to_owned()).collect();
    for name in plan.workloads.iter().copied() {
        let fewer: Vec<_> = workloads.iter().filter(|kept| *kept != name).cloned().collect();
        if !fewer.is_empty() && take(&mut best, &|job| job.less.workloads = Some(fewer.clone())) {
            workloads = fewer;
        }
    }
    for most in [2, 5, 10, 20, 50, 100, 200, 500] {
        if take(&mut best, &|job| job.less.operations_max = Some(most)) {
            break;
        }
    }
    Some(best)
}
