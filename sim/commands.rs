//! The command line: the budget of CI, long runs, replays, shrinking.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{ArgGroup, Parser};

use crate::many::Many;
use crate::plan::{Less, Plan};
use crate::pool::{self, Job};
use crate::total::Total;
use crate::trace::{Lines, Trace};
use crate::{many, mutants, panics, run, scenario, shrink};

/// Simulates clusters under faults and checks what clients and replicas saw.
///
/// Without arguments: fresh seeds twice, all named scenarios, then fresh seeds for 450 s.
#[derive(Parser, Debug)]
#[command(name = "cargo test --test sim --", after_help = EXAMPLES)]
#[command(group = ArgGroup::new("one").args(["seed", "scenario"]))]
pub(crate) struct Arguments {
    /// Run so many fresh seeds; stop at the first failure.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "one")]
    seeds: Option<u64>,
    /// Run fresh seeds for so long, for instance 90s, 30m, 2h; stop at the first failure.
    #[arg(long = "for", value_name = "TIME", value_parser = duration, conflicts_with_all = ["one", "seeds"])]
    run_for: Option<Duration>,
    /// The first of the fresh seeds; random unless given.
    #[arg(long, value_name = "SEED", conflicts_with = "one")]
    from: Option<u64>,
    /// Replay one seed.
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Run one named scenario.
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// Build the deliberate bugs of sim/mutants, or those named, and see that each is noticed.
    #[arg(long, value_name = "NAME", num_args = 0.., conflicts_with_all = ["one", "run_for"])]
    mutants: Option<Vec<String>>,
    /// List the named scenarios, the faults, the workloads and the mutants.
    #[arg(long, conflicts_with_all = ["one", "seeds", "run_for", "mutants"])]
    list: bool,
    /// Print the trace of the one run.
    #[arg(long, requires = "one")]
    trace: bool,
    /// With --trace: also what each replica wrote, voted and applied.
    #[arg(long, requires = "trace")]
    events: bool,
    /// Make the failure of the one run smaller.
    #[arg(long, requires = "one", conflicts_with = "trace")]
    shrink: bool,
    /// Keep only these faults of the plan, by number.
    #[arg(long, value_name = "NUMBERS", value_parser = numbers, requires = "one")]
    faults: Option<Numbers>,
    /// Run these workloads and no others.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "one")]
    workloads: Option<Vec<String>>,
    /// Operations that each client may begin.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), requires = "one")]
    operations: Option<u64>,
    /// End faults and new operations at this simulated time.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..), requires = "one")]
    until_ms: Option<u64>,
    /// Processes at once; all cores unless given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    #[arg(long, hide = true)]
    child: bool,
    #[arg(long, hide = true)]
    hashed: bool,
    /// Names of tests, as `cargo test NAME` passes them on: this one is `sim`.
    #[arg(hide = true, conflicts_with_all = ["one", "seeds", "run_for", "from", "mutants", "list"])]
    names: Vec<String>,
    #[arg(long, hide = true)]
    nocapture: bool,
    #[arg(long, hide = true)]
    test_threads: Option<usize>,
}

const EXAMPLES: &str = "Examples:
  cargo test --test sim                                      what CI runs
  cargo test --test sim -- --for 2h                          a long run on all cores
  cargo test --test sim -- --seed 7 --trace                  replay a seed, with its trace
  cargo test --test sim -- --seed 7 --shrink                 the same failure with less
  cargo test --test sim -- --scenario carrying-without-gain  one named scenario
  cargo test --test sim -- --mutants                         are deliberate bugs noticed?";

/// Numbers of faults; none is a list, too.
#[derive(Clone, Debug)]
struct Numbers(Vec<usize>);

fn numbers(text: &str) -> Result<Numbers, String> {
    let parts = text.split(',').filter(|part| !part.is_empty()).map(str::parse);
    parts.collect::<Result<_, _>>().map(Numbers).map_err(|_| "numbers with commas between, for instance 1,4".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().map_err(|_| "a number and s, m or h, for instance 30m".to_owned())?;
    match unit {
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 3_600)),
        _ => Err("a number and s, m or h, for instance 30m".to_owned()),
    }
}

