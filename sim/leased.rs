//! What is known of the leases of one owner and of their keys, and what answers may say of them. Pure.
//!
//! Only the owner changes them, one call after the other. A lease ends when its time is over, for which there
//! is no latest moment but an earliest one.

use std::collections::{BTreeMap, BTreeSet};

/// Part of its time, in percent, that a lease lives at least, on a true clock: see `workload/ttl.rs`.
const LIVES_PERCENT: u64 = 80;

/// A broken promise: the check, and what it saw.
pub(crate) type Broken = (&'static str, String);

/// A lease, as far as its owner knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Lease {
    pub(crate) ttl_s: u64,
    /// Not over before, in simulated milliseconds.
    until_ms: u64,
    /// It is gone, and its keys with it.
    is_gone: bool,
    /// Something was sent that may end it at any time.
    may_end: bool,
}

/// A key that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Held {
    value: String,
    /// 0 for none.
    lease: i64,
}

/// A record of a read: key, value, lease.
pub(crate) type Record = (String, String, i64);

/// The leases of one owner and their keys.
#[derive(Default, Debug)]
pub(crate) struct Owner {
    leases: BTreeMap<i64, Lease>,
    /// `None` is known to be absent.
    keys: BTreeMap<String, Option<Held>>,
    /// Keys whose last write has no answer; nobody writes them any more. Those that may stay for ever are true.
    unsure: BTreeMap<String, bool>,
}

impl Owner {
    pub(crate) fn lease(&self, id: i64) -> Option<&Lease> {
        self.leases.get(&id)
    }

    /// All leases that there ever were.
    pub(crate) fn ids(&self) -> Vec<i64> {
        self.leases.keys().copied().collect()
    }

    /// A lease was granted by a call of `called_ms`, answered at `now_ms`.
    pub(crate) fn granted(&mut self, id: i64, ttl_s: u64, called_ms: u64, now_ms: u64) -> Result<(), Broken> {
        // One of that id must have ended before.
        if self.leases.contains_key(&id) {
            self.gone(id, now_ms)?;
        }
        let until_ms = called_ms + ttl_s * 10 * LIVES_PERCENT;
        self.leases.insert(id, Lease { ttl_s, until_ms, is_gone: false, may_end: false });
        Ok(())
    }

    /// A lease was refused because there is one of its id.
    pub(crate) fn exists(&self, id: i64) -> Result<(), Broken> {
        match self.leases.get(&id) {
            Some(lease) if lease.is_gone => Err(("a lease that is gone stays gone", format!("{id} exists: {lease:?}"))),
            Some(_) | None => Ok(()),
        }
    }

    /// A renewal that was sent at `called_ms` was answered with a time.
    pub(crate) fn renewed(&mut self, id: i64, ttl_s: u64, called_ms: u64) -> Result<(), Broken> {
        let lease = self.known(id)?;
        if lease.ttl_s != ttl_s {
            return Err(("an answer tells the time that was granted", format!("{id}: {ttl_s} s, but {lease:?}")));
        }
        lease.lives(id)?;
        lease.until_ms = lease.until_ms.max(called_ms + ttl_s * 10 * LIVES_PERCENT);
        Ok(())
    }

    /// An answer says that a lease lives, and names its keys.
    pub(crate) fn has(&mut self, id: i64, ttl_s: u64, left_s: u64, keys: &BTreeSet<String>) -> Result<(), Broken> {
        let lease = self.known(id)?;
        if lease.ttl_s != ttl_s || left_s > ttl_s {
            let detail = format!("{id}: {left_s} s of {ttl_s}, but {lease:?}");
            return Err(("an answer tells the time that was granted", detail));
        }
        lease.lives(id)?;
        let own: BTreeSet<_> = self.attached(id).collect();
        let strange = keys.iter().filter(|key| !own.contains(*key) && !self.unsure.contains_key(*key)).count();
        if strange > 0 || own.iter().any(|key| !keys.contains(*key)) {
            return Err(("a lease has the keys that were put under it", format!("{id}: {keys:?}, but {own:?}")));
        }
        Ok(())
    }

    /// An answer at `now_ms` says that there is no such lease: its time is over, and its keys are gone too.
    pub(crate) fn gone(&mut self, id: i64, now_ms: u64) -> Result<(), Broken> {
        let Some(lease) = self.leases.get(&id) else { return Ok(()) };
        if now_ms < lease.until_ms && !lease.may_end && !lease.is_gone {
            return Err(("no lease ends early", format!("{id} at {now_ms}: {lease:?}")));
        }
        self.ended(id);
        Ok(())
    }

