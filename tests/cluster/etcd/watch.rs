//! Watches: from now, from the past and the future, of keys and ranges, filtered, cancelled, compacted away.
//!
//! A watch from now on begins at what its node has seen, so a case writes through the node on which it watches.

use etcd_client::{
    Client, DeleteOptions, Event, EventType, PutOptions, Txn, TxnOp, WatchFilterType, WatchOptions, WatchResponse,
    WatchStream,
};

use super::answers::{put, put_letters, revision, text};
use super::target::Target;
use super::wire;

/// What etcd names a watch that was refused.
const REFUSED: i64 = -1;

/// The next response.
async fn next(watch: &mut WatchStream) -> WatchResponse {
    watch.message().await.unwrap().expect("the stream goes on")
}

/// A watch that the server says it has created.
async fn begin(client: &mut Client, key: &str, options: WatchOptions) -> WatchStream {
    let mut watch = client.watch(key, Some(options)).await.unwrap();
    let created = next(&mut watch).await;
    assert!(created.created() && !created.canceled() && created.events().is_empty());
    watch
}

/// `+key=value` or `-key`, without the case's prefix.
fn word(event: &Event, prefix: &str) -> String {
    let kv = event.kv().unwrap();
    let key = text(kv.key()).strip_prefix(prefix).expect("a key of this case").to_owned();
    match event.event_type() {
        EventType::Put => format!("+{key}={}", text(kv.value())),
        EventType::Delete => format!("-{key}"),
    }
}

/// So many events, from as many responses as it takes.
async fn events(watch: &mut WatchStream, count: usize) -> Vec<Event> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let response = next(watch).await;
        assert!(!response.canceled(), "{}", response.cancel_reason());
        seen.extend(response.events().iter().cloned());
    }
    seen
}

async fn words(watch: &mut WatchStream, prefix: &str, count: usize) -> Vec<String> {
    events(watch, count).await.iter().map(|event| word(event, prefix)).collect()
}

/// A watch from now on shows every later change of its key, and no other key's.
pub(crate) async fn from_now_on(target: &Target) {
    for node in 0..target.endpoints.len() {
        let mut client = target.client_of(node).await;
        let key = format!("watch/now/{node}");
        let before = put(&mut client, &key, "before").await;
        let mut watch = client.watch(&*key, None).await.unwrap();
        let created = next(&mut watch).await;
        assert!(created.created() && created.watch_id() == 0);
        assert!(revision(created.header()) >= before);
        let changed = put(&mut client, &key, "1").await;
        put(&mut client, format!("{key}/other"), "x").await;
        put(&mut client, &key, "2").await;
        let deleted = revision(client.delete(&*key, None).await.unwrap().header());
        put(&mut client, &key, "3").await;
        let seen = events(&mut watch, 4).await;
        let shown: Vec<_> = seen.iter().map(|event| word(event, &key)).collect();
        assert_eq!(shown, ["+=1", "+=2", "-", "+=3"]);
        let first = seen[0].kv().unwrap();
        assert_eq!((first.create_revision(), first.mod_revision(), first.version()), (before, changed, 2));
        assert!(seen[0].prev_kv().is_none(), "not asked for");
        // Of what was deleted there is the key, and when.
        let gone = seen[2].kv().unwrap();
        assert_eq!((gone.mod_revision(), gone.create_revision(), gone.version()), (deleted, 0, 0));
        assert!(gone.value().is_empty());
        assert_eq!(seen[3].kv().unwrap().version(), 1);
    }
}

/// A watch from an earlier revision shows what has been since, then goes on with what is.
pub(crate) async fn from_the_past(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "watch/past/";
    let made = put_letters(&mut client, prefix, "abc").await;
    client.delete(format!("{prefix}a"), None).await.unwrap();
    let options = WatchOptions::new().with_prefix().with_start_revision(made[1]);
    let mut watch = begin(&mut client, prefix, options).await;
    assert_eq!(words(&mut watch, prefix, 3).await, ["+b=b", "+c=c", "-a"]);
    put(&mut client, format!("{prefix}d"), "d").await;
    assert_eq!(words(&mut watch, prefix, 1).await, ["+d=d"]);
    // On any node.
    for node in 0..target.endpoints.len() {
        let options = WatchOptions::new().with_prefix().with_start_revision(made[0]);
        let mut watch = begin(&mut target.client_of(node).await, prefix, options).await;
        assert_eq!(words(&mut watch, prefix, 5).await, ["+a=a", "+b=b", "+c=c", "-a", "+d=d"]);
    }
}

