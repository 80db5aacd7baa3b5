//! Scans under a pinned revision: the pages together are exactly what one revision holds, whoever
//! writes in between, and whichever node or client the scan goes on with.
//!
//! Two writers append numbered keys, so that a gap is seen; one changes and deletes a few.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use quorate::client::{Client, ErrorCode, Keys, Op, Scan, ScanOptions, ScanPosition, Session, Txn};

use super::history::{History, Shown};
use super::outcome::{Fate, explain};
use super::{Setup, Task, Workload};
use crate::chance::Chance;

const NAME: &str = "scans under a pinned revision";
const APPENDERS: usize = 2;
const SCANNERS: usize = 2;
const CHURNED: u64 = 10;
/// Scans that are kept to be judged again in the end, when more is known.
const KEPT_MAX: usize = 2_000;

#[derive(Default)]
struct Pinned {
    history: RefCell<History>,
    /// Keys that each appender has had acknowledged.
    appended: [Cell<u64>; APPENDERS],
    shown: RefCell<Vec<Shown>>,
    checked: Cell<u64>,
}

pub(super) fn make(_: Chance) -> Rc<dyn Workload> {
    Rc::new(Pinned::default())
}

impl Workload for Pinned {
    fn clients(self: Rc<Self>, setup: &Setup) -> Vec<Task> {
        let mut tasks: Vec<Task> = Vec::new();
        for number in 0..APPENDERS {
            tasks.push(Box::pin(self.clone().append(number, setup.clone())));
        }
        for number in 0..SCANNERS {
            tasks.push(Box::pin(self.clone().scan_on(number, setup.clone())));
        }
        tasks.push(Box::pin(self.clone().churn(setup.clone())));
        tasks
    }

    fn check(self: Rc<Self>, setup: &Setup) -> Task {
        let setup = setup.clone();
        Box::pin(async move {
            let chance = setup.chance("pinned check");
            let Some(client) = setup.client(Duration::from_secs(20)).await else {
                return setup.seen.violation("service after the healing", "no node answers");
            };
            let clients = [client.clone(), client];
            let all = Wanted { start: "pin/".into(), end: "pin0".into(), page: 50, revision: 0, reverse: false };
            for reverse in [false, true] {
                let ended = self.scan(&clients, Wanted { reverse, ..all.clone() }, &setup, &chance).await;
                if !ended {
                    setup.seen.violation("service after the healing", "a scan does not end");
                }
            }
            for shown in &*self.shown.borrow() {
                self.judge(shown, &setup);
            }
            setup.seen.checked(NAME, self.checked.get());
        })
    }
}

/// A scan.
#[derive(Clone)]
struct Wanted {
    start: String,
    end: String,
    page: u32,
    /// 0 is the present.
    revision: u64,
    reverse: bool,
}

impl Wanted {
    /// From its beginning, or where another one stood.
    fn scan(&self, client: &Client, page: u32, after: Option<ScanPosition>) -> Scan {
        let mut options = ScanOptions::new().page_records(page).revision(self.revision);
        if self.reverse {
            options = options.reverse();
        }
        if let Some(position) = after {
            options = options.resume(position);
        }
        client.scan(Keys::all().from(self.start.clone()).to(self.end.clone()), options)
    }
}

impl Pinned {
    async fn append(self: Rc<Self>, number: usize, setup: Setup) {
        let chance = setup.chance(&format!("pinned append {number}"));
        let Some(client) = setup.client(Duration::from_secs(5)).await else { return };
        let session = client.session();
        for _ in 0..setup.operations_max {
            let key = appended_key(number, self.appended[number].get());
            // The next key only when this one is there.
            while !setup.is_over() && !self.append_one(&session, &key, &setup).await {
                setup.think(&chance).await;
            }
            if setup.is_over() {
                return;
            }
            self.appended[number].set(self.appended[number].get() + 1);
            setup.think(&chance).await;
        }
    }

    async fn append_one(&self, session: &Session, key: &str, setup: &Setup) -> bool {
        let change = self.history.borrow_mut().begin(key, Some(key.to_owned()));
        self.checked.set(self.checked.get() + 1);
        let fate = Fate::of(setup, session.put(key.to_owned(), key.to_owned()).await);
        tracing::debug!(key, ?fate, "append");
        if let Fate::Done(written) = fate {
            self.history.borrow_mut().applied(key, change, written.revision);
            return true;
        }
        false
    }

