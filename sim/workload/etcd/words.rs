//! What etcd's messages say, in the judges' words.

use quorate::proto::etcd::etcdserverpb as pb;
use quorate::proto::etcd::mvccpb;

use crate::watched::{Event, Keys, Shown, Snapshot, What};
use crate::workload::outcome::text;

/// All keys with a prefix.
pub(in crate::workload) fn prefix(prefix: &str) -> Keys {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    Keys { start: prefix.to_owned(), end: text(&end) }
}

pub(in crate::workload) fn shown(record: &mvccpb::KeyValue) -> Shown {
    Shown {
        value: text(&record.value),
        created: unsigned(record.create_revision),
        modified: unsigned(record.mod_revision),
        version: unsigned(record.version),
    }
}

pub(in crate::workload) fn event(event: &mvccpb::Event) -> Option<Event> {
    let kv = event.kv.as_ref()?;
    let is_put = event.r#type() == mvccpb::event::EventType::Put;
    let what = if is_put { What::Put(shown(kv)) } else { What::Delete };
    let before = event.prev_kv.as_ref().map(shown);
    Some(Event { key: text(&kv.key), revision: unsigned(kv.mod_revision), what, before })
}

/// What an answer showed, of `revision` or, with 0, of the one it names.
pub(in crate::workload) fn snapshot(keys: &Keys, revision: u64, answer: &pb::RangeResponse) -> Snapshot {
    let revision = if revision == 0 { revision_of(answer.header.as_ref()) } else { revision };
    let records = answer.kvs.iter().map(|record| (text(&record.key), shown(record))).collect();
    Snapshot { keys: keys.clone(), revision, records }
}

pub(in crate::workload) fn revision_of(header: Option<&pb::ResponseHeader>) -> u64 {
    header.map_or(0, |header| unsigned(header.revision))
}

pub(in crate::workload) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(in crate::workload) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
