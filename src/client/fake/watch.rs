//! Watches of a scripted node: the log of all changes, in answers as large as the script allows.

use std::pin::Pin;

use bytes::Bytes;
use futures_core::Stream;
use tonic::{Code, Response, Status};

use super::{Fake, State, detail, status};
use crate::proto::v1::{self, ErrorCode, Event, Record, WatchRequest, WatchResponse};

pub(crate) type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

/// A stream of changes as they come.
pub(super) fn watch(fake: Fake, request: WatchRequest) -> Response<WatchStream> {
    let next = request.from_revision;
    let watching = Watching { fake, request, next, shown: 0, is_begun: false };
    let answers = futures_util::stream::unfold(Some(watching), async |watching| watching?.step().await);
    Response::new(Box::pin(answers))
}

struct Watching {
    fake: Fake,
    request: WatchRequest,
    next: u64,
    /// Events of that revision that were shown.
    shown: usize,
    is_begun: bool,
}

impl Watching {
    async fn step(mut self) -> Option<(Result<WatchResponse, Status>, Option<Self>)> {
        loop {
            let fake = self.fake.clone();
            let mut changed = std::pin::pin!(fake.changed.notified());
            changed.as_mut().enable();
            let answer = {
                let state = fake.state.lock();
                if self.next != 0 && self.next < state.compacted {
                    let detail = detail(ErrorCode::Compacted, v1::Outcome::NotApplied, false);
                    return Some((Err(status(Code::OutOfRange, "compacted", detail)), None));
                }
                self.answer(&state)
            };
            if let Some(answer) = answer {
                self.is_begun = true;
                return Some((Ok(answer), Some(self)));
            }
            changed.await;
        }
    }

    fn answer(&mut self, state: &State) -> Option<WatchResponse> {
        let header = Some(state.header());
        if self.next == 0 {
            self.next = state.revision + 1;
            return Some(WatchResponse { header, events: Vec::new(), next_revision: self.next });
        }
        let range = &self.request.ranges[0];
        let wanted = |event: &&Event| {
            let record = event.record.as_ref().unwrap();
            record.mod_revision >= self.next && inside(&record.key, &range.key, &range.range_end)
        };
        let all: Vec<_> = state.log.iter().filter(wanted).skip(self.shown).cloned().collect();
        let events: Vec<_> = all.iter().take(state.answer_events_max).cloned().collect();
        if events.is_empty() && self.is_begun {
            return None;
        }
        // The rest of a revision follows with the next answer.
        let next =
            all.get(events.len()).map_or(state.revision + 1, |event| event.record.as_ref().unwrap().mod_revision);
        let next = next.max(self.next);
        let of_next = events.iter().filter(|event| event.record.as_ref().unwrap().mod_revision == next).count();
        self.shown = if next == self.next { self.shown + of_next } else { of_next };
        self.next = next;
        Some(WatchResponse { header, events, next_revision: next })
    }
}

/// Whether a request's range holds a key.
pub(super) fn inside(candidate: &Bytes, key: &Bytes, range_end: &Bytes) -> bool {
    match range_end.as_ref() {
        [] => candidate == key,
        [0] => candidate >= key,
        end => candidate >= key && candidate.as_ref() < end,
    }
}

impl State {
    /// Notes a change at the present revision.
    pub(super) fn changed(&mut self, record: Record, previous: Option<Record>) {
        let kind = if record.version > 0 { v1::event::Kind::Put } else { v1::event::Kind::Delete };
        self.log.push(Event { kind: kind.into(), record: Some(record), previous });
    }
}
