//! etcd's own command line, version 3.4, and what it prints.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Stdio};

use etcd_client::GetOptions;
use rustix::process::{Pid, Signal, kill_process};

use super::answers::{below, get, put, revision, text};
use super::target::{Said, Target, run};
use crate::harness::eventually;

/// What a refused call says before the message, besides a line of its log.
const ERROR: &str = "Error: ";

fn said(target: &Target, arguments: &[&str], input: &str) -> Said {
    tokio::task::block_in_place(|| run(&mut target.etcdctl(arguments), input))
}

/// Runs it; it must succeed. Returns what it printed.
fn printed(target: &Target, arguments: &[&str]) -> String {
    let said = said(target, arguments, "");
    assert_eq!(said.code, Some(0), "{arguments:?}: {said:?}");
    said.out
}

/// Runs it; it must fail. Returns the last line that it said.
fn refused(target: &Target, arguments: &[&str]) -> String {
    let said = said(target, arguments, "");
    assert!(said.code.is_some_and(|code| code != 0), "{arguments:?}: {said:?}");
    let last = said.err.lines().last().unwrap_or_default();
    last.strip_prefix(ERROR).unwrap_or(last).to_owned()
}

/// One that runs for some time, and is interrupted in the end.
struct Session {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Session {
    fn start(target: &Target, arguments: &[&str]) -> Self {
        let mut command = target.etcdctl(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        Self { out: BufReader::new(child.stdout.take().unwrap()), child }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        tokio::task::block_in_place(|| self.out.read_line(&mut line)).unwrap();
        line.trim_end_matches('\n').to_owned()
    }

    fn lines(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.line()).collect()
    }

    fn interrupt(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
    }

