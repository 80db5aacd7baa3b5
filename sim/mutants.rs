//! Deliberate bugs in the product, kept as patches in `sim/mutants/`: a simulator that does not
//! notice them proves nothing about the code without them.
//!
//! Each is applied to a copy of the tree, built there, and run on fresh seeds until a check fails.
//! The copy has one place for all mutants, so that cargo compiles nothing anew but this package.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io};

use crate::pool::{self, Job};
use crate::report::Violation;

/// Seeds after which a mutant counts as not noticed.
const SEEDS_MAX: u64 = 200;
/// What of the tree is not copied. Cargo's settings hold for the copy too, since it lies within; twice
/// they would be others.
const NOT_COPIED: [&str; 5] = [".cargo", ".git", "target", "quorate-data", "quorate-dev"];
/// How a mutant that was built is run again without compiling anything.
const BUILT_WITH: &str = "CARGO_TARGET_DIR=../target CARGO_PROFILE_DEV_OPT_LEVEL=1";
/// Seeds between two lines of progress.
const PROGRESS: u64 = 10;

/// How to run them.
pub(crate) struct Options {
    /// Seeds for each mutant.
    pub(crate) seeds_max: Option<u64>,
    /// The first seed of each.
    pub(crate) from: u64,
    /// Processes at once.
    pub(crate) cores: usize,
}

/// A deliberate bug: a patch with a header of `key: value` lines before its first diff.
pub(crate) struct Mutant {
    pub(crate) name: String,
    /// What is wrong with the code, in a sentence.
    pub(crate) about: String,
    patch: PathBuf,
}

/// What became of a mutant.
enum Verdict {
    Caught {
        seed: u64,
        violation: Violation,
    },
    /// The seed fails without the mutant too, so it says nothing.
    Sick {
        seed: u64,
        violation: Violation,
    },
    Missed,
    NotBuilt(String),
}

struct Outcome {
    name: String,
    verdict: Verdict,
    seeds: u64,
    wall: Duration,
}

/// The tree that this program was built from.
fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.canonicalize().unwrap_or_else(|_| root.to_owned())
}

/// All mutants, by name.
pub(crate) fn all() -> Vec<Mutant> {
    let entries = fs::read_dir(root().join("sim/mutants")).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path()).filter(|path| path.extension() == Some(OsStr::new("patch")));
    let mut all: Vec<_> = paths.filter_map(Mutant::read).collect();
    all.sort_by(|left, right| left.name.cmp(&right.name));
    all
}

impl Mutant {
    fn read(patch: PathBuf) -> Option<Self> {
        let text = fs::read_to_string(&patch).ok()?;
        let header = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim();
        let (name, about) = (header("name:").to_owned(), header("about:").to_owned());
        Some(Self { name, about, patch })
    }
}

