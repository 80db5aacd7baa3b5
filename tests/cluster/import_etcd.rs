//! `kvctl import --from-etcd`, from one Quorate into another: both speak etcd's API.

use std::time::Duration;

use quorate::client::{ClientConfig, ErrorCode, EtcdSource, Keys, PutOptions, ScanOptions};
use quorate::env::Env;

use super::harness::{Cluster, fill};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_keys_of_one_moment_are_imported_and_leases_become_times_to_live() {
    let (source, target) = (Cluster::start(1).await, Cluster::start(3).await);
    let (theirs, ours) = (source.client().await, target.client().await);
    fill(&theirs, "small/", 0..3_000, 30).await;
    for number in 0..40 {
        theirs.put(format!("large/{number}"), vec![b'x'; 1_000_000]).await.unwrap();
    }
    theirs.put(vec![0xff, 0, 1], vec![0]).await.unwrap();
    let lease = theirs.grant_lease(Duration::from_secs(600), None).await.unwrap();
    for key in ["leased/a", "leased/b"] {
        theirs.put_with(key, "v", &PutOptions::new().lease(lease.id)).await.unwrap();
    }
    theirs.put_with("expiring", "v", &PutOptions::new().ttl(Duration::from_secs(600))).await.unwrap();

    let endpoint = source.nodes[0].client.as_str();
    let import = |extra: &[&str]| {
        let (code, out, said) = target.kvctl(&[&["import", "--from-etcd", endpoint, "-w", "json"], extra].concat());
        assert_eq!(code, 0, "{said}");
        serde_json::from_str::<serde_json::Value>(&out).unwrap()
    };
    let summary = import(&[]);
    assert_eq!(summary["imported"], 3_044, "{summary}");
    assert_eq!((&summary["with_ttl"], &summary["left_out"]), (&3.into(), &0.into()), "{summary}");
    let mut left = theirs.scan(Keys::all(), ScanOptions::new());
    let mut right = ours.scan(Keys::all(), ScanOptions::new());
    while let Some(record) = left.next().await.unwrap() {
        let found = right.next().await.unwrap().expect("as many keys");
        assert_eq!((&found.key, &found.value), (&record.key, &record.value));
        assert_eq!(found.lease == 0, record.lease == 0, "{:?}", record.key);
    }
    assert!(right.next().await.unwrap().is_none());
    for key in ["leased/a", "expiring"] {
        let lease = ours.get(key).await.unwrap().unwrap().lease;
        let time = ours.lease_time(lease, false).await.unwrap();
        assert!(time.ttl <= Duration::from_secs(600) && time.ttl > Duration::from_secs(400), "{key}: {time:?}");
    }

    // Again, and in other ways.
    assert_eq!(import(&[])["imported"], 3_044);
    let summary = import(&["--prefix", "leased/", "--leases", "skip"]);
    assert_eq!((&summary["imported"], &summary["left_out"]), (&0.into(), &2.into()), "{summary}");
    import(&["--prefix", "leased/", "--leases", "permanent"]);
    assert_eq!(ours.get("leased/a").await.unwrap().unwrap().lease, 0);

    let (code, _, said) = target.kvctl(&["import", "--from-etcd", "127.0.0.1:1", "--timeout", "1s"]);
    assert!(code == 3 && said.contains("--from-etcd"), "{code}: {said}");
    for wrong in [&["import", "file", "--from-etcd", endpoint][..], &["import", "--prefix", "x"]] {
        assert_eq!(target.kvctl(wrong).0, 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_is_compacted_while_it_is_read_is_said() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    fill(&client, "k", 0..1_200, 30).await;
    let source = |prefix: &[u8]| EtcdSource::new(&Env::real(), ClientConfig::new(cluster.endpoints()), prefix).unwrap();
    let mut begun = source(b"");
    let first = begun.next_page().await.unwrap().unwrap();
    assert!(!first.is_empty() && first.len() < 1_200, "there is more to come");
    let present = client.put("later", "v").await.unwrap().revision;
    client.compact(present, None, false).await.unwrap();
    let error = begun.next_page().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Compacted);
    assert!(error.message.contains("run the import again"), "{error}");
    let mut anew = source(b"l");
    let keys: Vec<_> = anew.next_page().await.unwrap().unwrap().into_iter().map(|record| record.key).collect();
    assert_eq!(keys, ["later"]);
    assert!(anew.next_page().await.unwrap().is_none());
    assert_eq!(anew.revision(), present);
}
