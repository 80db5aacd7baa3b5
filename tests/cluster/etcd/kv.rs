//! Range, Put and DeleteRange.

use etcd_client::{DeleteOptions, GetOptions, PutOptions, SortOrder, SortTarget};

use super::answers::{below, get, names, put, put_letters, revision, text, word};
use super::target::Target;
use super::wire;

/// A put makes a key, changes it, and makes it anew after a deletion.
pub(crate) async fn versions_and_revisions(target: &Target) {
    let mut client = target.client().await;
    let key = "kv/versions";
    let made = put(&mut client, key, "1").await;
    let kv = get(&mut client, key).await.unwrap();
    assert_eq!((kv.key(), kv.value()), (key.as_bytes(), &b"1"[..]));
    assert_eq!((kv.create_revision(), kv.mod_revision(), kv.version(), kv.lease()), (made, made, 1, 0));

    let changed = put(&mut client, key, "2").await;
    assert!(changed > made);
    let kv = get(&mut client, key).await.unwrap();
    assert_eq!((kv.create_revision(), kv.mod_revision(), kv.version()), (made, changed, 2));

    client.delete(key, None).await.unwrap();
    assert!(get(&mut client, key).await.is_none());
    let again = put(&mut client, key, "3").await;
    let kv = get(&mut client, key).await.unwrap();
    assert_eq!((kv.create_revision(), kv.mod_revision(), kv.version()), (again, again, 1));
}

/// What is not there is no error.
pub(crate) async fn missing_key(target: &Target) {
    let answer = target.client().await.get("kv/missing", None).await.unwrap();
    assert!(answer.kvs().is_empty() && !answer.more());
    assert_eq!(answer.count(), 0);
    assert!(revision(answer.header()) > 0);
}

/// Keys and values are bytes; values may be empty, and large.
pub(crate) async fn any_bytes(target: &Target) {
    let mut client = target.client().await;
    let all: Vec<u8> = (0..=255).collect();
    let key = [b"kv/bytes/", &*all].concat();
    put(&mut client, &key, &all).await;
    assert_eq!(get(&mut client, &key).await.unwrap().value(), all);
    put(&mut client, "kv/bytes/empty", "").await;
    assert_eq!(get(&mut client, "kv/bytes/empty").await.unwrap().value(), b"");
    let large = vec![b'x'; 1 << 20];
    put(&mut client, "kv/bytes/large", &large).await;
    assert_eq!(get(&mut client, "kv/bytes/large").await.unwrap().value(), large);
}

/// One key, a range without its end, a prefix, and everything from a key on.
pub(crate) async fn ranges(target: &Target) {
    let mut client = target.client().await;
    // Above all other cases' keys: a range to the end of all keys must show these and no others.
    let prefix = "~~~/ranges/";
    put_letters(&mut client, prefix, "abcd").await;
    let key = |name: &str| format!("{prefix}{name}");

    let shown = client.get(key("b"), None).await.unwrap();
    assert_eq!((word(shown.kvs(), prefix), shown.count(), shown.more()), ("b".to_owned(), 1, false));
    let shown = client.get(key("b"), Some(GetOptions::new().with_range(key("d")))).await.unwrap();
    assert_eq!((word(shown.kvs(), prefix), shown.count()), ("bc".to_owned(), 2));
    // The ends need not exist.
    let shown = client.get(key("aa"), Some(GetOptions::new().with_range(key("cc")))).await.unwrap();
    assert_eq!(word(shown.kvs(), prefix), "bc");
    let shown = client.get(prefix, Some(GetOptions::new().with_prefix())).await.unwrap();
    assert_eq!(word(shown.kvs(), prefix), "abcd");
    let shown = client.get(key("c"), Some(GetOptions::new().with_from_key())).await.unwrap();
    assert_eq!((word(shown.kvs(), prefix), shown.count()), ("cd".to_owned(), 2));
    let all = client.get("", Some(GetOptions::new().with_all_keys().with_keys_only())).await.unwrap();
    let keys: Vec<_> = all.kvs().iter().map(|kv| kv.key().to_vec()).collect();
    assert!(keys.is_sorted() && keys.ends_with(&[key("c").into(), key("d").into()]));
    assert_eq!(usize::try_from(all.count()).unwrap(), keys.len());
}