/// What one response shows of the past is in the order of revisions, and of operations within one.
pub(crate) async fn past_of_transactions(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "watch/past-txn/";
    let key = |name: &str| format!("{prefix}{name}");
    let first = put(&mut client, key("z"), "z").await;
    let puts = Txn::new().and_then(["c", "a", "b"].map(|name| TxnOp::put(key(name), "1", None)));
    client.txn(puts).await.unwrap();
    let mixed = Txn::new().and_then([TxnOp::delete(key("c"), None), TxnOp::put(key("a"), "2", None)]);
    client.txn(mixed).await.unwrap();
    client.delete(prefix, Some(DeleteOptions::new().with_prefix())).await.unwrap();
    let mut watch = begin(&mut client, prefix, WatchOptions::new().with_prefix().with_start_revision(first)).await;
    let seen = events(&mut watch, 9).await;
    let shown: Vec<_> = seen.iter().map(|event| word(event, prefix)).collect();
    assert_eq!(shown, ["+z=z", "+c=1", "+a=1", "+b=1", "-c", "+a=2", "-a", "-b", "-z"]);
    let revisions: Vec<_> = seen.iter().map(|event| event.kv().unwrap().mod_revision()).collect();
    assert!(revisions.is_sorted());
    assert!(revisions[1] == revisions[3] && revisions[4] == revisions[5] && revisions[6] == revisions[8]);
}

/// A watch from a revision that is yet to come shows nothing that is below it.
pub(crate) async fn from_the_future(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "watch/future/";
    let at = put(&mut client, format!("{prefix}now"), "").await;
    let start = at + 3;
    let options = WatchOptions::new().with_prefix().with_start_revision(start);
    let mut watch = begin(&mut client, prefix, options).await;
    let mut last = at;
    let mut expected = Vec::new();
    while last < start + 2 {
        last = put(&mut client, format!("{prefix}later"), "").await;
        if last >= start {
            expected.push(last);
        }
    }
    let seen = events(&mut watch, expected.len()).await;
    let seen: Vec<_> = seen.iter().map(|event| event.kv().unwrap().mod_revision()).collect();
    assert_eq!(seen, expected);
}

/// A key, a range, a prefix, and everything from a key on.
pub(crate) async fn ranges(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "~~~/watch/";
    let key = |name: &str| format!("{prefix}{name}");
    let new = WatchOptions::new;
    let mut one = begin(&mut client, &key("b"), new()).await;
    let mut range = begin(&mut client, &key("b"), new().with_range(key("d"))).await;
    let mut below = begin(&mut client, prefix, new().with_prefix()).await;
    let mut above = begin(&mut client, &key("c"), new().with_from_key()).await;
    put_letters(&mut client, prefix, "abcdb").await;
    assert_eq!(words(&mut one, prefix, 2).await, ["+b=b", "+b=b"]);
    assert_eq!(words(&mut range, prefix, 3).await, ["+b=b", "+c=c", "+b=b"]);
    assert_eq!(words(&mut below, prefix, 5).await, ["+a=a", "+b=b", "+c=c", "+d=d", "+b=b"]);
    assert_eq!(words(&mut above, prefix, 2).await, ["+c=c", "+d=d"]);
}