/// Runs the named mutants, or all. Succeeds only if every one is noticed.
pub(crate) fn execute(names: &[String], options: &Options) -> ExitCode {
    let mut mutants = all();
    if let Some(unknown) = names.iter().find(|name| mutants.iter().all(|mutant| mutant.name != **name)) {
        eprintln!("there is no mutant {unknown}; --list names them");
        return ExitCode::from(2);
    }
    if !names.is_empty() {
        mutants.retain(|mutant| names.contains(&mutant.name));
    }
    let count = mutants.len();
    println!("{count} mutants, each on at most {} seeds from {}", options.seeds(), options.from);
    let outcomes: Vec<_> = (1..)
        .zip(&mutants)
        .map(|(number, mutant)| {
            eprintln!("mutant {number} of {count}: {}: {}", mutant.name, mutant.about);
            let outcome = mutant.run(options);
            eprintln!("  {}", outcome.row());
            outcome
        })
        .collect();
    print_table(&outcomes);
    let caught = outcomes.iter().filter(|outcome| matches!(outcome.verdict, Verdict::Caught { .. })).count();
    println!("\n{caught} of {count} mutants noticed");
    if caught == count && count > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Options {
    fn seeds(&self) -> u64 {
        self.seeds_max.unwrap_or(SEEDS_MAX)
    }
}

impl Mutant {
    #[allow(clippy::disallowed_methods, reason = "wall time for people")]
    fn run(&self, options: &Options) -> Outcome {
        let began = Instant::now();
        let (verdict, seeds) = match self.build() {
            Ok(program) => {
                eprintln!("  built in {} s", began.elapsed().as_secs());
                self.hunt(&program, options)
            }
            Err(why) => (Verdict::NotBuilt(why), 0),
        };
        Outcome { name: self.name.clone(), verdict, seeds, wall: began.elapsed() }
    }

    /// Runs fresh seeds until a check fails. A check that ran out of time is no failure.
    fn hunt(&self, program: &Path, options: &Options) -> (Verdict, u64) {
        let mut seeds = options.from..options.from + options.seeds();
        let (mut ran, mut found) = (0, None);
        pool::run_all(
            program,
            options.cores,
            move || seeds.next().map(Job::seed),
            |job, report| {
                ran += 1;
                found = report.violation.map(|violation| (job.seed, violation));
                if ran % PROGRESS == 0 {
                    eprintln!("  {ran} seeds of {}", self.name);
                }
                found.is_none()
            },
        );
        let Some((seed, violation)) = found else { return (Verdict::Missed, ran) };
        // A seed that fails anyway is no proof.
        let healthy = std::env::current_exe().map(|program| pool::run_alone(&program, &Job::seed(seed)));
        match healthy.map(|report| report.violation) {
            Ok(None) => (Verdict::Caught { seed, violation }, ran),
            Ok(Some(violation)) => (Verdict::Sick { seed, violation }, ran),
            Err(error) => (Verdict::NotBuilt(error.to_string()), ran),
        }
    }

    /// Builds the simulator with this mutant in it.
    fn build(&self) -> Result<PathBuf, String> {
        let (root, place) = (root(), root().join("target/mutants"));
        let source = place.join("src");
        copy(&root, &source, &NOT_COPIED).map_err(|error| format!("copying the tree: {error}"))?;
        let apply = Command::new("git")
            .args(["apply", "-p1"])
            .arg(&self.patch)
            .current_dir(&source)
            // The copy lies within a repository, and the patch is not meant for that one.
            .env("GIT_CEILING_DIRECTORIES", &place)
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .stdin(Stdio::null())
            .output();
        let apply = apply.map_err(|error| format!("git does not start: {error}"))?;
        if !apply.status.success() {
            return Err(format!("the patch does not apply: {}", String::from_utf8_lossy(&apply.stderr)));
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--test", "sim", "--locked", "--message-format=json-render-diagnostics"])
            .current_dir(&source)
            .env("CARGO_TARGET_DIR", place.join("target"))
            // Most are noticed within a few seeds, so compiling takes most of the time.
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
            .stdin(Stdio::null())
            .output();
        let built = built.map_err(|error| format!("cargo does not start: {error}"))?;
        if !built.status.success() {
            return Err(format!("it does not compile: {}", String::from_utf8_lossy(&built.stderr)));
        }
        executable(&built.stdout).ok_or_else(|| "cargo names no executable".to_owned())
    }
}

/// The simulator's executable among cargo's messages.
fn executable(messages: &[u8]) -> Option<PathBuf> {
    let messages = String::from_utf8_lossy(messages);
    let mut messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    messages.find_map(|message| {
        let ours = message["target"]["name"] == "sim" && message["target"]["kind"][0] == "test";
        ours.then(|| message["executable"].as_str().map(PathBuf::from))?
    })
}

/// Makes `to` the same as `from`. Files that are the same already are left alone: cargo goes by when
/// they were written.
fn copy(from: &Path, to: &Path, but: &[&str]) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let mut kept = Vec::new();
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        if but.iter().any(|but| name == *but) || !(kind.is_dir() || kind.is_file()) {
            continue;
        }
        let target = to.join(&name);
        if kind.is_dir() {
            copy(&entry.path(), &target, &[])?;
        } else {
            let content = fs::read(entry.path())?;
            if fs::read(&target).ok().as_ref() != Some(&content) {
                fs::write(&target, content)?;
            }
        }
        kept.push(name);
    }
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if kept.contains(&entry.file_name()) {
            continue;
        }
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    Ok(())
}

impl Outcome {
    fn row(&self) -> String {
        let said = match &self.verdict {
            Verdict::Caught { seed, violation } => format!("{} (seed {seed})", violation.check),
            Verdict::Sick { seed, violation } => {
                format!("NOT NOTICED: seed {seed} fails without it too: {}", violation.check)
            }
            Verdict::Missed => "NOT NOTICED".to_owned(),
            Verdict::NotBuilt(_) => "NOT BUILT".to_owned(),
        };
        format!("{:<28} {:>5} {:>7}  {said}", self.name, self.seeds, self.wall.as_secs())
    }
}

fn print_table(outcomes: &[Outcome]) {
    println!("\n{:<28} {:>5} {:>7}  caught by", "mutant", "seeds", "wall s");
    outcomes.iter().for_each(|outcome| println!("{}", outcome.row()));
    for outcome in outcomes {
        match &outcome.verdict {
            Verdict::NotBuilt(why) => println!("\n{}: {why}", outcome.name),
            Verdict::Caught { seed, violation } | Verdict::Sick { seed, violation } => {
                let shortened: String = violation.detail.chars().take(300).collect();
                println!("\n{}: {} at {} ms: {shortened}", outcome.name, violation.check, violation.at_ms);
                println!("  replay, after building it again with --mutants {} --from {seed} --seeds 1:", outcome.name);
                println!("  (cd target/mutants/src && {BUILT_WITH} cargo test --test sim -- --seed {seed} --trace)");
            }
            Verdict::Missed => {}
        }
    }
}
