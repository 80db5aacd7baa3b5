//! What the client believes of the cluster: the map, and who leads each shard. Pure.
//!
//! Invariants: the map's version never falls; a leader learned in a term is never replaced by one
//! of an earlier term.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::error::{Error, Result};
use crate::env::chance;
use crate::proto::v1::{ErrorCode, ErrorDetail, MapResponse, ResponseHeader};
use crate::types::key::successor;
use crate::types::map::ShardMap;
use crate::types::{Epoch, GroupId, NodeId, Span};

/// The label of a node that says where it stands.
const ZONE: &str = "zone";

/// Keys that a request touches: `[start, end)`, no `end` meaning no upper bound.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct KeyRange {
    start: Bytes,
    end: Option<Bytes>,
    point: bool,
}

impl KeyRange {
    pub(crate) fn key(key: &Bytes) -> Self {
        Self { start: key.clone(), end: Some(successor(key)), point: true }
    }

    pub(crate) fn range(start: Bytes, end: Option<Bytes>) -> Self {
        Self { start, end, point: false }
    }

    /// Whether a shard with this span may hold a key of the range.
    fn touches(&self, span: &Span) -> bool {
        match span {
            Span::Keys { .. } | Span::Slots { .. } if self.point => span.contains(&self.start),
            Span::Slots { .. } => true,
            Span::Keys { start, end } => {
                self.end.as_ref().is_none_or(|mine| start < mine)
                    && end.as_ref().is_none_or(|theirs| self.start < *theirs)
            }
        }
    }
}

/// A shard as a request names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Located {
    pub(crate) shard: GroupId,
    pub(crate) epoch: Epoch,
}

#[derive(Clone, Debug)]
struct Leader {
    term: u64,
    // `None` once it turned out to be wrong.
    address: Option<String>,
}

/// The map and the leaders.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    map: ShardMap,
    leaders: BTreeMap<GroupId, Leader>,
}

impl Routes {
    pub(crate) fn map(&self) -> &ShardMap {
        &self.map
    }

    /// Takes a map over unless it is older than what is known. Leader hints count in any case.
    pub(crate) fn install(&mut self, wire: &MapResponse) -> Result<()> {
        let map = ShardMap::try_from(wire.clone())
            .map_err(|error| Error::retryable(ErrorCode::Internal, error.to_string()))?;
        let Some(theirs) = map.cluster_id else {
            return Err(Error::retryable(ErrorCode::Unavailable, "the node has not joined its cluster yet"));
        };
        if self.map.cluster_id.is_some_and(|ours| ours != theirs) {
            let message = format!("the endpoints belong to different clusters; this one to {theirs}");
            return Err(Error::not_applied(ErrorCode::InvalidArgument, message));
        }
        if map.version >= self.map.version {
            self.map = map;
            self.leaders.retain(|shard, _| self.map.shards.contains_key(shard));
        }
        for hint in &wire.leaders {
            let shard = GroupId(hint.shard_id);
            let newer = self.leaders.get(&shard).is_none_or(|leader| hint.term > leader.term);
            if newer && let Some(address) = self.address_of(NodeId(hint.node_id)) {
                self.leaders.insert(shard, Leader { term: hint.term, address: Some(address) });
            }
        }
        Ok(())
    }

    /// A request to `shard` was executed: its leader did it.
    pub(crate) fn executed(&mut self, header: &ResponseHeader) {
        let shard = GroupId(header.shard_id);
        let current = self.leaders.get(&shard).is_none_or(|leader| header.raft_term >= leader.term);
        if !current || !self.map.shards.contains_key(&shard) {
            return;
        }
        if let Some(address) = self.address_of(NodeId(header.node_id)) {
            self.leaders.insert(shard, Leader { term: header.raft_term, address: Some(address) });
        }
    }

    /// `from` refused a request to `shard`. Returns the address it names as the leader's.
    pub(crate) fn refused(&mut self, shard: GroupId, from: &str, detail: &ErrorDetail) -> Option<String> {
        let named = (!detail.leader_address.is_empty())
            .then(|| detail.leader_address.clone())
            .or_else(|| self.address_of(NodeId(detail.leader_node_id)))
            .filter(|address| address != from);
        if named.is_some() {
            let term = self.leaders.get(&shard).map_or(0, |leader| leader.term);
            self.leaders.insert(shard, Leader { term, address: named.clone() });
        } else {
            self.doubt(shard, from);
        }
        named
    }

    /// `address` turned out not to lead `shard` just now.
    pub(crate) fn doubt(&mut self, shard: GroupId, address: &str) {
        if let Some(leader) = self.leaders.get_mut(&shard)
            && leader.address.as_deref() == Some(address)
        {
            leader.address = None;
        }
    }

