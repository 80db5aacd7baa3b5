//! One run: clients and faults, then the healing, then everything must be there and agree.

use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::chance::Chance;
use crate::converge::{self, Apart, Comparison};
use crate::fault::Fault;
use crate::invariant::Invariants;
use crate::plan::Plan;
use crate::report::{Report, Seen};
use crate::retired::Retired;
use crate::trace::Trace;
use crate::workload::{self, Setup, Workload};
use crate::world::{CLIENT_HOSTS, World};

/// Simulated time that clients have to finish what they began before the healing.
const FINISH_MAX: Duration = Duration::from_secs(40);
/// Simulated time that the last checks may take.
const CHECKS_MAX: Duration = Duration::from_secs(60);

const SAME_STATE: &str = "the same entries make the same state";
const NOTHING_BEHIND: &str = "nothing changes behind a fence";

/// Runs a plan. A panic in it is a violation.
pub(crate) fn run(plan: &Plan, trace: &Trace) -> Report {
    let seen = Seen::default();
    let result = tracing::subscriber::with_default(trace.clone(), || {
        std::panic::catch_unwind(AssertUnwindSafe(|| Run::new(plan, trace, &seen).whole()))
    });
    trace.flush();
    let simulated = match result {
        Ok(simulated) => simulated,
        Err(panic) => {
            let said = crate::panics::last().unwrap_or_else(|| format!("{panic:?}"));
            seen.violation("panic", said);
            Duration::ZERO
        }
    };
    let mut report = seen.report();
    report.seed = plan.seed;
    report.simulated_ms = u64::try_from(simulated.as_millis()).unwrap_or(u64::MAX);
    report.trace_hash = trace.hash();
    report
}

struct Run<'a> {
    plan: &'a Plan,
    trace: &'a Trace,
    seen: Seen,
    world: World,
    invariants: Invariants,
    comparison: Comparison,
    retired: Retired,
    workloads: Vec<Rc<dyn Workload>>,
    /// By number in the plan: not begun, running, over.
    faults: Vec<State>,
}

