//! The watches of one stream: what each has shown, and what a page of changes means to each. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use crate::api::etcd::convert::record;
use crate::api::etcd::face::signed;
use crate::env::time::Instant;
use crate::proto::etcd::etcdserverpb as pb;
use crate::proto::etcd::etcdserverpb::watch_create_request::FilterType;
use crate::proto::etcd::mvccpb;
use crate::proto::v1;
use crate::types::limits::{KEY_BYTES_MAX, WATCH_RANGES_MAX};

/// The id of what is said to no watch.
const NO_WATCH: i64 = -1;
/// Bytes of events in a fragment, as etcd's default.
const FRAGMENT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Watches whose ranges are named where changes are read.
const RANGES_READ_MAX: usize = 100;
/// The end of a range without one.
const UNBOUNDED: &[u8] = &[0];

type Out = VecDeque<pb::WatchResponse>;

/// Watches by id.
#[derive(Default)]
pub(super) struct Watches {
    watches: BTreeMap<i64, Watch>,
    next_id: i64,
    /// What is being shown.
    page: Option<Page>,
    /// Revisions at which progress was asked for; each is told when all watches have passed it.
    asked: VecDeque<u64>,
    /// How often a watch that wants to hears of progress while nothing happens.
    progress_every: Duration,
}

struct Watch {
    key: Bytes,
    range_end: Bytes,
    /// The next revision to show.
    next: u64,
    previous: bool,
    no_put: bool,
    no_delete: bool,
    fragment: bool,
    /// When something was last said, if it wants to hear of progress.
    told_at: Option<Instant>,
    /// No page was read for it yet.
    is_new: bool,
}

/// Changes that are shown to one watch after the other, so that only one answer is held at a time.
struct Page {
    events: Vec<Shown>,
    /// Their places in `events`, in the order of their keys.
    by_key: Vec<usize>,
    next_revision: u64,
    header: Option<pb::ResponseHeader>,
    /// The first watch that it was not shown to.
    next_id: i64,
}

impl Watches {
    pub(super) fn new(progress_every: Duration) -> Self {
        Self { progress_every, ..Self::default() }
    }

    pub(super) fn progress_every(&self) -> Duration {
        self.progress_every
    }

