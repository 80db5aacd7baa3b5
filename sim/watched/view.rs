//! One watch, from its first revision on and across streams and nodes, as long as it misses nothing.

use super::{Broken, Event, Keys, What};

/// Changes that a watch asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Kinds {
    pub(crate) puts: bool,
    pub(crate) deletes: bool,
}

/// What a watch has shown.
///
/// Invariant: `events` are all that it showed of `from..=upto`, in order; `part` holds the response
/// whose fragments have not all come.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// For whoever reads of a broken promise.
    pub(crate) name: String,
    pub(crate) keys: Keys,
    pub(crate) kinds: Kinds,
    /// Whether it asked for the records before.
    pub(crate) previous: bool,
    pub(crate) from: u64,
    pub(crate) upto: u64,
    pub(crate) events: Vec<Event>,
    part: Vec<Event>,
}

impl View {
    /// A watch of everything from a revision on, which has shown nothing yet.
    pub(crate) fn new(name: String, keys: Keys, kinds: Kinds, previous: bool, from: u64) -> Self {
        Self { name, keys, kinds, previous, from, upto: from.saturating_sub(1), events: Vec::new(), part: Vec::new() }
    }

    /// Where to go on after its stream broke.
    pub(crate) fn next(&self) -> u64 {
        self.upto + 1
    }

    /// The stream broke: what came of a response without its end counts for nothing.
    pub(crate) fn broke(&mut self) {
        self.part.clear();
    }

    /// Takes in a response; `goes_on` marks a fragment with more to come.
    ///
    /// # Errors
    /// With the promise that it breaks.
    pub(crate) fn show(&mut self, events: Vec<Event>, header: u64, goes_on: bool) -> Result<(), Broken> {
        self.part.extend(events);
        if goes_on {
            return Ok(());
        }
        for event in std::mem::take(&mut self.part) {
            self.judge(&event, header).map_err(|(check, why)| (check, format!("{}: {why}: {event:?}", self.name)))?;
            self.events.push(event);
        }
        // All of a revision is in one response.
        self.upto = self.events.last().map_or(self.upto, |last| last.revision.max(self.upto));
        Ok(())
    }

    /// Everything up to `revision` was shown, says the server.
    ///
    /// # Errors
    /// When it is behind what was shown.
    pub(crate) fn bookmark(&mut self, revision: u64) -> Result<(), Broken> {
        if revision < self.events.last().map_or(0, |last| last.revision) {
            let why = format!("{}: told progress {revision} after {:?}", self.name, self.events.last());
            return Err(("a watch is ordered", why));
        }
        self.upto = self.upto.max(revision);
        Ok(())
    }

    fn judge(&self, event: &Event, header: u64) -> Result<(), Broken> {
        let (puts, is_whole) = match &event.what {
            What::Put(shown) => (true, shown.modified == event.revision),
            What::Delete => (false, true),
        };
        let is_asked_for = self.keys.hold(&event.key) && if puts { self.kinds.puts } else { self.kinds.deletes };
        if !is_asked_for {
            return Err(("a watch shows what it asked for", "not asked for".to_owned()));
        }
        if event.before.is_some() && !self.previous {
            return Err(("a watch shows what it asked for", "the record before was not asked for".to_owned()));
        }
        if !is_whole || header < event.revision {
            return Err(("an event is what was written", format!("at {}, header {header}", event.revision)));
        }
        // What was shown or bookmarked before is over; within a response revisions only rise.
        if event.revision <= self.upto {
            return Err(("a watch repeats and splits nothing", format!("all up to {} was shown", self.upto)));
        }
        let Some(last) = self.events.last().filter(|last| last.revision >= event.revision) else { return Ok(()) };
        if last.revision > event.revision {
            return Err(("a watch is ordered", format!("after {}", last.revision)));
        }
        let repeats = self.events.iter().rev().take_while(|seen| seen.revision == event.revision);
        if repeats.into_iter().any(|seen| seen.key == event.key) {
            return Err(("a watch repeats and splits nothing", "twice in a response".to_owned()));
        }
        Ok(())
    }
}