    fn address_of(&self, node: NodeId) -> Option<String> {
        let address = &self.map.nodes.get(&node)?.client_address;
        (!address.is_empty()).then(|| address.clone())
    }

    /// Shards of the keyspace that the ranges touch, in order of their ids.
    pub(crate) fn touched(&self, keyspace: &str, ranges: &[KeyRange]) -> Result<Vec<Located>> {
        let Some(found) = self.map.keyspace(keyspace) else {
            let message = format!("there is no keyspace `{keyspace}`");
            return Err(Error::not_applied(ErrorCode::KeyspaceNotFound, message));
        };
        let shards = self.map.shards_of(found.id);
        let touched: Vec<_> = shards
            .filter(|shard| ranges.iter().any(|range| range.touches(&shard.span)))
            .map(|shard| Located { shard: shard.id, epoch: shard.epoch })
            .collect();
        if touched.is_empty() && !ranges.is_empty() {
            let message = format!("the map has no shard of keyspace `{keyspace}` for this key");
            return Err(Error::retryable(ErrorCode::WrongShard, message));
        }
        Ok(touched)
    }

    /// The one shard that holds all the ranges.
    pub(crate) fn single(&self, keyspace: &str, ranges: &[KeyRange]) -> Result<Located> {
        match self.touched(keyspace, ranges)?.as_slice() {
            [one] => Ok(*one),
            several => {
                let names: Vec<_> = several.iter().map(|located| located.shard.to_string()).collect();
                let message = format!(
                    "the request touches shards {}: a transaction is atomic within one shard only",
                    names.join(", ")
                );
                Err(Error::not_applied(ErrorCode::CrossShard, message))
            }
        }
    }

    /// A shard by its id.
    pub(crate) fn shard(&self, shard: GroupId) -> Result<Located> {
        match self.map.shards.get(&shard) {
            Some(found) => Ok(Located { shard, epoch: found.epoch }),
            None => Err(Error::not_applied(ErrorCode::WrongShard, format!("the map has no shard {}", shard.0))),
        }
    }

    /// Whom to ask for what any replica may serve, best first: replicas in the own zone, replicas elsewhere,
    /// the leader, and whoever else may pass it on. Equals come in any order.
    ///
    /// For a read of several shards, `None`, every node counts as a replica.
    pub(crate) fn nearest(&self, shard: Option<GroupId>, zone: Option<&str>, endpoints: &[String]) -> Vec<String> {
        let leader = shard.and_then(|shard| self.leaders.get(&shard)?.address.clone());
        let replicas: Vec<_> = match shard {
            Some(shard) => {
                let replicas = self.map.shards.get(&shard).map(|shard| shard.replicas.as_slice()).unwrap_or_default();
                replicas.iter().map(|replica| (replica.node, replica.voter)).collect()
            }
            None => self.map.nodes.keys().map(|node| (*node, true)).collect(),
        };
        let ranked = replicas.into_iter().filter_map(|(node, is_voter)| {
            let address = self.address_of(node)?;
            let own = self.map.nodes.get(&node)?.labels.get(ZONE).map(String::as_str);
            let is_far = zone.is_some() && own != zone;
            // A learner may still be far behind.
            Some((is_far, Some(&address) == leader.as_ref(), !is_voter, chance::bits(), address))
        });
        let mut ranked: Vec<_> = ranked.collect();
        ranked.sort();
        let mut candidates: Vec<_> = ranked.into_iter().map(|(.., address)| address).collect();
        for other in self.candidates(shard, endpoints) {
            if !candidates.contains(&other) {
                candidates.push(other);
            }
        }
        candidates
    }