/// Filters leave out puts, or deletions.
pub(crate) async fn filters(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "watch/filters/";
    let filtered = |filters: &[WatchFilterType]| WatchOptions::new().with_prefix().with_filters(filters);
    let mut no_puts = begin(&mut client, prefix, filtered(&[WatchFilterType::NoPut])).await;
    let mut no_deletes = begin(&mut client, prefix, filtered(&[WatchFilterType::NoDelete])).await;
    let mut nothing = begin(&mut client, prefix, filtered(&[WatchFilterType::NoPut, WatchFilterType::NoDelete])).await;
    let first = put(&mut client, format!("{prefix}a"), "1").await;
    client.delete(format!("{prefix}a"), None).await.unwrap();
    put(&mut client, format!("{prefix}b"), "2").await;
    client.delete(format!("{prefix}b"), None).await.unwrap();
    assert_eq!(words(&mut no_puts, prefix, 2).await, ["-a", "-b"]);
    assert_eq!(words(&mut no_deletes, prefix, 2).await, ["+a=1", "+b=2"]);
    // The past is filtered in the same way.
    let options = filtered(&[WatchFilterType::NoPut]).with_start_revision(first);
    let mut past = begin(&mut client, prefix, options).await;
    assert_eq!(words(&mut past, prefix, 2).await, ["-a", "-b"]);
    // A watch of nothing is there all the same.
    nothing.cancel(0).await.unwrap();
    let last = next(&mut nothing).await;
    assert!(last.canceled() && last.events().is_empty());
}

/// Events carry what was before them, when asked.
pub(crate) async fn previous_values(target: &Target) {
    let mut client = target.client_of(0).await;
    let key = "watch/previous";
    let first = put(&mut client, key, "1").await;
    let mut watch = begin(&mut client, key, WatchOptions::new().with_prev_key()).await;
    put(&mut client, key, "2").await;
    client.delete(key, None).await.unwrap();
    put(&mut client, key, "3").await;
    let previous = |event: &Event| event.prev_kv().map(|kv| (text(kv.value()), kv.version()));
    let expected = [Some(("1".to_owned(), 1)), Some(("2".to_owned(), 2)), None];
    let seen = events(&mut watch, 3).await;
    assert_eq!(seen.iter().map(previous).collect::<Vec<_>>(), expected);
    assert_eq!(seen[0].prev_kv().unwrap().mod_revision(), first);
    // Of the past, too.
    let options = WatchOptions::new().with_prev_key().with_start_revision(first + 1);
    let mut past = begin(&mut client, key, options).await;
    let seen = events(&mut past, 3).await;
    assert_eq!(seen.iter().map(previous).collect::<Vec<_>>(), expected);
}

/// All events of one transaction come in one response, whose header is of their revision or later.
pub(crate) async fn one_response_for_a_transaction(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "watch/txn/";
    let mut watch = begin(&mut client, prefix, WatchOptions::new().with_prefix().with_prev_key()).await;
    let puts: Vec<_> = (0..100).map(|at| TxnOp::put(format!("{prefix}{at:03}"), "x", None)).collect();
    let at = revision(client.txn(Txn::new().and_then(puts)).await.unwrap().header());
    let seen = next(&mut watch).await;
    assert_eq!(seen.events().len(), 100);
    assert!(revision(seen.header()) >= at);
    assert!(seen.events().iter().all(|event| event.kv().unwrap().mod_revision() == at));
    let keys: Vec<_> = seen.events().iter().map(|event| text(event.kv().unwrap().key())).collect();
    assert!(keys.is_sorted());
    client.delete(prefix, Some(DeleteOptions::new().with_prefix())).await.unwrap();
    let seen = next(&mut watch).await;
    assert_eq!(seen.events().len(), 100);
    assert!(seen.events().iter().all(|event| event.event_type() == EventType::Delete && event.prev_kv().is_some()));
}

/// What changes nothing is no event; the same value again is one.
pub(crate) async fn no_change_no_event(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "watch/nothing/";
    let mut watch = begin(&mut client, prefix, WatchOptions::new().with_prefix()).await;
    // Neither a deletion of nothing nor a branch that is not taken is an event.
    client.delete(format!("{prefix}a"), None).await.unwrap();
    client.txn(Txn::new().or_else([TxnOp::put(format!("{prefix}a"), "no", None)])).await.unwrap();
    put(&mut client, format!("{prefix}b"), "same").await;
    put(&mut client, format!("{prefix}b"), "same").await;
    assert_eq!(words(&mut watch, prefix, 2).await, ["+b=same", "+b=same"]);
}

