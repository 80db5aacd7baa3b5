//! Metadata: clients move leaders and ask every node what it knows; no two answers contradict each
//! other, and a node with an old map still serves nothing but the truth.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use quorate::client::{Client, ClientConfig, ErrorCode};
use quorate::env::disk::MemoryDisk;
use quorate::types::map::ShardMap;
use quorate::types::{Epoch, GroupId, NodeId, Span};

use super::outcome::{Fate, explain, text};
use super::{Setup, Task, Workload};
use crate::chance::Chance;
use crate::world;

const NAME: &str = "metadata";
const PROBE: &str = "metadata/probe";
/// Slots of a hashed keyspace: the whole 64-bit hash.
const LAST_SLOT: u64 = u64::MAX;

#[derive(Default)]
struct Metadata {
    maps: RefCell<BTreeMap<u64, ShardMap>>,
    /// By endpoint and shard.
    epochs: RefCell<BTreeMap<(String, GroupId), Epoch>>,
    /// By shard and term.
    leaders: RefCell<BTreeMap<(u64, u64), u64>>,
    /// Acknowledged and begun writes of the probe.
    probe: Cell<(u64, u64)>,
    checked: Cell<u64>,
}

pub(super) fn make(_: Chance) -> Rc<dyn Workload> {
    Rc::new(Metadata::default())
}

/// A client that knows one endpoint and nothing else, so that its first questions go there.
pub(crate) async fn only(setup: &Setup, endpoint: &str) -> Option<Client> {
    let env = world::env(setup.host, &setup.network, MemoryDisk::new());
    let config = ClientConfig::new([endpoint]).watch_map(false).timeout(Duration::from_secs(2));
    Client::connect(&env, config).await.ok()
}

impl Workload for Metadata {
    fn clients(self: Rc<Self>, setup: &Setup) -> Vec<Task> {
        vec![
            Box::pin(self.clone().move_leaders(setup.clone())),
            Box::pin(self.clone().probe(setup.clone())),
            Box::pin(self.clone().ask(setup.clone())),
        ]
    }

    fn check(self: Rc<Self>, setup: &Setup) -> Task {
        let setup = setup.clone();
        Box::pin(async move {
            let mut answered = 0;
            for endpoint in &setup.endpoints {
                let Some(client) = only(&setup, endpoint).await else { continue };
                answered += usize::from(self.ask_for_map(&client, endpoint, &setup).await.is_some());
            }
            let newest = self.maps.borrow().values().next_back().cloned();
            let members = newest.as_ref().map_or(setup.endpoints.len(), |map| map.nodes.len());
            if answered * 2 <= members {
                let detail = format!("{answered} of {members} nodes tell their map");
                setup.seen.violation("service after the healing", detail);
            }
            if let Some(newest) = newest.filter(|_| setup.is_static && members != setup.endpoints.len()) {
                setup.seen.violation("all nodes are members", format!("{:?}", newest.nodes));
            }
            setup.seen.checked(NAME, self.checked.get());
        })
    }
}

impl Metadata {
    fn count(&self) {
        self.checked.set(self.checked.get() + 1);
    }

    async fn move_leaders(self: Rc<Self>, setup: Setup) {
        let chance = setup.chance("metadata moves");
        let Some(client) = setup.client(Duration::from_secs(5)).await else { return };
        for _ in 0..setup.operations_max {
            quorate::env::time::sleep(chance.millis(500, 4_000)).await;
            if setup.is_over() {
                return;
            }
            let (shards, map) = match (client.shards(true).await, client.map().await) {
                (Ok(shards), Ok(map)) if !shards.shards.is_empty() => (shards.shards, map),
                _ => continue,
            };
            let entry = chance.pick(&shards);
            let Some(shard) = &entry.shard else { continue };
            let nodes: Vec<_> = map.nodes.keys().copied().collect();
            let to = *chance.pick(&nodes);
            self.count();
            match client.move_leader(GroupId(shard.id), to).await {
                Ok(moved) => {
                    tracing::debug!(shard = shard.id, from = entry.leader_node_id, ?to, ?moved, "leader moved");
                    if moved.leader_node_id != to.0 {
                        setup.seen.violation("a moved leader is where it was moved", format!("{moved:?}, not {to:?}"));
                    }
                    self.leads(shard.id, moved.term, moved.leader_node_id, &setup);
                    if entry.leader_node_id != to.0 {
                        setup.seen.fired("control: leader transfer");
                    }
                }
                // A keyspace may be dropped meanwhile.
                Err(error) if error.code == ErrorCode::InvalidArgument && error.message.contains("does not exist") => {}
                // Not every node holds a voter.
                Err(error) => explain(&setup, &error),
            }
        }
    }

    /// Raises a number, one write after the other.
    async fn probe(self: Rc<Self>, setup: Setup) {
        let chance = setup.chance("metadata probe");
        let Some(client) = setup.client(Duration::from_secs(5)).await else { return };
        let session = client.session();
        for number in 1..setup.operations_max {
            if setup.is_over() {
                return;
            }
            self.probe.set((self.probe.get().0, number));
            if let Fate::Done(_) = Fate::of(&setup, session.put(PROBE, number.to_string()).await) {
                self.probe.set((number, number));
            }
            self.count();
            quorate::env::time::sleep(chance.millis(100, 600)).await;
        }
    }

