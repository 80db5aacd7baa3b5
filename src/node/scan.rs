//! Pages of a scan: what to ask of which shard, and how the shards' answers become one page. Pure.
//!
//! Every shard is read at the revision that the first page pinned for it; the token carries them.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

use crate::proto::internal::page_token::ShardRevision;
use crate::proto::internal::{PageToken, shard_read, shard_read_result};
use crate::proto::v1::{ErrorCode, Record, ScanRequest};
use crate::types::limits::{KEY_BYTES_MAX, PAGE_BYTES_MAX, PAGE_RECORDS_DEFAULT, PAGE_RECORDS_MAX};
use crate::types::{GroupId, KeyspaceId, key};

use super::Failure;

/// What a record costs a page beyond its key and value, in bytes.
const RECORD_OVERHEAD: usize = 32;

/// One page of a scan, ready to be asked of shards.
#[derive(Debug, PartialEq)]
pub(super) struct PagePlan {
    scan: u64,
    pub(super) start: Bytes,
    /// Empty means no upper bound.
    pub(super) end: Bytes,
    reverse: bool,
    keys_only: bool,
    limit: usize,
    revision: u64,
    pinned: BTreeMap<GroupId, u64>,
    continued: bool,
}

/// A page put together.
#[derive(Debug, PartialEq)]
pub(super) struct Page {
    pub(super) records: Vec<Record>,
    pub(super) next: Bytes,
}

impl PagePlan {
    /// Reads a request and its token.
    pub(super) fn new(keyspace: KeyspaceId, request: &ScanRequest) -> Result<Self, Failure> {
        let limit = match request.limit as usize {
            0 => PAGE_RECORDS_DEFAULT,
            limit if limit <= PAGE_RECORDS_MAX => limit,
            limit => return Err(too_many(limit)),
        };
        for bound in [&request.start, &request.end] {
            if bound.len() > KEY_BYTES_MAX {
                return Err(key_too_long(bound.len()));
            }
        }
        let mut plan = Self {
            scan: fingerprint(keyspace, request),
            start: request.start.clone(),
            end: request.end.clone(),
            reverse: request.reverse,
            keys_only: request.keys_only,
            limit,
            revision: request.revision,
            pinned: BTreeMap::new(),
            continued: false,
        };
        if !request.page_token.is_empty() {
            plan.resume(&request.page_token)?;
        }
        Ok(plan)
    }

    fn resume(&mut self, token: &Bytes) -> Result<(), Failure> {
        let malformed = || {
            let message = "the page token is damaged or belongs to another scan; start the scan again";
            Failure::refused(ErrorCode::PageToken, message)
        };
        let token = PageToken::decode(token.clone()).map_err(|_| malformed())?;
        if token.scan != self.scan || token.last_key.is_empty() || token.last_key.len() > KEY_BYTES_MAX {
            return Err(malformed());
        }
        if self.reverse {
            self.end = token.last_key;
        } else {
            self.start = key::successor(&token.last_key);
        }
        self.pinned = token.revisions.iter().map(|pin| (GroupId(pin.shard_id), pin.revision)).collect();
        self.continued = true;
        Ok(())
    }

    /// What to ask of `shard`.
    pub(super) fn read(&self, shard: GroupId) -> Result<shard_read::Scan, Failure> {
        let revision = match self.pinned.get(&shard) {
            Some(revision) => *revision,
            None if self.continued => {
                let message = "the keyspace's shards changed since the first page; start the scan again";
                return Err(Failure::refused(ErrorCode::PageToken, message));
            }
            None => self.revision,
        };
        Ok(shard_read::Scan {
            start: self.start.clone(),
            end: self.end.clone(),
            reverse: self.reverse,
            limit: u32::try_from(self.limit).unwrap_or(u32::MAX),
            keys_only: self.keys_only,
            revision,
        })
    }