enum State {
    Waiting,
    Running(Box<dyn Fault>),
    Over,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, trace: &'a Trace, seen: &Seen) -> Self {
        for line in plan.describe() {
            tracing::info!("{line}");
        }
        let world = World::new(plan.seed, plan.topology.clone(), seen.clone());
        let wanted = workload::ALL.iter().filter(|(name, _)| plan.workloads.contains(name));
        let workloads = wanted.map(|(name, make)| make(Chance::new(plan.seed, name))).collect();
        let faults = plan.faults.iter().map(|_| State::Waiting).collect();
        let invariants = Invariants::new(seen.clone());
        Self {
            plan,
            trace,
            seen: seen.clone(),
            world,
            invariants,
            comparison: Comparison::default(),
            retired: Retired::default(),
            workloads,
            faults,
        }
    }

    fn whole(mut self) -> Duration {
        let finished = self.start_clients("clients", |workload, setup| workload.clients(setup));
        self.step_until(|run| run.world.sim.elapsed() >= run.plan.faults_until, None);
        self.heal();
        let done = finished.clone();
        self.step_until(move |_| done.get() == CLIENT_HOSTS.len(), Some(("clients finish", FINISH_MAX)));
        self.converge();
        // The last fault is over for long: from here on none explains the end of a process.
        self.world.forgive();
        let checked = self.start_clients("checks", |workload, setup| vec![workload.check(setup)]);
        self.step_until(move |_| checked.get() == CLIENT_HOSTS.len(), Some(("service after the healing", CHECKS_MAX)));
        self.converge();
        self.world.sim.elapsed()
    }

    /// Starts tasks on the client hosts. Returns how many hosts are done.
    fn start_clients(
        &mut self,
        what: &'static str,
        tasks: impl Fn(Rc<dyn Workload>, &Setup) -> Vec<workload::Task>,
    ) -> Rc<std::cell::Cell<usize>> {
        let done = Rc::new(std::cell::Cell::new(0));
        for (at, host) in CLIENT_HOSTS.into_iter().enumerate() {
            let setup = self.setup(host);
            let mine = self.workloads.iter().enumerate().filter(|(number, _)| number % CLIENT_HOSTS.len() == at);
            let mine: Vec<_> = mine.flat_map(|(_, workload)| tasks(workload.clone(), &setup)).collect();
            let done = done.clone();
            let name = if what == "clients" { host.to_owned() } else { format!("{host}-{what}") };
            self.world.sim.client(name, async move {
                join_all(mine.into_iter().map(tokio::task::spawn_local)).await;
                done.set(done.get() + 1);
                Ok(())
            });
        }
        done
    }

    fn setup(&self, host: &'static str) -> Setup {
        Setup {
            seen: self.seen.clone(),
            endpoints: self.world.endpoints(),
            is_static: self.plan.topology.spares.is_empty(),
            entry_bytes_max: self.plan.topology.log_segment_bytes / 2,
            until: self.plan.faults_until,
            operations_max: self.plan.operations_max,
            think_ms: self.plan.think_ms,
            seed: self.plan.seed,
            host,
            network: self.world.network.clone(),
        }
    }

    /// Steps until something is so; a limit makes its absence a violation.
    fn step_until(&mut self, is_so: impl Fn(&Self) -> bool, limit: Option<(&str, Duration)>) {
        let began = self.world.sim.elapsed();
        while !self.seen.is_violated() && !is_so(self) {
            if let Some((what, limit)) = limit
                && self.world.sim.elapsed() - began > limit
            {
                return self.seen.violation(what, format!("not within {limit:?} of simulated time"));
            }
            self.step();
        }
    }

    fn step(&mut self) {
        self.change_faults();
        self.world.step();
        let observed = self.trace.take_observed();
        self.invariants.observe(&observed);
        match self.retired.look(&self.world, &observed) {
            Ok(compared) => self.seen.held(NOTHING_BEHIND, compared),
            Err(changed) => self.seen.violation(NOTHING_BEHIND, changed),
        }
        self.world.recent = observed;
        match self.comparison.sample(&self.world) {
            Ok(compared) => self.seen.held(SAME_STATE, compared),
            Err(apart) => self.seen.violation(SAME_STATE, apart),
        }
        self.invariants.sample(&self.world);
    }

    fn change_faults(&mut self) {
        let now_ms = crate::now_ms();
        for (number, (planned, state)) in (1..).zip(self.plan.faults.iter().zip(&mut self.faults)) {
            match state {
                State::Waiting if planned.at_ms <= now_ms && now_ms < planned.ends_ms => {
                    let mut fault = (planned.kind.make)(Chance::new(planned.seed, planned.kind.name));
                    tracing::info!("FAULT {number} begins: {}", planned.kind.name);
                    fault.begin(&mut self.world);
                    *state = State::Running(fault);
                }
                State::Running(fault) if planned.ends_ms <= now_ms => {
                    tracing::info!("FAULT {number} over: {}", planned.kind.name);
                    fault.end(&mut self.world);
                    *state = State::Over;
                }
                State::Running(fault) => fault.tick(&mut self.world),
                State::Waiting | State::Over => {}
            }
        }
    }

    /// Ends all faults and starts what is down.
    fn heal(&mut self) {
        tracing::info!("HEAL");
        for state in &mut self.faults {
            if let State::Running(fault) = state {
                fault.end(&mut self.world);
            }
            *state = State::Over;
        }
        for name in self.world.names() {
            self.world.resume(&name);
            self.world.start(&name);
        }
    }

    /// All replicas must come to agree, in bounded time.
    fn converge(&mut self) {
        if self.seen.is_violated() {
            return;
        }
        let began = self.world.sim.elapsed();
        let mut apart = String::new();
        while !self.seen.is_violated() && self.world.sim.elapsed() - began < converge::WITHIN {
            for _ in 0..100 {
                self.step();
            }
            match converge::check(&self.world) {
                Ok(groups) => return self.seen.held("replicas agree after the healing", groups),
                Err(Apart::Yet(why)) => apart = why,
                Err(Apart::ForEver(why)) => return self.seen.violation(SAME_STATE, why),
            }
        }
        self.seen.violation("replicas agree after the healing", apart);
    }
}