    async fn ask(self: Rc<Self>, setup: Setup) {
        let chance = setup.chance("metadata asks");
        for _ in 0..setup.operations_max {
            if setup.is_over() {
                return;
            }
            let endpoint = chance.pick(&setup.endpoints);
            if let Some(client) = only(&setup, endpoint).await {
                self.ask_one(&client, endpoint, &setup).await;
            }
            setup.think(&chance).await;
        }
    }

    async fn ask_one(&self, client: &Client, endpoint: &str, setup: &Setup) {
        if let Ok(status) = client.status(endpoint).await {
            self.count();
            let leads = status.replicas.iter().filter(|replica| replica.role == "leader");
            leads.for_each(|replica| self.leads(replica.shard_id, replica.term, status.node_id, setup));
        }
        if let Ok(answer) = client.shards(true).await {
            self.count();
            for entry in answer.shards.iter().filter(|entry| entry.leader_node_id != 0) {
                let id = entry.shard.as_ref().map_or(0, |shard| shard.id);
                self.leads(id, entry.term, entry.leader_node_id, setup);
            }
        }
        let newest = self.maps.borrow().keys().next_back().copied().unwrap_or(0);
        let Some(map) = self.ask_for_map(client, endpoint, setup).await else { return };
        let (least, _) = self.probe.get();
        match client.get(PROBE).await {
            Ok(record) => {
                let shown = record.map_or(0, |record| text(&record.value).parse().unwrap_or(u64::MAX));
                let (_, most) = self.probe.get();
                if !(least..=most).contains(&shown) {
                    let detail = format!("{shown} through {endpoint}, not within {least}..={most}");
                    setup.seen.violation("reads are linearizable through any node", detail);
                }
                self.count();
            }
            Err(error) => explain(setup, &error),
        }
        if map.version < newest {
            tracing::debug!(endpoint, version = map.version, newest, "asked a node with an old map");
            setup.seen.fired("control: a router with an old map");
        }
    }

    /// The map of one node, held against all others.
    async fn ask_for_map(&self, client: &Client, endpoint: &str, setup: &Setup) -> Option<ShardMap> {
        let map = client.map().await.ok()?;
        self.count();
        if let Err((check, why)) = self.compare_map(&map, endpoint) {
            setup.seen.violation(check, format!("version {} of {endpoint}: {why}", map.version));
        }
        Some(map)
    }

    fn compare_map(&self, map: &ShardMap, endpoint: &str) -> Result<(), (&'static str, String)> {
        let mut maps = self.maps.borrow_mut();
        if let Some(first) = maps.values().find(|other| other.cluster_id != map.cluster_id) {
            return Err(("one cluster", format!("{:?}, then {:?}", first.cluster_id, map.cluster_id)));
        }
        let same = maps.entry(map.version).or_insert_with(|| map.clone());
        if same != map {
            return Err(("a version is one map", format!("{same:?}, then {map:?}")));
        }
        for keyspace in map.keyspaces.values().filter(|keyspace| !keyspace.dropping) {
            let spans = map.shards_of(keyspace.id).map(|shard| &shard.span);
            if !tile(spans.cloned().collect()) {
                return Err(("shards tile their keyspace", format!("{:?}", map.shards)));
            }
        }
        for shard in map.shards.values() {
            let before = self.epochs.borrow_mut().insert((endpoint.to_owned(), shard.id), shard.epoch);
            if let Some(before) = before.filter(|before| *before > shard.epoch) {
                return Err(("epochs only rise", format!("{before:?}, then {:?}", shard.epoch)));
            }
        }
        Ok(())
    }

    /// Somebody says who leads: a term has one leader. Without a term it is hearsay, and may be long past.
    fn leads(&self, shard: u64, term: u64, node: u64, setup: &Setup) {
        if term == 0 {
            return;
        }
        let before = *self.leaders.borrow_mut().entry((shard, term)).or_insert(node);
        if before != node {
            let detail = format!("shard {shard}, term {term}: {:?} and {:?}", NodeId(before), NodeId(node));
            setup.seen.violation("a term has one leader", detail);
        }
    }
}

/// Whether spans cover everything, once.
fn tile(mut spans: Vec<Span>) -> bool {
    spans.sort_by_key(|span| match span {
        Span::Keys { start, .. } => (0, start.clone()),
        Span::Slots { first, .. } => (*first, bytes::Bytes::new()),
    });
    // Where the next one must begin; `None` after the end.
    let mut next = Some((0, bytes::Bytes::new()));
    for span in spans {
        next = match (next, span) {
            (Some((_, at)), Span::Keys { start, end }) if start == at => end.map(|end| (0, end)),
            (Some((at, _)), Span::Slots { first, last }) if first == at => {
                (last < LAST_SLOT).then(|| (last.wrapping_add(1), bytes::Bytes::new()))
            }
            _ => return false,
        };
    }
    next.is_none()
}
