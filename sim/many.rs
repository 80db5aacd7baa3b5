//! Many runs: the budget of CI, and long runs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::pool::{self, Job};
use crate::report::Report;
use crate::scenario;
use crate::total::Total;

/// Wall time of the fresh seeds of a run without arguments.
pub(crate) const BUDGET: Duration = Duration::from_secs(450);
/// Fresh seeds that are run twice to compare their traces.
const TWICE: usize = 4;
/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(15);

/// Many runs.
pub(crate) struct Many {
    program: PathBuf,
    cores: usize,
    next_seed: u64,
    began: Instant,
    total: Total,
}

impl Many {
    #[allow(clippy::disallowed_methods, reason = "wall time for people")]
    pub(crate) fn new(from: u64, cores: usize) -> Self {
        println!("fresh seeds from {from}");
        Self {
            program: std::env::current_exe().unwrap(),
            cores,
            next_seed: from,
            began: Instant::now(),
            total: Total::default(),
        }
    }

    fn take_seed(&mut self) -> u64 {
        self.next_seed += 1;
        self.next_seed - 1
    }

    /// Runs fresh seeds twice and compares the traces.
    pub(crate) fn twice(&mut self) -> bool {
        let seeds: Vec<_> = (0..TWICE).map(|_| self.take_seed()).collect();
        let job = |seed: &u64| Job { hashed: true, ..Job::seed(*seed) };
        let mut jobs: Vec<_> = seeds.iter().chain(&seeds).map(job).collect();
        let mut hashes = std::collections::BTreeMap::<u64, Vec<Option<u64>>>::new();
        let clean = self.run(
            move || jobs.pop(),
            |job, report| {
                hashes.entry(job.seed).or_default().push(report.trace_hash);
            },
        );
        for (seed, hashes) in hashes {
            if clean && (hashes.len() != 2 || hashes[0].is_none() || hashes[0] != hashes[1]) {
                println!("seed {seed} does not replay: its traces hash to {hashes:x?}");
                self.total.violations += 1;
                return false;
            }
        }
        println!("{TWICE} fresh seeds, each run twice: the same traces, byte for byte");
        clean
    }

    /// Runs every named scenario.
    pub(crate) fn scenarios(&mut self) -> bool {
        let mut left =
            scenario::ALL.iter().map(|scenario| Job { scenario: Some(scenario.name.to_owned()), ..Job::default() });
        let clean = self.run(move || left.next(), |_, _| {});
        println!("{} named scenarios", scenario::ALL.len());
        clean
    }

    /// Runs fresh seeds, until there were enough or the time is over.
    pub(crate) fn fresh(&mut self, seeds: Option<u64>, run_for: Option<Duration>) -> bool {
        #[allow(clippy::disallowed_methods, reason = "wall time for people")]
        let began = Instant::now();
        let mut next = self.next_seed;
        let last = seeds.map(|seeds| next + seeds);
        self.run(
            move || {
                let over =
                    run_for.is_some_and(|limit| began.elapsed() >= limit) || last.is_some_and(|last| next >= last);
                (!over).then(|| {
                    next += 1;
                    Job::seed(next - 1)
                })
            },
            |_, _| {},
        )
    }

    /// Runs jobs; stops at a failure. Returns whether all were clean.
    fn run(&mut self, next: impl FnMut() -> Option<Job> + Send, mut each: impl FnMut(&Job, &Report) + Send) -> bool {
        let (began, total) = (self.began, &mut self.total);
        let mut said = began.elapsed();
        pool::run_all(&self.program, self.cores, next, |job, report| {
            each(&job, &report);
            let clean = total.add(job, &report);
            if began.elapsed() - said > PROGRESS {
                said = began.elapsed();
                eprintln!("{:>6} s  {}", said.as_secs(), total.summary(said));
            }
            clean
        });
        self.total.failed.is_empty()
    }

    /// Prints what was seen. Success only if all was clean and, where that is asked, every kind of
    /// fault has fired.
    pub(crate) fn end(self, finished: bool, all_must_fire: bool) -> ExitCode {
        self.total.print_tables();
        self.total.print_failed();
        let silent = self.total.never_fired();
        let silent_fails = finished && all_must_fire && !silent.is_empty();
        if silent_fails {
            println!("\nfaults that never fired: {silent:?}");
        }
        println!("\n{}", self.total.summary(self.began.elapsed()));
        if finished && !silent_fails { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
