//! All that is known of the changes of some keys in the end: from their writers, from watches, from reads.
//! They must fit together, and each watch must have shown all of it.

use std::collections::BTreeMap;

use super::chain;
use super::{Broken, Event, Keys, Shown, Snapshot, Step, Told, View, What, Write};

/// The oldest revision that may be asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Floor {
    /// Of all compactions that were asked for, the latest revision.
    pub(crate) asked: u64,
    /// Revisions that are kept where the server compacts by itself; 0 if it does not.
    pub(crate) kept: u64,
}

/// Everything together.
pub(crate) struct Ledger<'a> {
    pub(super) writes: &'a [Write],
    pub(super) views: &'a [View],
    pub(super) events: BTreeMap<String, BTreeMap<u64, What>>,
    by_revision: BTreeMap<u64, Vec<String>>,
    /// The write that wrote a value.
    writers: BTreeMap<&'a str, usize>,
    /// Where each write took place.
    placed: BTreeMap<usize, u64>,
    /// And which write took place there.
    owners: BTreeMap<u64, usize>,
    floor: Floor,
}

impl<'a> Ledger<'a> {
    /// Brings together what was told.
    ///
    /// # Errors
    /// With the first promise that is broken.
    pub(crate) fn new(
        writes: &'a [Write],
        views: &'a [View],
        snapshots: &[Snapshot],
        floor: Floor,
    ) -> Result<Self, Broken> {
        let mut ledger = Self {
            writes,
            views,
            events: BTreeMap::new(),
            by_revision: BTreeMap::new(),
            writers: BTreeMap::new(),
            placed: BTreeMap::new(),
            owners: BTreeMap::new(),
            floor,
        };
        for (number, write) in writes.iter().enumerate() {
            for step in &write.steps {
                if let Step::Put { value, .. } = step {
                    ledger.writers.insert(value, number);
                }
            }
        }
        for (number, write) in writes.iter().enumerate() {
            let Told::Applied(revision, events) = &write.told else { continue };
            if !events.is_empty() {
                ledger.place(number, *revision)?;
            }
            events.iter().try_for_each(|event| ledger.learn(event))?;
        }
        for view in views {
            view.events.iter().try_for_each(|event| ledger.learn(event))?;
        }
        for (key, record) in snapshots.iter().flat_map(|snapshot| &snapshot.records) {
            ledger.learn_record(key, record)?;
        }
        ledger.check_writers()?;
        Ok(ledger)
    }

    /// The highest revision that is known.
    pub(crate) fn newest(&self) -> u64 {
        self.by_revision.keys().next_back().copied().unwrap_or(0)
    }

    /// Whether a compaction may have reached `revision` in a run that came to `newest`.
    pub(crate) fn may_be_compacted(&self, revision: u64, newest: u64) -> bool {
        let by_itself = if self.floor.kept > 0 { newest.saturating_sub(self.floor.kept) } else { 0 };
        revision <= self.floor.asked.max(by_itself)
    }

    /// Holds every watch against all that is known. Returns how many events were compared.
    ///
    /// # Errors
    /// With the first promise that is broken.
    pub(crate) fn check_views(&self) -> Result<u64, Broken> {
        let mut compared = 0;
        for view in self.views {
            let shown: BTreeMap<_, _> =
                view.events.iter().map(|event| ((event.revision, event.key.as_str()), event)).collect();
            for (revision, keys) in self.by_revision.range(view.from..=view.upto.max(view.from)) {
                for key in keys.iter().filter(|key| *revision <= view.upto && view.keys.hold(key)) {
                    let Some(what) = self.at(key, *revision) else { continue };
                    let wanted = if matches!(what, What::Put(_)) { view.kinds.puts } else { view.kinds.deletes };
                    if !wanted {
                        continue;
                    }
                    compared += 1;
                    if !shown.contains_key(&(*revision, key.as_str())) {
                        let detail = format!("{}: {key} at {revision} is missing: {what:?}", view.name);
                        return Err(("a watch misses nothing", detail));
                    }
                }
            }
        }
        Ok(compared)
    }

    /// Holds reads of revisions against all that is known. Returns how many records were compared.
    ///
    /// # Errors
    /// With the first promise that is broken.
    pub(crate) fn check_snapshots(&self, snapshots: &[Snapshot]) -> Result<u64, Broken> {
        let mut compared = 0;
        for snapshot in snapshots {
            let found: BTreeMap<_, _> = snapshot.records.iter().map(|(key, record)| (key.as_str(), record)).collect();
            let broken = |why: String| Err(("a read at a revision shows it", format!("{}: {why}", snapshot.revision)));
            if let Some((key, record)) = found.iter().find(|(_, record)| record.modified > snapshot.revision) {
                return broken(format!("{key} is of the future: {record:?}"));
            }
            for (key, events) in self.events.iter().filter(|(key, _)| snapshot.keys.hold(key)) {
                let Some((at, what)) = events.range(..=snapshot.revision).next_back() else { continue };
                compared += 1;
                match (what, found.get(key.as_str())) {
                    (What::Put(last), Some(record)) if last == *record => {}
                    (What::Delete, None) => {}
                    // Somebody may have deleted it where nobody looked.
                    (What::Put(_), None) if self.may_be_deleted(key, *at, snapshot.revision) => {}
                    (What::Put(_) | What::Delete, found) => {
                        return broken(format!("{key}: {found:?}, but at {at} {what:?}"));
                    }
                }
            }
        }
        Ok(compared)
    }

