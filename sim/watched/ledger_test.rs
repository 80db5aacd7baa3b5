use super::watched::{Broken, Event, Floor, Keys, Kinds, Ledger, Shown, Snapshot, Step, Told, View, What, Write};

const ALL: Kinds = Kinds { puts: true, deletes: true };

fn record(value: &str, created: u64, modified: u64, version: u64) -> Shown {
    Shown { value: value.to_owned(), created, modified, version }
}

fn event(key: &str, revision: u64, what: What, before: Option<Shown>) -> Event {
    Event { key: key.to_owned(), revision, what, before }
}

fn put(key: &str, shown: Shown, before: Option<Shown>) -> Event {
    event(key, shown.modified, What::Put(shown), before)
}

fn wrote(key: &str, value: &str) -> Step {
    Step::Put { key: key.to_owned(), value: value.to_owned() }
}

fn whole() -> Keys {
    Keys { start: "a".to_owned(), end: "z".to_owned() }
}

/// What happened: a and b put at 2, a put at 3, a deleted at 4, b put at 5 without an answer.
struct Story {
    writes: Vec<Write>,
    views: Vec<View>,
    snapshots: Vec<Snapshot>,
    floor: Floor,
}

impl Story {
    fn new() -> Self {
        let (a2, b2) = (put("a", record("1", 2, 2, 1), None), put("b", record("2", 2, 2, 1), None));
        let a3 = put("a", record("3", 2, 3, 2), Some(record("1", 2, 2, 1)));
        let a4 = event("a", 4, What::Delete, Some(record("3", 2, 3, 2)));
        let b5 = put("b", record("4", 2, 5, 2), Some(record("2", 2, 2, 1)));
        let applied = |steps, revision, events: &[&Event]| Write {
            steps,
            told: Told::Applied(revision, events.iter().copied().cloned().collect()),
        };
        let writes = vec![
            applied(vec![wrote("a", "1"), wrote("b", "2")], 2, &[&a2, &b2]),
            applied(vec![wrote("a", "3")], 3, &[&a3]),
            applied(vec![Step::Delete("a".into())], 4, &[&a4]),
            Write { steps: vec![wrote("b", "4")], told: Told::Nothing },
            Write { steps: vec![wrote("c", "5")], told: Told::Refused },
        ];
        let mut all = View::new("all".to_owned(), whole(), ALL, true, 1);
        all.show(vec![a2, b2, a3, a4, b5], 5, false).unwrap();
        let mut late = View::new("late".to_owned(), "b".into(), Kinds { deletes: false, ..ALL }, false, 3);
        late.show(vec![put("b", record("4", 2, 5, 2), None)], 5, false).unwrap();
        let records = vec![("a".to_owned(), record("3", 2, 3, 2)), ("b".to_owned(), record("2", 2, 2, 1))];
        let snapshots = vec![
            Snapshot { keys: whole(), revision: 3, records },
            Snapshot { keys: whole(), revision: 5, records: vec![("b".to_owned(), record("4", 2, 5, 2))] },
        ];
        Self { writes, views: vec![all, late], snapshots, floor: Floor::default() }
    }

    fn judge(&self) -> Result<u64, Broken> {
        let ledger = Ledger::new(&self.writes, &self.views, &self.snapshots, self.floor)?;
        let views = ledger.check_views()?;
        let snapshots = ledger.check_snapshots(&self.snapshots)?;
        Ok(views + snapshots + ledger.check_chains(ledger.newest())?)
    }

    fn broken(&self) -> &'static str {
        self.judge().unwrap_err().0
    }
}

#[test]
fn a_story_that_fits_together_is_none() {
    let mut story = Story::new();
    assert_eq!(story.judge(), Ok(15));
    story.writes.reverse();
    assert_eq!(story.judge(), Ok(15), "in whatever order they were begun");
}