/// A range that holds nothing is empty, whichever way its ends lie.
pub(crate) async fn empty_ranges(target: &Target) {
    let mut client = target.client().await;
    let prefix = "kv/empty-ranges/";
    put_letters(&mut client, prefix, "abc").await;
    for (start, end) in [("b", "b"), ("c", "a"), ("x", "z")] {
        let (start, end) = (format!("{prefix}{start}"), format!("{prefix}{end}"));
        let shown = client.get(&*start, Some(GetOptions::new().with_range(&*end))).await.unwrap();
        assert_eq!((shown.kvs().len(), shown.count(), shown.more()), (0, 0, false), "{start}..{end}");
        let deleted = client.delete(&*start, Some(DeleteOptions::new().with_range(&*end))).await.unwrap();
        assert_eq!(deleted.deleted(), 0, "{start}..{end}");
    }
}

/// A limit cuts what is shown, not what is counted.
pub(crate) async fn limits(target: &Target) {
    let mut client = target.client().await;
    let prefix = "kv/limits/";
    put_letters(&mut client, prefix, "abcde").await;
    for (limit, shown, more) in
        [(0, "abcde", false), (1, "a", true), (4, "abcd", true), (5, "abcde", false), (6, "abcde", false)]
    {
        let answer = below(&mut client, prefix, GetOptions::new().with_limit(limit)).await;
        assert_eq!((&*word(answer.kvs(), prefix), answer.more(), answer.count()), (shown, more, 5), "limit {limit}");
    }
    // What is sorted is the whole range, not the first few.
    let options = GetOptions::new().with_limit(2).with_sort(SortTarget::Key, SortOrder::Descend);
    let answer = below(&mut client, prefix, options).await;
    assert_eq!((&*word(answer.kvs(), prefix), answer.more(), answer.count()), ("ed", true, 5));
    // No limit is below none.
    let answer = below(&mut client, prefix, GetOptions::new().with_limit(-1)).await;
    assert_eq!((&*word(answer.kvs(), prefix), answer.more(), answer.count()), ("abcde", false, 5));
    // A limit that a later page starts from: the last key and one byte more.
    let mut start = format!("{prefix}b").into_bytes();
    start.push(0);
    let options = GetOptions::new().with_range(format!("{prefix}~")).with_limit(2);
    let answer = client.get(start, Some(options)).await.unwrap();
    assert_eq!((&*word(answer.kvs(), prefix), answer.more(), answer.count()), ("cd", true, 3));
}

/// Five keys whose order is another one by each of their properties.
async fn five_orders(target: &Target, prefix: &str) {
    let mut client = target.client().await;
    // By key abcde, by creation bdaec, by the last change ceadb, by value edcba, by version adceb.
    put_letters(&mut client, prefix, "bdaec").await;
    for (letter, value, puts) in [("c", "3", 2), ("e", "1", 3), ("a", "5", 0), ("d", "2", 1), ("b", "4", 4)] {
        for put_before in 0..puts {
            put(&mut client, format!("{prefix}{letter}"), put_before.to_string()).await;
        }
        put(&mut client, format!("{prefix}{letter}"), value).await;
    }
}

/// Every target of a sort in every order.
pub(crate) async fn sorts(target: &Target) {
    let prefix = "kv/sorts/";
    five_orders(target, prefix).await;
    let mut client = target.client().await;
    for (by, ascending) in [
        (SortTarget::Key, "abcde"),
        (SortTarget::Create, "bdaec"),
        (SortTarget::Mod, "ceadb"),
        (SortTarget::Value, "edcba"),
        (SortTarget::Version, "adceb"),
    ] {
        let descending: String = ascending.chars().rev().collect();
        for (order, expected) in [(SortOrder::Ascend, ascending), (SortOrder::Descend, &descending)] {
            let shown = below(&mut client, prefix, GetOptions::new().with_sort(by, order)).await;
            assert_eq!(word(shown.kvs(), prefix), expected, "{by:?} {order:?}");
            let limited = below(&mut client, prefix, GetOptions::new().with_sort(by, order).with_limit(3)).await;
            assert_eq!(word(limited.kvs(), prefix), expected[..3], "{by:?} {order:?}, three of them");
        }
    }
}

