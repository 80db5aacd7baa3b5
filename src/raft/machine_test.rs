use std::collections::BTreeMap;

use openraft::Membership;
use openraft::entry::RaftEntry;

use super::*;
use crate::env::Env;
use crate::raft::test_bed::{Chain, Disk, chain, command};
use crate::raft::types::Place;
use crate::storage::engine::Batch;
use crate::types::NodeId;

const GROUP: GroupId = GroupId(7);
const REPLICA: ReplicaId = ReplicaId(1);

struct Bed {
    disk: Disk,
    catalog: Arc<Catalog>,
    chain: Arc<Chain>,
    machine: Machine,
    durable: watch::Sender<Option<u64>>,
}

/// A machine whose log is as durable as the test says.
fn bed() -> Bed {
    let disk = Disk::new();
    let catalog = disk.catalog();
    let store = catalog.create(GROUP, REPLICA).unwrap();
    let chain = Arc::new(Chain::default());
    let durable = watch::Sender::new(None);
    let machine = machine(catalog.clone(), store, chain.clone(), durable.subscribe());
    Bed { disk, catalog, chain, machine, durable }
}

fn machine(catalog: Arc<Catalog>, store: StoreId, chain: Arc<Chain>, durable: watch::Receiver<Option<u64>>) -> Machine {
    let workers = Env::real().workers;
    let replica = Arc::new(Replica::open(GROUP, REPLICA, catalog, store, chain).unwrap());
    Machine { replica, worker: workers.start("apply"), flusher: workers.start("flush"), durable }
}

fn put(index: u64) -> Entry {
    Entry::new(codec::log_id(1, index), EntryPayload::Normal(Command(Bytes::from(format!("command {index}")))))
}

fn members(index: u64) -> Entry {
    let nodes = BTreeMap::from([(1, Place { node: NodeId(1) })]);
    Entry::new(codec::log_id(1, index), EntryPayload::Membership(Membership::from(nodes)))
}

async fn apply(machine: &mut Machine, entries: impl IntoIterator<Item = Entry>) -> io::Result<()> {
    let entries: Vec<_> = entries.into_iter().map(|entry| Ok((entry, None))).collect();
    machine.apply(futures_util::stream::iter(entries)).await
}

#[tokio::test]
async fn trap_11_nothing_is_applied_before_it_is_durable_in_the_own_log() {
    let bed = bed();
    bed.durable.send_replace(Some(1));
    let replica = bed.machine.replica.clone();
    let mut machine = bed.machine;
    let applying = tokio::spawn(async move { apply(&mut machine, [put(1), put(2)]).await });
    // Everything that could run has run: what it waits for is the log.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!applying.is_finished());
    assert_eq!(replica.applied(), None);
    assert_eq!(chain(&*replica.view().unwrap()), None);
    bed.durable.send_replace(Some(2));
    applying.await.unwrap().unwrap();
    assert_eq!(replica.applied(), Some(LogPosition { term: 1, index: 2 }));
}

#[tokio::test]
async fn apply_fails_when_the_log_ends_first() {
    let mut bed = bed();
    drop(bed.durable);
    assert!(apply(&mut bed.machine, [put(1)]).await.is_err());
    assert_eq!(bed.machine.replica.applied(), None);
}

/// Cuts the power at every batch boundary there is, and looks at what is left.
#[tokio::test]
async fn effects_applied_position_and_membership_go_into_one_batch() {
    let mut seen = std::collections::BTreeSet::new();
    for cut in 0..8 {
        let mut bed = bed();
        bed.durable.send_replace(Some(u64::MAX));
        bed.catalog.engine().flush().unwrap();
        for run in [vec![put(0), members(1)], vec![put(2)], vec![put(3), put(4)]] {
            apply(&mut bed.machine, run).await.unwrap();
        }
        bed.disk.stores.crash(&mut || cut);
        let catalog = bed.disk.catalog();
        let view = catalog.engine().view(catalog.get(GROUP, REPLICA).unwrap()).unwrap();
        let applied = read_applied(&*view).unwrap().map(|id| id.index);
        seen.insert(applied);
        for index in [0, 2, 3, 4] {
            let there = command(&*view, index).is_some();
            assert_eq!(there, Some(index) <= applied, "entry {index} after a cut at {applied:?}");
        }
        let membership = read_membership(&*view).unwrap();
        assert_eq!(membership.log_id().is_some(), applied >= Some(1), "the membership after a cut at {applied:?}");
    }
    assert_eq!(seen, [None, Some(1), Some(2), Some(4)].into(), "a run is one batch");
}

#[tokio::test]
async fn an_entry_is_never_applied_twice() {
    let mut bed = bed();
    bed.durable.send_replace(Some(u64::MAX));
    apply(&mut bed.machine, [put(0), put(1)]).await.unwrap();
    let before = chain(&*bed.machine.replica.view().unwrap());
    assert!(apply(&mut bed.machine, [put(1), put(2)]).await.is_err());
    assert_eq!(chain(&*bed.machine.replica.view().unwrap()), before);
}