    /// Holds the changes of each key against each other. Returns how many were compared.
    ///
    /// # Errors
    /// With the first promise that is broken.
    pub(crate) fn check_chains(&self, newest: u64) -> Result<u64, Broken> {
        chain::check(self, newest)
    }

    /// Whether an unseen delete may lie after `from` and not after `upto`.
    fn may_be_deleted(&self, key: &str, from: u64, upto: u64) -> bool {
        !self.is_seen(key, from + 1, upto) && self.may_delete(key).next().is_some()
    }

    /// Writes without an answer that may delete a key.
    fn may_delete<'s>(&'s self, key: &'s str) -> impl Iterator<Item = usize> + 's {
        let open = self.writes.iter().enumerate().filter(|(_, write)| matches!(write.told, Told::Nothing));
        let deletes = move |step: &Step| matches!(step, Step::Delete(keys) if keys.hold(key));
        open.filter(move |(_, write)| write.steps.iter().any(deletes)).map(|(number, _)| number)
    }

    /// Whether one watch has shown all changes of a key between two revisions, both included.
    pub(super) fn is_seen(&self, key: &str, from: u64, upto: u64) -> bool {
        self.views.iter().any(|view| {
            view.kinds.puts && view.kinds.deletes && view.keys.hold(key) && view.from <= from && upto <= view.upto
        })
    }

    pub(super) fn at(&self, key: &str, revision: u64) -> Option<&What> {
        self.events.get(key)?.get(&revision)
    }

    fn learn(&mut self, event: &Event) -> Result<(), Broken> {
        if let Some(before) = &event.before {
            if before.modified >= event.revision {
                return Err(("an event is what was written", format!("the record before is not older: {event:?}")));
            }
            self.learn_record(&event.key, before)?;
        }
        self.put_down(&event.key, event.revision, event.what.clone())
    }

    fn learn_record(&mut self, key: &str, record: &Shown) -> Result<(), Broken> {
        self.put_down(key, record.modified, What::Put(record.clone()))
    }

    fn put_down(&mut self, key: &str, revision: u64, what: What) -> Result<(), Broken> {
        if let What::Put(shown) = &what {
            let writer = self.writers.get(shown.value.as_str()).copied();
            let Some(number) = writer.filter(|number| puts(&self.writes[*number], key, &shown.value)) else {
                let found = writer.map(|number| &self.writes[number]);
                let why = format!("nobody put {key} at {revision}: {shown:?}; the value is of {found:?}");
                return Err(("an event is what was written", why));
            };
            self.place(number, revision)?;
        }
        let events = self.events.entry(key.to_owned()).or_default();
        match events.get(&revision) {
            None => {
                events.insert(revision, what);
                self.by_revision.entry(revision).or_default().push(key.to_owned());
                Ok(())
            }
            Some(known) if *known == what => Ok(()),
            Some(known) => Err(("all watches agree", format!("{key} at {revision}: {known:?}, and {what:?}"))),
        }
    }

    /// A write took place at a revision: only there, and no other did.
    fn place(&mut self, number: usize, revision: u64) -> Result<(), Broken> {
        let write = &self.writes[number];
        let first = *self.placed.entry(number).or_insert(revision);
        if first != revision {
            return Err(("a write has one revision", format!("{first} and {revision}: {write:?}")));
        }
        let owner = *self.owners.entry(revision).or_insert(number);
        if owner != number {
            return Err(("a revision is one write", format!("{revision}: {:?} and {write:?}", self.writes[owner])));
        }
        match &write.told {
            Told::Refused => Err(("what is not applied never shows", format!("at {revision}: {write:?}"))),
            Told::Applied(at, _) if *at != revision => {
                Err(("an event is what was written", format!("at {revision}: {write:?}")))
            }
            Told::Applied(..) | Told::Nothing => Ok(()),
        }
    }

    /// Every change is one of the write of its revision, and a write that took place did all it should.
    fn check_writers(&self) -> Result<(), Broken> {
        for (key, events) in &self.events {
            for (revision, what) in events {
                self.check_writer(key, *revision, what)?;
            }
        }
        for (number, revision) in &self.placed {
            for step in &self.writes[*number].steps {
                let Step::Put { key, value } = step else { continue };
                let is_there = matches!(self.at(key, *revision), Some(What::Put(shown)) if shown.value == *value);
                if !is_there && self.is_seen(key, *revision, *revision) {
                    let detail = format!("{key} at {revision} is missing: {:?}", self.writes[*number]);
                    return Err(("a write is whole or not at all", detail));
                }
            }
        }
        Ok(())
    }

    fn check_writer(&self, key: &str, revision: u64, what: &What) -> Result<(), Broken> {
        let owner = self.owners.get(&revision).copied();
        let is_its = match (owner.map(|owner| &self.writes[owner]), what) {
            (Some(Write { told: Told::Applied(_, events), .. }), _) => {
                events.iter().any(|event| event.key == key && event.what == *what)
            }
            (_, What::Put(_)) => true,
            (Some(_), What::Delete) => self.may_delete(key).any(|number| Some(number) == owner),
            (None, What::Delete) => self.may_delete(key).next().is_some(),
        };
        if is_its {
            return Ok(());
        }
        let owner = owner.map(|owner| &self.writes[owner]);
        Err(("an event is what was written", format!("{key} at {revision}: {what:?}, by {owner:?}")))
    }
}

fn puts(write: &Write, key: &str, value: &str) -> bool {
    write.steps.iter().any(|step| matches!(step, Step::Put { key: at, value: put } if at == key && put == value))
}

/// Keys that are one.
impl From<&str> for Keys {
    fn from(key: &str) -> Self {
        Self { start: key.to_owned(), end: String::new() }
    }
}
