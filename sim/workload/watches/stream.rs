//! A stream of watches at one node, and what its answers mean to them.

use std::rc::Rc;
use std::time::Duration;

use quorate::env::time::{self, Instant};
use quorate::proto::etcd::etcdserverpb as pb;
use quorate::proto::etcd::etcdserverpb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::watcher::{Standing, Watcher};
use super::{CALL, Setup, Watches};
use crate::chance::Chance;
use crate::watched::Broken;
use crate::workload::etcd::{Etcd, event, revision_of, unsigned, watches};

/// Requests on their way.
const QUEUE: usize = 64;
/// A stream whose progress is asked for, and which says nothing for so long, is given up.
const SILENCE_MAX: Duration = Duration::from_secs(8);

/// The requests of a stream.
struct Requests {
    sender: mpsc::Sender<pb::WatchRequest>,
    /// Watches that were asked for.
    asked: i64,
}

impl Requests {
    fn create(&mut self, watcher: &mut Watcher) {
        self.asked += 1;
        let request = watcher.ask(self.asked);
        self.send(request);
    }

    /// A queue that is full belongs to a stream that is stuck, and will be given up.
    fn send(&self, request: pb::WatchRequest) {
        self.sender.try_send(request).ok();
    }
}

impl Watches {
    pub(super) async fn follow(self: Rc<Self>, number: usize, setup: Setup) {
        let chance = setup.chance(&format!("{} stream {number}", self.name));
        let mut etcd = self.etcd(&setup, &format!("stream {number}"));
        if !self.ready(&setup).await {
            return;
        }
        time::sleep(chance.millis(0, 6_000)).await;
        let draw = |at| Watcher::draw(format!("watch {number}.{at}"), &self, &chance);
        let mut watchers: Vec<_> = (0..chance.between(1, 5)).map(draw).collect();
        while !self.end.get().is_some_and(|end| Watcher::have_reached(&watchers, end)) {
            let lasts = if setup.is_over() { chance.millis(8_000, 20_000) } else { chance.millis(300, 9_000) };
            self.stream(&mut etcd, &mut watchers, time::now() + lasts, &chance, &setup).await;
            etcd.leave();
            time::sleep(soon(&chance)).await;
        }
        self.keep(watchers);
    }

    /// Follows watches on one stream until all have come to the end, it breaks, or its time is over. Returns
    /// whether the node took it.
    pub(super) async fn stream(
        &self,
        etcd: &mut Etcd,
        watchers: &mut [Watcher],
        until: Instant,
        chance: &Chance,
        setup: &Setup,
    ) -> bool {
        let Some(channel) = etcd.channel().await else { return false };
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut requests = Requests { sender, asked: 0 };
        watchers.iter_mut().for_each(|watcher| requests.create(watcher));
        let request = etcd.request(ReceiverStream::new(receiver));
        let opened = time::timeout(CALL, async { watches(channel).watch(request).await }).await;
        let mut answers = match opened {
            Ok(Ok(answers)) => answers.into_inner(),
            Ok(Err(status)) => {
                tracing::debug!(code = ?status.code(), message = status.message(), "no stream");
                return false;
            }
            Err(_) => return false,
        };
        let mut heard = time::now();
        loop {
            match time::timeout(soon(chance), answers.message()).await {
                Ok(Ok(Some(answer))) => {
                    heard = time::now();
                    if let Err((check, why)) = self.take(&answer, watchers, &mut requests) {
                        setup.seen.violation(check, why);
                    }
                }
                Ok(Ok(None)) => break,
                Ok(Err(status)) => {
                    tracing::debug!(code = ?status.code(), message = status.message(), "the stream broke");
                    if matches!(status.code(), Code::Internal | Code::DataLoss) && status.message().contains("quorate")
                    {
                        setup.seen.violation("errors have a reason", status.message());
                    }
                    break;
                }
                Err(_) => {}
            }
            let now = time::now();
            let is_done = self.end.get().is_some_and(|end| Watcher::have_reached(watchers, end));
            if is_done || setup.seen.is_violated() || now > until || now > heard + SILENCE_MAX {
                break;
            }
            if self.end.get().is_some() || chance.percent(15) {
                let progress = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                requests.send(pb::WatchRequest { request_union: Some(progress) });
            }
            if !setup.is_over() && chance.percent(2) {
                cancel(chance.pick_mut(watchers), &requests);
            }
        }
        watchers.iter_mut().for_each(Watcher::away);
        true
    }

