//! Which shards a request touches: map and keys in, shards out. Pure.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::proto::v1;
use crate::proto::v1::operation::Kind;
use crate::proto::v1::{ErrorCode, Operation, Target, Transaction};
use crate::types::key::UNBOUNDED;
use crate::types::limits::TXN_DEPTH_MAX;
use crate::types::map::{DEFAULT_KEYSPACE, Keyspace, Shard, ShardMap};
use crate::types::{GroupId, Span};

use super::Failure;

/// Keys from `start` on; no end means no upper bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct KeyRange<'a> {
    pub(super) start: &'a [u8],
    pub(super) end: Option<&'a [u8]>,
}

impl<'a> KeyRange<'a> {
    /// From the form of single-key requests: an empty end means the key alone, [`UNBOUNDED`] no end.
    pub(super) fn of_operation(key: &'a [u8], range_end: &'a [u8]) -> Option<Self> {
        match range_end {
            [] => None,
            UNBOUNDED => Some(Self { start: key, end: None }),
            end => Some(Self { start: key, end: Some(end) }),
        }
    }

    /// From the form of scans: an empty end means no upper bound.
    pub(super) fn of_scan(start: &'a [u8], end: &'a [u8]) -> Self {
        Self { start, end: (!end.is_empty()).then_some(end) }
    }

    fn meets(&self, span: &Span) -> bool {
        match span {
            Span::Slots { .. } => true,
            Span::Keys { start, end } => {
                let starts_before_end = end.as_ref().is_none_or(|end| self.start < end.as_ref());
                let ends_after_start = self.end.is_none_or(|own| own > start.as_ref());
                starts_before_end && ends_after_start
            }
        }
    }
}

/// The keyspace that a request addresses.
pub(super) fn keyspace<'m>(map: &'m ShardMap, target: Option<&Target>) -> Result<&'m Keyspace, Failure> {
    let name = match target.map(|target| target.keyspace.as_str()) {
        None | Some("") => DEFAULT_KEYSPACE,
        Some(name) => name,
    };
    if map.cluster_id.is_none() {
        let message = "the cluster is not founded yet: wait until all nodes of --cluster have started";
        return Err(Failure::retry(ErrorCode::Unavailable, message));
    }
    map.keyspace(name).ok_or_else(|| {
        let known: Vec<_> = map
            .keyspaces
            .values()
            .filter(|keyspace| !keyspace.dropping)
            .map(|keyspace| keyspace.name.as_str())
            .collect();
        let message = format!("keyspace `{name}` does not exist; there are: {}", known.join(", "));
        Failure::refused(ErrorCode::KeyspaceNotFound, message)
    })
}

/// The shard of a request on one key, which must be the one that the client named, if it named one.
pub(super) fn shard_of_key<'m>(map: &'m ShardMap, target: Option<&Target>, key: &[u8]) -> Result<&'m Shard, Failure> {
    let keyspace = keyspace(map, target)?;
    let shard = map.shard_of(keyspace.id, key).ok_or_else(|| no_shard(&keyspace.name))?;
    confirm(target, shard)?;
    Ok(shard)
}

/// The one shard that holds everything a transaction touches.
pub(super) fn shard_of_transaction<'m>(
    map: &'m ShardMap,
    target: Option<&Target>,
    transaction: &Transaction,
) -> Result<&'m Shard, Failure> {
    let keyspace = keyspace(map, target)?;
    let mut touched = BTreeSet::new();
    touch(map, keyspace, transaction, &mut touched, TXN_DEPTH_MAX)?;
    let mut shards = touched.iter();
    let shard = match (shards.next(), shards.next()) {
        (Some(only), None) => map.shards.get(only),
        // A transaction on no key at all: any shard can execute it.
        (None, _) => map.shards_of(keyspace.id).next(),
        (Some(_), Some(_)) => return Err(cross_shard(&touched)),
    };
    let shard = shard.ok_or_else(|| no_shard(&keyspace.name))?;
    confirm(target, shard)?;
    Ok(shard)
}

fn touch(
    map: &ShardMap,
    keyspace: &Keyspace,
    transaction: &Transaction,
    touched: &mut BTreeSet<GroupId>,
    depth: usize,
) -> Result<(), Failure> {
    let Some(depth) = depth.checked_sub(1) else {
        let message = format!("transactions are nested at most {TXN_DEPTH_MAX} deep; nest them less deeply");
        return Err(Failure::refused(ErrorCode::LimitExceeded, message));
    };
    let compared = transaction.compares.iter().map(|compare| (&compare.key, compare.range_end.as_ref()));
    let operations = transaction.success.iter().chain(&transaction.failure);
    for (key, range_end) in compared.chain(operations.clone().filter_map(keys_of)) {
        match KeyRange::of_operation(key, range_end) {
            Some(range) => touched.extend(shards_of_range(map, keyspace, range).map(|shard| shard.id)),
            None => touched.extend(map.shard_of(keyspace.id, key).map(|shard| shard.id)),
        }
    }
    for operation in operations {
        if let Some(Kind::Transaction(nested)) = &operation.kind {
            touch(map, keyspace, nested, touched, depth)?;
        }
    }
    Ok(())
}