/// Watches of one stream are told apart by ids, which the server or the client chooses.
pub(crate) async fn several_on_a_stream(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "watch/several/";
    let key = |name: &str| format!("{prefix}{name}");
    let mut watch = client.watch(key("a"), None).await.unwrap();
    let first = next(&mut watch).await.watch_id();
    watch.watch(key("b"), None).await.unwrap();
    let second = next(&mut watch).await.watch_id();
    watch.watch(key("c"), Some(WatchOptions::new().with_watch_id(77))).await.unwrap();
    assert_eq!(next(&mut watch).await.watch_id(), 77);
    watch.watch(key("a"), None).await.unwrap();
    let fourth = next(&mut watch).await.watch_id();
    let mut ids = vec![first, second, 77, fourth];
    ids.dedup();
    assert_eq!(ids.len(), 4);

    put(&mut client, key("b"), "").await;
    assert_eq!(next(&mut watch).await.watch_id(), second);
    put(&mut client, key("c"), "").await;
    assert_eq!(next(&mut watch).await.watch_id(), 77);
    put(&mut client, key("a"), "").await;
    let mut both = vec![next(&mut watch).await.watch_id(), next(&mut watch).await.watch_id()];
    both.sort_unstable();
    assert_eq!(both, [first, fourth]);

    // One ends, the others go on.
    watch.cancel(second).await.unwrap();
    let ended = next(&mut watch).await;
    assert!(ended.canceled() && ended.watch_id() == second && ended.compact_revision() == 0);
    assert_eq!(ended.cancel_reason(), "");
    put(&mut client, key("b"), "").await;
    put(&mut client, key("c"), "").await;
    assert_eq!(next(&mut watch).await.watch_id(), 77);
    // Its id is free again.
    watch.cancel(77).await.unwrap();
    assert!(next(&mut watch).await.canceled());
    watch.watch(key("c"), Some(WatchOptions::new().with_watch_id(77))).await.unwrap();
    let again = next(&mut watch).await;
    assert!(again.created() && again.watch_id() == 77);
}

/// An id that is taken is refused, and the stream goes on.
pub(crate) async fn taken_id(target: &Target) {
    let mut client = target.client_of(0).await;
    let key = "watch/taken";
    let mut watch = begin(&mut client, key, WatchOptions::new().with_watch_id(5)).await;
    watch.watch(key, Some(WatchOptions::new().with_watch_id(5))).await.unwrap();
    let refused = next(&mut watch).await;
    assert!(refused.created() && refused.canceled());
    assert_eq!(refused.watch_id(), REFUSED);
    assert_eq!(refused.cancel_reason(), "mvcc: duplicate watch ID provided on the WatchStream");
    put(&mut client, key, "x").await;
    assert_eq!(next(&mut watch).await.watch_id(), 5);
}

/// The end of a watch that there is not is passed over.
pub(crate) async fn cancel_of_none(target: &Target) {
    let mut client = target.client_of(0).await;
    let key = "watch/cancel-none";
    let mut watch = begin(&mut client, key, WatchOptions::new()).await;
    watch.cancel(12_345).await.unwrap();
    put(&mut client, key, "x").await;
    assert_eq!(next(&mut watch).await.events().len(), 1);
}

/// A watch of a range that ends before it begins is refused at once.
pub(crate) async fn backwards(target: &Target) {
    let mut client = target.client_of(0).await;
    for (start, end) in [("watch/b", "watch/a"), ("watch/b", "watch/b")] {
        let mut watch = client.watch(start, Some(WatchOptions::new().with_range(end))).await.unwrap();
        let refused = next(&mut watch).await;
        assert!(refused.created() && refused.canceled(), "{start}..{end}");
        assert_eq!(refused.watch_id(), REFUSED);
        assert_eq!(refused.cancel_reason(), "mvcc: watcher range is empty");
    }
}

/// A watch of the empty key is one of the first key that there can be; to no end, one of all.
pub(crate) async fn empty_key(target: &Target) {
    let mut client = target.client_of(0).await;
    let mut watch = begin(&mut client, "", WatchOptions::new()).await;
    put(&mut client, "watch/empty", "x").await;
    put(&mut client, [0], "first").await;
    let seen = events(&mut watch, 1).await;
    assert_eq!((seen[0].kv().unwrap().key(), seen[0].kv().unwrap().value()), (&[0][..], &b"first"[..]));
    client.delete([0], None).await.unwrap();
    let mut all = begin(&mut client, "", WatchOptions::new().with_from_key()).await;
    put(&mut client, "watch/empty", "y").await;
    assert_eq!(words(&mut all, "watch/", 1).await, ["+empty=y"]);
}