    /// Interrupts it as a terminal would; returns its exit code.
    fn end(mut self) -> Option<i32> {
        self.interrupt();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// put and get, in their options.
pub(crate) async fn put_and_get(target: &Target) {
    let key = |name: &str| format!("ctl/kv/{name}");
    let (a, b, c) = (&*key("a"), &*key("b"), &*key("c"));
    assert_eq!(printed(target, &["put", a, "1"]), "OK\n");
    assert_eq!(printed(target, &["put", b, "2"]), "OK\n");
    assert_eq!(printed(target, &["put", a, "3", "--prev-kv"]), format!("OK\n{a}\n1\n"));
    assert_eq!(said(target, &["put", c], "from stdin").out, "OK\n");
    assert_eq!(printed(target, &["get", c, "--print-value-only"]), "from stdin\n");
    assert_eq!(printed(target, &["put", c, "--ignore-value"]), "OK\n");
    assert_eq!(printed(target, &["put", c, "4", "--ignore-lease"]), "OK\n");

    assert_eq!(printed(target, &["get", a]), format!("{a}\n3\n"));
    assert_eq!(printed(target, &["get", &key("none")]), "");
    assert_eq!(printed(target, &["get", a, c]), format!("{a}\n3\n{b}\n2\n"));
    assert_eq!(printed(target, &["get", &key(""), "--prefix", "--keys-only"]), format!("{a}\n\n{b}\n\n{c}\n\n"));
    assert_eq!(printed(target, &["get", a, "--hex"]), "\\x63\\x74\\x6c\\x2f\\x6b\\x76\\x2f\\x61\n\\x33\n");
    assert_eq!(printed(target, &["get", a, "--consistency", "l"]), format!("{a}\n3\n"));
    let values = |more: &[&str]| {
        let under = key("");
        printed(target, &[&["get", &*under, "--prefix", "--print-value-only"], more].concat())
    };
    assert_eq!(values(&[]), "3\n2\n4\n");
    assert_eq!(values(&["--limit", "2"]), "3\n2\n");
    assert_eq!(values(&["--order", "DESCEND"]), "4\n2\n3\n");
    assert_eq!(values(&["--sort-by", "VALUE"]), "2\n3\n4\n");
    assert_eq!(values(&["--sort-by", "MODIFY"]), "2\n3\n4\n");
    assert_eq!(values(&["--sort-by", "CREATE", "--order", "DESCEND"]), "4\n2\n3\n");
    assert_eq!(values(&["--sort-by", "VERSION"]).lines().next(), Some("2"));
}

/// get of an earlier revision, and in the formats for programs.
pub(crate) async fn get_for_programs(target: &Target) {
    let key = "ctl/formats";
    let mut client = target.client().await;
    let first = put(&mut client, key, "1").await;
    let second = put(&mut client, key, "2").await;
    assert_eq!(printed(target, &["get", key, "--rev", &first.to_string()]), format!("{key}\n1\n"));
    let json: serde_json::Value = serde_json::from_str(&printed(target, &["get", key, "-w", "json"])).unwrap();
    assert!(json["header"]["revision"].as_i64().unwrap() >= second);
    assert!(json["header"]["cluster_id"].as_u64().unwrap() > 0 && json["header"]["member_id"].as_u64().unwrap() > 0);
    assert_eq!(json["count"], 1);
    let kv = &json["kvs"][0];
    assert_eq!((&kv["key"], &kv["value"]), (&"Y3RsL2Zvcm1hdHM=".into(), &"Mg==".into()));
    assert_eq!((kv["create_revision"].as_i64(), kv["mod_revision"].as_i64()), (Some(first), Some(second)));
    assert_eq!(kv["version"], 2);
    let fields = printed(target, &["get", key, "-w", "fields"]);
    for field in ["\"Version\" : 2", "\"Value\" : \"2\"", "\"Lease\" : 0", "\"More\" : false", "\"Count\" : 1"] {
        assert!(fields.lines().any(|line| line == field), "{field} in {fields}");
    }
}

/// del tells how many keys it took.
pub(crate) async fn del(target: &Target) {
    let prefix = "ctl/del/";
    for name in ["a", "b", "c", "d"] {
        printed(target, &["put", &format!("{prefix}{name}"), name]);
    }
    assert_eq!(printed(target, &["del", "ctl/del/none"]), "0\n");
    assert_eq!(printed(target, &["del", "ctl/del/a", "--prev-kv"]), "1\nctl/del/a\na\n");
    assert_eq!(printed(target, &["del", "ctl/del/b", "ctl/del/d"]), "2\n");
    assert_eq!(printed(target, &["del", prefix, "--prefix"]), "1\n");
}

/// What cannot be done is said, with a code that is not 0.
pub(crate) async fn refusals(target: &Target) {
    let lease = "requested lease not found";
    for (arguments, message) in [
        (&["get", ""][..], "etcdserver: key is not provided"),
        (&["put", "", "x"], "etcdserver: key is not provided"),
        (&["put", "ctl/none", "--ignore-value"], "etcdserver: key not found"),
        (&["put", "ctl/none", "x", "--ignore-lease"], "etcdserver: key not found"),
        (&["put", "ctl/none", "x", "--lease", "1234"], &format!("etcdserver: {lease}")),
        (&["get", "x", "--rev", "99999999"], "etcdserver: mvcc: required revision is a future revision"),
        (&["compaction", "99999999"], "etcdserver: mvcc: required revision is a future revision"),
        (&["lease", "revoke", "1234"], &format!("failed to revoke lease (etcdserver: {lease})")),
        (&["lease", "keep-alive", "--once", "1234"], &format!("etcdserver: {lease}")),
        (&["member", "remove", "1234"], "etcdserver: member not found"),
        (&["user", "get", "ctl-none"], "etcdserver: user name not found"),
        (&["role", "get", "ctl-none"], "etcdserver: role name not found"),
    ] {
        assert_eq!(refused(target, arguments), message, "{arguments:?}");
    }
}

/// Authentication cannot be switched on without a user root.
pub(crate) async fn auth_enable(target: &Target) {
    assert_eq!(refused(target, &["auth", "enable"]), "etcdserver: root user does not exist");
}

/// txn reads comparisons and operations, and prints what each did.
pub(crate) async fn txn(target: &Target) {
    let txn = |text: &str| {
        let said = said(target, &["txn"], text);
        assert_eq!(said.code, Some(0), "{said:?}");
        said.out
    };
    let first =
        "mod(\"ctl/txn/a\") > \"0\"\n\nput ctl/txn/a \"again\"\n\nput ctl/txn/a \"new\"\nput ctl/txn/b \"more\"\n\n";
    assert_eq!(txn(first), "FAILURE\n\nOK\n\nOK\n");
    assert_eq!(txn(first), "SUCCESS\n\nOK\n");
    let second = "value(\"ctl/txn/a\") = \"again\"\nversion(\"ctl/txn/a\") = \"2\"\n\n\
                  get ctl/txn/a\ndel ctl/txn/b\nget ctl/txn/ --prefix\n\nput ctl/txn/never x\n\n";
    assert_eq!(txn(second), "SUCCESS\n\nctl/txn/a\nagain\n\n1\n\nctl/txn/a\nagain\n");
    assert_eq!(txn("\n\n\n"), "SUCCESS\n");
    let created = "create(\"ctl/txn/none\") = \"0\"\n\nget ctl/txn/a\n\n\n";
    assert_eq!(txn(created), "SUCCESS\n\nctl/txn/a\nagain\n");
}

/// watch prints what happens, and what was before.
pub(crate) async fn watch(target: &Target) {
    let mut client = target.client().await;
    let first = put(&mut client, "ctl/watch/a", "1").await;
    put(&mut client, "ctl/watch/b", "2").await;
    client.delete("ctl/watch/a", None).await.unwrap();
    let rev = first.to_string();
    let mut watch = Session::start(target, &["watch", "ctl/watch/", "--prefix", "--prev-kv", "--rev", &rev]);
    let seen = watch.lines(11);
    assert_eq!(
        seen,
        ["PUT", "ctl/watch/a", "1", "PUT", "ctl/watch/b", "2", "DELETE", "ctl/watch/a", "1", "ctl/watch/a", ""]
    );
    let last = put(&mut client, "ctl/watch/b", "3").await.to_string();
    assert_eq!(watch.lines(5), ["PUT", "ctl/watch/b", "2", "ctl/watch/b", "3"]);
    watch.end();
    // A command may be run for each event.
    let mut watch =
        Session::start(target, &["watch", "ctl/watch/b", "--rev", &last, "--", "sh", "-c", "echo ran $ETCD_WATCH_KEY"]);
    assert_eq!(watch.lines(4), ["PUT", "ctl/watch/b", "3", "ran \"ctl/watch/b\""]);
    watch.end();
}

/// watch -i takes several watches on one stream.
pub(crate) async fn watch_of_several(target: &Target) {
    let mut client = target.client().await;
    let first = put(&mut client, "ctl/several/a", "1").await;
    let second = put(&mut client, "ctl/several/b", "2").await;
    let mut watch = Session::start(target, &["watch", "-i"]);
    watch.tell(&format!("watch ctl/several/a --rev {first}"));
    assert_eq!(watch.lines(3), ["PUT", "ctl/several/a", "1"]);
    watch.tell(&format!("watch ctl/several/b --rev {second}"));
    assert_eq!(watch.lines(3), ["PUT", "ctl/several/b", "2"]);
    watch.tell("progress");
    assert!(watch.line().starts_with("progress notify: "));
}

/// compaction, and a watch that comes too late for it.
pub(crate) async fn compaction(target: &Target) {
    let mut client = target.client_of(0).await;
    put(&mut client, "ctl/compact", "1").await;
    let at = put(&mut client, "ctl/compact", "2").await;
    assert_eq!(printed(target, &["compaction", &at.to_string()]), format!("compacted revision {at}\n"));
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    assert_eq!(refused(target, &["compaction", &at.to_string()]), compacted);
    assert_eq!(refused(target, &["get", "ctl/compact", "--rev", "1"]), compacted);
    let watch = said(target, &["watch", "ctl/compact", "--rev", "1"], "");
    assert_eq!(watch.code, Some(5));
    assert_eq!(watch.err, format!("watch was canceled ({compacted})\nError: watch is canceled by the server\n"));
    let at = put(&mut client, "ctl/compact", "3").await.to_string();
    assert_eq!(printed(target, &["compaction", &at, "--physical"]), format!("compacted revision {at}\n"));
}

/// lease grant, timetolive, keep-alive, list and revoke.
pub(crate) async fn lease(target: &Target) {
    let granted = printed(target, &["lease", "grant", "600"]);
    let id = granted.split(' ').nth(1).unwrap();
    assert_eq!(granted, format!("lease {id} granted with TTL(600s)\n"));
    assert_eq!(id.len(), 16);
    printed(target, &["put", "ctl/lease/a", "x", "--lease", id]);
    printed(target, &["put", "ctl/lease/b", "x", "--lease", id]);
    let left = printed(target, &["lease", "timetolive", id]);
    assert!(left.starts_with(&format!("lease {id} granted with TTL(600s), remaining(")), "{left}");
    let left = printed(target, &["lease", "timetolive", id, "--keys"]);
    // They come in no order.
    let orders = ["ctl/lease/a ctl/lease/b", "ctl/lease/b ctl/lease/a"];
    assert!(orders.iter().any(|keys| left.ends_with(&format!(", attached keys([{keys}])\n"))), "{left}");
    assert_eq!(
        printed(target, &["lease", "keep-alive", "--once", id]),
        format!("lease {id} keepalived with TTL(600)\n")
    );
    // Not every node may have heard of a new lease.
    let list = eventually("lease in the list", || async {
        Some(printed(target, &["lease", "list"])).filter(|list| list.lines().any(|line| line == id))
    })
    .await;
    assert!(list.starts_with("found ") && list.lines().next().unwrap().ends_with(" leases"));
    assert_eq!(printed(target, &["lease", "revoke", id]), format!("lease {id} revoked\n"));
    assert_eq!(printed(target, &["get", "ctl/lease/", "--prefix"]), "");
    assert_eq!(printed(target, &["lease", "timetolive", id]), format!("lease {id} already expired\n"));
}

/// lock holds until it is interrupted, or as long as its command runs.
pub(crate) async fn lock(target: &Target) {
    let name = "ctl/lock";
    let mut held = Session::start(target, &["lock", name]);
    let key = held.line();
    let (lock, lease) = key.rsplit_once('/').unwrap();
    assert_eq!(lock, name);
    let mut client = target.client().await;
    assert_eq!(format!("{:x}", get(&mut client, &key).await.unwrap().lease()), lease);
    let mut waiting = Session::start(target, &["lock", name, "--", "sh", "-c", "echo has $ETCD_LOCK_KEY"]);
    eventually("second in line", || async {
        let line = below(&mut target.client().await, "ctl/lock/", GetOptions::new()).await;
        (line.count() == 2).then_some(())
    })
    .await;
    held.interrupt();
    let has = waiting.line();
    assert!(has.starts_with("has ctl/lock/") && !has.contains(&key), "{has}");
    let ended = tokio::task::block_in_place(|| waiting.child.wait()).unwrap();
    assert!(ended.success());
    eventually("end of the line", || async {
        let line = below(&mut target.client().await, "ctl/lock/", GetOptions::new()).await;
        (line.count() == 0).then_some(())
    })
    .await;
}

/// elect leads until it is interrupted; others listen.
pub(crate) async fn elect(target: &Target) {
    let name = "ctl/elect";
    let mut first = Session::start(target, &["elect", name, "one"]);
    let key = first.line();
    assert!(key.starts_with("ctl/elect/"));
    assert_eq!(first.line(), "one");
    let mut listening = Session::start(target, &["elect", "--listen", name]);
    assert_eq!(listening.lines(2), [key.clone(), "one".to_owned()]);
    let mut second = Session::start(target, &["elect", name, "two"]);
    eventually("second in line", || async {
        let line = below(&mut target.client().await, "ctl/elect/", GetOptions::new()).await;
        (line.count() == 2).then_some(())
    })
    .await;
    first.interrupt();
    let other = second.line();
    assert!(other != key && second.line() == "two");
    assert_eq!(listening.lines(2), [other, "two".to_owned()]);
    second.end();
}

/// member list, as text and for programs.
pub(crate) async fn member_list(target: &Target) {
    let list = printed(target, &["member", "list"]);
    assert_eq!(list.lines().count(), target.endpoints.len());
    for line in list.lines() {
        let fields: Vec<_> = line.split(", ").collect();
        let [id, "started", name, peer, client, "false"] = fields[..] else { panic!("{line}") };
        assert!(u64::from_str_radix(id, 16).is_ok() && name.starts_with('n') && peer.starts_with("http://"));
        assert!(target.endpoints.contains(&client.strip_prefix("http://").unwrap().to_owned()));
    }
    let json: serde_json::Value = serde_json::from_str(&printed(target, &["member", "list", "-w", "json"])).unwrap();
    assert_eq!(json["members"].as_array().unwrap().len(), target.endpoints.len());
}

/// endpoint status, health and hashkv: of the nodes named, and of all that these know.
pub(crate) async fn endpoints(target: &Target) {
    let status = printed(target, &["endpoint", "status"]);
    assert_eq!(status.lines().count(), target.endpoints.len());
    for (line, endpoint) in status.lines().zip(&target.endpoints) {
        let fields: Vec<_> = line.split(", ").collect();
        assert_eq!((fields.len(), fields[0]), (10, &**endpoint), "{line}");
        assert_eq!((fields[5], fields[9]), ("false", ""), "neither a learner nor in trouble");
    }
    assert_eq!(status.lines().filter(|line| line.split(", ").nth(4) == Some("true")).count(), 1, "one leads");
    let json: serde_json::Value =
        serde_json::from_str(&printed(target, &["endpoint", "status", "-w", "json"])).unwrap();
    for (node, endpoint) in json.as_array().unwrap().iter().zip(&target.endpoints) {
        assert_eq!(node["Endpoint"], **endpoint);
        for field in ["dbSize", "leader", "raftIndex", "raftTerm", "raftAppliedIndex", "dbSizeInUse"] {
            assert!(node["Status"][field].as_u64().unwrap() > 0, "{field}");
        }
    }

    let health = said(target, &["endpoint", "health"], "");
    assert_eq!(health.code, Some(0));
    assert_eq!(health.out.lines().count() + health.err.lines().count(), target.endpoints.len());
    let told = format!("{}{}", health.out, health.err);
    for endpoint in &target.endpoints {
        let healthy = format!("{endpoint} is healthy: successfully committed proposal: took = ");
        assert!(told.lines().any(|line| line.starts_with(&healthy)), "{told}");
    }
    let one = &target.endpoints[..1];
    let mut all = target.etcdctl_of(one, &["endpoint", "health", "--cluster", "-w", "json"]);
    let all = tokio::task::block_in_place(|| run(&mut all, ""));
    let json: serde_json::Value = serde_json::from_str(&all.out).unwrap();
    assert_eq!(json.as_array().unwrap().len(), target.endpoints.len());
    assert!(json.as_array().unwrap().iter().all(|node| node["health"] == true));
}

/// What goes to certain endpoints goes there as well when they are named by URL, or found.
pub(crate) async fn urls(target: &Target) {
    let urls: Vec<_> = target.endpoints.iter().map(|endpoint| format!("http://{endpoint}")).collect();
    let of = |urls: &[String], arguments: &[&str]| {
        let mut command = target.etcdctl_of(urls, arguments);
        let said = tokio::task::block_in_place(|| run(&mut command, ""));
        assert_eq!(said.code, Some(0), "{arguments:?}: {said:?}");
        said.out
    };
    let named = |out: &str| {
        let mut named: Vec<_> = out.lines().map(|line| line.split(", ").next().unwrap().to_owned()).collect();
        named.sort_unstable();
        named
    };
    let mut sorted = urls.clone();
    sorted.sort_unstable();
    for arguments in [["endpoint", "status"], ["endpoint", "hashkv"]] {
        assert_eq!(named(&of(&urls, &arguments)), sorted);
        assert_eq!(named(&of(&urls[..1], &[arguments.as_slice(), &["--cluster"]].concat())), sorted);
    }
    let mut done: Vec<_> = urls.iter().map(|url| format!("Finished defragmenting etcd member[{url}]")).collect();
    assert_eq!(of(&urls, &["defrag"]).lines().collect::<Vec<_>>(), done);
    let out = of(&urls[..1], &["defrag", "--cluster"]);
    done.sort_unstable();
    let mut lines: Vec<_> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, done);
}

/// endpoint hashkv: nodes that have the same have the same hash.
pub(crate) async fn hashkv(target: &Target) {
    let mut client = target.client().await;
    let at = put(&mut client, "ctl/hashkv", "x").await;
    for node in 0..target.endpoints.len() {
        assert!(get(&mut target.client_of(node).await, "ctl/hashkv").await.is_some());
    }
    let printed = printed(target, &["endpoint", "hashkv", "--rev", &at.to_string()]);
    let mut hashes: Vec<_> = printed.lines().map(|line| line.split_once(", ").unwrap()).collect();
    let endpoints: Vec<_> = hashes.iter().map(|(endpoint, _)| (*endpoint).to_owned()).collect();
    assert_eq!(endpoints, target.endpoints);
    hashes.dedup_by_key(|(_, hash)| *hash);
    assert_eq!(hashes.len(), 1, "{printed}");
}

/// endpoint health tells which node is away, and fails.
pub(crate) async fn health_of_a_dead_node(target: &Target) {
    let dead = target.follower().await;
    target.kill(dead);
    let health = said(target, &["endpoint", "health", "--command-timeout", "2s", "--dial-timeout", "1s"], "");
    assert_eq!(health.code, Some(1), "{health:?}");
    let told = format!("{}{}", health.out, health.err);
    let count = |word: &str| told.lines().filter(|line| line.contains(word)).count();
    assert_eq!((count(" is healthy: "), count(" is unhealthy: ")), (2, 1), "{told}");
    assert!(told.lines().any(|line| line.starts_with(&format!("{} is unhealthy: ", target.endpoints[dead]))));
    assert!(told.ends_with("Error: unhealthy cluster\n"), "{told}");
    // The others are enough.
    assert_eq!(printed(target, &["put", "ctl/dead", "x", "--dial-timeout", "10s"]), "OK\n");
}

/// alarm list and disarm, and defrag.
pub(crate) async fn alarms_and_defrag(target: &Target) {
    assert_eq!(printed(target, &["alarm", "list"]), "");
    assert_eq!(printed(target, &["alarm", "disarm"]), "");
    let expected: Vec<_> =
        target.endpoints.iter().map(|endpoint| format!("Finished defragmenting etcd member[{endpoint}]\n")).collect();
    assert_eq!(printed(target, &["defrag"]), expected.concat());
}

/// move-leader finds the leader among the endpoints, and tells who led and who does.
pub(crate) async fn move_leader(target: &Target) {
    let leader = target.leader().await;
    let to = (leader + 1) % target.endpoints.len();
    let id_of = async |node: usize| target.client_of(node).await.status().await.unwrap().header().unwrap().member_id();
    let (from, id) = (id_of(leader).await, id_of(to).await);
    let moved = printed(target, &["move-leader", &format!("{id:x}")]);
    assert_eq!(moved, format!("Leadership transferred from {from:x} to {id:x}\n"));
    assert_eq!(target.leader().await, to);
    assert_eq!(refused(target, &["move-leader", "1234"]), "etcdserver: bad leader transferee");
}

/// snapshot save writes what it was sent.
pub(crate) async fn snapshot_save(target: &Target) {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("snapshot");
    let path = file.to_str().unwrap();
    let mut save = target.etcdctl_of(&target.endpoints[..1], &["snapshot", "save", path]);
    let said = tokio::task::block_in_place(|| run(&mut save, ""));
    assert_eq!((said.code, &*said.out), (Some(0), &*format!("Snapshot saved at {path}\n")), "{}", said.err);
    assert!(file.metadata().unwrap().len() > 32);
}

/// user, role and auth, while authentication is off.
pub(crate) async fn users_and_roles(target: &Target) {
    let (user, role) = ("ctl-user", "ctl-role");
    for (arguments, expected) in [
        (&["auth", "disable"][..], "Authentication Disabled\n"),
        (&["user", "add", "ctl-user:secret"], "User ctl-user created\n"),
        (&["role", "add", role], "Role ctl-role created\n"),
        (&["role", "grant-permission", role, "readwrite", "k"], "Role ctl-role updated\n"),
        (&["role", "grant-permission", role, "read", "a/", "--prefix=true"], "Role ctl-role updated\n"),
        (&["role", "get", role], "Role ctl-role\nKV Read:\n\t[a/, a0) (prefix a/)\n\tk\nKV Write:\n\tk\n"),
        (&["user", "grant-role", user, role], "Role ctl-role is granted to user ctl-user\n"),
        (&["user", "get", user], "User: ctl-user\nRoles: ctl-role\n"),
        (&["user", "revoke-role", user, role], "Role ctl-role is revoked from user ctl-user\n"),
        (&["user", "get", user], "User: ctl-user\nRoles:\n"),
        (&["role", "revoke-permission", role, "k"], "Permission of key k is revoked from role ctl-role\n"),
        (&["role", "delete", role], "Role ctl-role deleted\n"),
        (&["user", "delete", user], "User ctl-user deleted\n"),
    ] {
        assert_eq!(printed(target, arguments), expected, "{arguments:?}");
    }
    let password = said(target, &["user", "add", "ctl-other", "--interactive=false"], "secret\n");
    assert_eq!((password.code, &*password.out), (Some(0), "User ctl-other created\n"));
    assert!(printed(target, &["user", "list"]).lines().any(|line| line == "ctl-other"));
    let password = said(target, &["user", "passwd", "ctl-other", "--interactive=false"], "other\n");
    assert_eq!((password.code, &*password.out), (Some(0), "Password updated\n"));
    assert_eq!(printed(target, &["user", "delete", "ctl-other"]), "User ctl-other deleted\n");
    assert!(printed(target, &["role", "list"]).lines().all(|line| line != role));
}

/// With a name and a password it goes on when it is told that nobody asks for them.
pub(crate) async fn with_a_password(target: &Target) {
    assert_eq!(printed(target, &["--user", "somebody:secret", "put", "ctl/user", "x"]), "OK\n");
    assert_eq!(printed(target, &["--user", "somebody:secret", "get", "ctl/user"]), "ctl/user\nx\n");
}

/// What it puts is there for other clients, byte by byte.
pub(crate) async fn seen_by_others(target: &Target) {
    let value = "a value\twith \"quotes\" and\nlines";
    assert_eq!(said(target, &["put", "ctl/others"], value).code, Some(0));
    let mut client = target.client().await;
    let shown = client.get("ctl/others", None).await.unwrap();
    assert_eq!(text(shown.kvs()[0].value()), value);
    assert!(revision(shown.header()) >= shown.kvs()[0].mod_revision());
}