/// Without an order, a target that is not the key still sorts, upwards.
pub(crate) async fn sort_target_without_order(target: &Target) {
    let prefix = "kv/sort-target/";
    five_orders(target, prefix).await;
    for (by, expected) in [(0, "abcde"), (1, "adceb"), (2, "bdaec"), (3, "ceadb"), (4, "edcba")] {
        let request = wire::RangeRequest {
            key: prefix.into(),
            range_end: b"kv/sort-target0".to_vec(),
            sort_target: by,
            ..wire::RangeRequest::default()
        };
        let shown: wire::RangeResponse = wire::call(target, 0, "/etcdserverpb.KV/Range", request).await.unwrap();
        let word: String = shown.kvs.iter().map(|kv| text(&kv.key[prefix.len()..])).collect();
        assert_eq!(word, expected, "target {by}");
    }
}

/// Keys without values, and a count without keys.
pub(crate) async fn keys_only_and_count_only(target: &Target) {
    let mut client = target.client().await;
    let prefix = "kv/only/";
    let revisions = put_letters(&mut client, prefix, "abc").await;
    let keys = below(&mut client, prefix, GetOptions::new().with_keys_only()).await;
    assert_eq!((&*word(keys.kvs(), prefix), keys.count()), ("abc", 3));
    for (kv, revision) in keys.kvs().iter().zip(revisions) {
        assert_eq!((kv.value(), kv.mod_revision(), kv.version()), (&b""[..], revision, 1));
    }
    // The values are still there to sort by.
    put(&mut client, format!("{prefix}a"), "z").await;
    let options = GetOptions::new().with_keys_only().with_sort(SortTarget::Value, SortOrder::Descend);
    assert_eq!(word(below(&mut client, prefix, options).await.kvs(), prefix), "acb");

    let count = below(&mut client, prefix, GetOptions::new().with_count_only()).await;
    assert_eq!((count.kvs().len(), count.count(), count.more()), (0, 3, false));
    let count = below(&mut client, prefix, GetOptions::new().with_count_only().with_limit(1)).await;
    assert_eq!((count.kvs().len(), count.count(), count.more()), (0, 3, false));
    let count = client.get(format!("{prefix}a"), Some(GetOptions::new().with_count_only())).await.unwrap();
    assert_eq!((count.kvs().len(), count.count()), (0, 1));
}

/// Bounds on revisions choose among what the range holds, and do not change the count.
pub(crate) async fn revision_bounds(target: &Target) {
    let mut client = target.client().await;
    let prefix = "kv/bounds/";
    let made = put_letters(&mut client, prefix, "abcd").await;
    let changed = put(&mut client, format!("{prefix}a"), "again").await;
    let new = GetOptions::new;
    for (options, expected) in [
        (new().with_min_create_revision(made[1]), "bcd"),
        (new().with_max_create_revision(made[1]), "ab"),
        (new().with_min_create_revision(made[1]).with_max_create_revision(made[2]), "bc"),
        (new().with_min_mod_revision(made[2]), "acd"),
        (new().with_max_mod_revision(made[2]), "bc"),
        (new().with_min_mod_revision(changed), "a"),
        (new().with_min_mod_revision(changed).with_max_create_revision(made[0]), "a"),
        (new().with_min_mod_revision(changed + 1_000_000), ""),
        (new().with_min_mod_revision(made[3]).with_max_mod_revision(made[0]), ""),
    ] {
        let shown = below(&mut client, prefix, options.clone()).await;
        assert_eq!((&*word(shown.kvs(), prefix), shown.count()), (expected, 4), "{options:?}");
    }
    // The limit counts what is left after the bounds.
    let shown = below(&mut client, prefix, new().with_min_create_revision(made[1]).with_limit(2)).await;
    assert_eq!((&*word(shown.kvs(), prefix), shown.more(), shown.count()), ("bc", true, 4));
    let shown = below(&mut client, prefix, new().with_min_create_revision(made[2]).with_limit(2)).await;
    assert_eq!((&*word(shown.kvs(), prefix), shown.more(), shown.count()), ("cd", false, 4));
}