/// The shard that a watch of these ranges follows, none meaning all keys: the one that holds them, or the one of
/// theirs that the target names.
pub(super) fn shard_of_watch<'m>(
    map: &'m ShardMap,
    target: Option<&Target>,
    ranges: &[v1::KeyRange],
) -> Result<&'m Shard, Failure> {
    let keyspace = keyspace(map, target)?;
    let mut touched = BTreeSet::new();
    if ranges.is_empty() {
        touched.extend(map.shards_of(keyspace.id).map(|shard| shard.id));
    }
    for range in ranges {
        match KeyRange::of_operation(&range.key, &range.range_end) {
            Some(range) => touched.extend(shards_of_range(map, keyspace, range).map(|shard| shard.id)),
            None => touched.extend(map.shard_of(keyspace.id, &range.key).map(|shard| shard.id)),
        }
    }
    let named = target.map(|target| GroupId(target.shard_id)).filter(|named| touched.contains(named));
    if touched.len() > 1 && named.is_none() && target.is_none_or(|target| target.shard_id == 0) {
        return Err(watch_of_several(&touched));
    }
    let shard = named.or_else(|| touched.first().copied()).and_then(|shard| map.shards.get(&shard));
    let shard = shard.ok_or_else(|| no_shard(&keyspace.name))?;
    confirm(target, shard)?;
    Ok(shard)
}

fn watch_of_several(shards: &BTreeSet<GroupId>) -> Failure {
    let names: Vec<_> = shards.iter().map(|shard| shard.0.to_string()).collect();
    let message = format!(
        "a watch follows one shard, and these keys lie in shards {}, which have no order of revisions in common: \
         watch a single key, name one of the shards, or use a keyspace of one shard",
        names.join(", ")
    );
    Failure::refused(ErrorCode::CrossShard, message)
}

/// The shards that a range of a keyspace meets, by id.
pub(super) fn shards_of_range<'m>(
    map: &'m ShardMap,
    keyspace: &Keyspace,
    range: KeyRange<'_>,
) -> impl Iterator<Item = &'m Shard> {
    map.shards_of(keyspace.id).filter(move |shard| range.meets(&shard.span))
}

/// Refuses a request of a client whose map is not this node's.
pub(super) fn confirm(target: Option<&Target>, shard: &Shard) -> Result<(), Failure> {
    let Some(target) = target.filter(|target| target.shard_id != 0) else { return Ok(()) };
    let right_epoch = target.shard_epoch == 0 || target.shard_epoch == shard.epoch.0;
    if target.shard_id == shard.id.0 && right_epoch {
        return Ok(());
    }
    let message = format!(
        "shard {} at epoch {} is not where this belongs: shard {} at epoch {} is; refresh the map",
        target.shard_id, target.shard_epoch, shard.id.0, shard.epoch.0
    );
    let mut failure = Failure::retry(ErrorCode::WrongShard, message);
    failure.detail.shard_id = shard.id.0;
    failure.detail.shard_epoch = shard.epoch.0;
    Err(failure)
}

/// Key and range end of an operation; a transaction has many.
pub(super) fn keys_of(operation: &Operation) -> Option<(&Bytes, &[u8])> {
    Some(match operation.kind.as_ref()? {
        Kind::Put(put) => (&put.key, &[]),
        Kind::Delete(delete) => (&delete.key, delete.range_end.as_ref()),
        Kind::Range(range) => (&range.key, range.range_end.as_ref()),
        Kind::Transaction(_) => return None,
    })
}

fn no_shard(keyspace: &str) -> Failure {
    Failure::retry(ErrorCode::WrongShard, format!("no shard of keyspace `{keyspace}` holds this key at the moment"))
}

