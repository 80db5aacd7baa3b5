//! Writes that watches have to show: puts, deletes, and both together. No value comes twice.

use std::rc::Rc;

use quorate::env::time;
use quorate::proto::etcd::etcdserverpb as pb;
use quorate::proto::etcd::etcdserverpb::request_op::Request as Asked;
use quorate::proto::etcd::etcdserverpb::response_op::Response as Answered;

use super::{CALL, PAUSE, PREFIX, Setup, Watches};
use crate::chance::Chance;
use crate::watched::{Event, Keys, Shown, Step, Told, What, Write};
use crate::workload::etcd::{Etcd, Failed, prefix, revision_of, shown};
use crate::workload::outcome::text;

/// Writes of many keys at once: enough for watches to come in pages.
const BULKS_MAX: u64 = 15;
/// Writes so large that a watch, with what was there before, shows them in fragments: more than 2 MiB. So many at
/// most, and the length of each value.
const LARGES_MAX: u64 = 3;
const LARGE_BYTES: usize = 480 << 10;
/// Keys of one, fewer than a transaction may have.
const BULK_KEYS: (u64, u64) = (60, 125);

impl Watches {
    pub(super) async fn write_on(self: Rc<Self>, number: usize, setup: Setup) {
        let chance = setup.chance(&format!("{} write {number}", self.name));
        let mut etcd = self.etcd(&setup, &format!("write {number}"));
        if self.ready(&setup).await {
            for round in 0..setup.operations_max {
                if setup.is_over() {
                    break;
                }
                let steps = self.draw(&format!("w{number}.{round}"), &chance, &setup);
                self.write(&mut etcd, steps, &setup).await;
                if chance.percent(4) {
                    etcd.leave();
                }
                setup.think(&chance).await;
            }
        }
        self.writing.set(self.writing.get() - 1);
    }

    /// When the writers are done, writes what tells the watches how far they must come.
    pub(super) async fn end(self: Rc<Self>, setup: Setup) {
        if !self.ready(&setup).await {
            return;
        }
        let mut etcd = self.etcd(&setup, "end");
        while self.writing.get() > 0 {
            time::sleep(PAUSE).await;
        }
        for round in 0_u64.. {
            let steps = vec![Step::Put { key: format!("{PREFIX}end"), value: format!("end.{round}") }];
            if let Some(revision) = self.write(&mut etcd, steps, &setup).await {
                return self.end.set(Some(revision));
            }
            etcd.leave();
            time::sleep(PAUSE).await;
        }
    }

    /// Compacts up to revisions that are not long past.
    pub(super) async fn compact_on(self: Rc<Self>, setup: Setup) {
        let chance = setup.chance(&format!("{} compact", self.name));
        let mut etcd = self.etcd(&setup, "compact");
        // Runs without it see the whole past to the end.
        if chance.percent(30) {
            return;
        }
        for _ in 0..setup.operations_max {
            time::sleep(chance.millis(1_500, 8_000)).await;
            if setup.is_over() {
                return;
            }
            let newest = self.newest.get();
            let revision = newest.saturating_sub(chance.below(100)).max(1);
            self.asked.set(self.asked.get().max(revision));
            let compact =
                pb::CompactionRequest { revision: i64::try_from(revision).unwrap(), physical: chance.percent(30) };
            let compacted = etcd.call(CALL, compact, |channel, request| async move {
                pb::kv_client::KvClient::new(channel).compact(request).await
            });
            match compacted.await {
                Ok(_) => self.compacted.set(self.compacted.get().max(revision)),
                Err(Failed::Not(status)) if status.message().contains("future") => {
                    let detail = format!("{revision}, but {newest} was acknowledged");
                    setup.seen.violation("revisions rise", detail);
                }
                Err(Failed::Not(_) | Failed::Open) => {}
            }
            tracing::debug!(revision, newest, compacted = self.compacted.get(), "compaction");
        }
    }

    /// Returns the revision of a write that took place.
    async fn write(&self, etcd: &mut Etcd, steps: Vec<Step>, setup: &Setup) -> Option<u64> {
        let number = self.writes.borrow().len();
        self.writes.borrow_mut().push(Write { steps: steps.clone(), told: Told::Nothing });
        let success = steps.iter().map(|step| pb::RequestOp { request: Some(operation(step)) }).collect();
        let answer = etcd.txn(CALL, pb::TxnRequest { success, ..Default::default() }).await;
        let told = match &answer {
            Ok(answer) => {
                let revision = revision_of(answer.header.as_ref());
                let results = steps.iter().zip(&answer.responses);
                let events = results.flat_map(|(step, response)| events(step, response, revision)).collect();
                Told::Applied(revision, events)
            }
            Err(Failed::Not(status)) => {
                if status.message().contains("mvcc") {
                    setup.seen.violation("errors have a reason", status.message());
                }
                Told::Refused
            }
            Err(Failed::Open) => Told::Nothing,
        };
        let revision = if let Told::Applied(revision, _) = told { Some(revision) } else { None };
        tracing::debug!(first = steps.first().map(named), count = steps.len(), ?revision, "write");
        revision.into_iter().for_each(|revision| self.reached(revision));
        self.writes.borrow_mut()[number].told = told;
        revision
    }