    /// Takes in one answer.
    fn take(
        &self,
        answer: &pb::WatchResponse,
        watchers: &mut [Watcher],
        requests: &mut Requests,
    ) -> Result<(), Broken> {
        let revision = revision_of(answer.header.as_ref());
        tracing::debug!(
            id = answer.watch_id,
            revision,
            created = answer.created,
            canceled = answer.canceled,
            compacted = answer.compact_revision,
            fragment = answer.fragment,
            first = answer.events.first().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision),
            events = answer.events.len(),
            "watched"
        );
        if answer.created {
            return made(answer, revision, watchers);
        }
        if answer.watch_id == -1 {
            // It speaks of all watches that are made.
            let made = watchers.iter_mut().filter(|watcher| matches!(watcher.standing, Standing::Made(_)));
            return made.filter_map(|watcher| watcher.view.as_mut()).try_for_each(|view| view.bookmark(revision));
        }
        let Some(watcher) = watchers.iter_mut().find(|watcher| watcher.has_id(answer.watch_id)) else {
            return Err(("a watch shows what it asked for", format!("nobody asked for {answer:?}")));
        };
        if answer.canceled {
            return self.ended(answer, watcher, requests);
        }
        let Some(view) = &mut watcher.view else {
            return Err(("a watch shows what it asked for", format!("it was not made yet: {answer:?}")));
        };
        if answer.events.is_empty() && !answer.fragment {
            return view.bookmark(revision);
        }
        let events = answer.events.iter().filter_map(event).collect();
        view.show(events, revision, answer.fragment)
    }

    /// A watch was ended: because its next revision was compacted, or because that was asked for.
    fn ended(&self, answer: &pb::WatchResponse, watcher: &mut Watcher, requests: &mut Requests) -> Result<(), Broken> {
        let compacted = unsigned(answer.compact_revision);
        let was_asked_for = matches!(watcher.standing, Standing::Ending(_));
        watcher.away();
        if compacted > 0 {
            let next = watcher.view.as_ref().map_or(u64::MAX, |view| view.next());
            if compacted <= next {
                let why = format!("{watcher:?} had come to {next}: {answer:?}");
                return Err(("only what is compacted is refused", why));
            }
            self.refused.borrow_mut().push(next);
            // What it has missed it will never show: another one begins with what there is.
            let anew = watcher.from(compacted);
            self.views.borrow_mut().extend(watcher.view.replace(anew));
        } else if !was_asked_for {
            return Err(("a watch goes on", format!("{watcher:?}: {answer:?}")));
        }
        requests.create(watcher);
        Ok(())
    }
}

fn made(answer: &pb::WatchResponse, revision: u64, watchers: &mut [Watcher]) -> Result<(), Broken> {
    let id = answer.watch_id;
    // The server takes requests in order, and so chooses its ids.
    let waiting = watchers.iter_mut().filter_map(|watcher| Some((watcher.waits_for(id)?, watcher)));
    let first = waiting.min_by_key(|(number, _)| *number).filter(|_| !answer.canceled);
    let Some((_, watcher)) = first else { return Err(("a watch is made", format!("{answer:?}"))) };
    watcher.standing = Standing::Made(id);
    if watcher.view.is_none() {
        watcher.view = Some(watcher.from(revision + 1));
    }
    Ok(())
}

fn cancel(watcher: &mut Watcher, requests: &Requests) {
    if let Standing::Made(id) = watcher.standing {
        watcher.standing = Standing::Ending(id);
        let cancel = RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: id });
        requests.send(pb::WatchRequest { request_union: Some(cancel) });
    }
}

/// How long to wait at most before a stream is asked again for its progress.
fn soon(chance: &Chance) -> Duration {
    chance.millis(50, 500)
}