    /// Whether some watch has seen no page yet.
    pub(super) fn has_new(&self) -> bool {
        self.watches.values().any(|watch| watch.is_new)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    /// The first revision that some watch has not shown.
    pub(super) fn next(&self) -> Option<u64> {
        self.watches.values().map(|watch| watch.next).min()
    }

    /// The ranges to read changes of; empty for those of all keys. Beyond a number of watches it costs less to look
    /// here who wants a change than to compare each with every range.
    pub(super) fn ranges(&self) -> Vec<v1::KeyRange> {
        if self.watches.len() > RANGES_READ_MAX {
            return Vec::new();
        }
        let range = |watch: &Watch| v1::KeyRange { key: watch.key.clone(), range_end: watch.range_end.clone() };
        self.watches.values().map(range).collect()
    }

    pub(super) fn want_previous(&self) -> bool {
        self.watches.values().any(|watch| watch.previous)
    }

    /// Begins a watch, as of `present` if it does not say from where.
    pub(super) fn create(
        &mut self,
        create: pb::WatchCreateRequest,
        present: Option<&pb::ResponseHeader>,
        now: Instant,
        out: &mut Out,
    ) {
        let header = present.copied();
        let refuse = |reason: &str| pb::WatchResponse {
            header,
            watch_id: NO_WATCH,
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..Default::default()
        };
        // The empty key stands for the first that there can be.
        let key = if create.key.is_empty() { Bytes::from_static(UNBOUNDED) } else { create.key };
        let range_end = create.range_end;
        if !range_end.is_empty() && range_end != UNBOUNDED && range_end <= key {
            return out.push_back(refuse("mvcc: watcher range is empty"));
        }
        if key.len() > KEY_BYTES_MAX || range_end.len() > KEY_BYTES_MAX + 1 {
            return out.push_back(refuse("quorate: no key is that long"));
        }
        if self.watches.len() >= WATCH_RANGES_MAX {
            return out.push_back(refuse("quorate: too many watches on one stream: open another one"));
        }
        let id = match create.watch_id {
            0 => self.draw_id(),
            id if self.watches.contains_key(&id) => {
                return out.push_back(refuse("mvcc: duplicate watch ID provided on the WatchStream"));
            }
            id => id,
        };
        let revision = header.map_or(0, |header| header.revision);
        let next = match create.start_revision {
            0 => u64::try_from(revision).unwrap_or_default().saturating_add(1),
            // One that is negative was compacted, if anything was.
            start => u64::try_from(start).unwrap_or(1),
        };
        let filters = |kind| create.filters.iter().any(|filter| FilterType::try_from(*filter) == Ok(kind));
        let watch = Watch {
            key,
            range_end,
            next,
            previous: create.prev_kv,
            no_put: filters(FilterType::Noput),
            no_delete: filters(FilterType::Nodelete),
            fragment: create.fragment,
            told_at: create.progress_notify.then_some(now),
            is_new: true,
        };
        self.watches.insert(id, watch);
        out.push_back(pb::WatchResponse { header, watch_id: id, created: true, ..Default::default() });
    }

    fn draw_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id = self.next_id.wrapping_add(1).max(0);
        }
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1).max(0);
        id
    }

    /// Ends a watch. One that there is not is passed over.
    pub(super) fn cancel(&mut self, id: i64, header: Option<&pb::ResponseHeader>, out: &mut Out) {
        if self.watches.remove(&id).is_some() {
            out.push_back(pb::WatchResponse {
                header: header.copied(),
                watch_id: id,
                canceled: true,
                ..Default::default()
            });
        }
    }

    /// Ends the watches that were to begin before what is kept.
    pub(super) fn end_compacted(&mut self, oldest: u64, header: Option<&pb::ResponseHeader>, out: &mut Out) {
        let lost: Vec<_> = self.watches.iter().filter(|(_, watch)| watch.next < oldest).map(|(id, _)| *id).collect();
        for id in lost {
            self.watches.remove(&id);
            out.push_back(pb::WatchResponse {
                header: header.copied(),
                watch_id: id,
                canceled: true,
                compact_revision: signed(oldest),
                ..Default::default()
            });
        }
    }

    /// Takes a page of changes to show to every watch there is: it was read for all of them.
    pub(super) fn take_page(&mut self, page: v1::EventsResponse, header: Option<&pb::ResponseHeader>) {
        for watch in self.watches.values_mut() {
            watch.is_new = false;
        }
        let events: Vec<_> = page.events.into_iter().map(Shown::of).collect();
        let mut by_key: Vec<_> = (0..events.len()).collect();
        by_key.sort_by(|one, other| key_at(&events, *one).cmp(key_at(&events, *other)));
        let (header, next_id) = (header.copied(), i64::MIN);
        self.page = Some(Page { events, by_key, next_revision: page.next_revision, header, next_id });
    }

    /// Shows the page to the next watch that wants something of it. Returns whether there is more of it.
    pub(super) fn show(&mut self, now: Instant, out: &mut Out) -> bool {
        let Some(page) = &mut self.page else { return false };
        // Those that came since the page was read are for the next one.
        let watches = self.watches.range_mut(page.next_id..).filter(|(_, watch)| !watch.is_new);
        for (&id, watch) in watches {
            let wanted = page.wanted_by(watch);
            watch.next = watch.next.max(page.next_revision);
            if wanted.is_empty() {
                continue;
            }
            watch.told_at = watch.told_at.map(|_| now);
            let response = pb::WatchResponse { header: page.header, watch_id: id, ..Default::default() };
            if watch.fragment {
                fragments(&response, wanted, out);
            } else {
                out.push_back(pb::WatchResponse { events: wanted, ..response });
            }
            if let Some(next_id) = id.checked_add(1) {
                page.next_id = next_id;
                return true;
            }
        }
        self.page = None;
        false
    }

    /// Progress of the whole stream was asked for, at a moment.
    pub(super) fn ask_progress(&mut self, present: Option<&pb::ResponseHeader>, out: &mut Out) {
        let revision = present.map_or(0, |header| u64::try_from(header.revision).unwrap_or_default());
        if self.watches.is_empty() {
            out.push_back(progress_of(NO_WATCH, present, revision));
        } else {
            self.asked.push_back(revision);
        }
    }

    /// Says how far the watches have come, where that was asked for: never beyond what was shown.
    pub(super) fn progress(&mut self, header: Option<&pb::ResponseHeader>, now: Instant, out: &mut Out) {
        if self.page.is_some() {
            // Some watches have shown it and others not: what is true of all would go back for those.
            return;
        }
        let shown = self.next().map_or(u64::MAX, |next| next.saturating_sub(1));
        let present = header.map_or(0, |header| u64::try_from(header.revision).unwrap_or_default());
        while self.asked.front().is_some_and(|asked| *asked <= shown.min(present)) {
            self.asked.pop_front();
            out.push_back(progress_of(NO_WATCH, header, shown.min(present)));
        }
        for (&id, watch) in &mut self.watches {
            let Some(told_at) = &mut watch.told_at else { continue };
            // A node that lags behind what the watch was shown elsewhere waits until it is there.
            let is_there = watch.next == present.saturating_add(1);
            if is_there && now.saturating_duration_since(*told_at) >= self.progress_every {
                *told_at = now;
                out.push_back(progress_of(id, header, present));
            }
        }
    }
}