/// A revision below zero is one that has been compacted.
pub(crate) async fn negative_start(target: &Target) {
    let mut client = target.client_of(0).await;
    let key = "watch/negative";
    let at = put(&mut client, key, "x").await;
    client.compact(at, None).await.unwrap();
    let mut watch = begin(&mut client, key, WatchOptions::new().with_start_revision(-1)).await;
    let ended = next(&mut watch).await;
    assert_eq!((ended.canceled(), ended.compact_revision()), (true, at));
}

/// Progress that is asked for comes for the whole stream, at the revision that there is.
pub(crate) async fn progress(target: &Target) {
    let mut client = target.client_of(0).await;
    let key = "watch/progress";
    let mut watch = begin(&mut client, key, WatchOptions::new()).await;
    let at = put(&mut client, "watch/other", "x").await;
    watch.request_progress().await.unwrap();
    let told = next(&mut watch).await;
    assert_eq!((told.watch_id(), told.events().len()), (-1, 0));
    assert!(!told.created() && !told.canceled());
    assert!(revision(told.header()) >= at);
    put(&mut client, key, "x").await;
    assert_eq!(next(&mut watch).await.events().len(), 1);
}

/// A watch below the compacted revision ends with the first revision that can be watched.
pub(crate) async fn compacted_start(target: &Target) {
    let mut client = target.client_of(0).await;
    let key = "watch/compacted";
    let first = put(&mut client, key, "1").await;
    let second = put(&mut client, key, "2").await;
    let third = put(&mut client, key, "3").await;
    client.compact(second, None).await.unwrap();
    let mut watch = client.watch(key, Some(WatchOptions::new().with_start_revision(first))).await.unwrap();
    let created = next(&mut watch).await;
    assert!(created.created() && !created.canceled(), "it is created first");
    let ended = next(&mut watch).await;
    assert!(ended.canceled() && !ended.created() && ended.events().is_empty());
    assert_eq!((ended.watch_id(), ended.compact_revision()), (created.watch_id(), second));
    assert_eq!(ended.cancel_reason(), "", "the revision says why");
    // From the compacted revision itself, all is there.
    let mut watch = begin(&mut client, key, WatchOptions::new().with_start_revision(second)).await;
    let seen = events(&mut watch, 2).await;
    let seen: Vec<_> = seen.iter().map(|event| event.kv().unwrap().mod_revision()).collect();
    assert_eq!(seen, [second, third]);
    // What is compacted is no previous value.
    let options = WatchOptions::new().with_start_revision(second).with_prev_key();
    let mut watch = begin(&mut client, key, options).await;
    let seen = events(&mut watch, 2).await;
    assert_eq!(seen.iter().map(|event| event.prev_kv().is_some()).collect::<Vec<_>>(), [false, true]);
}

/// A compaction does not touch watches that have seen what it takes.
pub(crate) async fn compaction_under_a_watch(target: &Target) {
    let mut client = target.client_of(0).await;
    let key = "watch/compacting";
    let mut watch = begin(&mut client, key, WatchOptions::new().with_prev_key()).await;
    put(&mut client, key, "1").await;
    let at = put(&mut client, key, "2").await;
    assert_eq!(words(&mut watch, key, 2).await, ["+=1", "+=2"]);
    client.compact(at, None).await.unwrap();
    put(&mut client, key, "3").await;
    let seen = events(&mut watch, 1).await;
    assert_eq!((word(&seen[0], key), seen[0].prev_kv().unwrap().value()), ("+=3".to_owned(), &b"2"[..]));
}