impl Arguments {
    pub(crate) fn execute(self) -> ExitCode {
        if self.child {
            return self.child_run();
        }
        if !self.names.is_empty() && !self.names.iter().any(|name| "sim".contains(name.as_str())) {
            println!("sim: not asked for");
            return ExitCode::SUCCESS;
        }
        if self.list {
            list();
            return ExitCode::SUCCESS;
        }
        if let Some(names) = &self.mutants {
            let from = self.from.unwrap_or_else(fresh_seed);
            let cores = self.cores();
            return mutants::execute(names, &mutants::Options { seeds_max: self.seeds, from, cores });
        }
        if self.seed.is_some() || self.scenario.is_some() {
            return self.one();
        }
        let mut many = Many::new(self.from.unwrap_or_else(fresh_seed), self.cores());
        let limits = (self.seeds, self.run_for);
        let finished = match limits {
            (None, None) => many.twice() && many.scenarios() && many.fresh(None, Some(many::BUDGET)),
            (seeds, run_for) => many.fresh(seeds, run_for),
        };
        many.end(finished, limits == (None, None))
    }

    fn cores(&self) -> usize {
        self.jobs.map_or_else(pool::cores, usize::from)
    }

    fn job(&self) -> Job {
        let less = Less {
            faults: self.faults.as_ref().map(|kept| kept.0.clone()),
            workloads: self.workloads.clone(),
            operations_max: self.operations,
            faults_until_ms: self.until_ms,
        };
        Job { seed: self.seed.unwrap_or(0), scenario: self.scenario.clone(), less, hashed: false }
    }

    fn plan(&self) -> Option<Plan> {
        let plan = match &self.scenario {
            None => Plan::draw(self.seed.unwrap_or(0)),
            Some(name) => {
                let Some(found) = scenario::find(name) else {
                    eprintln!("there is no scenario {name}; --list names them");
                    return None;
                };
                (found.plan)()
            }
        };
        let less = self.job().less;
        if let Err(why) = less.fits(&plan) {
            eprintln!("{why}");
            return None;
        }
        Some(plan.without(&less))
    }

    /// One run in this process, its report as the last line.
    fn child_run(&self) -> ExitCode {
        panics::install();
        let Some(plan) = self.plan() else { return ExitCode::from(2) };
        let lines = if self.hashed { Lines::Hashed } else { Lines::Off };
        let report = run::run(&plan, &Trace::new(lines, Box::new(std::io::sink())));
        println!("{}", serde_json::to_string(&report).unwrap());
        ExitCode::SUCCESS
    }

    /// One run that a person asked for.
    fn one(&self) -> ExitCode {
        let Some(plan) = self.plan() else { return ExitCode::from(2) };
        let program = std::env::current_exe().unwrap();
        let job = self.job();
        if self.shrink {
            return match shrink::shrink(&program, &job, &plan) {
                Some(smaller) => {
                    println!("smallest: {}", smaller.replay());
                    ExitCode::FAILURE
                }
                None => {
                    println!("{} does not fail: there is nothing to shrink", job.shown());
                    ExitCode::from(2)
                }
            };
        }
        #[allow(clippy::disallowed_methods, reason = "wall time for people")]
        let began = Instant::now();
        let report = if self.trace {
            panics::install();
            let lines = if self.events { Lines::PrintedWithEvents } else { Lines::Printed };
            run::run(&plan, &Trace::new(lines, Box::new(std::io::stdout())))
        } else {
            pool::run_alone(&program, &job)
        };
        let mut total = Total::default();
        let clean = total.add(job, &report);
        total.print_tables();
        total.print_failed();
        println!("{}", total.summary(began.elapsed()));
        if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn list() {
    println!("scenarios");
    for scenario in scenario::ALL {
        println!("  {:<40} {}", scenario.name, scenario.about);
    }
    println!("faults, and the rows that they count");
    crate::fault::KINDS.iter().for_each(|kind| println!("  {:<40} {}", kind.name, kind.counts.join(", ")));
    println!("workloads");
    crate::workload::ALL.iter().for_each(|(name, _)| println!("  {name}"));
    println!("mutants");
    mutants::all().iter().for_each(|mutant| println!("  {:<40} {}", mutant.name, mutant.about));
}

fn fresh_seed() -> u64 {
    quorate::env::chance::bits() >> 20
}