fn progress_of(id: i64, header: Option<&pb::ResponseHeader>, revision: u64) -> pb::WatchResponse {
    let header = header.map(|header| pb::ResponseHeader { revision: signed(revision), ..*header });
    pb::WatchResponse { header, watch_id: id, ..Default::default() }
}

/// An event in etcd's form.
struct Shown {
    revision: u64,
    is_put: bool,
    event: mvccpb::Event,
}

impl Shown {
    fn of(event: v1::Event) -> Self {
        let is_put = event.kind() == v1::event::Kind::Put;
        let kind = if is_put { mvccpb::event::EventType::Put } else { mvccpb::event::EventType::Delete };
        let revision = event.record.as_ref().map_or(0, |record| record.mod_revision);
        let event =
            mvccpb::Event { r#type: kind.into(), kv: event.record.map(record), prev_kv: event.previous.map(record) };
        Self { revision, is_put, event }
    }

    fn to(&self, previous: bool) -> mvccpb::Event {
        let prev_kv = if previous { self.event.prev_kv.clone() } else { None };
        mvccpb::Event { r#type: self.event.r#type, kv: self.event.kv.clone(), prev_kv }
    }
}

impl Page {
    /// What a watch has not shown, in the order in which it happened.
    fn wanted_by(&self, watch: &Watch) -> Vec<mvccpb::Event> {
        let key_of = |at: &usize| key_at(&self.events, *at);
        let start = self.by_key.partition_point(|at| key_of(at) < watch.key.as_ref());
        let from = self.by_key.get(start..).unwrap_or_default();
        let count = match watch.range_end.as_ref() {
            [] => from.partition_point(|at| key_of(at) == watch.key.as_ref()),
            UNBOUNDED => from.len(),
            end => from.partition_point(|at| key_of(at) < end),
        };
        let mut wanted = from.get(..count).unwrap_or_default().to_vec();
        wanted.sort_unstable();
        let events = wanted.into_iter().filter_map(|at| self.events.get(at)).filter(|event| watch.wants(event));
        events.map(|event| event.to(watch.previous)).collect()
    }
}

fn key_at(events: &[Shown], at: usize) -> &[u8] {
    let record = events.get(at).and_then(|event| event.event.kv.as_ref());
    record.map_or(&[], |record| record.key.as_ref())
}

impl Watch {
    /// Whether it wants to show a change of its keys.
    fn wants(&self, shown: &Shown) -> bool {
        let is_filtered = if shown.is_put { self.no_put } else { self.no_delete };
        shown.revision >= self.next && !is_filtered
    }
}

/// Sends events in parts that a client can take: all but the last say that more follows.
fn fragments(response: &pb::WatchResponse, events: Vec<mvccpb::Event>, out: &mut Out) {
    let (mut part, mut bytes) = (Vec::new(), 0);
    for event in events {
        let size = event.encoded_len();
        if bytes + size > FRAGMENT_BYTES_MAX && !part.is_empty() {
            let events = std::mem::take(&mut part);
            out.push_back(pb::WatchResponse { fragment: true, events, ..response.clone() });
            bytes = 0;
        }
        bytes += size;
        part.push(event);
    }
    out.push_back(pb::WatchResponse { events: part, ..response.clone() });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::{Out, Watches, pb, v1};
    use crate::env::time;
    use crate::proto::etcd::etcdserverpb::watch_create_request::FilterType;

    const PROGRESS_EVERY: Duration = Duration::from_secs(600);

    fn header(revision: i64) -> pb::ResponseHeader {
        pb::ResponseHeader { revision, ..Default::default() }
    }

    fn event(key: &'static str, revision: u64, is_put: bool) -> v1::Event {
        let kind = if is_put { v1::event::Kind::Put } else { v1::event::Kind::Delete };
        let record =
            v1::Record { key: Bytes::from_static(key.as_bytes()), mod_revision: revision, ..Default::default() };
        v1::Event { kind: kind.into(), record: Some(record.clone()), previous: Some(record) }
    }

    fn page(events: Vec<v1::Event>, next_revision: u64) -> v1::EventsResponse {
        v1::EventsResponse { header: None, events, next_revision }
    }

    fn create(watches: &mut Watches, key: &'static str, end: &'static str, start: i64, present: i64) -> Out {
        let (key, range_end) = (Bytes::from_static(key.as_bytes()), Bytes::from_static(end.as_bytes()));
        let create = pb::WatchCreateRequest { key, range_end, start_revision: start, ..Default::default() };
        let mut out = Out::new();
        watches.create(create, Some(&header(present)), time::now(), &mut out);
        out
    }

    /// All answers to a page; no two are made at once.
    fn shown(watches: &mut Watches, page: v1::EventsResponse, header: Option<&pb::ResponseHeader>) -> Out {
        let (mut all, mut out) = (Out::new(), Out::new());
        watches.take_page(page, header);
        while watches.show(time::now(), &mut out) {
            assert!(out.iter().all(|answer| answer.watch_id == out[0].watch_id));
            all.append(&mut out);
        }
        all.append(&mut out);
        all
    }

    fn show(watches: &mut Watches, page: v1::EventsResponse) -> Vec<(i64, Vec<i64>)> {
        let out = shown(watches, page, Some(&header(99)));
        let revisions = |answer: &pb::WatchResponse| {
            answer.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision).collect()
        };
        out.iter().map(|answer| (answer.watch_id, revisions(answer))).collect()
    }

    #[test]
    fn each_watch_shows_what_it_has_not_shown_and_nothing_twice() {
        let mut watches = Watches::default();
        create(&mut watches, "a", "", 0, 7);
        create(&mut watches, "a", "c", 5, 7);
        assert_eq!(watches.next(), Some(5));
        let first = page(vec![event("a", 6, true), event("b", 7, true), event("a", 8, true)], 9);
        assert_eq!(show(&mut watches, first.clone()), [(0, vec![8]), (1, vec![6, 7, 8])]);
        assert_eq!(watches.next(), Some(9));
        assert_eq!(show(&mut watches, first), [], "all of it was shown");
        assert_eq!(show(&mut watches, page(vec![event("z", 9, true)], 10)), []);
        assert_eq!(watches.next(), Some(10));
    }

    #[test]
    fn who_comes_while_a_page_is_shown_waits_for_one_that_was_read_for_it() {
        let mut watches = Watches::default();
        for _ in 0..2 {
            create(&mut watches, "a", "c", 5, 7);
        }
        let mut out = Out::new();
        watches.take_page(page(vec![event("b", 6, true), event("a", 8, true)], 9), Some(&header(8)));
        assert!(watches.show(time::now(), &mut out));
        create(&mut watches, "a", "", 3, 8);
        watches.cancel(1, None, &mut out);
        create(&mut watches, "b", "", 6, 8);
        assert!(!watches.show(time::now(), &mut out), "there is nobody left whom it concerns");
        assert_eq!(out.iter().filter(|answer| !answer.events.is_empty()).count(), 1);
        assert_eq!(watches.next(), Some(3));
        let again = page(vec![event("a", 3, true), event("b", 6, true), event("a", 8, true)], 9);
        assert_eq!(show(&mut watches, again), [(2, vec![3, 8]), (3, vec![6])]);
        assert_eq!(watches.next(), Some(9));
    }

    #[test]
    fn many_watches_see_each_their_keys_in_the_order_of_changes() {
        let mut watches = Watches::default();
        let names: Vec<&'static str> = (0..200).map(|at| &*format!("k{at:03}").leak()).collect();
        for name in &names {
            create(&mut watches, name, "", 1, 0);
        }
        create(&mut watches, "k010", "k013", 1, 0);
        create(&mut watches, "k198", "\0", 1, 0);
        assert!(watches.ranges().is_empty(), "all changes are read");
        let events = [12, 199, 10, 12, 5].map(|at| names[at]);
        let events = events.iter().zip(1..).map(|(name, revision)| event(name, revision, true)).collect();
        let expected =
            [(5, vec![5]), (10, vec![3]), (12, vec![1, 4]), (199, vec![2]), (200, vec![1, 3, 4]), (201, vec![2])];
        assert_eq!(show(&mut watches, page(events, 6)), expected);
    }

    #[test]
    fn filters_and_previous_records_are_each_watchs_own() {
        let mut watches = Watches::default();
        let mut out = Out::new();
        for (filter, prev_kv) in [(FilterType::Noput, true), (FilterType::Nodelete, false)] {
            let (key, filters) = (Bytes::from_static(b"a"), vec![filter.into()]);
            let create = pb::WatchCreateRequest { key, filters, prev_kv, ..Default::default() };
            watches.create(create, Some(&header(1)), time::now(), &mut out);
        }
        let out = shown(&mut watches, page(vec![event("a", 2, true), event("a", 3, false)], 4), None);
        let shown: Vec<_> = out.iter().map(|answer| (answer.watch_id, answer.events.clone())).collect();
        assert_eq!((shown[0].0, shown[0].1.len(), shown[0].1[0].prev_kv.is_some()), (0, 1, true));
        assert_eq!((shown[1].0, shown[1].1.len(), shown[1].1[0].prev_kv.is_some()), (1, 1, false));
    }

    #[test]
    fn progress_waits_until_everything_before_it_was_shown() {
        let mut watches = Watches::default();
        let mut out = create(&mut watches, "a", "", 3, 7);
        out.clear();
        watches.ask_progress(Some(&header(7)), &mut out);
        watches.progress(Some(&header(7)), time::now(), &mut out);
        assert!(out.is_empty(), "3 to 7 may still come");
        show(&mut watches, page(Vec::new(), 8));
        watches.progress(Some(&header(6)), time::now(), &mut out);
        assert!(out.is_empty(), "this node has not come to 7 itself");
        watches.progress(Some(&header(7)), time::now(), &mut out);
        assert_eq!((out[0].watch_id, out[0].header.unwrap().revision), (-1, 7));
        watches.progress(Some(&header(7)), time::now(), &mut out);
        assert_eq!(out.len(), 1, "told once");
    }

    #[test]
    fn progress_waits_until_a_page_was_shown_to_all() {
        let mut watches = Watches::default();
        for _ in 0..2 {
            create(&mut watches, "a", "", 0, 7);
        }
        let mut out = Out::new();
        watches.ask_progress(Some(&header(7)), &mut out);
        watches.take_page(page(vec![event("a", 8, true)], 9), Some(&header(8)));
        assert!(watches.show(time::now(), &mut out));
        watches.progress(Some(&header(8)), time::now(), &mut out);
        assert_eq!(out.len(), 1, "7 is behind what the first was shown");
        while watches.show(time::now(), &mut out) {}
        watches.progress(Some(&header(8)), time::now(), &mut out);
        let told: Vec<_> =
            out.iter().skip(1).map(|answer| (answer.watch_id, answer.header.unwrap().revision)).collect();
        assert_eq!(told, [(1, 8), (-1, 8)]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_wants_to_hears_of_progress_when_nothing_happens() {
        let mut watches = Watches::new(PROGRESS_EVERY);
        let mut out = Out::new();
        for (key, progress_notify) in [("a", true), ("a", false), ("b", true)] {
            let key = Bytes::from_static(key.as_bytes());
            let create = pb::WatchCreateRequest { key, progress_notify, ..Default::default() };
            watches.create(create, Some(&header(5)), time::now(), &mut out);
        }
        out.clear();
        let told = |watches: &mut Watches, present| {
            let mut out = Out::new();
            watches.progress(Some(&header(present)), time::now(), &mut out);
            out.iter().map(|answer| (answer.watch_id, answer.header.unwrap().revision)).collect::<Vec<_>>()
        };
        time::sleep(PROGRESS_EVERY / 2).await;
        show(&mut watches, page(vec![event("a", 6, true)], 7));
        assert_eq!(told(&mut watches, 6), []);
        time::sleep(PROGRESS_EVERY / 2).await;
        assert_eq!(told(&mut watches, 6), [(2, 6)], "the first was told of an event meanwhile");
        assert_eq!(told(&mut watches, 6), [], "once");
        time::sleep(PROGRESS_EVERY / 2).await;
        assert_eq!(told(&mut watches, 7), [], "7 was not shown yet");
        assert_eq!(told(&mut watches, 5), [], "a replica that has fallen back");
        assert_eq!(told(&mut watches, 6), [(0, 6)]);
    }

    #[test]
    fn what_makes_no_watch_is_refused_and_what_is_compacted_ends() {
        let mut watches = Watches::default();
        let refused = create(&mut watches, "b", "a", 0, 7);
        assert!(refused[0].created && refused[0].canceled && refused[0].watch_id == -1);
        assert!(watches.is_empty());
        create(&mut watches, "a", "", 2, 7);
        create(&mut watches, "a", "", 5, 7);
        let mut out = Out::new();
        watches.end_compacted(5, None, &mut out);
        assert_eq!((out.len(), out[0].watch_id, out[0].compact_revision), (1, 0, 5));
        watches.cancel(0, None, &mut out);
        assert_eq!(out.len(), 1, "it is gone");
        watches.cancel(1, None, &mut out);
        assert!(out[1].canceled && watches.is_empty());
    }

    #[test]
    fn large_revisions_come_in_fragments_for_who_asks() {
        let mut watches = Watches::default();
        let mut out = Out::new();
        let key = Bytes::from_static(b"a");
        let create =
            pb::WatchCreateRequest { key, range_end: Bytes::from_static(&[0]), fragment: true, ..Default::default() };
        watches.create(create, Some(&header(1)), time::now(), &mut out);
        let large = |key| {
            let mut event = event(key, 2, true);
            event.record.as_mut().unwrap().value = vec![0; 1_500_000].into();
            event.previous = None;
            event
        };
        let out = shown(&mut watches, page(vec![large("a"), large("b"), large("c")], 3), None);
        let parts: Vec<_> = out.iter().map(|part| (part.events.len(), part.fragment)).collect();
        assert_eq!(parts, [(1, true), (1, true), (1, false)]);
    }
}