/// A read of an earlier revision shows the keys as they were; its header tells of now.
pub(crate) async fn earlier_revisions(target: &Target) {
    let mut client = target.client().await;
    let prefix = "kv/earlier/";
    let made = put_letters(&mut client, prefix, "abc").await;
    let changed = put(&mut client, format!("{prefix}a"), "again").await;
    let deleted = client.delete(format!("{prefix}b"), None).await.unwrap();
    let deleted = revision(deleted.header());
    for (at, expected) in [
        (made[0], [Some("a"), None, None]),
        (made[1], [Some("a"), Some("b"), None]),
        (made[2], [Some("a"), Some("b"), Some("c")]),
        (changed, [Some("again"), Some("b"), Some("c")]),
        (deleted, [Some("again"), None, Some("c")]),
    ] {
        let shown = below(&mut client, prefix, GetOptions::new().with_revision(at)).await;
        let values: Vec<_> = shown.kvs().iter().map(|kv| text(kv.value())).collect();
        let expected: Vec<_> = expected.into_iter().flatten().collect();
        assert_eq!(values, expected, "at {at}");
        assert_eq!(usize::try_from(shown.count()).unwrap(), expected.len());
        assert!(revision(shown.header()) >= deleted, "the header is of now");
        let older = shown.kvs().first().unwrap();
        assert_eq!(older.mod_revision(), if at < changed { made[0] } else { changed });
    }
    let options = GetOptions::new().with_revision(made[1]).with_limit(1).with_sort(SortTarget::Key, SortOrder::Descend);
    let shown = below(&mut client, prefix, options).await;
    assert_eq!((&*word(shown.kvs(), prefix), shown.more(), shown.count()), ("b", true, 2));
    // A revision below zero is as none.
    let shown = below(&mut client, prefix, GetOptions::new().with_revision(-1)).await;
    assert_eq!(word(shown.kvs(), prefix), "ac");
}

/// A serializable read asks one node, which shows at least what it has acknowledged itself.
pub(crate) async fn serializable(target: &Target) {
    for node in 0..target.endpoints.len() {
        let mut client = target.client_of(node).await;
        let key = format!("kv/serializable/{node}");
        let at = put(&mut client, &key, "here").await;
        let shown = client.get(&*key, Some(GetOptions::new().with_serializable())).await.unwrap();
        assert_eq!(shown.kvs()[0].value(), b"here");
        assert!(revision(shown.header()) >= at);
    }
}

/// A linearizable read on any node shows what any other has acknowledged.
pub(crate) async fn linearizable(target: &Target) {
    let nodes = target.endpoints.len();
    for round in 0..3 * nodes {
        let key = format!("kv/linearizable/{round}");
        put(&mut target.client_of(round % nodes).await, &key, "there").await;
        let shown = get(&mut target.client_of((round + 1) % nodes).await, &key).await;
        assert_eq!(shown.expect("it was acknowledged").value(), b"there");
    }
}

/// A put returns what it replaces, when asked.
pub(crate) async fn put_with_previous(target: &Target) {
    let mut client = target.client().await;
    let key = "kv/previous";
    let asked = || Some(PutOptions::new().with_prev_key());
    assert!(client.put(key, "1", asked()).await.unwrap().prev_key().is_none());
    let made = get(&mut client, key).await.unwrap().mod_revision();
    let second = client.put(key, "2", asked()).await.unwrap();
    let previous = second.prev_key().unwrap();
    assert_eq!((previous.key(), previous.value()), (key.as_bytes(), &b"1"[..]));
    assert_eq!((previous.mod_revision(), previous.version()), (made, 1));
    assert!(client.put(key, "3", None).await.unwrap().prev_key().is_none());
    client.delete(key, None).await.unwrap();
    assert!(client.put(key, "4", asked()).await.unwrap().prev_key().is_none(), "a deleted key is none");
}