#[tokio::test]
async fn what_is_visible_is_shown_in_order() {
    let mut bed = bed();
    bed.durable.send_replace(Some(u64::MAX));
    apply(&mut bed.machine, (0..3).map(put)).await.unwrap();
    apply(&mut bed.machine, [put(3)]).await.unwrap();
    let at = |index| LogPosition { term: 1, index };
    assert_eq!(*bed.chain.shown.lock(), [LogPosition::default(), at(2), at(3)]);
    let again = Arc::new(Chain::default());
    Replica::open(GROUP, REPLICA, bed.catalog.clone(), bed.catalog.get(GROUP, REPLICA).unwrap(), again.clone())
        .unwrap();
    assert_eq!(*again.shown.lock(), [at(3)]);
}

#[tokio::test]
async fn large_runs_are_cut_into_batches() {
    let bed = bed();
    bed.durable.send_replace(Some(u64::MAX));
    let large = |index| {
        let command = Command(Bytes::from(vec![7; 1024 * 1024]));
        Entry::new(codec::log_id(1, index), EntryPayload::Normal(command))
    };
    let entries: Vec<Entry> = (0..7).map(large).collect();
    let answers = bed.machine.replica.apply(&entries).unwrap();
    assert_eq!(answers.len(), 7);
    assert_eq!(bed.machine.replica.applied(), Some(LogPosition { term: 1, index: 6 }));
    assert_eq!(bed.chain.shown.lock().len(), 3, "at the start, and after each of two batches");
}

#[tokio::test]
async fn trap_12_a_snapshot_is_one_view() {
    let mut bed = bed();
    bed.durable.send_replace(Some(u64::MAX));
    apply(&mut bed.machine, [members(0), put(1)]).await.unwrap();
    let snapshot = bed.machine.get_current_snapshot().await.unwrap().unwrap();
    apply(&mut bed.machine, [put(2)]).await.unwrap();
    let SnapshotData::View(view) = &snapshot.snapshot else { panic!("no view") };
    assert_eq!(snapshot.meta.last_log_id, Some(codec::log_id(1, 1)));
    check_snapshot(&**view, &snapshot.meta).unwrap();
    assert_eq!(command(&**view, 2), None);
}

#[tokio::test]
async fn a_built_snapshot_is_durable() {
    let mut bed = bed();
    bed.durable.send_replace(Some(u64::MAX));
    apply(&mut bed.machine, [members(0), put(1)]).await.unwrap();
    let built = bed.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    assert_eq!(built.meta.last_log_id, Some(codec::log_id(1, 1)));
    bed.disk.stores.crash(&mut || 0);
    let catalog = bed.disk.catalog();
    let view = catalog.engine().view(catalog.get(GROUP, REPLICA).unwrap()).unwrap();
    assert_eq!(read_applied(&*view).unwrap(), built.meta.last_log_id);
}

#[tokio::test]
async fn an_installed_snapshot_is_durable_before_openraft_purges_behind_it() {
    let mut leader = bed();
    leader.durable.send_replace(Some(u64::MAX));
    apply(&mut leader.machine, [members(0), put(1), put(2)]).await.unwrap();
    let snapshot = leader.machine.get_current_snapshot().await.unwrap().unwrap();

    let mut follower = bed();
    follower.machine.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
    assert_eq!(follower.machine.replica.applied(), Some(LogPosition { term: 1, index: 2 }));
    follower.disk.stores.crash(&mut || 0);
    let catalog = follower.disk.catalog();
    assert_eq!(catalog.lost(), []);
    let view = catalog.engine().view(catalog.get(GROUP, REPLICA).unwrap()).unwrap();
    assert_eq!(chain(&*view), chain(&*leader.machine.replica.view().unwrap()));
    assert_eq!(catalog.engine().stores().unwrap().len(), 2, "catalog and replica, no staging");
}

#[tokio::test]
async fn a_snapshot_that_is_not_what_it_says_is_refused() {
    let mut leader = bed();
    leader.durable.send_replace(Some(u64::MAX));
    apply(&mut leader.machine, [members(0), put(1)]).await.unwrap();
    let mut snapshot = leader.machine.get_current_snapshot().await.unwrap().unwrap();
    snapshot.meta.last_log_id = Some(codec::log_id(1, 9));
    let mut follower = bed();
    assert!(follower.machine.install_snapshot(&snapshot.meta, snapshot.snapshot).await.is_err());
    assert_eq!(follower.machine.replica.applied(), None);
    assert_eq!(follower.catalog.engine().stores().unwrap().len(), 2, "the staging store is gone");
}

#[tokio::test]
async fn a_damaged_position_is_corruption_and_no_fresh_start() {
    let bed = bed();
    let store = bed.catalog.get(GROUP, REPLICA).unwrap();
    let write = (store, Bytes::from_static(APPLIED_KEY), Some(Bytes::from_static(b"short")));
    bed.catalog.engine().commit(Batch { writes: vec![write] }).unwrap();
    let opened = Replica::open(GROUP, REPLICA, bed.catalog.clone(), store, bed.chain.clone());
    assert!(matches!(opened, Err(EngineError::Corrupt(_))));
}