fn cross_shard(shards: &BTreeSet<GroupId>) -> Failure {
    let names: Vec<_> = shards.iter().map(|shard| shard.0.to_string()).collect();
    let message = format!(
        "a transaction is atomic within one shard, and this one touches shards {}; split it, or use a keyspace of one shard",
        names.join(", ")
    );
    Failure::refused(ErrorCode::CrossShard, message)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::proto::v1::{DeleteRange, Put};
    use crate::types::map::Sharding;
    use crate::types::{ClusterId, Epoch, KeyspaceId};

    fn map() -> ShardMap {
        let keyspace = |id, name: &str, sharding| Keyspace {
            id: KeyspaceId(id),
            name: name.into(),
            sharding,
            replication_factor: 3,
            history_revisions: 0,
            history_ms: 0,
            dropping: false,
        };
        let shard = |id, keyspace, span| Shard {
            id: GroupId(id),
            keyspace: KeyspaceId(keyspace),
            span,
            epoch: Epoch(3),
            replicas: Vec::new(),
        };
        let low = Span::Keys { start: Bytes::new(), end: Some(Bytes::from_static(b"m")) };
        let high = Span::Keys { start: Bytes::from_static(b"m"), end: None };
        ShardMap {
            cluster_id: Some(ClusterId([1; 16])),
            version: 1,
            nodes: BTreeMap::new(),
            keyspaces: [keyspace(1, "default", Sharding::Single), keyspace(2, "two", Sharding::Range)]
                .map(|keyspace| (keyspace.id, keyspace))
                .into(),
            shards: [shard(2, 1, Span::all()), shard(3, 2, low), shard(4, 2, high)]
                .map(|shard| (shard.id, shard))
                .into(),
            next_shard: GroupId(5),
            ..ShardMap::default()
        }
    }

    fn target(keyspace: &str, shard_id: u64, shard_epoch: u64) -> Target {
        Target { keyspace: keyspace.into(), shard_id, shard_epoch }
    }

    fn put(key: &'static [u8]) -> Operation {
        Operation { kind: Some(Kind::Put(Put { key: Bytes::from_static(key), ..Default::default() })) }
    }

    fn code(result: Result<&Shard, Failure>) -> ErrorCode {
        result.unwrap_err().detail.code()
    }

    #[test]
    fn a_client_with_an_old_map_is_told() {
        let map = map();
        for (shard, epoch) in [(0, 0), (2, 0), (2, 3)] {
            assert_eq!(shard_of_key(&map, Some(&target("", shard, epoch)), b"k").unwrap().id, GroupId(2));
        }
        for (shard, epoch) in [(3, 3), (2, 2), (2, 4)] {
            assert_eq!(code(shard_of_key(&map, Some(&target("", shard, epoch)), b"k")), ErrorCode::WrongShard);
        }
        assert_eq!(code(shard_of_key(&map, Some(&target("none", 0, 0)), b"k")), ErrorCode::KeyspaceNotFound);
        assert_eq!(code(shard_of_key(&ShardMap::default(), None, b"k")), ErrorCode::Unavailable);
    }

    #[test]
    fn a_watch_follows_one_shard() {
        let map = map();
        let range = |key: &'static str, end: &'static [u8]| v1::KeyRange {
            key: Bytes::from_static(key.as_bytes()),
            range_end: Bytes::from_static(end),
        };
        let of = |keyspace: &str, named: u64, ranges: &[v1::KeyRange]| {
            let target = target(keyspace, named, 0);
            shard_of_watch(&map, Some(&target), ranges).map(|shard| shard.id.0).map_err(|f| f.detail.code())
        };
        assert_eq!(of("", 0, &[]), Ok(2));
        assert_eq!(of("two", 0, &[range("a", b""), range("b", b"m")]), Ok(3));
        assert_eq!(of("two", 0, &[range("z", b"")]), Ok(4));
        let several = [vec![], vec![range("a", UNBOUNDED)], vec![range("a", b""), range("z", b"")]];
        for ranges in several {
            assert_eq!(of("two", 0, &ranges), Err(ErrorCode::CrossShard));
            assert_eq!(of("two", 4, &ranges), Ok(4), "the part that one of them holds");
        }
        assert_eq!(of("two", 3, &[range("z", b"")]), Err(ErrorCode::WrongShard));
        assert_eq!(of("two", 2, &[]), Err(ErrorCode::WrongShard));
        assert_eq!(of("none", 0, &[]), Err(ErrorCode::KeyspaceNotFound));
    }

    #[test]
    fn a_transaction_stays_within_one_shard() {
        let map = map();
        let two = target("two", 0, 0);
        let of = |success: Vec<Operation>| {
            let transaction = Transaction { success, ..Default::default() };
            shard_of_transaction(&map, Some(&two), &transaction).map(|shard| shard.id.0).map_err(|f| f.detail.code())
        };
        assert_eq!(of(vec![put(b"a"), put(b"lzz")]), Ok(3));
        assert_eq!(of(vec![put(b"m")]), Ok(4));
        assert_eq!(of(vec![put(b"a"), put(b"z")]), Err(ErrorCode::CrossShard));
        let delete = |end: &'static [u8]| {
            let (key, range_end) = (Bytes::from_static(b"a"), Bytes::from_static(end));
            Operation { kind: Some(Kind::Delete(DeleteRange { key, range_end, previous: false })) }
        };
        assert_eq!(of(vec![delete(b"m")]), Ok(3), "the end is exclusive");
        assert_eq!(of(vec![delete(b"n")]), Err(ErrorCode::CrossShard));
        assert_eq!(of(vec![delete(UNBOUNDED)]), Err(ErrorCode::CrossShard));
        assert_eq!(of(vec![]), Ok(3), "a transaction on nothing runs anywhere");
    }
}
