//! Random histories: of a true register, which must pass, and falsified ones, on which the checker
//! and the slow one must agree.

use crate::brute::is_linearizable;
use crate::chance::Chance;
use crate::history::{Answer, Before, Effect, KeyHistory, Operation, Shown, When};
use crate::linear::{Verdict, check};

/// A true register, and clients in the middle of operations on it.
struct World {
    chance: Chance,
    clients: u64,
    now: u64,
    next_client: u64,
    record: Option<Shown>,
    revision: u64,
    /// Operations that were called: their place in the history, and their answer once they happened.
    running: Vec<(usize, Option<Answer>)>,
    operations: Vec<Operation>,
    told: Vec<u64>,
}

impl World {
    fn new(chance: &Chance, clients: u64) -> Self {
        Self {
            chance: chance.clone(),
            clients,
            now: 0,
            next_client: clients,
            record: None,
            revision: 1,
            running: Vec::new(),
            operations: Vec::new(),
            told: vec![0],
        }
    }

    /// A history of `count` operations of which about twice `lost_permille` were never answered.
    fn run(mut self, count: usize, lost_permille: u64) -> Vec<Operation> {
        while self.operations.len() < count || !self.running.is_empty() {
            self.now += 1;
            let is_full = self.running.len() as u64 >= self.clients || self.operations.len() >= count;
            if !is_full && (self.running.is_empty() || self.chance.percent(40)) {
                self.call();
                continue;
            }
            let at = below(&self.chance, self.running.len());
            let (place, happened) = self.running[at];
            if self.chance.below(1_000) < lost_permille {
                self.running.swap_remove(at);
            } else if let Some(answer) = happened {
                self.operations[place].answer = Some((self.now, answer));
                self.told.extend(match answer.before {
                    Some(Before::Present(Some(shown))) => shown.modified,
                    _ => None,
                });
                self.running.swap_remove(at);
            } else {
                self.running[at].1 = Some(self.happen(place));
            }
        }
        self.operations
    }

    fn call(&mut self) {
        let value = self.operations.len() as u64 + 1;
        let guess = self.chance.between(1, value + 1);
        let effect = match self.chance.below(10) {
            0..4 => Effect::Nothing,
            4..8 => Effect::Put(value),
            _ => Effect::Delete,
        };
        let when = match self.chance.below(12) {
            0 => When::Exists(self.chance.percent(50)),
            1 => When::Value(self.record.map_or(guess, |record| record.value)),
            2 => When::Value(guess),
            3 => When::Version(self.chance.below(4)),
            4 => When::Modified(*self.chance.pick(&self.told)),
            _ => When::Always,
        };
        let when = if effect == Effect::Nothing { When::Always } else { when };
        self.next_client += 1;
        self.running.push((self.operations.len(), None));
        self.operations.push(Operation { client: self.next_client, when, effect, call: self.now, answer: None });
    }

    /// The operation takes effect. Returns its answer, with more or less in it.
    fn happen(&mut self, place: usize) -> Answer {
        let Operation { when, effect, .. } = self.operations[place];
        let before = self.record;
        let held = match when {
            When::Always => true,
            When::Exists(wanted) => before.is_some() == wanted,
            When::Value(wanted) => before.is_some_and(|record| record.value == wanted),
            When::Version(wanted) => before.and_then(|record| record.version).unwrap_or(0) == wanted,
            When::Modified(wanted) => before.and_then(|record| record.modified).unwrap_or(0) == wanted,
        };
        match effect {
            Effect::Put(value) if held => {
                self.revision += 1;
                let modified = Some(self.revision);
                let created = before.map_or(modified, |record| record.created);
                let version = before.and_then(|record| record.version).map_or(Some(1), |version| Some(version + 1));
                self.record = Some(Shown { value, version, created, modified });
            }
            Effect::Delete if held && before.is_some() => {
                self.revision += 1;
                self.record = None;
            }
            Effect::Put(_) | Effect::Delete | Effect::Nothing => {}
        }
        // Now and then another key changes.
        let revision = self.chance.percent(50).then_some(self.revision);
        self.revision += u64::from(self.chance.percent(20));
        let tells = effect == Effect::Nothing || self.chance.percent(30);
        let before = tells.then(|| before.map_or(Before::Absent, |record| Before::Present(self.some_of(record))));
        Answer { revision, held: (when != When::Always && self.chance.percent(90)).then_some(held), before }
    }

