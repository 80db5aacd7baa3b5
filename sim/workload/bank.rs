//! Bank transfers: whoever looks at all accounts at once, now or at a revision of the past, sees the
//! same total; and in the end every balance that anybody saw follows from the transfers' marks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use quorate::client::{Client, Condition, Keys, Op, Record, Relation, ScanOptions, Session, Txn, operation_result};

use super::marks::{Marks, Told};
use super::outcome::{Fate, all_of, explain, read_back, text};
use super::{Setup, Task, Workload};
use crate::chance::Chance;

const NAME: &str = "bank transfers";
const ACCOUNTS: u64 = 6;
const START: u64 = 100;
const PREFIX: &str = "bank/account/";
const TELLERS: usize = 2;

/// Balances by account.
type Balances = BTreeMap<u64, u64>;

struct Bank {
    /// Of each teller.
    transfers: Vec<RefCell<Marks>>,
    /// Whether the accounts are known to exist.
    open: Cell<bool>,
    /// What auditors saw, by revision.
    audits: RefCell<BTreeMap<u64, Balances>>,
    reads: Cell<u64>,
}

pub(super) fn make(_: Chance) -> Rc<dyn Workload> {
    let marks = |teller| RefCell::new(Marks::new(format!("bank/transfer/{teller}/")));
    Rc::new(Bank {
        transfers: (0..TELLERS).map(marks).collect(),
        open: Cell::default(),
        audits: RefCell::default(),
        reads: Cell::default(),
    })
}

impl Workload for Bank {
    fn clients(self: Rc<Self>, setup: &Setup) -> Vec<Task> {
        let transfer = |teller| Box::pin(self.clone().teller(teller, setup.clone())) as Task;
        let mut tasks: Vec<_> = (0..TELLERS).map(transfer).collect();
        tasks.push(Box::pin(self.clone().auditor(setup.clone())));
        tasks
    }

    fn check(self: Rc<Self>, setup: &Setup) -> Task {
        let setup = setup.clone();
        Box::pin(async move {
            let Some(records) = read_back(&setup, "bank/").await else { return };
            if let Err((check, detail)) = self.compare(&records) {
                setup.seen.violation(check, detail);
            }
            let transfers: u64 = self.transfers.iter().map(|marks| marks.borrow().begun()).sum();
            setup.seen.checked(NAME, transfers + self.reads.get());
        })
    }
}

fn account(number: u64) -> String {
    format!("{PREFIX}{number}")
}

impl Bank {
    /// Opens all accounts in one step, once.
    async fn open(&self, client: &Client, setup: &Setup, chance: &Chance) {
        while !self.open.get() && !setup.is_over() {
            let missing = Txn::new().when(Condition::missing(account(0)));
            let txn = (0..ACCOUNTS).fold(missing, |txn, number| txn.then(Op::put(account(number), START.to_string())));
            if let Fate::Done(_) = Fate::of(setup, client.txn(txn).await) {
                self.open.set(true);
            }
            setup.think(chance).await;
        }
    }

    async fn teller(self: Rc<Self>, number: usize, setup: Setup) {
        let chance = setup.chance(&format!("bank {number}"));
        let Some(client) = setup.client(Duration::from_secs(5)).await else { return };
        self.open(&client, &setup, &chance).await;
        // The other tellers write without a session: at most once is enough here.
        let session = (number == 0).then(|| client.session());
        for _ in 0..setup.operations_max {
            if setup.is_over() {
                return;
            }
            self.transfer(number, &client, session.as_ref(), &setup, &chance).await;
            setup.think(&chance).await;
        }
    }

    async fn transfer(
        &self,
        number: usize,
        client: &Client,
        session: Option<&Session>,
        setup: &Setup,
        chance: &Chance,
    ) {
        let accounts: Vec<_> = (0..ACCOUNTS).collect();
        let pair = chance.sample(&accounts, 2);
        let (from, to) = (pair[0], pair[1]);
        let mut found = Vec::new();
        for number in [from, to] {
            match client.get(account(number)).await {
                Ok(Some(record)) => found.push(record),
                Ok(None) => return setup.seen.violation("no acknowledged write is lost", account(number)),
                Err(error) => return explain(setup, &error),
            }
        }
        let (source, target) = (&found[0], &found[1]);
        let amount = chance.between(1, 30);
        let Some(rest) = balance(source).checked_sub(amount) else { return };
        let marks = &self.transfers[number];
        let mark = marks.borrow_mut().begin();
        let unchanged =
            |record: &Record| Condition::mod_revision(record.key.clone(), Relation::Equal, record.mod_revision);
        let txn = Txn::new()
            .when(unchanged(source))
            .when(unchanged(target))
            .then(Op::put(account(from), rest.to_string()))
            .then(Op::put(account(to), (balance(target) + amount).to_string()))
            .then(marks.borrow().leave(mark, &format!("{from} {to} {amount}")));
        let answer = match session {
            Some(session) => session.txn(txn).await,
            None => client.txn(txn).await,
        };
        let fate = match Fate::of(setup, answer) {
            Fate::Done(result) if result.succeeded => Fate::Done(Told { revision: result.revision, version: None }),
            // Somebody was faster.
            Fate::Done(_) | Fate::Not => Fate::Not,
            Fate::Applied => Fate::Applied,
            Fate::Open => Fate::Open,
        };
        tracing::debug!(number, mark, from, to, amount, ?fate, "transfer");
        marks.borrow_mut().end(mark, fate);
    }