    /// Whom to ask, best first: the leader, the other replicas, other nodes, the given endpoints.
    pub(crate) fn candidates(&self, shard: Option<GroupId>, endpoints: &[String]) -> Vec<String> {
        let mut candidates = Vec::new();
        let mut seen = BTreeSet::new();
        let mut add = |address: Option<String>| {
            if let Some(address) = address
                && seen.insert(address.clone())
            {
                candidates.push(address);
            }
        };
        if let Some(shard) = shard {
            add(self.leaders.get(&shard).and_then(|leader| leader.address.clone()));
            let replicas = self.map.shards.get(&shard).map(|shard| shard.replicas.as_slice()).unwrap_or_default();
            for replica in replicas.iter().filter(|replica| replica.voter) {
                add(self.address_of(replica.node));
            }
        } else {
            endpoints.iter().for_each(|endpoint| add(Some(endpoint.clone())));
        }
        self.map.nodes.keys().for_each(|node| add(self.address_of(*node)));
        endpoints.iter().for_each(|endpoint| add(Some(endpoint.clone())));
        candidates
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;

    use super::{KeyRange, Routes};
    use crate::client::fake;
    use crate::proto::v1::{ErrorCode, ErrorDetail, LeaderHint, ResponseHeader};
    use crate::types::GroupId;
    use crate::types::hash::slot;

    fn routes() -> Routes {
        let mut routes = Routes::default();
        routes.install(&fake::map(&["a:1", "b:2", "c:3"])).unwrap();
        routes
    }

    const SHARD: GroupId = GroupId(fake::SHARD);

    fn leader(routes: &Routes) -> String {
        routes.candidates(Some(SHARD), &["x:9".into()])[0].clone()
    }

    #[test]
    fn leaders_follow_terms_hints_and_answers() {
        let mut routes = routes();
        assert_eq!(routes.candidates(Some(SHARD), &["x:9".into(), "b:2".into()]), ["a:1", "b:2", "c:3", "x:9"]);
        let mut map = fake::map(&["a:1", "b:2", "c:3"]);
        map.leaders = vec![LeaderHint { shard_id: fake::SHARD, node_id: 2, term: 5 }];
        routes.install(&map).unwrap();
        assert_eq!(leader(&routes), "b:2");

        let answer =
            |node_id, raft_term| ResponseHeader { node_id, raft_term, shard_id: fake::SHARD, ..Default::default() };
        routes.executed(&answer(3, 4));
        assert_eq!(leader(&routes), "b:2", "an answer from an earlier term says nothing");
        routes.executed(&answer(3, 6));
        assert_eq!(leader(&routes), "c:3");

        let hint = ErrorDetail { leader_address: "a:1".into(), ..Default::default() };
        assert_eq!(routes.refused(SHARD, "c:3", &hint).as_deref(), Some("a:1"));
        assert_eq!(leader(&routes), "a:1");
        assert_eq!(routes.refused(SHARD, "a:1", &hint), None, "who names itself is not believed");
        assert_eq!(leader(&routes), "a:1", "only by order of replicas");
        routes.install(&map).unwrap();
        assert_eq!(leader(&routes), "a:1", "the old hint is not believed again");
    }

    #[test]
    fn near_reads_go_to_the_own_zone_first_and_to_the_leader_last_among_equals() {
        let mut map = fake::map(&["a:1", "b:2", "c:3", "d:4"]);
        for (node, zone) in map.nodes.iter_mut().zip(["x", "y", "x", "y"]) {
            node.labels.insert("zone".into(), zone.into());
        }
        map.leaders = vec![LeaderHint { shard_id: fake::SHARD, node_id: 1, term: 5 }];
        let mut routes = Routes::default();
        routes.install(&map).unwrap();
        let nearest = |zone| routes.nearest(Some(SHARD), zone, &["e:5".into()]);
        assert_eq!(nearest(Some("x"))[..2], ["c:3", "a:1"], "the leader last within the zone");
        let mut far = nearest(Some("x"))[2..4].to_vec();
        far.sort();
        assert_eq!(far, ["b:2", "d:4"]);
        assert_eq!(nearest(Some("x")).len(), 5, "and any endpoint in the end");
        let firsts: BTreeSet<_> = (0..100).map(|_| nearest(Some("y"))[0].clone()).collect();
        assert_eq!(firsts.into_iter().collect::<Vec<_>>(), ["b:2", "d:4"], "spread among equals");
        assert_eq!(nearest(None)[3], "a:1", "without a zone only the leader is spared");
    }

    #[test]
    fn an_older_map_and_one_of_another_cluster_are_not_taken() {
        let mut routes = routes();
        let mut newer = fake::map(&["n:1"]);
        newer.version = 7;
        routes.install(&newer).unwrap();
        routes.install(&fake::map(&["o:1", "p:2"])).unwrap();
        assert_eq!(routes.map().nodes.len(), 1);
        newer.cluster_id = vec![9; 16].into();
        assert_eq!(routes.install(&newer).unwrap_err().code, ErrorCode::InvalidArgument);
    }

    #[test]
    fn ranges_find_their_shards() {
        let mut routes = Routes::default();
        let (low, high) = if slot(b"x") <= slot(b"y") { ("x", "y") } else { ("y", "x") };
        routes.install(&fake::hash_map(&["a:1"], slot(low.as_bytes()))).unwrap();
        let key = |key: &str| KeyRange::key(&Bytes::copy_from_slice(key.as_bytes()));
        let one = routes.single("h", &[key(low)]).unwrap();
        let other = routes.single("h", &[key(high)]).unwrap();
        assert_ne!(one.shard, other.shard);
        assert_eq!(routes.single("h", &[key(low), key(high)]).unwrap_err().code, ErrorCode::CrossShard);
        let all = KeyRange::range(Bytes::new(), None);
        assert_eq!(routes.touched("h", &[all]).unwrap().len(), 2);
        assert_eq!(routes.single("none", &[key(low)]).unwrap_err().code, ErrorCode::KeyspaceNotFound);
    }
}