#[test]
fn an_event_that_one_watch_lacks_is_noticed() {
    let mut story = Story::new();
    story.views[1].events.clear();
    assert_eq!(story.broken(), "a watch misses nothing");
    let mut story = Story::new();
    story.views[0].events.remove(3);
    assert_eq!(story.broken(), "a watch misses nothing", "only its writer knows of the delete");
    story.views[0].from = 5;
    story.views[0].events.drain(..3);
    assert_eq!(story.judge(), Ok(11), "it promises nothing of what was before");
}

#[test]
fn half_a_write_is_noticed_where_it_has_no_answer() {
    let mut story = Story::new();
    story.writes[3].steps.push(wrote("d", "6"));
    assert_eq!(story.broken(), "a write is whole or not at all");
}

#[test]
fn what_nobody_wrote_or_was_refused_is_noticed() {
    let mut story = Story::new();
    story.views[1].events[0].what = What::Put(record("7", 2, 5, 2));
    assert_eq!(story.broken(), "an event is what was written");
    let mut story = Story::new();
    story.writes[3].told = Told::Refused;
    assert_eq!(story.broken(), "what is not applied never shows");
    let mut story = Story::new();
    story.views[0].events.push(event("b", 6, What::Delete, None));
    story.views[0].upto = 6;
    assert_eq!(story.broken(), "an event is what was written");
    story.writes.push(Write { steps: vec![Step::Delete(whole())], told: Told::Nothing });
    assert_eq!(story.broken(), "a watch has the record before");
    story.views[0].events[5].before = Some(record("4", 2, 5, 2));
    assert_eq!(story.judge(), Ok(17));
}

#[test]
fn a_write_that_shows_twice_is_noticed() {
    let mut story = Story::new();
    story.views[0].events.push(put("b", record("4", 2, 6, 3), Some(record("4", 2, 5, 2))));
    story.views[0].upto = 6;
    assert_eq!(story.broken(), "a write has one revision");
}

#[test]
fn two_views_of_one_event_are_noticed() {
    let mut story = Story::new();
    story.views[1].events[0].what = What::Put(record("4", 5, 5, 1));
    assert_eq!(story.broken(), "all watches agree");
}

#[test]
fn wrong_versions_and_wrong_records_before_are_noticed() {
    let mut story = Story::new();
    for view in &mut story.views {
        for event in view.events.iter_mut().filter(|event| event.revision == 5) {
            event.what = What::Put(record("4", 2, 5, 3));
        }
    }
    story.snapshots.pop();
    assert_eq!(story.broken(), "an event is what was written");
    let mut story = Story::new();
    story.views[0].events[2].before = None;
    assert_eq!(story.broken(), "a watch has the record before");
    story.floor.asked = 3;
    assert!(story.judge().is_ok(), "it was compacted");
    let mut story = Story::new();
    let Told::Applied(_, events) = &mut story.writes[2].told else { unreachable!() };
    events[0].before = Some(record("1", 2, 2, 1));
    assert_eq!(story.broken(), "an answer has the record before");
}

#[test]
fn a_read_that_shows_another_revision_is_noticed() {
    let mut story = Story::new();
    story.snapshots[0].revision = 4;
    assert_eq!(story.broken(), "a read at a revision shows it");
    let mut story = Story::new();
    story.snapshots[1].records.clear();
    assert_eq!(story.broken(), "a read at a revision shows it");
    let mut story = Story::new();
    story.snapshots[0].revision = 2;
    assert_eq!(story.broken(), "a read at a revision shows it");
}

#[test]
fn what_may_be_compacted_is_what_was_asked_for_or_is_not_kept() {
    let story = Story::new();
    let judge = |floor| Ledger::new(&story.writes, &story.views, &[], floor).unwrap().may_be_compacted(50, 100);
    assert!(!judge(Floor::default()));
    assert!(judge(Floor { asked: 50, kept: 0 }) && !judge(Floor { asked: 49, kept: 0 }));
    assert!(judge(Floor { asked: 0, kept: 50 }) && !judge(Floor { asked: 0, kept: 51 }));
}
