//! The shard map as the nodes have it: spans tile their keyspaces, versions and epochs never fall in
//! the eyes of one start of a node, one version is one map, and no key has two leaders of one term.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use quorate::types::GroupId;
use quorate::types::Span;
use quorate::types::map::{Keyspace, Shard, ShardMap};

use super::observed::{Invariant, NodeSample, Observed, Sample};

/// Versions of the map that are remembered, at most; the oldest go first.
const VERSIONS_MAX: usize = 64;

/// What the maps have said.
#[derive(Default)]
pub(crate) struct Metadata {
    /// By version.
    maps: BTreeMap<u64, Arc<ShardMap>>,
    /// What each node had last.
    last: BTreeMap<u64, Arc<ShardMap>>,
}

impl Metadata {
    fn node(&mut self, sample: &NodeSample) -> Result<u64, String> {
        let (node, map) = (sample.node, &sample.map);
        let before = self.last.insert(node, map.clone());
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, map)) || map.version == 0 {
            return Ok(0);
        }
        if let Some(before) = before {
            never_falls(&before, map).map_err(|why| format!("node {node}: {why}"))?;
        }
        let known = self.maps.entry(map.version).or_insert_with(|| map.clone());
        if known != map {
            return Err(format!("node {node} has {map:?} as version {}, another {known:?}", map.version));
        }
        while self.maps.len() > VERSIONS_MAX {
            self.maps.pop_first();
        }
        for keyspace in map.keyspaces.values().filter(|keyspace| !keyspace.dropping) {
            tiles(map, keyspace).map_err(|why| format!("node {node}, version {}: {why}", map.version))?;
        }
        Ok(1 + map.keyspaces.len() as u64)
    }
}

fn never_falls(before: &ShardMap, now: &ShardMap) -> Result<(), String> {
    if now.version < before.version {
        return Err(format!("version {} after {}", now.version, before.version));
    }
    for (id, shard) in &now.shards {
        let fell = before.shards.get(id).filter(|before| before.epoch > shard.epoch);
        if let Some(before) = fell {
            return Err(format!("{id} is at {} after {}", shard.epoch, before.epoch));
        }
    }
    Ok(())
}

/// Where a span begins and ends; `None` is the end of everything.
fn bounds(span: &Span) -> (Bytes, Option<Bytes>) {
    let slot = |slot: u64| Bytes::copy_from_slice(&slot.to_be_bytes());
    match span {
        Span::Keys { start, end } => (start.clone(), end.clone()),
        // Slot 0 is the begin of everything, as the empty key is.
        Span::Slots { first: 0, last } => (Bytes::new(), last.checked_add(1).map(slot)),
        Span::Slots { first, last } => (slot(*first), last.checked_add(1).map(slot)),
    }
}

/// Whether the keyspace's shards hold every key once.
fn tiles(map: &ShardMap, keyspace: &Keyspace) -> Result<(), String> {
    let mut shards: Vec<_> = map.shards_of(keyspace.id).map(|shard| (bounds(&shard.span), shard.id)).collect();
    shards.sort();
    let mut next = Some(Bytes::new());
    for ((start, end), id) in shards {
        if next.as_ref() != Some(&start) {
            return Err(format!("{id} of {} begins at {start:?} where {next:?} is next", keyspace.name));
        }
        next = end;
    }
    match next {
        None => Ok(()),
        Some(next) => Err(format!("nobody holds {next:?} of {}", keyspace.name)),
    }
}

fn overlap(left: &Shard, right: &Shard) -> bool {
    let ((left_start, left_end), (right_start, right_end)) = (bounds(&left.span), bounds(&right.span));
    let begins_before = |start: &Bytes, end: &Option<Bytes>| end.as_ref().is_none_or(|end| start < end);
    left.keyspace == right.keyspace && begins_before(&left_start, &right_end) && begins_before(&right_start, &left_end)
}

/// Who believes to lead what: a deposed leader may, but only in an older term of the same group.
fn one_serves(sample: &Sample) -> Result<u64, String> {
    let mut beliefs = Vec::new();
    for node in &sample.nodes {
        let led = node.leads.iter().map(|(group, term)| (node.node, *group, *term));
        beliefs.extend(led.map(|belief| (belief, node.map.shards.get(&GroupId(belief.1)))));
    }
    let mut checked = 0;
    for (at, (left, left_shard)) in beliefs.iter().enumerate() {
        for (right, right_shard) in beliefs.iter().skip(at + 1).filter(|(right, _)| right.0 != left.0) {
            let same_term = left.1 == right.1 && left.2 == right.2;
            let same_key = left.1 != right.1 && left_shard.zip(*right_shard).is_some_and(|(l, r)| overlap(l, r));
            if same_term || same_key {
                return Err(format!("node, group, term {left:?} and {right:?} serve the same keys"));
            }
        }
        checked += 1;
    }
    Ok(checked)
}

impl Invariant for Metadata {
    fn name(&self) -> &'static str {
        "one map, one serving epoch"
    }

    /// A new start may know less than the one before.
    fn observe(&mut self, event: &Observed) -> Result<u64, String> {
        if event.what == "opened" && event.group == GroupId::META.0 {
            self.last.remove(&event.replica);
        }
        Ok(0)
    }

    fn sample(&mut self, sample: &Sample) -> Result<u64, String> {
        let mut checked = one_serves(sample)?;
        for node in &sample.nodes {
            checked += self.node(node)?;
        }
        Ok(checked)
    }
}
