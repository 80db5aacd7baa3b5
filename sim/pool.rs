//! Many runs on all cores, a process each: tokio numbers tasks for the whole process, and the order in
//! which a crash drops them depends on their numbers, so only a process of its own replays a run.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::plan::Less;
use crate::report::{Report, Violation};

/// Wall time after which a run counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(600);

/// What a process is to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) seed: u64,
    pub(crate) scenario: Option<String>,
    pub(crate) less: Less,
    /// Also hash the trace.
    pub(crate) hashed: bool,
}

impl Job {
    pub(crate) fn seed(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// The arguments that name this run.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = match &self.scenario {
            Some(name) => vec!["--scenario".to_owned(), name.clone()],
            None => vec!["--seed".to_owned(), self.seed.to_string()],
        };
        let mut add = |flag: &str, value: Option<String>| {
            if let Some(value) = value {
                arguments.extend([flag.to_owned(), value]);
            }
        };
        let numbers = |kept: &Vec<usize>| kept.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        add("--faults", self.less.faults.as_ref().map(numbers));
        add("--workloads", self.less.workloads.as_ref().map(|kept| kept.join(",")));
        add("--operations", self.less.operations_max.map(|max| max.to_string()));
        add("--until-ms", self.less.faults_until_ms.map(|until| until.to_string()));
        arguments
    }

    /// The same for a shell.
    pub(crate) fn shown(&self) -> String {
        let quoted = self.arguments().into_iter().map(|part| match part.is_empty() || part.contains(' ') {
            true => format!("'{part}'"),
            false => part,
        });
        quoted.collect::<Vec<_>>().join(" ")
    }

    /// The command that replays this run with its trace.
    pub(crate) fn replay(&self) -> String {
        format!("cargo test --test sim -- {} --trace", self.shown())
    }
}

/// Runs one job in a process of its own.
pub(crate) fn run_alone(program: &Path, job: &Job) -> Report {
    let mut command = Command::new(program);
    command.arg("--child").args(job.arguments()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if job.hashed {
        command.arg("--hashed");
    }
    let report = command.spawn().map_err(|error| format!("cannot start {}: {error}", program.display()));
    report.and_then(|child| wait(child, job)).unwrap_or_else(|detail| {
        // A panic while another one unwinds ends the process before it can report.
        let check = if detail.contains("panicked at") { "panic" } else { "the run ends" };
        let violation = Some(Violation { check: check.to_owned(), detail, at_ms: 0 });
        Report { seed: job.seed, violation, ..Report::default() }
    })
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    #[allow(clippy::disallowed_methods, reason = "outside of the simulation")]
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What could be read before an error still says something.
        pipe.and_then(|mut pipe| pipe.read_to_end(&mut bytes).ok());
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[allow(clippy::disallowed_methods, reason = "wall time of real processes")]
fn wait(mut child: Child, job: &Job) -> Result<Report, String> {
    let (report, said) = (reader(child.stdout.take()), reader(child.stderr.take()));
    let began = Instant::now();
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if began.elapsed() > STUCK_AFTER => {
                child.kill().map_err(|error| error.to_string())?;
                child.wait().map_err(|error| error.to_string())?;
                return Err(format!("seed {}: no end within {STUCK_AFTER:?} of wall time", job.seed));
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let report = report.join().map_err(|_| "no output")?;
    let said = said.join().map_err(|_| "no output")?;
    serde_json::from_str(report.lines().last().unwrap_or_default())
        .map_err(|_| format!("seed {}: the process ended with {status}: {}", job.seed, said.trim()))
}

/// Runs jobs on all cores until `next` has no more. Reports come in the order in which runs end;
/// `each` says whether to go on.
pub(crate) fn run_all(
    program: &Path,
    cores: usize,
    next: impl FnMut() -> Option<Job> + Send,
    each: impl FnMut(Job, Report) -> bool + Send,
) {
    let next = Mutex::new(next);
    let each = Mutex::new((each, true));
    let (next, each) = (&next, &each);
    #[allow(clippy::disallowed_methods, reason = "a thread for each core")]
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(move || {
                loop {
                    if !each.lock().unwrap().1 {
                        return;
                    }
                    let Some(job) = (next.lock().unwrap())() else { return };
                    let report = run_alone(program, &job);
                    let (each, goes_on) = &mut *each.lock().unwrap();
                    if *goes_on && !each(job, report) {
                        *goes_on = false;
                    }
                }
            });
        }
    });
}

/// Cores of this machine.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
