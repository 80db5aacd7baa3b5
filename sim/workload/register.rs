//! Registers under concurrent clients: every answer must be explained by one order of operations a
//! key, reads of old revisions must show them, and revisions must rise.

mod caller;
mod calls;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use quorate::client::{Consistency, Error, Outcome, Record};

use self::caller::Caller;
use super::{Setup, Task, Workload};
use crate::chance::Chance;
use crate::history::{Answer, Before, Called, Effect, History, Shown, Value, When};
use crate::linear::past::{self, PastRead};
use crate::linear::stale::Moments;
use crate::linear::{self, Verdict};

const NAME: &str = "register";
const PREFIX: &str = "register/";
/// Steps of the search for an order of one key: far more than any sound history was seen to need.
const STEPS_MAX: u64 = 1_500_000;
/// Wall time of the search for one key, for machines that are too slow for that many.
const SEARCH_MAX: Duration = Duration::from_secs(60);
/// Old revisions of each key that the last check reads again.
const PAST_READS: u64 = 8;

/// What the clients did and know.
struct Registers {
    keys: Vec<String>,
    clients: u64,
    history: RefCell<History>,
    moments: RefCell<Moments>,
    past: RefCell<BTreeMap<String, Vec<PastRead>>>,
    /// What an answer showed last of each key: what conditions are made of.
    last: RefCell<BTreeMap<String, Shown>>,
    /// The highest revision that any answer told: the shard has reached it.
    revision: Cell<u64>,
    last_value: Cell<Value>,
    last_client: Cell<u64>,
}

pub(super) fn make(chance: Chance) -> Rc<dyn Workload> {
    Rc::new(Registers {
        keys: (0..chance.between(2, 6)).map(|number| format!("{PREFIX}{number}")).collect(),
        clients: chance.between(3, 7),
        history: RefCell::default(),
        moments: RefCell::default(),
        past: RefCell::default(),
        last: RefCell::default(),
        revision: Cell::new(1),
        last_value: Cell::new(0),
        last_client: Cell::new(0),
    })
}

impl Workload for Registers {
    fn clients(self: Rc<Self>, setup: &Setup) -> Vec<Task> {
        (0..self.clients).map(|number| Box::pin(self.clone().work(number, setup.clone())) as Task).collect()
    }

    fn check(self: Rc<Self>, setup: &Setup) -> Task {
        let setup = setup.clone();
        Box::pin(async move {
            if let Err(why) = self.read_back(&setup).await {
                return setup.seen.violation("service after the healing", why);
            }
            self.judge(&setup);
        })
    }
}

impl Registers {
    /// One client after the other: whoever is left without an answer is never heard of again.
    async fn work(self: Rc<Self>, number: u64, setup: Setup) {
        let chance = setup.chance(&format!("register {number}"));
        let timeout = Duration::from_millis(*chance.pick(&[800, 2_000, 5_000]));
        let Some(client) = setup.client(timeout).await else { return };
        let mut caller = Caller::new(self.take_client(), client, chance.percent(50));
        for _ in 0..setup.operations_max {
            if setup.is_over() {
                break;
            }
            if !self.operate(&caller, &chance, &setup).await {
                caller = caller.successor(self.take_client(), chance.percent(50));
            }
            setup.think(&chance).await;
        }
        caller.close().await;
    }

    /// Reads everything again, once all is well: what was lost or came back shows here.
    async fn read_back(&self, setup: &Setup) -> Result<(), String> {
        let chance = setup.chance("register check");
        let client = setup.client(Duration::from_secs(20)).await.ok_or("no node answers")?;
        let caller = Caller::new(self.take_client(), client, false);
        for key in &self.keys {
            for consistency in [Consistency::Linearizable, Consistency::Follower] {
                let read = self.get(&caller, key, consistency, setup).await;
                read.map_err(|error| format!("{key}, {consistency:?}: {error}"))?;
            }
            for _ in 0..PAST_READS {
                let revision = chance.between(1, self.revision.get() + 1);
                self.get_past(&caller, key, revision, setup).await.map_err(|error| format!("{key}: {error}"))?;
            }
        }
        self.scan(&caller, 0, &chance, setup).await.map_err(|error| format!("scan: {error}"))
    }