    /// Merges the shards' answers in key order.
    pub(super) fn merge(&self, answers: Vec<(GroupId, shard_read_result::Scan)>) -> Page {
        let revisions: Vec<_> = answers
            .iter()
            .map(|(shard, answer)| ShardRevision { shard_id: shard.0, revision: answer.revision })
            .collect();
        // Beyond the last record of a shard that has more, its next record may come first.
        let ends = answers.iter().filter(|(_, answer)| answer.more);
        let ends = ends.filter_map(|(_, answer)| answer.records.last()).map(|record| record.key.clone());
        let horizon = if self.reverse { ends.max() } else { ends.min() };
        let mut records: Vec<_> = answers.into_iter().flat_map(|(_, answer)| answer.records).collect();
        records.sort_by(|a, b| if self.reverse { b.key.cmp(&a.key) } else { a.key.cmp(&b.key) });
        let total = records.len();
        if let Some(horizon) = &horizon {
            records.retain(|record| if self.reverse { record.key >= *horizon } else { record.key <= *horizon });
        }
        records.truncate(self.limit);
        truncate_bytes(&mut records);
        let more = horizon.is_some() || records.len() < total;
        let next = match records.last() {
            Some(last) if more => {
                PageToken { scan: self.scan, last_key: last.key.clone(), revisions }.encode_to_vec().into()
            }
            _ => Bytes::new(),
        };
        Page { records, next }
    }
}

/// Cuts a page at its limit of bytes, but keeps one record.
fn truncate_bytes(records: &mut Vec<Record>) {
    let mut bytes = 0;
    let fits = records.iter().take_while(|record| {
        bytes += record.key.len() + record.value.len() + RECORD_OVERHEAD;
        bytes <= PAGE_BYTES_MAX
    });
    let fits = fits.count().max(1);
    records.truncate(fits);
}

/// What makes two requests pages of one scan.
fn fingerprint(keyspace: KeyspaceId, request: &ScanRequest) -> u64 {
    let scan = ScanRequest {
        target: None,
        start: request.start.clone(),
        end: request.end.clone(),
        reverse: request.reverse,
        keys_only: request.keys_only,
        revision: request.revision,
        ..Default::default()
    };
    let mut bytes = keyspace.0.to_le_bytes().to_vec();
    bytes.extend(scan.encode_to_vec());
    xxh3_64(&bytes)
}

fn too_many(actual: usize) -> Failure {
    let message = format!("a page holds at most {PAGE_RECORDS_MAX} records, not {actual}; ask for several pages");
    limit_exceeded("page_records_max", PAGE_RECORDS_MAX, actual, message)
}

fn key_too_long(actual: usize) -> Failure {
    let message = format!("a key has at most {KEY_BYTES_MAX} bytes, not {actual}");
    limit_exceeded("key_bytes_max", KEY_BYTES_MAX, actual, message)
}

