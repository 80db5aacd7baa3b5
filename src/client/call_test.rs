//! Routing, retries, breaker, deadlines, and above all: what is said of a write that failed.

use std::collections::BTreeSet;
use std::time::Duration;

use super::fake::{Fake, Fault, detail};
use super::limits::BREAKER_FAILURES_MAX;
use super::{
    BatchOperation, Client, ClientConfig, Condition, Consistency, ErrorCode, Keys, Op, Outcome, ReadOptions,
    ScanOptions, Txn,
};
use crate::env::time;
use crate::proto::v1;
use crate::types::{GroupId, NodeId};

const TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::test(start_paused = true)]
async fn a_leader_change_is_followed_by_its_hint() {
    let fake = Fake::start(3);
    let client = fake.client(TIMEOUT).await;
    client.put("k", "1").await.unwrap();
    fake.elect(3);
    client.put("k", "2").await.unwrap();
    client.put("k", "3").await.unwrap();
    assert_eq!(fake.asked("put"), [1, 1, 3, 3], "the hint is followed at once and remembered");
    assert_eq!(client.get("k").await.unwrap().unwrap().value, "3");
    assert_eq!(fake.asked("map").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_hint_all_nodes_are_tried_until_one_leads() {
    let fake = Fake::start(3);
    fake.state.lock().hints = false;
    fake.elect(0);
    let client = fake.client(TIMEOUT).await;
    let elect = async {
        time::sleep(Duration::from_secs(2)).await;
        fake.elect(2);
    };
    let (put, ()) = tokio::join!(client.put("k", "v"), elect);
    put.unwrap();
    assert_eq!(fake.version("k"), 1);
    let asked = fake.asked("put");
    assert!((1..=3).all(|node| asked.contains(&node)));
    assert!(asked.len() < 60, "the backoff grows: {} requests", asked.len());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_down_costs_nothing_but_a_try() {
    let fake = Fake::start(3);
    let client = fake.client(TIMEOUT).await;
    client.put("k", "1").await.unwrap();
    fake.stop(1);
    fake.elect(2);
    // The connection's task notices: a request given to a dying connection would be unknown.
    time::sleep(Duration::from_millis(1)).await;
    client.put("k", "2").await.unwrap();
    assert_eq!(fake.version("k"), 2);
    assert_eq!(client.get("k").await.unwrap().unwrap().value, "2");
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_was_lost_is_unknown_and_never_sent_again() {
    for fault in [Fault::LoseAnswer, Fault::LoseRequest, Fault::Hang] {
        let fake = Fake::start(3);
        let client = fake.client(TIMEOUT).await;
        client.get("k").await.unwrap();
        fake.fault("put", fault.clone());
        let error = client.put("k", "v").await.unwrap_err();
        assert_eq!(error.outcome, Outcome::Unknown, "{fault:?}");
        assert_eq!(fake.asked("put").len(), 1, "{fault:?}");
        client.put("k", "w").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_with_an_unknown_outcome_is_passed_on() {
    let fake = Fake::start(1);
    let client = fake.client(TIMEOUT).await;
    fake.fault("put", Fault::Refuse(detail(ErrorCode::Timeout, v1::Outcome::Unknown, true)));
    let error = client.put("k", "v").await.unwrap_err();
    assert_eq!((error.outcome, error.code), (Outcome::Unknown, ErrorCode::Timeout));
    fake.fault("put", Fault::Refuse(detail(ErrorCode::Internal, v1::Outcome::Applied, false)));
    assert_eq!(client.put("k", "v").await.unwrap_err().outcome, Outcome::Applied);
    assert_eq!(fake.asked("put").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn reads_are_asked_again_wherever_they_got_lost() {
    let fake = Fake::start(3);
    let client = fake.client(TIMEOUT).await;
    client.put("k", "v").await.unwrap();
    for fault in [Fault::LoseAnswer, Fault::LoseRequest, Fault::Hang] {
        fake.fault("get", fault);
        assert_eq!(client.get("k").await.unwrap().unwrap().value, "v");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_patience_leaves_the_connection_to_the_others() {
    let fake = Fake::start(1);
    let client = fake.client(TIMEOUT).await;
    client.get("k").await.unwrap();
    let hasty = client.with_timeout(Duration::from_millis(100));
    fake.fault("put", Fault::Hang);
    let patient = client.put("k", "patient");
    let others = async {
        fake.fault("delete", Fault::Hang);
        time::sleep(Duration::from_millis(10)).await;
        hasty.delete("k").await.unwrap_err()
    };
    let (patient, hasty) = tokio::join!(patient, others);
    assert_eq!((hasty.code, hasty.outcome), (ErrorCode::Timeout, Outcome::Unknown), "{hasty}");
    let patient = patient.unwrap_err();
    assert_eq!(patient.code, ErrorCode::Timeout, "{patient}");
    client.get("k").await.unwrap();
    assert_eq!(fake.net.connects("n1:1"), 1, "no connection was given up");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_closed_does_not_make_a_write_unknown() {
    let fake = Fake::start(1);
    let client = fake.client(TIMEOUT).await;
    client.put("k", "1").await.unwrap();
    fake.net.break_connections("n1:1");
    // The connection's task notices.
    time::sleep(Duration::from_millis(100)).await;
    client.put("k", "2").await.unwrap();
    assert_eq!(fake.version("k"), 2);
}

#[tokio::test(start_paused = true)]
async fn overload_backs_off_and_comes_back() {
    let fake = Fake::start(1);
    let client = fake.client(TIMEOUT).await;
    client.get("k").await.unwrap();
    for _ in 0..3 {
        fake.fault("put", Fault::Refuse(detail(ErrorCode::Overloaded, v1::Outcome::NotApplied, true)));
    }
    let before = time::now();
    client.put("k", "v").await.unwrap();
    assert_eq!(fake.asked("put").len(), 4);
    assert!(time::now() > before, "not without waiting");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_succeed_is_not_tried_again() {
    let fake = Fake::start(1);
    let client = fake.client(TIMEOUT).await;
    let mut refusal = detail(ErrorCode::LimitExceeded, v1::Outcome::NotApplied, false);
    refusal.limit = "VALUE_BYTES_MAX".into();
    fake.fault("put", Fault::Refuse(refusal));
    let error = client.put("k", "v").await.unwrap_err();
    assert_eq!((error.outcome, error.detail.limit.as_str()), (Outcome::NotApplied, "VALUE_BYTES_MAX"));
    assert_eq!(fake.asked("put").len(), 1);

    let huge = client.put("k", vec![0; 3 << 20]).await.unwrap_err();
    assert_eq!((huge.code, huge.detail.limit.as_str()), (ErrorCode::LimitExceeded, "request_bytes_max"));
    let unknown = client.with_keyspace("nope").get("k").await.unwrap_err();
    assert_eq!(unknown.code, ErrorCode::KeyspaceNotFound);
    assert_eq!(fake.asked("put").len(), 1, "neither was sent");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_kept_and_told_to_the_server() {
    let fake = Fake::start(3);
    let client = fake.client(Duration::from_millis(1_500)).await;
    client.get("k").await.unwrap();
    let told = fake.state.lock().grpc_timeout.clone().unwrap();
    let number: u64 = told.trim_end_matches(|c: char| c.is_alphabetic()).parse().unwrap();
    let unit = told.trim_start_matches(|c: char| c.is_numeric());
    let limit = match unit {
        "n" => 1_500_000_000,
        "u" => 1_500_000,
        "m" => 1_500,
        other => panic!("unit {other}"),
    };
    assert!(number > 0 && number <= limit, "{told}");

    fake.elect(0);
    let before = time::now();
    let error = client.put("k", "v").await.unwrap_err();
    let took = time::now() - before;
    assert_eq!((error.outcome, error.code), (Outcome::NotApplied, ErrorCode::NoLeader));
    assert!(took > Duration::from_millis(500) && took <= Duration::from_millis(1_501), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_the_deadline_cut_short_does_not_hide_what_came_before() {
    let fake = Fake::start(1);
    let client = fake.client(TIMEOUT).await;
    client.get("k").await.unwrap();
    fake.elect(0);
    let hang = async {
        time::sleep(TIMEOUT - Duration::from_secs(1)).await;
        fake.elect(1);
        fake.fault("get", Fault::Hang);
    };
    let (got, ()) = tokio::join!(client.get("k"), hang);
    let error = got.unwrap_err();
    assert_eq!((error.outcome, error.code), (Outcome::NotApplied, ErrorCode::NoLeader), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_swallows_connections_is_left_alone() {
    let fake = Fake::start(2);
    fake.elect(2);
    let client = fake.client(TIMEOUT).await;
    fake.blackhole(1);
    for _ in 0..40 {
        client.status("n1:1").await.unwrap_err();
    }
    let tried = fake.net.connects("n1:1");
    assert!(tried >= BREAKER_FAILURES_MAX as usize && tried < 12, "{tried} connections were tried");
    client.put("k", "v").await.unwrap();
    fake.restart(1);
    time::sleep(Duration::from_secs(10)).await;
    client.status("n1:1").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_old_map_is_refreshed_when_told() {
    let fake = Fake::start(2);
    let client = fake.client(TIMEOUT).await;
    client.put("k", "1").await.unwrap();
    {
        let mut state = fake.state.lock();
        state.map.version = 2;
        state.map.shards[0].epoch = 5;
    }
    let before = time::now();
    client.put("k", "2").await.unwrap();
    assert_eq!(fake.asked("map").len(), 2);
    assert!(time::now() - before < Duration::from_millis(5), "without a backoff");
    assert_eq!(client.map().await.unwrap().shards[&GroupId(super::fake::SHARD)].epoch.0, 5);
}

#[tokio::test(start_paused = true)]
async fn the_map_is_followed_in_the_background_until_the_client_is_gone() {
    let fake = Fake::start(1);
    let client = Client::connect(&fake.env(), ClientConfig::new(["n1:1"])).await.unwrap();
    time::sleep(Duration::from_millis(100)).await;
    fake.state.lock().map.version = 9;
    fake.map_changed.notify_waiters();
    time::sleep(Duration::from_millis(100)).await;
    assert_eq!(client.map().await.unwrap().version, 9);
    assert_eq!(fake.asked("map").len(), 0);
    fake.net.break_connections("n1:1");
    time::sleep(Duration::from_secs(5)).await;
    let watches = fake.asked("watch_map").len();
    assert!(watches >= 2, "watched again");
    drop(client);
    fake.net.break_connections("n1:1");
    time::sleep(Duration::from_secs(60)).await;
    assert_eq!(fake.asked("watch_map").len(), watches, "nobody watches any more");
}

#[tokio::test(start_paused = true)]
async fn scans_page_count_and_resume() {
    let fake = Fake::start(1);
    let client = fake.client(TIMEOUT).await;
    for i in 0..25 {
        client.put(format!("a{i:02}"), format!("{i}")).await.unwrap();
    }
    client.put("b", "").await.unwrap();
    assert_eq!(client.count(Keys::prefix("a")).await.unwrap(), 25);

    let mut scan = client.scan(Keys::prefix("a"), ScanOptions::new().page_records(10));
    let first = scan.next_page().await.unwrap().unwrap();
    assert_eq!((first.len(), first[0].key.as_ref()), (10, b"a00".as_slice()));
    let position = scan.position().unwrap();
    drop(scan);
    let mut rest = client.scan(Keys::prefix("a"), ScanOptions::new().page_records(10).resume(position));
    fake.fault("scan", Fault::LoseAnswer);
    let mut keys = Vec::new();
    while let Some(record) = rest.next().await.unwrap() {
        keys.push(record.key);
    }
    assert_eq!((keys.len(), keys[0].as_ref(), keys[14].as_ref()), (15, b"a10".as_slice(), b"a24".as_slice()));

    let mut last = client.scan(Keys::prefix("a"), ScanOptions::new().reverse().limit(12).page_records(10).keys_only());
    let mut keys = Vec::new();
    while let Some(record) = last.next().await.unwrap() {
        assert!(record.value.is_empty());
        keys.push(record.key);
    }
    assert_eq!((keys.len(), keys[0].as_ref()), (12, b"a24".as_slice()));
    assert_eq!(client.scan(Keys::all().from("x").to("a"), ScanOptions::new()).next().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_retried_for_what_its_answer_says() {
    let fake = Fake::start(2);
    let client = fake.client(TIMEOUT).await;
    client.get("k").await.unwrap();
    fake.elect(2);
    let outcomes = client.batch(&[BatchOperation::put("a", "1"), BatchOperation::delete("b")]).await.unwrap();
    assert_eq!(outcomes.len(), 1);
    assert_eq!(outcomes[0].operations, [0, 1]);
    outcomes[0].result.clone().unwrap();
    assert_eq!(fake.asked("batch"), [1, 2]);
    let twice = client.batch(&[BatchOperation::put("a", "1"), BatchOperation::delete("a")]).await.unwrap_err();
    assert_eq!(twice.code, ErrorCode::InvalidArgument);
    let many: Vec<_> = (0..200).map(|i| BatchOperation::delete(format!("{i}"))).collect();
    let error = client.batch(&many).await.unwrap_err();
    assert_eq!((error.code, error.detail.limit.as_str()), (ErrorCode::LimitExceeded, "batch_operations_max"));
}

#[tokio::test(start_paused = true)]
async fn transactions_and_leaders_move() {
    let fake = Fake::start(2);
    let client = fake.client(TIMEOUT).await;
    let take = || Txn::new().when(Condition::missing("l")).then(Op::put("l", "me")).otherwise(Op::get("l"));
    assert!(client.txn(take()).await.unwrap().succeeded);
    assert!(!client.txn(take()).await.unwrap().succeeded);
    client.move_leader(GroupId(2), client.find_node("n2").await.unwrap()).await.unwrap();
    assert!(client.delete("l").await.unwrap());
    assert!(!client.delete("l").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_node_is_named_or_numbered_and_a_name_is_never_read_as_a_number() {
    let fake = Fake::start(3);
    for (at, name) in ["n2", "3", "backup"].into_iter().enumerate() {
        name.clone_into(&mut fake.state.lock().map.nodes[at].name);
    }
    let client = fake.client(TIMEOUT).await;
    let find = async |name| client.find_node(name).await;
    assert_eq!(find("n2").await.unwrap(), NodeId(1));
    assert_eq!(find("3").await.unwrap(), NodeId(2), "a name wins");
    assert_eq!(find("1").await.unwrap(), NodeId(1));
    for name in ["n3", "n1", "+1", "", "9", "x"] {
        let error = find(name).await.unwrap_err();
        let expected = format!("no member {name}; there are n2, 3, backup");
        assert_eq!((error.code, error.message), (ErrorCode::NodeNotFound, expected));
    }
}

#[test]
fn calls_can_be_spawned() {
    fn check<T: Send>(_: impl FnOnce(Client) -> T) {}
    check(|client| async move { client.put("k", "v").await });
    check(|client| async move { client.session().txn(Txn::new()).await });
    check(|client| async move { client.batch(&[]).await });
    check(|client| async move { client.scan(Keys::all(), ScanOptions::new()).next_page().await });
}

#[tokio::test]
async fn a_near_read_spares_the_leader_and_teaches_nothing_about_it() {
    let fake = Fake::start(3);
    let client = fake.client(Duration::from_secs(5)).await;
    client.put("k", "v").await.unwrap();
    fake.state.lock().all_serve = true;
    let near = ReadOptions::new().consistency(Consistency::Follower);
    for _ in 0..40 {
        assert_eq!(client.get_with("k", &near).await.unwrap().unwrap().value, "v");
    }
    let asked: BTreeSet<_> = fake.asked("get").into_iter().collect();
    assert_eq!(asked, BTreeSet::from([2, 3]), "spread over the replicas that do not lead");
    client.get("k").await.unwrap();
    assert_eq!(fake.asked("get").last(), Some(&1));
}

#[tokio::test]
async fn a_stale_read_that_is_refused_goes_to_the_next_replica_and_at_last_to_the_leader() {
    let fake = Fake::start(3);
    let client = fake.client(Duration::from_secs(5)).await;
    client.put("k", "v").await.unwrap();
    fake.state.lock().all_serve = true;
    for _ in 0..2 {
        let mut refusal = detail(ErrorCode::TooStale, v1::Outcome::NotApplied, true);
        refusal.leader_address = "n1:1".into();
        fake.fault("get", Fault::Refuse(refusal));
    }
    let stale = ReadOptions::new().consistency(Consistency::Stale(Duration::from_secs(1)));
    assert_eq!(client.get_with("k", &stale).await.unwrap().unwrap().value, "v");
    let asked = fake.asked("get");
    assert_eq!((asked.len(), asked.last()), (3, Some(&1)));
    assert_eq!(asked[..2].iter().collect::<BTreeSet<_>>(), BTreeSet::from([&2, &3]));
}
