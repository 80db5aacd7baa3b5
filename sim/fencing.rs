//! Writes that are guarded by a lock: each compares the revision that made the key of its writer's lock, so
//! that only the holder's take place. Holds them, and who was told to hold the lock when, against each other. Pure.

use std::collections::BTreeMap;

/// A broken promise: the check, and what it saw.
pub(crate) type Broken = (&'static str, String);

/// Somebody was told that they hold the lock.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    pub(crate) client: usize,
    /// The revision that made the key of the lock.
    pub(crate) fence: u64,
    /// The revision at which it was granted.
    pub(crate) granted: u64,
}

/// The record that a write replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Before {
    pub(crate) value: String,
    pub(crate) modified: u64,
    pub(crate) version: u64,
}

/// What the writer was told.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    Applied {
        revision: u64,
        before: Option<Before>,
    },
    Refused,
    /// Nothing: it may take place once.
    Nothing,
}

/// A guarded write; no two have the same value.
#[derive(Clone, Debug)]
pub(crate) struct Guarded {
    pub(crate) fence: u64,
    pub(crate) value: String,
    pub(crate) told: Told,
}

/// Everything about one lock.
#[derive(Clone, Default, Debug)]
pub(crate) struct Fencing {
    pub(crate) holds: Vec<Hold>,
    pub(crate) writes: Vec<Guarded>,
}

/// A write that took place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    version: u64,
    fence: u64,
    write: usize,
}

impl Fencing {
    /// Judges everything; `last` is the record that is there in the end. Returns how much was checked.
    ///
    /// # Errors
    /// With the first promise that is broken.
    pub(crate) fn judge(&self, last: Option<&Before>) -> Result<u64, Broken> {
        let mut places = BTreeMap::new();
        for (write, guarded) in self.writes.iter().enumerate() {
            let Told::Applied { revision, before } = &guarded.told else { continue };
            let version = before.as_ref().map_or(1, |before| before.version + 1);
            put_down(&mut places, *revision, Place { version, fence: guarded.fence, write })?;
            before.iter().try_for_each(|before| self.learn(&mut places, before))?;
        }
        last.into_iter().try_for_each(|last| self.learn(&mut places, last))?;
        self.check_order(&places, last)?;
        self.check_holds(&places)?;
        Ok((places.len() + self.holds.len()) as u64)
    }

    fn learn(&self, places: &mut BTreeMap<u64, Place>, shown: &Before) -> Result<(), Broken> {
        let Some(write) = self.writes.iter().position(|guarded| guarded.value == shown.value) else {
            return Err(("nothing unwritten is present", format!("{shown:?}")));
        };
        let guarded = &self.writes[write];
        match &guarded.told {
            Told::Refused => return Err(("what is not applied never shows", format!("{shown:?}: {guarded:?}"))),
            Told::Applied { revision, .. } if *revision != shown.modified => {
                return Err(("a write has one revision", format!("{shown:?}: {guarded:?}")));
            }
            Told::Applied { .. } | Told::Nothing => {}
        }
        put_down(places, shown.modified, Place { version: shown.version, fence: guarded.fence, write })
    }

    /// In the order of their revisions versions and fences rise, and nothing that was acknowledged is missing.
    fn check_order(&self, places: &BTreeMap<u64, Place>, last: Option<&Before>) -> Result<(), Broken> {
        let mut before: Option<(u64, Place)> = None;
        for (&revision, &place) in places {
            let detail = || format!("{:?} at {revision}, after {before:?}", self.writes[place.write]);
            let version = before.map_or(0, |(_, before)| before.version);
            if place.version <= version {
                return Err(("no acknowledged write is lost", detail()));
            }
            if before.is_some_and(|(_, before)| before.write == place.write) {
                return Err(("a write has one revision", detail()));
            }
            if before.is_some_and(|(_, before)| before.fence > place.fence) {
                return Err(("a lock has one holder", detail()));
            }
            before = Some((revision, place));
        }
        let (shown, known) = (last.map(|last| last.modified), before.map(|(revision, _)| revision));
        if shown != known {
            return Err(("no acknowledged write is lost", format!("{last:?} is the last, but {before:?}")));
        }
        // Those in between that nobody saw were written without an answer.
        let hidden = before.map_or(0, |(_, before)| before.version) - places.len() as u64;
        let seen = |write: usize| places.values().any(|place| place.write == write);
        let open = self.writes.iter().enumerate().filter(|(_, guarded)| matches!(guarded.told, Told::Nothing));
        let unseen = open.filter(|(write, _)| !seen(*write)).count() as u64;
        if hidden > unseen {
            return Err(("nothing unwritten is present", format!("{hidden} versions of {unseen} writes")));
        }
        Ok(())
    }

    /// Once somebody holds the lock, nobody who came to it before writes any more.
    fn check_holds(&self, places: &BTreeMap<u64, Place>) -> Result<(), Broken> {
        for hold in &self.holds {
            let late = places.range(hold.granted + 1..).find(|(_, place)| place.fence < hold.fence);
            if let Some((revision, place)) = late {
                let detail = format!("{:?} at {revision}, but {hold:?}", self.writes[place.write]);
                return Err(("a lock has one holder", detail));
            }
            let other = self.holds.iter().find(|other| other.fence == hold.fence && other.client != hold.client);
            if let Some(other) = other {
                return Err(("a lock has one holder", format!("{hold:?} and {other:?}")));
            }
        }
        Ok(())
    }
}

fn put_down(places: &mut BTreeMap<u64, Place>, revision: u64, place: Place) -> Result<(), Broken> {
    match places.insert(revision, place) {
        Some(other) if other != place => {
            Err(("an answer has the record before", format!("{other:?} and {place:?} at {revision}")))
        }
        Some(_) | None => Ok(()),
    }
}