    fn judge(&self, setup: &Setup) {
        let (keys, past) = (self.history.borrow().by_key(), self.past.borrow());
        let mut checked = past.values().map(|reads| reads.len() as u64).sum();
        for (key, history) in &keys {
            checked += history.operations.len() as u64;
            #[allow(clippy::disallowed_methods, reason = "wall time of the check, after the run")]
            let began = Instant::now();
            match linear::check(history, STEPS_MAX, &mut || began.elapsed() > SEARCH_MAX) {
                Verdict::Ok => setup.seen.held("linearizable", 1),
                Verdict::Violation(why) => setup.seen.violation("linearizable", format!("{key}: {why}")),
                Verdict::Unknown => setup.seen.unknown("linearizable"),
            }
            match past::check_reads(history, past.get(key).map_or(&[], Vec::as_slice)) {
                Ok(reads) => setup.seen.held("a read at a revision shows it", reads),
                Err(why) => setup.seen.violation("a read at a revision shows it", format!("{key}: {why}")),
            }
        }
        match past::check_revisions(&keys) {
            Ok(answers) => setup.seen.held("revisions rise", answers),
            Err(why) => setup.seen.violation("revisions rise", why),
        }
        setup.seen.checked(NAME, checked);
    }

    /// Operations that one call carries out, one a key.
    fn begin(&self, caller: &Caller, operations: &[(&str, When, Effect)]) -> Vec<Called> {
        let now = self.tick();
        self.begin_at(now, caller, operations)
    }

    /// Reads that one call carries out. A stale one may have its place in the order as much earlier as it
    /// allows; a follower's has none that a leader's has not.
    fn begin_reads(&self, caller: &Caller, keys: &[&str], consistency: Consistency) -> Vec<Called> {
        let mut from = self.tick();
        if let Consistency::Stale(bound) = consistency {
            from = self.moments.borrow().earliest(turmoil::sim_elapsed().unwrap_or_default(), bound);
        }
        let reads: Vec<_> = keys.iter().map(|key| (*key, When::Always, Effect::Nothing)).collect();
        self.begin_at(from, caller, &reads)
    }

    fn begin_at(&self, now: u64, caller: &Caller, operations: &[(&str, When, Effect)]) -> Vec<Called> {
        let mut history = self.history.borrow_mut();
        operations.iter().map(|(key, when, effect)| history.call(key, caller.id, *when, *effect, now)).collect()
    }

    /// What the call was told. Returns whether its client lives on.
    fn finish(&self, called: &[Called], told: Result<Vec<Answer>, Error>) -> bool {
        let now = self.tick();
        self.finish_at(now, called, told)
    }

    fn tick(&self) -> u64 {
        let place = self.history.borrow_mut().tick();
        self.moments.borrow_mut().note(turmoil::sim_elapsed().unwrap_or_default(), place);
        place
    }

    fn finish_at(&self, now: u64, called: &[Called], told: Result<Vec<Answer>, Error>) -> bool {
        let lives = !told.as_ref().is_err_and(|error| error.outcome == Outcome::Unknown);
        let mut history = self.history.borrow_mut();
        for (at, called) in called.iter().enumerate() {
            match &told {
                Ok(answers) => {
                    let answer = answers.get(at).copied().unwrap_or_default();
                    history.answer(called, now, answer);
                    self.learn(called.key(), &answer);
                }
                Err(error) if error.outcome == Outcome::NotApplied => history.refuse(called),
                Err(error) if error.outcome == Outcome::Applied => history.answer(called, now, Answer::default()),
                Err(_) => {}
            }
            let error = told.as_ref().err().map(ToString::to_string);
            let operation = history.get(called).map(ToString::to_string);
            tracing::debug!(key = called.key(), error, "{}", operation.unwrap_or_default());
        }
        lives
    }

    fn learn(&self, key: &str, answer: &Answer) {
        self.revision.set(self.revision.get().max(answer.revision.unwrap_or(0)));
        if let Some(Before::Present(Some(shown))) = answer.before {
            self.revision.set(self.revision.get().max(shown.modified.unwrap_or(0)));
            self.last.borrow_mut().insert(key.to_owned(), shown);
        }
    }

    /// What a record shows; one of another key is a broken promise. Values that are no numbers become
    /// 0, which nobody writes.
    fn shown(&self, key: &str, record: &Record, setup: &Setup) -> Shown {
        if record.key != key.as_bytes() {
            let detail = format!("asked for {key}, got {}", record.key.escape_ascii());
            setup.seen.violation("a read shows the key it asked for", detail);
        }
        let value = std::str::from_utf8(&record.value).ok().and_then(|value| value.parse().ok()).unwrap_or(0);
        let Record { version, create_revision, mod_revision, .. } = *record;
        Shown { value, version: Some(version), created: Some(create_revision), modified: Some(mod_revision) }
    }

    fn before(&self, key: &str, record: Option<&Record>, setup: &Setup) -> Option<Before> {
        Some(record.map_or(Before::Absent, |record| Before::Present(Some(self.shown(key, record, setup)))))
    }

    fn take_value(&self) -> Value {
        self.last_value.set(self.last_value.get() + 1);
        self.last_value.get()
    }

    fn take_client(&self) -> u64 {
        self.last_client.set(self.last_client.get() + 1);
        self.last_client.get()
    }
}
