//! Watches against a scripted cluster: whatever breaks, every change is shown once.

use std::time::Duration;

use super::fake::{Fake, Fault, detail, hash_map};
use super::{Client, ErrorCode, EventKind, Keys, Op, Txn, Watch, WatchOptions};
use crate::env::time;
use crate::proto::v1;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Kind, key and value of the next event.
async fn shown(watch: &mut Watch) -> (EventKind, String, String) {
    let event = time::timeout(Duration::from_secs(60), watch.next()).await.expect("an event").unwrap();
    let record = event.record.clone().unwrap();
    let text = |bytes: bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    (event.kind(), text(record.key), text(record.value))
}

fn put(key: &str, value: &str) -> (EventKind, String, String) {
    (EventKind::Put, key.to_owned(), value.to_owned())
}

async fn nothing(watch: &mut Watch) {
    assert!(time::timeout(Duration::from_secs(3), watch.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn changes_are_shown_in_order_from_now_on_or_from_a_revision() {
    let fake = Fake::start(1);
    let client = fake.client(TIMEOUT).await;
    client.put("a", "1").await.unwrap();
    let mut now = client.watch("a", WatchOptions::new());
    assert_eq!(now.begin().await.unwrap(), 3);
    let mut past = client.watch_range(&Keys::all(), WatchOptions::new().revision(2).previous());
    assert_eq!(shown(&mut past).await, put("a", "1"));
    client.put("b", "1").await.unwrap();
    client.put("a", "2").await.unwrap();
    client.delete("a").await.unwrap();
    assert_eq!(shown(&mut now).await, put("a", "2"));
    let gone = (EventKind::Delete, "a".to_owned(), String::new());
    assert_eq!(shown(&mut now).await, gone);
    for expected in [put("b", "1"), put("a", "2"), gone] {
        assert_eq!(shown(&mut past).await, expected);
    }
    nothing(&mut now).await;
    assert_eq!(now.next_revision(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_watch_resumes_with_neither_gap_nor_repeat() {
    let fake = Fake::start(3);
    let client = fake.client(TIMEOUT).await;
    let mut watch = client.watch_range(&Keys::prefix("k"), WatchOptions::new());
    watch.begin().await.unwrap();
    for round in 0..30_u32 {
        let value = round.to_string();
        client.put("k", value.clone()).await.unwrap();
        client.put("other", value.clone()).await.unwrap();
        client.put("k", format!("{value}!")).await.unwrap();
        if round % 3 == 0 {
            (1..=3).for_each(|node| fake.net.break_connections(&format!("n{node}:1")));
        }
        assert_eq!(shown(&mut watch).await, put("k", &value));
        if round % 3 == 1 {
            (1..=3).for_each(|node| fake.net.break_connections(&format!("n{node}:1")));
        }
        assert_eq!(shown(&mut watch).await, put("k", &format!("{value}!")));
        // The connections' tasks notice.
        time::sleep(Duration::from_millis(1)).await;
    }
    nothing(&mut watch).await;
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_comes_in_parts_is_shown_once_also_when_it_is_cut_off() {
    let fake = Fake::start(1);
    let client = fake.client(TIMEOUT).await;
    fake.state.lock().answer_events_max = 3;
    let all = (0..10).fold(Txn::new(), |txn, key| txn.then(Op::put(format!("k{key}"), "v")));
    client.put("k0", "before").await.unwrap();
    client.txn(all).await.unwrap();
    client.put("k0", "after").await.unwrap();
    for cut_after in 0..12 {
        let mut watch = client.watch_range(&Keys::prefix("k"), WatchOptions::new().revision(2));
        let mut keys = Vec::new();
        for at in 0..12 {
            if at == cut_after {
                fake.net.break_connections("n1:1");
            }
            keys.push(shown(&mut watch).await);
        }
        let mut expected = vec![put("k0", "before")];
        expected.extend((0..10).map(|key| put(&format!("k{key}"), "v")));
        expected.push(put("k0", "after"));
        assert_eq!(keys, expected, "cut after {cut_after}");
        nothing(&mut watch).await;
    }
}

#[tokio::test(start_paused = true)]
async fn it_waits_as_long_as_it_takes_once_it_has_begun() {
    let fake = Fake::start(2);
    let client = fake.client(TIMEOUT).await;
    let mut watch = client.watch("k", WatchOptions::new());
    watch.begin().await.unwrap();
    assert!(watch.trouble().is_none());
    fake.stop(1);
    fake.stop(2);
    assert!(time::timeout(Duration::from_secs(600), watch.next()).await.is_err(), "no event and no error");
    assert!(watch.trouble().is_some());
    let opened = fake.asked("watch").len();
    fake.restart(1);
    fake.restart(2);
    time::timeout(Duration::from_secs(20), watch.next()).await.ok();
    client.put("k", "v").await.unwrap();
    assert_eq!(shown(&mut watch).await, put("k", "v"));
    assert!(watch.trouble().is_none());
    assert_eq!(fake.asked("watch").len(), opened + 1);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_mended_is_an_error() {
    let fake = Fake::start(2);
    let client = fake.client(TIMEOUT).await;
    let failed = async |client: &Client, options| client.watch("k", options).next().await.unwrap_err();
    client.put("k", "1").await.unwrap();
    client.put("k", "2").await.unwrap();
    fake.state.lock().compacted = 3;
    assert_eq!(failed(&client, WatchOptions::new().revision(2)).await.code, ErrorCode::Compacted);
    let nowhere = client.with_keyspace("nope");
    assert_eq!(failed(&nowhere, WatchOptions::new()).await.code, ErrorCode::KeyspaceNotFound);
    fake.fault("watch", Fault::Refuse(detail(ErrorCode::InvalidArgument, v1::Outcome::NotApplied, false)));
    assert_eq!(failed(&client, WatchOptions::new()).await.code, ErrorCode::InvalidArgument);
    fake.stop(1);
    fake.stop(2);
    let began = time::now();
    assert_eq!(failed(&client, WatchOptions::new()).await.code, ErrorCode::Unavailable);
    let took = time::now() - began;
    assert!(took <= TIMEOUT && took > Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn another_keyspace_of_the_same_name_is_not_taken_for_the_first() {
    let fake = Fake::start(1);
    let client = fake.client(TIMEOUT).await;
    let mut watch = client.watch("k", WatchOptions::new());
    watch.begin().await.unwrap();
    fake.state.lock().map.cluster_id = vec![8; 16].into();
    fake.net.break_connections("n1:1");
    let error = watch.next().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::KeyspaceNotFound);
    assert!(error.message.contains("another one"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_range_over_several_shards_is_refused_and_a_key_is_not() {
    let fake = Fake::start(1);
    fake.state.lock().map = hash_map(&["n1:1"], u64::MAX / 2);
    let client = fake.client(TIMEOUT).await.with_keyspace("h");
    let error = client.watch_range(&Keys::prefix("a"), WatchOptions::new()).next().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::CrossShard);
    assert!(error.message.contains("follows one shard"), "{error}");
    client.watch("a", WatchOptions::new()).begin().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn watches_that_nobody_takes_from_hold_up_nothing_else() {
    let fake = Fake::start(1);
    let client = fake.client(TIMEOUT).await;
    for _ in 0..10 {
        client.put("large", vec![b'x'; 1 << 20]).await.unwrap();
    }
    fake.state.lock().answer_events_max = 1;
    let mut idle = Vec::new();
    for _ in 0..8 {
        let mut watch = client.watch("large", WatchOptions::new().revision(2));
        watch.begin().await.unwrap();
        idle.push(watch);
    }
    time::sleep(Duration::from_secs(1)).await;
    client.get("large").await.unwrap();
    let mut watch = client.watch("small", WatchOptions::new());
    watch.begin().await.unwrap();
    client.put("small", "v").await.unwrap();
    assert_eq!(shown(&mut watch).await, put("small", "v"));
    for watch in &mut idle {
        for _ in 0..10 {
            assert_eq!(shown(watch).await.2.len(), 1 << 20);
        }
    }
}

#[test]
fn watches_can_be_spawned() {
    fn check<T: Send>(_: impl FnOnce(Client) -> T) {}
    check(|client| async move { client.watch("k", WatchOptions::new()).next().await });
}