    fn draw(&self, name: &str, chance: &Chance, setup: &Setup) -> Vec<Step> {
        let put = |key: String, part: u64| Step::Put { key, value: format!("{name}.{part}") };
        let has_room = setup.entry_bytes_max > 4 * LARGE_BYTES as u64;
        if has_room && self.larges.get() < LARGES_MAX && chance.percent(2) {
            self.larges.set(self.larges.get() + 1);
            let large = |part| Step::Put {
                key: format!("{PREFIX}l/{part}"),
                value: format!("{name}.{part}{}", ".".repeat(LARGE_BYTES)),
            };
            return (0..3).map(large).collect();
        }
        let key = || format!("{PREFIX}{}/{}", chance.pick(&["a", "b"]), chance.below(4));
        match chance.below(100) {
            0..45 => vec![put(key(), 0)],
            45..60 => vec![Step::Delete(key().as_str().into())],
            60..64 => vec![Step::Delete(prefix(&format!("{PREFIX}{}/", chance.pick(&["a", "b"]))))],
            64..80 => {
                let count = usize::try_from(chance.between(2, 5)).unwrap_or(2);
                let keys = chance.sample(&[0, 1, 2, 3, 4, 5], count);
                let keys = keys.into_iter().map(|at| format!("{PREFIX}{}/{}", ["a", "b"][at % 2], at / 2));
                (0..).zip(keys).map(|(part, key)| put(key, part)).collect()
            }
            80..90 => {
                let deleted = if chance.percent(50) {
                    prefix(&format!("{PREFIX}b/"))
                } else {
                    Keys::from(format!("{PREFIX}b/{}", chance.below(4)).as_str())
                };
                vec![put(format!("{PREFIX}a/{}", chance.below(4)), 0), Step::Delete(deleted)]
            }
            90..92 => vec![Step::Delete(prefix(&format!("{PREFIX}m/")))],
            _ if self.bulks.get() < BULKS_MAX => {
                self.bulks.set(self.bulks.get() + 1);
                let count = chance.between(BULK_KEYS.0, BULK_KEYS.1);
                (0..count).map(|at| put(format!("{PREFIX}m/{at:03}"), at)).collect()
            }
            _ => vec![put(key(), 0)],
        }
    }
}

/// For the trace: without what makes a value long.
fn named(step: &Step) -> String {
    match step {
        Step::Put { key, value } => format!("put {key} {}", value.trim_end_matches('.')),
        Step::Delete(keys) => format!("delete {keys:?}"),
    }
}

fn operation(step: &Step) -> Asked {
    match step {
        Step::Put { key, value } => Asked::RequestPut(pb::PutRequest {
            key: key.clone().into(),
            value: value.clone().into(),
            prev_kv: true,
            ..Default::default()
        }),
        Step::Delete(keys) => Asked::RequestDeleteRange(pb::DeleteRangeRequest {
            key: keys.start.clone().into(),
            range_end: keys.end.clone().into(),
            prev_kv: true,
        }),
    }
}

/// What a step did, as its answer tells.
fn events(step: &Step, response: &pb::ResponseOp, revision: u64) -> Vec<Event> {
    match (step, &response.response) {
        (Step::Put { key, value }, Some(Answered::ResponsePut(put))) => {
            let before = put.prev_kv.as_ref().map(shown);
            let (created, version) =
                before.as_ref().map_or((revision, 1), |before| (before.created, before.version + 1));
            let what = What::Put(Shown { value: value.clone(), created, modified: revision, version });
            vec![Event { key: key.clone(), revision, what, before }]
        }
        (Step::Delete(_), Some(Answered::ResponseDeleteRange(deleted))) => {
            let of = |record: &quorate::proto::etcd::mvccpb::KeyValue| Event {
                key: text(&record.key),
                revision,
                what: What::Delete,
                before: Some(shown(record)),
            };
            deleted.prev_kvs.iter().map(of).collect()
        }
        _ => Vec::new(),
    }
}
