//! `kvctl repl` as a real process fed by a pipe.

use std::io::Write;
use std::process::{Output, Stdio};

use super::harness::Cluster;

/// Runs kvctl with a script on its standard input.
fn repl(cluster: &Cluster, arguments: &[&str], script: &str) -> Output {
    let mut command = cluster.kvctl_command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A kvctl that does not read shows in its output.
    child.stdin.take().unwrap().write_all(script.as_bytes()).ok();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piped_repl_works_on_keyspaces_and_goes_on_after_errors() {
    let cluster = Cluster::start(1).await;
    let script = "put a 'one value'\n\
        get a\n\
        keyspace create events --hash 4\n\
        use events\n\
        get a\n\
        put a -\nfrom a\nscript\n.\n\
        count\n\
        nonsense\n\
        get a --keyspace default\n";
    let ran = repl(&cluster, &["repl"], script);
    assert_eq!(text(&ran.stdout), "OK\none value\nOK\nOK\n1\none value\n", "{}", text(&ran.stderr));
    assert!(text(&ran.stderr).starts_with("error: line 11: unrecognized subcommand 'nonsense'"), "{ran:?}");
    assert_eq!(ran.status.code(), Some(2));
    assert_eq!(cluster.kvctl(&["--keyspace", "events", "get", "a"]).1, "from a\nscript\n\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_holds_for_commands_and_lines() {
    let cluster = Cluster::start(1).await;
    let folder = cluster.root.path().join("quorate");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("kvctl.toml"), "[profiles.programs]\noutput = \"json\"\n").unwrap();
    let ran = repl(&cluster, &["--profile", "programs", "repl"], "put a 1\ncount\ncount -w simple\n");
    let out = text(&ran.stdout);
    assert!(out.ends_with("{\"count\":1}\n1\n") && out.starts_with("{\"revision\":"), "{ran:?}");
    assert_eq!(ran.status.code(), Some(0));
    let ran = repl(&cluster, &["--profile", "people", "count"], "");
    assert_eq!(ran.status.code(), Some(2));
    let complaint = text(&ran.stderr);
    assert!(complaint.contains("there is no profile `people`") && complaint.contains("kvctl.toml has programs"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_a_line_runs_takes_no_lines_away() {
    let cluster = Cluster::start(1).await;
    let script =
        "lock l -- cat\nlock l -- sh -c 'exit 7'\nput a 1\nwatch a --rev 2 -- sh -c 'cat > /dev/null; exit 3'\ncount\n";
    let ran = repl(&cluster, &["repl"], script);
    assert!(text(&ran.stdout).ends_with("OK\n1\n"), "{ran:?}");
    assert_eq!(ran.status.code(), Some(7), "the worst of all lines: {ran:?}");
}

#[test]
fn without_a_terminal_and_a_command_kvctl_says_how_it_is_used() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kvctl"));
    let ran = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!((ran.status.code(), ran.stdout.len()), (Some(2), 0));
    assert!(text(&ran.stderr).contains("Usage: kvctl"), "{ran:?}");
}