/// Many changes come whole and in order, however many there are in a response.
pub(crate) async fn long_past(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "watch/long/";
    let mut first = 0;
    for at in 0..20 {
        let puts: Vec<_> = (0..100).map(|key| TxnOp::put(format!("{prefix}{at:02}{key:02}"), "x", None)).collect();
        let made = revision(client.txn(Txn::new().and_then(puts)).await.unwrap().header());
        if first == 0 {
            first = made;
        }
    }
    let options = WatchOptions::new().with_prefix().with_start_revision(first);
    let mut watch = begin(&mut client, prefix, options).await;
    let mut seen = Vec::new();
    while seen.len() < 2_000 {
        let response = next(&mut watch).await;
        // A revision is never torn.
        assert_eq!(response.events().len() % 100, 0);
        seen.extend(response.events().iter().map(|event| text(event.kv().unwrap().key())));
    }
    assert!(seen.is_sorted() && seen.len() == 2_000);
}

/// A watch with a long past to show is cancelled as soon as that is asked for.
pub(crate) async fn cancel_of_one_behind(target: &Target) {
    const WRITERS: usize = 16;
    const WRITES: usize = 200;
    let prefix = "watch/behind/";
    let mut client = target.client_of(0).await;
    let first = put(&mut client, prefix, "").await;
    let writers = (0..WRITERS).map(|writer| {
        let mut client = client.clone();
        tokio::spawn(async move {
            for _ in 0..WRITES {
                put(&mut client, &format!("{prefix}{writer}"), &"x".repeat(4_000)).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let mut watch = begin(&mut client, prefix, WatchOptions::new().with_prefix().with_start_revision(first)).await;
    watch.cancel(0).await.unwrap();
    let mut shown = 0;
    loop {
        let response = next(&mut watch).await;
        if response.canceled() {
            break;
        }
        shown += response.events().len();
    }
    assert!(shown < WRITERS * WRITES, "all was shown first");
}

/// A response that is too large comes in parts, for those who ask; else it comes whole.
pub(crate) async fn fragments(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "watch/fragments/";
    let value = vec![b'x'; 700_000];
    let first = put(&mut client, format!("{prefix}0"), &value).await;
    for at in 1..8 {
        put(&mut client, format!("{prefix}{at}"), &value).await;
    }
    let create = |fragment| wire::WatchRequest {
        create: Some(wire::WatchCreateRequest {
            key: prefix.into(),
            range_end: b"watch/fragments0".to_vec(),
            start_revision: first,
            fragment,
            ..wire::WatchCreateRequest::default()
        }),
        ..wire::WatchRequest::default()
    };
    let mut parts = wire::watch(target, vec![create(true)]).await.unwrap();
    assert!(parts.message().await.unwrap().unwrap().created);
    let mut seen = Vec::new();
    let mut fragments = Vec::new();
    while seen.len() < 8 {
        let part = parts.message().await.unwrap().unwrap();
        fragments.push(part.fragment);
        seen.extend(part.events.iter().map(|event| text(&event.kv.as_ref().unwrap().key)));
    }
    assert!(seen.is_sorted() && seen.len() == 8);
    assert!(fragments.len() > 1, "it came in one");
    assert_eq!(fragments.pop(), Some(false), "the last part says that it is the last");
    assert!(fragments.iter().any(|fragment| *fragment), "and others that they are not");

    let mut whole = wire::watch(target, vec![create(false)]).await.unwrap();
    assert!(whole.message().await.unwrap().unwrap().created);
    let mut seen = 0;
    while seen < 8 {
        let response = whole.message().await.unwrap().unwrap();
        assert!(!response.fragment);
        seen += response.events.len();
    }
    client.delete(prefix, Some(DeleteOptions::new().with_prefix())).await.unwrap();
}

/// A leased key tells its lease in the event.
pub(crate) async fn leases_in_events(target: &Target) {
    let mut client = target.client_of(0).await;
    let key = "watch/leased";
    let lease = client.lease_grant(600, None).await.unwrap().id();
    let mut watch = begin(&mut client, key, WatchOptions::new()).await;
    client.put(key, "x", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    client.lease_revoke(lease).await.unwrap();
    let seen = events(&mut watch, 2).await;
    assert_eq!(seen[0].kv().unwrap().lease(), lease);
    assert_eq!((seen[1].event_type(), seen[1].kv().unwrap().lease()), (EventType::Delete, 0));
}