/// A request beyond a named limit.
pub(super) fn limit_exceeded(limit: &str, value: usize, actual: usize, message: String) -> Failure {
    let mut failure = Failure::refused(ErrorCode::LimitExceeded, message);
    failure.detail.limit = limit.to_owned();
    failure.detail.limit_value = value as u64;
    failure.detail.actual_value = actual as u64;
    failure
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYSPACE: KeyspaceId = KeyspaceId(1);

    /// What a shard would answer to `scan`.
    fn answer(keys: &[Vec<u8>], scan: &shard_read::Scan) -> shard_read_result::Scan {
        let mut hits: Vec<_> = keys
            .iter()
            .filter(|key| key.as_slice() >= scan.start.as_ref())
            .filter(|key| scan.end.is_empty() || key.as_slice() < scan.end.as_ref())
            .map(|key| Record { key: key.clone().into(), ..Default::default() })
            .collect();
        hits.sort_by(|a, b| if scan.reverse { b.key.cmp(&a.key) } else { a.key.cmp(&b.key) });
        let more = hits.len() > scan.limit as usize;
        hits.truncate(scan.limit as usize);
        shard_read_result::Scan { records: hits, more, revision: 7 }
    }

    proptest! {
        #[test]
        fn pages_over_shards_show_every_key_once_in_order(
            shards in prop::collection::vec(prop::collection::btree_set(prop::collection::vec(0u8..4, 1..4), 0..12), 1..4),
            limit in 1u32..6,
            reverse: bool,
        ) {
            let mut seen = std::collections::BTreeSet::new();
            let shards: Vec<Vec<Vec<u8>>> = shards
                .into_iter()
                .map(|keys| keys.into_iter().filter(|key| seen.insert(key.clone())).collect())
                .collect();
            let mut request = ScanRequest { limit, reverse, ..Default::default() };
            let mut shown: Vec<Vec<u8>> = Vec::new();
            loop {
                let plan = PagePlan::new(KEYSPACE, &request).unwrap();
                let ids = (2..).map(GroupId);
                let answers = ids.zip(&shards).map(|(id, keys)| (id, answer(keys, &plan.read(id).unwrap()))).collect();
                let page = plan.merge(answers);
                prop_assert!(page.records.len() <= limit as usize);
                shown.extend(page.records.iter().map(|record| record.key.to_vec()));
                if page.next.is_empty() {
                    break;
                }
                prop_assert!(!page.records.is_empty(), "a page that goes nowhere");
                request.page_token = page.next;
            }
            let mut expected: Vec<_> = seen.into_iter().collect();
            if reverse {
                expected.reverse();
            }
            prop_assert_eq!(shown, expected);
        }
    }

    #[test]
    fn a_token_serves_its_own_scan_only() {
        let request = ScanRequest { limit: 1, ..Default::default() };
        let plan = PagePlan::new(KEYSPACE, &request).unwrap();
        let keys = [b"a".to_vec(), b"b".to_vec()];
        let page = plan.merge(vec![(GroupId(2), answer(&keys, &plan.read(GroupId(2)).unwrap()))]);
        let with = |change: fn(&mut ScanRequest)| {
            let mut request = ScanRequest { page_token: page.next.clone(), ..request.clone() };
            change(&mut request);
            PagePlan::new(KEYSPACE, &request).map_err(|failure| failure.detail.code())
        };
        let next = with(|_| ()).unwrap();
        assert_eq!(next.read(GroupId(2)).unwrap().revision, 7, "the revision is pinned");
        assert_eq!(next.read(GroupId(3)).unwrap_err().detail.code(), ErrorCode::PageToken, "a shard that is new");
        assert_eq!(with(|request| request.reverse = true), Err(ErrorCode::PageToken));
        assert_eq!(with(|request| request.start = b"x".as_slice().into()), Err(ErrorCode::PageToken));
        assert_eq!(with(|request| request.page_token = b"\xff\xff".as_slice().into()), Err(ErrorCode::PageToken));
        assert_eq!(with(|request| request.limit = 10_001), Err(ErrorCode::LimitExceeded));
        assert!(with(|request| request.limit = 10_000).is_ok(), "the page size may change");
    }

    #[test]
    fn a_page_ends_at_its_bytes_but_holds_one_record() {
        let record =
            |key: u8, bytes| Record { key: vec![key].into(), value: vec![0; bytes].into(), ..Default::default() };
        let plan = PagePlan::new(KEYSPACE, &ScanRequest::default()).unwrap();
        let page =
            |records| plan.merge(vec![(GroupId(2), shard_read_result::Scan { records, more: false, revision: 1 })]);
        let half = PAGE_BYTES_MAX / 2 - RECORD_OVERHEAD - 1;
        assert!(page(vec![record(1, half), record(2, half)]).next.is_empty());
        let cut = page(vec![record(1, half), record(2, half), record(3, 1)]);
        assert_eq!((cut.records.len(), cut.next.is_empty()), (2, false));
        assert_eq!(page(vec![record(1, 2 * PAGE_BYTES_MAX)]).records.len(), 1);
    }
}