    fn some_of(&self, record: Shown) -> Option<Shown> {
        let chance = |part: Option<u64>| part.filter(|_| self.chance.percent(40));
        let Shown { value, version, created, modified } = record;
        let shown = Shown { value, version: chance(version), created: chance(created), modified: chance(modified) };
        self.chance.percent(85).then_some(shown)
    }
}

fn below(chance: &Chance, bound: usize) -> usize {
    usize::try_from(chance.below(bound as u64)).unwrap_or(0)
}

/// Changes one answer.
fn falsify(operations: &mut [Operation], chance: &Chance) {
    let count = operations.len() as u64;
    let at = below(chance, operations.len());
    let Some(operation) = operations.get_mut(at) else { return };
    let Some((returned, answer)) = &mut operation.answer else { return };
    let wrong = |part: Option<u64>| part.map(|part| (part + 1).saturating_sub(chance.below(3)));
    match chance.below(5) {
        0 => answer.held = answer.held.map(|held| !held),
        1 => answer.revision = wrong(answer.revision),
        2 => *returned = operation.call + (*returned - operation.call).div_ceil(2),
        _ => {
            answer.before = answer.before.map(|before| match before {
                Before::Absent => Before::Present(None),
                Before::Present(_) if chance.percent(30) => Before::Absent,
                Before::Present(shown) => Before::Present(shown.map(|shown| Shown {
                    value: if chance.percent(50) { chance.between(1, count + 1) } else { shown.value },
                    version: wrong(shown.version),
                    created: wrong(shown.created),
                    modified: shown.modified,
                })),
            });
        }
    }
}

fn verdict(operations: &[Operation], steps_max: u64) -> Verdict {
    let history = KeyHistory { operations: operations.to_vec(), ..KeyHistory::default() };
    check(&history, steps_max, &mut || false)
}

fn print(operations: &[Operation]) -> String {
    operations.iter().map(|operation| format!("{operation}\n")).collect()
}

#[test]
fn agrees_with_the_slow_checker_on_small_histories() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..20_000 {
        let chance = Chance::new(seed, "small histories");
        let mut operations = World::new(&chance, chance.between(2, 5)).run(1 + below(&chance, 7), 80);
        assert_eq!(verdict(&operations, 100_000), Verdict::Ok, "seed {seed}, true:\n{}", print(&operations));
        for _ in 0..chance.between(1, 3) {
            falsify(&mut operations, &chance);
        }
        let verdict = verdict(&operations, 100_000);
        let expected = is_linearizable(&operations);
        assert_eq!(verdict == Verdict::Ok, expected, "seed {seed}: {verdict:?}\n{}", print(&operations));
        assert_ne!(verdict, Verdict::Unknown, "seed {seed}");
        *(if expected { &mut good } else { &mut bad }) += 1;
    }
    assert!(good > 4_000 && bad > 4_000, "{good} good, {bad} bad");
}

#[test]
fn long_histories_take_few_steps() {
    for seed in 0..40 {
        let chance = Chance::new(seed, "long histories");
        let count = 2_000;
        let operations = World::new(&chance, chance.between(2, 9)).run(count, 4);
        let verdict = verdict(&operations, 2_000 * count as u64);
        assert_eq!(verdict, Verdict::Ok, "seed {seed}");
    }
}

#[test]
fn a_falsified_long_history_is_decided() {
    let mut bad = 0;
    for seed in 0..40 {
        let chance = Chance::new(seed, "falsified long histories");
        let mut operations = World::new(&chance, chance.between(2, 6)).run(300, 15);
        for _ in 0..4 {
            falsify(&mut operations, &chance);
        }
        let verdict = verdict(&operations, 1_000_000);
        bad += u64::from(verdict != Verdict::Ok);
        assert_ne!(verdict, Verdict::Unknown, "seed {seed}");
    }
    assert!(bad >= 10, "only {bad}");
}
