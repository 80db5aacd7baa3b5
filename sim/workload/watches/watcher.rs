//! One watch: what it asks for, where it stands on its stream, what it has shown.

use quorate::proto::etcd::etcdserverpb as pb;
use quorate::proto::etcd::etcdserverpb::watch_create_request::FilterType;
use quorate::proto::etcd::etcdserverpb::watch_request::RequestUnion;

use super::{PREFIX, Watches};
use crate::chance::Chance;
use crate::watched::{Keys, Kinds, View};
use crate::workload::etcd::{prefix, signed};

/// Where a watch stands on the stream that is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// Not on it.
    Away,
    /// Asked for as the `number`th on this stream, under an id of its own or one that the server chooses.
    Asked {
        number: i64,
        id: Option<i64>,
    },
    Made(i64),
    /// Its end was asked for.
    Ending(i64),
}

#[derive(Debug)]
pub(super) struct Watcher {
    name: String,
    keys: Keys,
    kinds: Kinds,
    previous: bool,
    fragment: bool,
    notify: bool,
    chooses_id: bool,
    pub(super) standing: Standing,
    /// `None` while it is to begin now, and no answer has said where that is.
    pub(super) view: Option<View>,
}

impl Watcher {
    /// Shows everything from the first revision on.
    pub(super) fn of_all(name: String) -> Self {
        let kinds = Kinds { puts: true, deletes: true };
        let view = View::new(name.clone(), prefix(PREFIX), kinds, true, 1);
        Self {
            name,
            keys: prefix(PREFIX),
            kinds,
            previous: true,
            fragment: true,
            notify: false,
            chooses_id: true,
            standing: Standing::Away,
            view: Some(view),
        }
    }

    pub(super) fn draw(name: String, watches: &Watches, chance: &Chance) -> Self {
        let key = |key: &str| format!("{PREFIX}{key}");
        let keys = match chance.below(10) {
            0..4 => prefix(PREFIX),
            4 => prefix(&key("a/")),
            5 => prefix(&key("m/")),
            6 => Keys { start: key("a/2"), end: key("b/2") },
            7 => Keys { start: key("b/"), end: "\0".to_owned() },
            _ => Keys::from(key(&format!("b/{}", chance.below(4))).as_str()),
        };
        let (puts, deletes) = *chance.pick(&[(true, true), (true, true), (true, true), (true, false), (false, true)]);
        let mut watcher = Self { keys, kinds: Kinds { puts, deletes }, ..Self::of_all(name) };
        // Without an end there is none: the keys of others, whom nobody here knows.
        if watcher.keys.end == "\0" {
            watcher.keys.end = format!("{}~", watcher.keys.start);
        }
        watcher.previous = chance.percent(50);
        watcher.fragment = chance.percent(50);
        watcher.notify = chance.percent(30);
        watcher.chooses_id = chance.percent(50);
        let newest = watches.newest.get();
        watcher.view = match chance.below(10) {
            0..4 => None,
            4..6 => Some(watcher.from(1)),
            6..9 => Some(watcher.from(newest.saturating_sub(chance.below(150)).max(1))),
            _ => Some(watcher.from(newest + chance.below(30))),
        };
        watcher
    }

    /// The same from another revision on.
    pub(super) fn from(&self, revision: u64) -> View {
        View::new(self.name.clone(), self.keys.clone(), self.kinds, self.previous, revision)
    }

    /// Asks for it on a stream, as the `number`th of all that were asked for there.
    pub(super) fn ask(&mut self, number: i64) -> pb::WatchRequest {
        let id = self.chooses_id.then_some(1_000 + number);
        self.standing = Standing::Asked { number, id };
        let filters = [(self.kinds.puts, FilterType::Noput), (self.kinds.deletes, FilterType::Nodelete)];
        let filters = filters.into_iter().filter(|(wanted, _)| !wanted).map(|(_, filter)| filter.into()).collect();
        let create = pb::WatchCreateRequest {
            key: self.keys.start.clone().into(),
            range_end: self.keys.end.clone().into(),
            start_revision: self.view.as_ref().map_or(0, |view| signed(view.next())),
            progress_notify: self.notify,
            filters,
            prev_kv: self.previous,
            watch_id: id.unwrap_or(0),
            fragment: self.fragment,
        };
        pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
    }

    /// Its place among all that were asked for on the stream, while it waits for this answer.
    pub(super) fn waits_for(&self, answer: i64) -> Option<i64> {
        match self.standing {
            Standing::Asked { number, id } if id.is_none_or(|id| id == answer) => Some(number),
            Standing::Away | Standing::Asked { .. } | Standing::Made(_) | Standing::Ending(_) => None,
        }
    }

    /// Its stream is gone.
    pub(super) fn away(&mut self) {
        self.standing = Standing::Away;
        if let Some(view) = &mut self.view {
            view.broke();
        }
    }

    /// Whether an answer under this id is its own.
    pub(super) fn has_id(&self, id: i64) -> bool {
        matches!(self.standing, Standing::Made(own) | Standing::Ending(own) if own == id)
    }

    /// Whether all have shown everything up to a revision.
    pub(super) fn have_reached(watchers: &[Self], revision: u64) -> bool {
        watchers.iter().all(|watcher| watcher.view.as_ref().is_some_and(|view| view.upto >= revision))
    }
}
