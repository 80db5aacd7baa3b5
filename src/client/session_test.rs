//! Exactly once: every way an answer can get lost, and the ends of a session.

use std::time::Duration;

use futures_util::future::join_all;

use super::fake::{Fake, Fault, detail};
use super::{BatchOperation, ErrorCode, Outcome};
use crate::env::time;
use crate::proto::v1;
use crate::types::limits::SESSION_WINDOW;

const TIMEOUT: Duration = Duration::from_secs(20);

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_and_applied_once() {
    for fault in [
        Fault::LoseAnswer,
        Fault::LoseRequest,
        Fault::Hang,
        Fault::Refuse(detail(ErrorCode::Timeout, v1::Outcome::Unknown, false)),
    ] {
        let fake = Fake::start(3);
        let session = fake.client(TIMEOUT).await.session();
        session.put("k", "1").await.unwrap();
        fake.fault("put", fault.clone());
        session.put("k", "2").await.unwrap();
        assert_eq!(fake.version("k"), 2, "{fault:?}");
        let sequences = fake.sequences("put");
        assert_eq!((sequences[0], sequences[1], *sequences.last().unwrap()), (1, 2, 2), "{fault:?}");
        assert!(sequences.len() >= 3, "{fault:?}");
        assert_eq!(fake.asked("open_session").len(), 1, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_is_opened_again_when_the_first_answer_is_lost() {
    let fake = Fake::start(1);
    let lost = Fault::Refuse(detail(ErrorCode::Unavailable, v1::Outcome::Unknown, false));
    fake.fault("open_session", lost);
    fake.client(TIMEOUT).await.session().put("k", "1").await.unwrap();
    assert_eq!((fake.version("k"), fake.asked("open_session").len()), (1, 2));

    // And when it cannot be opened, the write is not blamed.
    fake.fault("open_session", Fault::Refuse(detail(ErrorCode::InvalidArgument, v1::Outcome::NotApplied, false)));
    let error = fake.client(TIMEOUT).await.session().put("k", "2").await.unwrap_err();
    assert_eq!(error.outcome, Outcome::NotApplied);
    assert!(error.message.starts_with("the session on shard 2 could not be opened: "), "{}", error.message);
}

#[tokio::test(start_paused = true)]
async fn a_failover_in_the_middle_of_pipelined_writes_applies_each_once() {
    let fake = Fake::start(3);
    let session = fake.client(TIMEOUT).await.session();
    session.put("warm", "").await.unwrap();
    for _ in 0..5 {
        fake.fault("put", Fault::LoseAnswer);
    }
    let writes = (0..200).map(|i| {
        let session = session.clone();
        async move { session.put(format!("k{i}"), "v").await }
    });
    let elect = async {
        time::sleep(Duration::from_millis(5)).await;
        fake.elect(2);
        fake.stop(1);
    };
    let (results, ()) = tokio::join!(join_all(writes), elect);
    for result in results {
        result.unwrap();
    }
    assert!((0..200).all(|i| fake.version(&format!("k{i}")) == 1));
    assert!(fake.state.lock().in_flight_max > 1, "the writes were pipelined");
}

#[tokio::test(start_paused = true)]
async fn the_window_bounds_what_is_in_flight() {
    let fake = Fake::start(1);
    let session = fake.client(TIMEOUT).await.session();
    session.put("k", "").await.unwrap();
    // One write hangs and so holds the window; the others pass it only when it is over.
    fake.fault("put", Fault::Hang);
    let writes = (0..SESSION_WINDOW + 200).map(|_| session.put("k", ""));
    for result in join_all(writes).await {
        result.unwrap();
    }
    assert_eq!(fake.version("k"), SESSION_WINDOW + 201);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_expired_while_idle_is_opened_anew() {
    let fake = Fake::start(1);
    let session = fake.client(TIMEOUT).await.session();
    session.put("k", "1").await.unwrap();
    fake.state.lock().sessions.clear();
    session.put("k", "2").await.unwrap();
    assert_eq!(fake.version("k"), 2);
    assert_eq!(fake.asked("open_session").len(), 2);
    assert_eq!(fake.sequences("put"), [1, 2, 1], "refused in the old session, first in the new");
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_finds_its_session_gone_is_unknown() {
    let fake = Fake::start(1);
    let session = fake.client(TIMEOUT).await.session();
    session.put("k", "1").await.unwrap();
    fake.fault("put", Fault::LoseAnswer);
    fake.fault("put", Fault::Refuse(detail(ErrorCode::SessionNotFound, v1::Outcome::NotApplied, false)));
    let error = session.put("k", "2").await.unwrap_err();
    assert_eq!((error.outcome, error.code), (Outcome::Unknown, ErrorCode::SessionNotFound));
    assert_eq!(fake.version("k"), 2, "as it happens it was applied");
    session.put("k", "3").await.unwrap();
    assert_eq!(fake.asked("open_session").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_never_found_is_not_applied_in_the_end() {
    let fake = Fake::start(1);
    let session = fake.client(TIMEOUT).await.session();
    for _ in 0..10 {
        fake.fault("put", Fault::Refuse(detail(ErrorCode::SessionNotFound, v1::Outcome::NotApplied, false)));
    }
    let error = session.put("k", "1").await.unwrap_err();
    assert_eq!((error.outcome, error.code), (Outcome::NotApplied, ErrorCode::SessionNotFound));
    assert!(fake.asked("put").len() <= 3);
}

#[tokio::test(start_paused = true)]
async fn giving_up_after_a_lost_answer_is_unknown_whatever_came_last() {
    let fake = Fake::start(1);
    let client = fake.client(Duration::from_secs(2)).await;
    let session = client.session();
    session.put("k", "1").await.unwrap();
    fake.fault("put", Fault::LoseAnswer);
    let lose_leader = async {
        time::sleep(Duration::from_millis(1)).await;
        fake.elect(0);
    };
    let (put, ()) = tokio::join!(session.put("k", "2"), lose_leader);
    let error = put.unwrap_err();
    assert_eq!(error.outcome, Outcome::Unknown, "{error}");
    // The sequence that was given up does not block the session.
    fake.elect(1);
    session.put("k", "3").await.unwrap();
    let last = fake.state.lock().sessions.values().next().unwrap().keys().copied().collect::<Vec<_>>();
    assert_eq!(last, [3], "results below the lowest unacknowledged are forgotten");
}

#[tokio::test(start_paused = true)]
async fn batches_are_stamped_and_sessions_close() {
    let fake = Fake::start(2);
    let session = fake.client(TIMEOUT).await.session();
    fake.fault("batch", Fault::LoseAnswer);
    let outcomes = session.batch(&[BatchOperation::put("a", "1"), BatchOperation::put("b", "1")]).await.unwrap();
    outcomes[0].result.clone().unwrap();
    assert_eq!((fake.version("a"), fake.version("b")), (1, 1));
    assert!(fake.sequences("batch").len() >= 2 && fake.sequences("batch").iter().all(|sequence| *sequence == 1));
    session.close().await;
    assert!(fake.state.lock().sessions.is_empty());
}