/// A put may keep the value or the lease that there is. A plain put takes the lease away.
pub(crate) async fn put_that_keeps(target: &Target) {
    let mut client = target.client().await;
    let key = "kv/keeps";
    let lease = client.lease_grant(600, None).await.unwrap().id();
    client.put(key, "1", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    assert_eq!(get(&mut client, key).await.unwrap().lease(), lease);

    client.put(key, "2", Some(PutOptions::new().with_ignore_lease())).await.unwrap();
    let kv = get(&mut client, key).await.unwrap();
    assert_eq!((kv.value(), kv.lease(), kv.version()), (&b"2"[..], lease, 2));

    let both = PutOptions::new().with_ignore_lease().with_ignore_value();
    client.put(key, "", Some(both)).await.unwrap();
    let kv = get(&mut client, key).await.unwrap();
    assert_eq!((kv.value(), kv.lease(), kv.version()), (&b"2"[..], lease, 3));

    client.put(key, "", Some(PutOptions::new().with_ignore_value())).await.unwrap();
    let kv = get(&mut client, key).await.unwrap();
    assert_eq!((kv.value(), kv.lease(), kv.version()), (&b"2"[..], 0, 4), "the lease was not kept");

    client.put(key, "", Some(PutOptions::new().with_ignore_value().with_lease(lease))).await.unwrap();
    assert_eq!(get(&mut client, key).await.unwrap().lease(), lease);
    put(&mut client, key, "3").await;
    assert_eq!(get(&mut client, key).await.unwrap().lease(), 0);
    client.lease_revoke(lease).await.unwrap();
    assert!(get(&mut client, key).await.is_some(), "it hangs on the lease no longer");
}

/// A deletion says how many keys it took, and which, when asked.
pub(crate) async fn deletes(target: &Target) {
    let mut client = target.client().await;
    let prefix = "kv/deletes/";
    put_letters(&mut client, prefix, "abcdef").await;
    let key = |name: &str| format!("{prefix}{name}");

    let one = client.delete(key("a"), None).await.unwrap();
    assert_eq!((one.deleted(), one.prev_kvs().len()), (1, 0));
    assert_eq!(client.delete(key("a"), None).await.unwrap().deleted(), 0);
    let one = client.delete(key("b"), Some(DeleteOptions::new().with_prev_key())).await.unwrap();
    assert_eq!((one.deleted(), names(one.prev_kvs(), prefix)), (1, vec!["b".to_owned()]));
    assert_eq!(one.prev_kvs()[0].value(), b"b");
    let none = client.delete(key("b"), Some(DeleteOptions::new().with_prev_key())).await.unwrap();
    assert_eq!((none.deleted(), none.prev_kvs().len()), (0, 0));
    let range = client.delete(key("a"), Some(DeleteOptions::new().with_range(key("e")).with_prev_key())).await.unwrap();
    assert_eq!((range.deleted(), word(range.prev_kvs(), prefix)), (2, "cd".to_owned()));
    let rest = client.delete(prefix, Some(DeleteOptions::new().with_prefix())).await.unwrap();
    assert_eq!(rest.deleted(), 2);
    assert_eq!(below(&mut client, prefix, GetOptions::new()).await.count(), 0);
}

/// A deletion from a key on takes all that lies above.
pub(crate) async fn delete_from_key(target: &Target) {
    let mut client = target.client().await;
    // Above all other keys there are.
    let prefix = "~~~~/delete/";
    put_letters(&mut client, prefix, "abc").await;
    let options = DeleteOptions::new().with_from_key().with_prev_key();
    let deleted = client.delete(format!("{prefix}b"), Some(options)).await.unwrap();
    assert_eq!((deleted.deleted(), word(deleted.prev_kvs(), prefix)), (2, "bc".to_owned()));
    assert!(get(&mut client, format!("{prefix}a")).await.is_some());
    client.delete(format!("{prefix}a"), None).await.unwrap();
}

/// An answer may be far larger than any request.
pub(crate) async fn large_answers(target: &Target) {
    let prefix = "kv/large-answer/";
    let mut client = target.client_of(0).await;
    for at in 0..8 {
        put(&mut client, format!("{prefix}{at}"), vec![b'x'; 1 << 20]).await;
    }
    let request = wire::RangeRequest {
        key: prefix.into(),
        range_end: b"kv/large-answer0".to_vec(),
        ..wire::RangeRequest::default()
    };
    let shown: wire::RangeResponse = wire::call(target, 0, "/etcdserverpb.KV/Range", request).await.unwrap();
    assert_eq!(shown.kvs.len(), 8);
    assert!(shown.kvs.iter().all(|kv| kv.value.len() == 1 << 20));
    client.delete(prefix, Some(DeleteOptions::new().with_prefix())).await.unwrap();
}
