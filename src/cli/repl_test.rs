//! The REPL over a pipe, and profiles, against a scripted cluster.

use std::time::Duration;

use super::Exit;
use super::cli_test::Shell;
use crate::client::ErrorCode;
use crate::client::fake::{Fault, detail, hash_map};
use crate::env::time;
use crate::proto::v1;

const PROFILES: &str = "
profile = \"stage\"

[profiles.stage]
output = \"json\"

[profiles.prod]
keyspace = \"h\"
timeout = \"1s\"
";

#[tokio::test(start_paused = true)]
async fn lines_are_carried_out_one_after_the_other() {
    let shell = Shell::new(1);
    let script = b"put greeting 'hello world' # a comment\n\nget greeting\nkvctl count\nget greeting -w json\nexit\nget greeting\n";
    let ran = shell.feed("repl", script).await;
    assert_eq!((ran.exit, ran.err.as_str()), (Exit::Ok, ""));
    let lines: Vec<_> = ran.out().lines().collect();
    assert_eq!(lines[..3], ["OK", "hello world", "1"]);
    assert!(lines[3].contains("\"key\":\"greeting\"") && lines.len() == 4, "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn an_error_names_its_line_and_the_worst_line_decides() {
    let shell = Shell::new(1);
    let ran = shell.feed("repl", b"get nothing\nput a\n\nput a 1\n").await;
    assert_eq!((ran.exit, ran.out()), (Exit::Usage, "OK\n"));
    assert!(ran.err.starts_with("error: line 2: the following required arguments"), "{}", ran.err);

    shell.fake.fault("put", Fault::Hang);
    let ran = shell.feed("repl", b"put a 2\nget a -w xml\nget a\n").await;
    assert_eq!((ran.exit, ran.out()), (Exit::Unknown, "2\n"));
    assert!(ran.err.contains("line 1: ") && ran.err.contains("\nhint: the write may or may not"), "{}", ran.err);
    assert_eq!(shell.feed("repl", b"get nothing\n").await.exit, Exit::NotFound);
    let open = shell.feed("repl", b"get a\nput b 'never\nget a\n").await;
    assert_eq!((open.exit, open.out()), (Exit::Usage, "2\n"));
    assert!(open.err.contains("line 2: `'` is never closed"), "{}", open.err);
    let group = shell.feed("repl", b"keyspace\nrepl\n").await;
    assert!(group.exit == Exit::Usage && group.err.contains("Usage: keyspace "), "{}", group.err);
}

#[tokio::test(start_paused = true)]
async fn one_client_serves_all_lines() {
    let shell = Shell::new(1);
    shell.feed("repl", b"put a 1\n").await;
    let connections = shell.fake.net.connects("n1:1");
    let script = "put a 1\nget a\n".repeat(20);
    assert_eq!(shell.feed("repl", script.as_bytes()).await.exit, Exit::Ok);
    assert_eq!(shell.fake.net.connects("n1:1") - connections, 1);
}

#[tokio::test(start_paused = true)]
async fn options_of_the_start_hold_until_a_line_says_otherwise() {
    let shell = Shell::new(1);
    shell.fake.state.lock().map = hash_map(&["n1:1"], u64::MAX / 2);
    let ran = shell.feed("repl -w json --keyspace default", b"count\ncount -w simple\ncount\n").await;
    assert_eq!(ran.out(), "{\"count\":0}\n0\n{\"count\":0}\n");
    let ran = shell.feed("repl", b"use nope\nuse h\nprofile show\nuse default\nprofile show\n").await;
    assert_eq!(ran.exit, Exit::Usage);
    assert!(ran.err.contains("line 1: there is no keyspace `nope`"), "{}", ran.err);
    let held: Vec<_> = ran.out().lines().filter(|line| line.starts_with("keyspace")).collect();
    assert_eq!(held, ["keyspace\th", "keyspace\tdefault"]);
}

#[tokio::test(start_paused = true)]
async fn a_command_gets_the_lines_up_to_a_dot_as_its_input() {
    let shell = Shell::new(1);
    let script = b"txn\nversion(a) = 0\n\nput a 1\n\n.\nput b -\ntwo\nlines\n.\nget a\nget b\nput c 'x\ny'\nget c\nimport -\nd\t4\n";
    let ran = shell.feed("repl", script).await;
    assert_eq!((ran.exit, ran.err.as_str()), (Exit::Ok, ""));
    let (before, import) = ran.out().split_once("imported").unwrap();
    assert_eq!(before, "SUCCESS\nOK\nOK\n1\ntwo\nlines\n\nOK\nx\ny\n");
    assert!(import.starts_with(" 1 records"), "{import}");
    assert_eq!(shell.values()[b"d".as_slice()].0, b"4");
}

#[tokio::test(start_paused = true)]
async fn help_is_an_answer_and_no_error() {
    let shell = Shell::new(1);
    let ran = shell.feed("repl", b"help\nhelp put\nget --help\n").await;
    assert_eq!((ran.exit, ran.err.as_str()), (Exit::Ok, ""));
    assert!(ran.out().contains("use ") && ran.out().contains("--ttl") && ran.out().contains("--keys-only"));
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_ends_a_script() {
    let shell = Shell::new(1);
    shell.fake.fault("put", Fault::Hang);
    let pressed = async {
        time::sleep(Duration::from_secs(1)).await;
        shell.interrupts.raise();
    };
    let (ran, ()) = tokio::join!(shell.feed("repl", b"put a 1\nput b 2\n"), pressed);
    assert_eq!(ran.exit, Exit::Interrupted);
    assert!(ran.err.contains("line 1: interrupted, outcome unknown"), "{}", ran.err);
    assert!(!shell.values().contains_key(b"b".as_slice()));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_has_its_hint_and_the_next_line_is_served() {
    let shell = Shell::new(1);
    shell.fake.fault("put", Fault::Refuse(detail(ErrorCode::DiskFull, v1::Outcome::NotApplied, false)));
    let ran = shell.feed("repl", b"put a 1\nput a 2\n").await;
    assert_eq!((ran.exit, ran.out()), (Exit::Unavailable, "OK\n"));
    assert!(ran.err.contains("\nhint: free space"), "{}", ran.err);
}

#[tokio::test(start_paused = true)]
async fn profiles_hold_where_no_option_says_otherwise() {
    let shell = Shell::new(1);
    shell.fake.state.lock().map = hash_map(&["n1:1"], u64::MAX / 2);
    assert_eq!(shell.run("count").await.out(), "0\n", "a missing file is no trouble");
    shell.file("/config/kvctl.toml", PROFILES.as_bytes());
    assert_eq!(shell.run("count").await.out(), "{\"count\":0}\n");
    assert_eq!(shell.run("count -w simple").await.out(), "0\n");
    assert_eq!(shell.run("count --profile prod").await.out(), "0\n");
    let shown = shell.run("--profile prod profile show").await;
    assert_eq!(
        shown.out(),
        "profile\tprod\nfile\t/config/kvctl.toml\nendpoints\tn1:1\nkeyspace\th\ntimeout_ms\t1000\n\
         read\tlinearizable\nmax_stale_ms\t-\nzone\t-\noutput\tsimple\ntls_ca\t-\ntls_cert\t-\ntls_key\t-\n"
    );
    let listed = shell.run("profile list -w simple").await;
    assert_eq!(listed.out(), "prod\t-\t-\th\t1000\t-\t-\t-\t-\t-\t-\t-\nstage\t*\t-\t-\t-\t-\t-\t-\tjson\t-\t-\t-\n");
    let lines = shell.feed("repl", b"count\ncount --profile prod -w simple\n").await;
    assert_eq!(lines.out(), "{\"count\":0}\n0\n");
}

#[tokio::test(start_paused = true)]
async fn a_bad_profile_file_is_named_with_its_line() {
    let shell = Shell::new(1);
    let unknown = shell.run("count --profile nope").await;
    assert_eq!(unknown.exit, Exit::Usage);
    assert!(unknown.err.contains("`nope`: /config/kvctl.toml has none"), "{}", unknown.err);
    let missing = shell.run("count --profiles elsewhere.toml").await;
    assert!(missing.exit == Exit::Usage && missing.err.contains("elsewhere.toml: "), "{}", missing.err);
    shell.file("/config/kvctl.toml", b"[profiles.a]\nkeyspcae = \"b\"\n");
    let bad = shell.run("count").await;
    assert_eq!(bad.exit, Exit::Usage);
    assert!(bad.err.starts_with("error: /config/kvctl.toml: line 2: unknown field `keyspcae`"), "{}", bad.err);
    assert_eq!(shell.run("version").await.exit, Exit::Ok);
    shell.file("/config/kvctl.toml", &vec![b'#'; 70_000]);
    assert!(shell.run("count").await.err.contains("more than 65536 bytes"));
    shell.file("other.toml", b"[profiles.default]\noutput = \"json\"\n");
    assert_eq!(shell.run("count --profiles other.toml").await.out(), "{\"count\":0}\n");
}
