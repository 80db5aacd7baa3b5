//! Keys with a time to live: none is gone too early, each is gone for good in the end, a refresh or a
//! put without an end gives a new life, and what was gone stays gone.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use quorate::client::{Client, PutOptions, Record};
use quorate::env::time;

use super::outcome::{Fate, explain, read, text};
use super::{Setup, Task, Workload};
use crate::chance::Chance;

const NAME: &str = "keys with a time to live";
const CLIENTS: usize = 2;
const KEYS: usize = 6;
/// Part of its time, in percent, that a key lives at least, from before its put was sent and on a true
/// clock. The leader counts on its monotonic clock, which faults let gain a fifth, so what it takes for
/// the whole time is 1 / 1.2 of it; the rest is for rounding and for clocks that change their rate.
const LIVES_PERCENT: u64 = 80;
/// Longest time to live.
const TTL_MAX_MS: u64 = 10_000;
/// After the healing all keys are gone within this: a new leader counts the whole time again, and
/// proposes an end that was lost once more after 5 s.
const GONE_WITHIN: Duration = Duration::from_secs(35);

/// What is known of a key.
#[derive(Clone, PartialEq, Debug)]
enum Life {
    /// Never put, or deleted.
    None,
    Put {
        value: String,
        /// Not gone before, in simulated milliseconds; `None` is never gone.
        until_ms: Option<u64>,
        /// Whether it was seen gone.
        gone: bool,
    },
}

#[derive(Default)]
struct Lives {
    now: RefCell<BTreeMap<String, Life>>,
    /// Of keys whose last write has an unknown outcome, and which are not used any more: those that
    /// may stay for ever.
    left: RefCell<BTreeSet<String>>,
    checked: Cell<u64>,
}

pub(super) fn make(_: Chance) -> Rc<dyn Workload> {
    Rc::new(Lives::default())
}

impl Workload for Lives {
    fn clients(self: Rc<Self>, setup: &Setup) -> Vec<Task> {
        (0..CLIENTS).map(|number| Box::pin(self.clone().live(number, setup.clone())) as Task).collect()
    }

    fn check(self: Rc<Self>, setup: &Setup) -> Task {
        let setup = setup.clone();
        Box::pin(async move {
            let chance = setup.chance("ttl check");
            let Some(client) = setup.client(Duration::from_secs(20)).await else {
                return setup.seen.violation("service after the healing", "no node answers");
            };
            let deadline = time::now() + GONE_WITHIN;
            let mut gone = false;
            // When all are gone they are looked for once more, later.
            loop {
                let records = match read(&client, "ttl/", &chance).await {
                    Ok((_, records)) => records,
                    Err(error) => return setup.seen.violation("service after the healing", error.to_string()),
                };
                let over = self.overdue(&records, &setup);
                match (over.is_empty(), gone) {
                    (true, true) => break,
                    (false, true) => return setup.seen.violation("what is gone stays gone", format!("{over:?}")),
                    (true, false) => gone = true,
                    (false, false) if time::now() > deadline => {
                        return setup.seen.violation("keys end within bounded time", format!("{over:?}"));
                    }
                    (false, false) => {}
                }
                time::sleep(Duration::from_secs(2)).await;
            }
            setup.seen.checked(NAME, self.checked.get());
        })
    }
}

