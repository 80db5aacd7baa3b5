//! Commands that last, against a scripted cluster: watches, leases, locks and elections.

use std::time::Duration;

use super::Exit;
use super::cli_test::{Ran, Shell};
use crate::env::time;

/// Runs a command until it is interrupted after so many seconds.
async fn run_for(shell: &Shell, seconds: u64, line: &str) -> Ran {
    shell.interrupts.renew();
    let pressed = async {
        time::sleep(Duration::from_secs(seconds)).await;
        shell.interrupts.raise();
    };
    let (ran, ()) = tokio::join!(shell.run(line), pressed);
    shell.interrupts.renew();
    ran
}

#[tokio::test(start_paused = true)]
async fn a_watch_prints_a_line_for_each_change() {
    let shell = Shell::new(1);
    shell.run("put k 1").await;
    shell.feed("put k -", b"\xff\t\n").await;
    shell.run("del k").await;
    shell.run("put other x").await;
    let ran = run_for(&shell, 9, "watch k --rev 2").await;
    assert_eq!((ran.exit, ran.err.as_str()), (Exit::Interrupted, ""));
    assert_eq!(ran.bytes(), b"PUT\tk\t1\nPUT\tk\t\xff\t\n\nDELETE\tk\n");
    let ran = run_for(&shell, 1, "watch --prefix k --rev 2 --prev").await;
    assert_eq!(ran.bytes(), b"PUT\tk\t1\nPUT\tk\t\xff\t\n\t1\nDELETE\tk\t\xff\t\n\n");
    let ran = run_for(&shell, 1, "watch --from k --to l --rev 3 --prev -w json").await;
    let lines: Vec<_> = ran.out().lines().collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        lines[0],
        "{\"previous\":{\"create_revision\":2,\"key\":\"k\",\"lease\":0,\"mod_revision\":2,\"value\":\"1\",\"version\":1},\
         \"record\":{\"create_revision\":2,\"key\":\"k\",\"lease\":0,\"mod_revision\":3,\"value_base64\":\"/wkK\",\
         \"version\":2},\"revision\":3,\"type\":\"put\"}"
    );
    assert!(
        lines[1].starts_with("{\"key\":\"k\",\"previous\":{")
            && lines[1].ends_with("\"revision\":4,\"type\":\"delete\"}")
    );
    let ran = run_for(&shell, 1, "watch k --rev 2 -w table").await;
    let lines: Vec<_> = ran.out().lines().collect();
    assert_eq!(lines[0], "TYPE    REVISION    KEY                       VALUE");
    assert_eq!(lines[2], "PUT     3           k                         \\xff\\t\\n");
    assert_eq!(run_for(&shell, 1, "watch k").await.out(), "", "nothing of the past");
}