    async fn churn(self: Rc<Self>, setup: Setup) {
        let chance = setup.chance("pinned churn");
        let Some(client) = setup.client(Duration::from_secs(5)).await else { return };
        for round in 0..setup.operations_max {
            if setup.is_over() {
                return;
            }
            let key = format!("pin/churn/{}", chance.below(CHURNED));
            let value = chance.percent(70).then(|| round.to_string());
            let operation = match &value {
                Some(value) => Op::put(key.clone(), value.clone()),
                None => Op::delete(key.clone()),
            };
            let change = self.history.borrow_mut().begin(&key, value);
            self.checked.set(self.checked.get() + 1);
            let fate = Fate::of(&setup, client.txn(Txn::new().then(operation)).await);
            tracing::debug!(key, change, ?fate, "churn");
            if let Fate::Done(result) = fate {
                self.history.borrow_mut().applied(&key, change, result.revision);
            }
            setup.think(&chance).await;
        }
    }

    async fn scan_on(self: Rc<Self>, number: usize, setup: Setup) {
        let chance = setup.chance(&format!("pinned scan {number}"));
        let Some(first) = setup.client(Duration::from_secs(5)).await else { return };
        let Some(second) = setup.client(Duration::from_secs(5)).await else { return };
        let clients = [first, second];
        for _ in 0..setup.operations_max {
            if setup.is_over() {
                return;
            }
            let wanted = self.choose(&chance);
            self.scan(&clients, wanted, &setup, &chance).await;
            setup.think(&chance).await;
        }
    }

    fn choose(&self, chance: &Chance) -> Wanted {
        let newest = self.history.borrow().newest();
        // The past that is near holds what was written last.
        let revision = if newest > 1 && chance.percent(30) { newest - chance.below(newest.min(200)) } else { 0 };
        let reverse = chance.percent(40);
        let number = usize::from(chance.percent(50));
        let page = u32::try_from(chance.between(1, 9)).unwrap_or(1);
        let (start, end, page) = match chance.below(10) {
            0..4 => ("pin/churn/".to_owned(), "pin/churn0".to_owned(), page),
            4..8 => {
                let from = self.appended[number].get().saturating_sub(chance.between(1, 40));
                (appended_key(number, from), format!("pin/{number}0"), page)
            }
            _ => ("pin/".to_owned(), "pin0".to_owned(), page * 20),
        };
        Wanted { start, end, page, revision, reverse }
    }

    /// Scans to the end, through errors. Returns whether it came there.
    async fn scan(&self, clients: &[Client; 2], wanted: Wanted, setup: &Setup, chance: &Chance) -> bool {
        let newest = self.history.borrow().newest();
        let mut scan = wanted.scan(&clients[0], wanted.page, None);
        let mut shown =
            Shown { revision: 0, start: wanted.start.clone(), end: wanted.end.clone(), records: Vec::new() };
        let mut failures = 0;
        let ended = loop {
            match scan.next_page().await {
                Ok(Some(page)) => {
                    let pinned = if shown.revision == 0 { wanted.revision } else { shown.revision };
                    let is_right = if pinned == 0 { scan.revision() >= newest } else { scan.revision() == pinned };
                    if !is_right {
                        let detail = format!("{} instead of {pinned}, {newest} was acknowledged", scan.revision());
                        setup.seen.violation("a scan has one revision", detail);
                    }
                    shown.revision = scan.revision();
                    for record in &page {
                        if let Err(why) = shown.add(record, wanted.reverse) {
                            setup.seen.violation("a scan is ordered and repeats nothing", why);
                        }
                    }
                }
                Ok(None) => break true,
                Err(error) if error.code == ErrorCode::Compacted => break false,
                Err(error) => {
                    explain(setup, &error);
                    failures += 1;
                    if failures > 5 {
                        break false;
                    }
                    setup.think(chance).await;
                }
            }
            // On the way another client may take over, with pages of another size.
            if let Some(position) = scan.position()
                && chance.percent(20)
            {
                let page = u32::try_from(chance.between(1, u64::from(wanted.page) + 1)).unwrap_or(1);
                scan = wanted.scan(&clients[1], page, Some(position));
            }
            if chance.percent(30) {
                setup.think(chance).await;
            }
        };
        if !ended {
            shown.cut(wanted.reverse);
        }
        if shown.revision > 0 {
            self.checked.set(self.checked.get() + 1);
            self.judge(&shown, setup);
            if self.shown.borrow().len() < KEPT_MAX {
                self.shown.borrow_mut().push(shown);
            }
        }
        ended
    }

    fn judge(&self, shown: &Shown, setup: &Setup) {
        if let Err(why) = self.history.borrow().judge(shown) {
            setup.seen.violation("a scan is what its revision holds", why);
        }
    }
}

fn appended_key(number: usize, at: u64) -> String {
    format!("pin/{number}/{at:06}")
}