    async fn auditor(self: Rc<Self>, setup: Setup) {
        let chance = setup.chance("bank auditor");
        let Some(client) = setup.client(Duration::from_secs(5)).await else { return };
        self.open(&client, &setup, &chance).await;
        for _ in 0..setup.operations_max {
            if setup.is_over() {
                return;
            }
            let known: Vec<_> = self.audits.borrow().keys().copied().collect();
            let past = if known.is_empty() { 0 } else { *chance.pick(&known) };
            let seen = match chance.below(10) {
                0..4 => scan(&client, 0, &chance).await,
                4..6 => in_transaction(&client).await,
                6..8 if past > 0 => scan(&client, past, &chance).await,
                8..10 if past > 0 => one_by_one(&client, past).await,
                _ => continue,
            };
            match seen {
                Ok((revision, records)) => self.audit(revision, &records, &setup),
                Err(error) => explain(&setup, &error),
            }
            setup.think(&chance).await;
        }
    }

    /// All accounts at one revision: their total is constant, and they never change afterwards.
    fn audit(&self, revision: u64, records: &[Record], setup: &Setup) {
        self.reads.set(self.reads.get() + 1);
        let Some(balances) = balances(records) else {
            return setup.seen.violation("scans hold what they should", format!("at {revision}: {records:?}"));
        };
        if balances.len() as u64 != ACCOUNTS || balances.values().sum::<u64>() != ACCOUNTS * START {
            setup.seen.violation("the total is constant", format!("at {revision}: {balances:?}"));
        }
        let mut audits = self.audits.borrow_mut();
        let before = audits.entry(revision).or_insert_with(|| balances.clone());
        if *before != balances {
            let detail = format!("at {revision}: {before:?}, then {balances:?}");
            setup.seen.violation("a revision never changes", detail);
        }
    }

    /// Follows the marks from the beginning: every balance that was seen must come out.
    fn compare(&self, records: &[Record]) -> Result<(), (&'static str, String)> {
        let mut applied = BTreeMap::new();
        for marks in &self.transfers {
            for mark in marks.borrow().compare(records)? {
                let twice = applied.insert(mark.record.mod_revision, text(&mark.record.value));
                if let Some(other) = twice {
                    let detail = format!("{other} and {} at {}", text(&mark.record.value), mark.record.mod_revision);
                    return Err(("one transaction a revision", detail));
                }
            }
        }
        let accounts: Vec<_> =
            records.iter().filter(|record| record.key.starts_with(PREFIX.as_bytes())).cloned().collect();
        let is_unopened = accounts.is_empty() && !self.open.get();
        let last = balances(&accounts).ok_or_else(|| ("scans hold what they should", format!("{accounts:?}")))?;
        let mut audits = self.audits.borrow().clone();
        if !is_unopened {
            audits.insert(u64::MAX, last);
        }
        for (revision, seen) in audits {
            let mut balances: Balances = (0..ACCOUNTS).map(|number| (number, START)).collect();
            for transfer in applied.range(..=revision).map(|(_, transfer)| transfer) {
                carry_out(&mut balances, transfer);
            }
            if seen != balances {
                let detail = format!("at {revision}: {seen:?}, but the transfers make {balances:?}");
                return Err(("balances follow from the transfers", detail));
            }
        }
        Ok(())
    }
}

fn carry_out(balances: &mut Balances, transfer: &str) {
    let parts: Vec<u64> = transfer.split(' ').filter_map(|part| part.parse().ok()).collect();
    let [from, to, amount] = parts[..] else { return };
    // What was never covered shows as a wrong balance.
    balances.entry(from).and_modify(|balance| *balance = balance.wrapping_sub(amount));
    balances.entry(to).and_modify(|balance| *balance = balance.wrapping_add(amount));
}

fn balance(record: &Record) -> u64 {
    text(&record.value).parse().unwrap_or(0)
}

/// `None` unless keys are accounts in strict order and values are numbers.
fn balances(records: &[Record]) -> Option<Balances> {
    let entry = |record: &Record| {
        let number = text(&record.key).strip_prefix(PREFIX)?.parse().ok()?;
        Some((number, text(&record.value).parse().ok()?))
    };
    let balances: Option<Balances> = records.iter().map(entry).collect();
    balances.filter(|balances| balances.len() == records.len())
}

type Seen = quorate::client::Result<(u64, Vec<Record>)>;

async fn scan(client: &Client, revision: u64, chance: &Chance) -> Seen {
    let page = u32::try_from(chance.between(1, 8)).unwrap_or(1);
    let options = ScanOptions::new().page_records(page).revision(revision);
    let options = if chance.percent(40) { options.reverse() } else { options };
    let (shown, mut records) = all_of(client.scan(Keys::prefix(PREFIX), options)).await?;
    records.sort_by(|a, b| a.key.cmp(&b.key));
    Ok((shown, records))
}

async fn in_transaction(client: &Client) -> Seen {
    let result = client.txn(Txn::new().then(Op::range(&Keys::prefix(PREFIX), 0))).await?;
    let kind = result.results.into_iter().next().and_then(|result| result.kind);
    match kind {
        Some(operation_result::Kind::Range(range)) => Ok((result.revision, range.records)),
        _ => Ok((result.revision, Vec::new())),
    }
}

async fn one_by_one(client: &Client, revision: u64) -> Seen {
    let mut records = Vec::new();
    for number in 0..ACCOUNTS {
        records.extend(client.get_at(account(number), revision).await?);
    }
    Ok((revision, records))
}