#[tokio::test(start_paused = true)]
async fn a_watch_says_when_it_is_interrupted_for_long_and_why_it_ends() {
    let shell = Shell::new(1);
    shell.run("put k 1").await;
    shell.run("put k 2").await;
    let cut = async {
        time::sleep(Duration::from_secs(1)).await;
        shell.fake.stop(1);
        time::sleep(Duration::from_secs(30)).await;
        shell.fake.restart(1);
        time::sleep(Duration::from_secs(30)).await;
        shell.fake.state.lock().compacted = 3;
    };
    let (ran, ()) = tokio::join!(run_for(&shell, 60, "watch k"), cut);
    assert_eq!(ran.exit, Exit::Interrupted);
    let lines: Vec<_> = ran.err.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("the watch is interrupted"), "{lines:?}");
    assert_eq!(lines[1], "the watch goes on; nothing was missed");
    let ran = shell.run("watch k --rev 2").await;
    assert_eq!(ran.exit, Exit::Usage, "{}", ran.err);
    shell.fake.stop(1);
    assert_eq!(shell.run("watch k --timeout 1s").await.exit, Exit::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn leases_are_granted_kept_and_revoked() {
    let shell = Shell::new(1);
    assert_eq!(shell.run("lease grant 60s --id 0x11").await.out(), "17\n");
    let taken = shell.run("lease grant 60s --id 17").await;
    assert_eq!(taken.exit, Exit::Usage, "{}", taken.err);
    assert_eq!(shell.run("put k v --lease 17").await.out(), "OK\n");
    assert_eq!(shell.run("put k w --lease 17 --prev").await.out(), "OK\nv\n");
    assert_eq!(shell.run("lease time-to-live 17 --keys").await.out(), "60s\t60s\nk\n");
    assert_eq!(
        shell.run("lease time-to-live 17 --keys -w json").await.out(),
        "{\"hex\":\"0000000000000011\",\"keys\":[{\"key\":\"k\"}],\"lease\":17,\"remaining_ms\":60000,\"ttl_ms\":60000}\n"
    );
    assert_eq!(shell.run("lease list").await.out(), "17\t0000000000000011\n");
    assert_eq!(shell.run("lease list -w json").await.out(), "{\"leases\":[17]}\n");
    assert_eq!(shell.run("lease keep-alive 17 --once").await.out(), "17\t60s\n");
    let kept = run_for(&shell, 50, "lease keep-alive 17").await;
    assert_eq!((kept.exit, kept.out()), (Exit::Interrupted, "17\t60s\n17\t60s\n17\t60s\n"));
    assert_eq!(shell.run("lease revoke 17").await.out(), "OK\n");
    assert_eq!(shell.run("get k").await.exit, Exit::NotFound);
    for line in ["lease revoke 17", "lease keep-alive 17", "lease time-to-live 17", "put k v --lease 17"] {
        let gone = shell.run(line).await;
        assert_eq!(gone.exit, Exit::Usage, "{line}");
        assert!(gone.err.contains("lease 17 does not exist"), "{line}: {}", gone.err);
    }
}

#[tokio::test(start_paused = true)]
async fn history_is_compacted_and_refusals_say_what_they_mean() {
    let shell = Shell::new(1);
    for value in 1..5 {
        shell.run(&format!("put k {value}")).await;
    }
    assert_eq!(shell.run("compact 3").await.out(), "OK\n");
    assert_eq!(shell.run("compact 4 --wait -w json").await.out(), "{\"compacted\":4,\"revision\":5}\n");
    for (line, said) in
        [("compact 4", "nothing older"), ("compact 2", "nothing older"), ("compact 9", "at which revision")]
    {
        let refused = shell.run(line).await;
        assert_eq!(refused.exit, Exit::Usage, "{line}");
        assert!(refused.err.contains(said), "{line}: {}", refused.err);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_held_until_an_interrupt_and_then_released() {
    let shell = Shell::new(1);
    let held = run_for(&shell, 100, "lock deploy -w json").await;
    assert_eq!(held.exit, Exit::Interrupted, "{}", held.err);
    let told: serde_json::Value = serde_json::from_str(held.out()).unwrap();
    assert_eq!(told["key"], format!("deploy/{:x}", told["lease"].as_u64().unwrap()));
    assert_eq!(told["revision"], 2);
    assert!(shell.fake.state.lock().leases.is_empty() && shell.values().is_empty(), "nothing is left");

    let other = shell.fake.client(Duration::from_secs(5)).await;
    let mut holder = other.contend("deploy", "", Duration::from_secs(1_000)).await.unwrap();
    holder.turn().await.unwrap();
    let waited = run_for(&shell, 100, "lock deploy").await;
    assert_eq!((waited.exit, waited.out()), (Exit::Interrupted, ""));
    assert_eq!(shell.values().len(), 1, "who waited left the line");
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_lost_says_so() {
    let shell = Shell::new(1);
    let taken_away = async {
        time::sleep(Duration::from_secs(5)).await;
        let lease = *shell.fake.state.lock().leases.keys().next().unwrap();
        shell.fake.state.lock().end_lease(lease);
        shell.fake.changed.notify_waiters();
    };
    let (ran, ()) = tokio::join!(shell.run("lock deploy"), taken_away);
    assert_eq!(ran.exit, Exit::Unavailable);
    assert!(ran.err.starts_with("error: lost what was held: "), "{}", ran.err);
    let cut_off = async {
        time::sleep(Duration::from_secs(5)).await;
        shell.fake.stop(1);
    };
    let (ran, ()) = tokio::join!(shell.run("lock deploy --ttl 20s"), cut_off);
    assert_eq!(ran.exit, Exit::Unavailable, "{}", ran.err);
}

#[tokio::test(start_paused = true)]
async fn candidates_follow_each_other_and_are_listened_to() {
    let shell = Shell::new(1);
    let other = shell.fake.client(Duration::from_secs(5)).await;
    let first = other.contend("e", "one", Duration::from_secs(1_000)).await.unwrap();
    let key = String::from_utf8(first.key().to_vec()).unwrap();
    let listened = run_for(&shell, 5, "elect e --listen").await;
    assert_eq!((listened.exit, listened.out()), (Exit::Interrupted, format!("{key}\tone\n").as_str()));
    let resigns = async {
        time::sleep(Duration::from_secs(10)).await;
        first.leave().await.unwrap();
    };
    let (ran, ()) = tokio::join!(run_for(&shell, 20, "elect e two"), resigns);
    assert_eq!(ran.exit, Exit::Interrupted);
    assert!(ran.out().starts_with("e/") && ran.out().ends_with("\ttwo\n"), "{}", ran.out());
    assert!(shell.values().is_empty());
}