    /// The owner ended it.
    pub(crate) fn ended(&mut self, id: i64) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.is_gone = true;
        }
        for held in self.keys.values_mut() {
            if held.as_ref().is_some_and(|held| held.lease == id) {
                *held = None;
            }
        }
    }

    /// The owner tried to end it, and had no answer.
    pub(crate) fn may_end(&mut self, id: i64) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.may_end = true;
        }
    }

    /// A key was put, under a lease or, with 0, under none; without a value it was deleted.
    pub(crate) fn wrote(&mut self, key: &str, value: Option<&str>, lease: i64) -> Result<(), Broken> {
        if let Some(found) = self.leases.get(&lease).filter(|found| found.is_gone) {
            let detail = format!("{key} was put under {lease}: {found:?}");
            return Err(("a lease that is gone stays gone", detail));
        }
        let held = value.map(|value| Held { value: value.to_owned(), lease });
        self.keys.insert(key.to_owned(), held);
        Ok(())
    }

    /// A write of a key has no answer: nothing is sure of it any more.
    pub(crate) fn unsure(&mut self, key: &str, value: Option<&str>, lease: i64) {
        let before = self.keys.remove(key).flatten();
        let may_stay = before.is_some_and(|held| held.lease == 0) || (value.is_some() && lease == 0);
        self.unsure.insert(key.to_owned(), may_stay);
    }

    /// A read at `now_ms` of all keys of the owner. Returns those that hang on a lease, or may.
    pub(crate) fn read(&mut self, records: &[Record], now_ms: u64) -> Result<Vec<String>, Broken> {
        let found: BTreeMap<_, _> = records.iter().map(|(key, value, lease)| (key.as_str(), (value, *lease))).collect();
        let absent: Vec<_> = self.keys.iter().filter(|(key, _)| !found.contains_key(key.as_str())).collect();
        let mut ended = BTreeSet::new();
        for (key, held) in absent {
            match held {
                Some(held) if held.lease == 0 => {
                    return Err(("no acknowledged write is lost", format!("{key}: {held:?} at {now_ms}")));
                }
                Some(held) => drop(ended.insert(held.lease)),
                None => {}
            }
        }
        // Their keys are gone with them, so that one that is there is judged as a stranger below.
        ended.into_iter().try_for_each(|id| self.gone(id, now_ms))?;
        let mut hanging = Vec::new();
        for (key, (value, lease)) in found {
            match (self.keys.get(key), self.unsure.get(key)) {
                (Some(Some(held)), _) if held.value == *value && held.lease == lease => {
                    hanging.extend((lease != 0).then(|| key.to_owned()));
                }
                (Some(Some(held)), _) => {
                    let detail = format!("{key}: {value} under {lease}, but {held:?}");
                    return Err(("reads are linearizable", detail));
                }
                (Some(None), _) => {
                    let detail = format!("{key}: {value} under {lease} at {now_ms}");
                    return Err(("keys go together with their lease", detail));
                }
                (None, Some(may_stay)) => hanging.extend((!may_stay).then(|| key.to_owned())),
                (None, None) => return Err(("nothing unwritten is present", format!("{key}: {value}"))),
            }
        }
        Ok(hanging)
    }

    fn attached(&self, id: i64) -> impl Iterator<Item = &String> {
        self.keys.iter().filter(move |(_, held)| held.as_ref().is_some_and(|held| held.lease == id)).map(|(key, _)| key)
    }

    fn known(&mut self, id: i64) -> Result<&mut Lease, Broken> {
        let lease = self.leases.get_mut(&id);
        lease.ok_or_else(|| ("nothing unwritten is present", format!("nobody was granted the lease {id}")))
    }
}

impl Lease {
    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// Whether something without an answer may end it, or one of its id that comes later.
    pub(crate) fn may_be_ended(&self) -> bool {
        self.may_end
    }

    /// An answer says that it lives.
    fn lives(&self, id: i64) -> Result<(), Broken> {
        if self.is_gone { Err(("a lease that is gone stays gone", format!("{id} lives: {self:?}"))) } else { Ok(()) }
    }
}
