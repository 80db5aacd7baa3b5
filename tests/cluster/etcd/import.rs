//! `kvctl import --from-etcd` from a real etcd.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use etcd_client::{PutOptions, Txn, TxnOp};

use super::target::{Server, Target, run};
use crate::harness::Cluster;

/// Keys of the pages between two that are always written together.
const BETWEEN: usize = 3_000;

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_imported_as_of_one_revision_and_what_is_too_large_is_named() {
    if !Server::Etcd.is_installed() {
        println!("skipped: there is no etcd here");
        return;
    }
    let source = Target::start(Server::Etcd).await;
    let cluster = Cluster::start(1).await;
    let endpoints = source.endpoints.join(",");
    let import =
        |extra: &[&str]| cluster.kvctl(&[&["import", "--from-etcd", &endpoints, "-w", "json"], extra].concat());
    let mut etcd = source.client().await;
    for from in (0..BETWEEN).step_by(100) {
        let puts: Vec<_> = (from..from + 100).map(|key| TxnOp::put(format!("m{key:05}"), "v", None)).collect();
        etcd.txn(Txn::new().and_then(puts)).await.unwrap();
    }
    for key in 0..8 {
        etcd.put(format!("large/{key}"), vec![b'x'; 1_400_000], None).await.unwrap();
    }
    let lease = etcd.lease_grant(600, None).await.unwrap().id();
    etcd.put("leased", "v", Some(PutOptions::new().with_lease(lease))).await.unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let (mut writer, stopped) = (source.client().await, stop.clone());
    let writing = tokio::spawn(async move {
        for number in 0_u64.. {
            let both = [TxnOp::put("a", number.to_string(), None), TxnOp::put("z", number.to_string(), None)];
            writer.txn(Txn::new().and_then(both)).await.unwrap();
            if stopped.load(Ordering::Relaxed) {
                return;
            }
        }
    });
    let ours = cluster.client().await;
    for _ in 0..5 {
        let (code, out, said) = tokio::task::block_in_place(|| import(&[]));
        assert_eq!(code, 0, "{said}");
        let summary: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(summary["imported"], BETWEEN + 8 + 1 + 2, "{summary}");
        assert_eq!(summary["with_ttl"], 1, "{summary}");
        let value = async |key: &'static str| ours.get(key).await.unwrap().unwrap();
        assert_eq!(value("a").await.value, value("z").await.value, "of one moment");
        assert_ne!(value("leased").await.lease, 0);
    }
    stop.store(true, Ordering::Relaxed);
    writing.await.unwrap();
    drop(etcd);
    what_is_refused(&source, &import).await;
}

/// What no Quorate takes is named, and an etcd that wants a user is not read.
async fn what_is_refused(source: &Target, import: &impl Fn(&[&str]) -> (i32, String, String)) {
    let mut etcd = source.client().await;
    etcd.put("k".repeat(9_000), "v", None).await.unwrap();
    let (code, _, said) = import(&["--prefix", "k"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("refused: kkk") && said.contains("a key of 9000 and a value of 1 bytes"), "{said}");
    assert!(said.contains("1 records are too large"), "{said}");
    assert_eq!(import(&["--prefix", "k", "--skip-invalid"]).0, 0);

    for command in [&["user", "add", "root:secret"][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]] {
        let said = run(&mut source.etcdctl(command), "");
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    let (code, _, said) = import(&[]);
    assert!(code == 4 && said.contains("etcd wants a user"), "{code}: {said}");
}