impl Lives {
    async fn live(self: Rc<Self>, number: usize, setup: Setup) {
        let chance = setup.chance(&format!("ttl {number}"));
        let Some(writer) = setup.client(Duration::from_secs(5)).await else { return };
        let Some(reader) = setup.client(Duration::from_secs(5)).await else { return };
        let session = writer.session();
        let mut generations = [0; KEYS];
        for round in 0..setup.operations_max {
            if setup.is_over() {
                return;
            }
            let slot = usize::try_from(chance.below(KEYS as u64)).unwrap_or(0);
            let key = format!("ttl/{number}/{slot}/{:04}", generations[slot]);
            let before = self.now.borrow().get(&key).cloned().unwrap_or(Life::None);
            self.checked.set(self.checked.get() + 1);
            let called_ms = crate::now_ms();
            let (fate, after) = match chance.below(100) {
                0..20 => {
                    let ttl_ms = chance.between(2_000, TTL_MAX_MS);
                    let options = PutOptions::new().ttl(Duration::from_millis(ttl_ms));
                    let put = session.put_with(key.clone(), round.to_string(), &options).await;
                    let until_ms = Some(called_ms + ttl_ms * LIVES_PERCENT / 100);
                    (Fate::of(&setup, put.map(drop)), Life::Put { value: round.to_string(), until_ms, gone: false })
                }
                20..23 => {
                    let put = writer.put(key.clone(), round.to_string()).await;
                    (
                        Fate::of(&setup, put.map(drop)),
                        Life::Put { value: round.to_string(), until_ms: None, gone: false },
                    )
                }
                23..26 => (Fate::of(&setup, session.delete(key.clone()).await.map(drop)), Life::None),
                _ => {
                    let client = if chance.percent(50) { &reader } else { &writer };
                    self.look(client, &key, before, &setup).await;
                    setup.think(&chance).await;
                    continue;
                }
            };
            tracing::debug!(key, ?fate, ?after, "life");
            self.ended(&key, fate, &before, after, &mut generations[slot]);
            setup.think(&chance).await;
        }
    }

    /// Takes in what a write did. A key with an unknown outcome is left alone from then on.
    fn ended(&self, key: &str, fate: Fate<()>, before: &Life, after: Life, generation: &mut u32) {
        match fate {
            Fate::Done(()) | Fate::Applied => drop(self.now.borrow_mut().insert(key.to_owned(), after)),
            Fate::Not => {}
            Fate::Open => {
                *generation += 1;
                let may_stay =
                    [before, &after].into_iter().any(|life| matches!(life, Life::Put { until_ms: None, .. }));
                if may_stay {
                    self.left.borrow_mut().insert(key.to_owned());
                }
                self.now.borrow_mut().remove(key);
            }
        }
    }

    /// Reads a key that nobody writes meanwhile.
    async fn look(&self, client: &Client, key: &str, life: Life, setup: &Setup) {
        let found = match client.get(key.to_owned()).await {
            Ok(found) => found,
            Err(error) => return explain(setup, &error),
        };
        let answered_ms = crate::now_ms();
        let broken =
            |check: &str| setup.seen.violation(check, format!("{key}: {found:?}, but {life:?} at {answered_ms}"));
        match (&life, &found) {
            (Life::None, None) | (Life::Put { gone: true, .. }, None) => {}
            (Life::None | Life::Put { gone: true, .. }, Some(_)) => broken("what is gone stays gone"),
            (Life::Put { value, .. }, Some(record)) if text(&record.value) != *value => {
                broken("reads are linearizable")
            }
            (Life::Put { .. }, Some(_)) => {}
            (Life::Put { until_ms: None, .. }, None) => broken("no acknowledged write is lost"),
            (Life::Put { value, until_ms: Some(until_ms), .. }, None) => {
                if answered_ms < *until_ms {
                    broken("no key ends early");
                }
                let gone = Life::Put { value: value.clone(), until_ms: Some(*until_ms), gone: true };
                self.now.borrow_mut().insert(key.to_owned(), gone);
            }
        }
    }

    /// Keys that are there and should be gone. Those that stay must be there.
    fn overdue(&self, records: &[Record], setup: &Setup) -> Vec<String> {
        let lives = self.now.borrow();
        let present: BTreeMap<_, _> = records.iter().map(|record| (text(&record.key), text(&record.value))).collect();
        let stays = |key: &String| matches!(lives.get(key), Some(Life::Put { until_ms: None, .. }));
        for (key, life) in &*lives {
            if let Life::Put { value, until_ms: None, .. } = life
                && present.get(key) != Some(value)
            {
                setup.seen.violation("no acknowledged write is lost", format!("{key}: {:?}", present.get(key)));
            }
        }
        let left = self.left.borrow();
        present.into_keys().filter(|key| !stays(key) && !left.contains(key)).collect()
    }
}
