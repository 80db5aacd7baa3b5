//! Txn: comparisons, branches, nesting, and what an operation sees of those before it.
//!
//! etcd answers a transaction of comparisons alone, without any operation, from the state of the node that was asked,
//! which may lag: so a case asks the node that has acknowledged its writes.

#![allow(clippy::wildcard_enum_match_arm, reason = "an answer of another kind is printed")]

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};

use super::answers::{below, get, put, put_letters, revision, text, word};
use super::target::Target;
use super::wire;

/// Operations that a transaction may have.
pub(crate) const OPERATIONS_MAX: usize = 128;

/// Whether all comparisons hold.
async fn holds(client: &mut Client, compares: &[Compare]) -> bool {
    client.txn(Txn::new().when(compares)).await.unwrap().succeeded()
}

/// Which of equal, greater, less and not equal hold of a key by one property, against three operands.
async fn results(client: &mut Client, of: impl Fn(CompareOp, i64) -> Compare, operand: i64) -> String {
    let mut held = String::new();
    for operand in [operand - 1, operand, operand + 1] {
        for (op, sign) in
            [(CompareOp::Less, '<'), (CompareOp::Equal, '='), (CompareOp::Greater, '>'), (CompareOp::NotEqual, '!')]
        {
            if holds(client, &[of(op, operand)]).await {
                held.push(sign);
            }
        }
        held.push(' ');
    }
    held.trim_end().to_owned()
}

/// What holds of a number against the number below it, itself, and the one above.
const AS_NUMBERS: &str = ">! = <!";

/// Version, creation, last change and lease of a key, in all four ways.
pub(crate) async fn compares_numbers(target: &Target) {
    let mut client = target.client_of(0).await;
    let key = "txn/numbers";
    let lease = client.lease_grant(600, None).await.unwrap().id();
    put(&mut client, key, "1").await;
    client.put(key, "2", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    let kv = get(&mut client, key).await.unwrap();
    assert_ne!(kv.create_revision(), kv.mod_revision());

    assert_eq!(results(&mut client, |op, to| Compare::version(key, op, to), 2).await, AS_NUMBERS);
    let created = kv.create_revision();
    assert_eq!(results(&mut client, |op, to| Compare::create_revision(key, op, to), created).await, AS_NUMBERS);
    let changed = kv.mod_revision();
    assert_eq!(results(&mut client, |op, to| Compare::mod_revision(key, op, to), changed).await, AS_NUMBERS);
    assert_eq!(results(&mut client, |op, to| Compare::lease(key, op, to), lease).await, AS_NUMBERS);
    client.lease_revoke(lease).await.unwrap();
}

/// A key that is not there has zero for every number.
pub(crate) async fn compares_numbers_of_a_missing_key(target: &Target) {
    let mut client = target.client_of(0).await;
    let key = "txn/no-numbers";
    assert_eq!(results(&mut client, |op, to| Compare::version(key, op, to), 0).await, AS_NUMBERS);
    assert_eq!(results(&mut client, |op, to| Compare::create_revision(key, op, to), 0).await, AS_NUMBERS);
    assert_eq!(results(&mut client, |op, to| Compare::mod_revision(key, op, to), 0).await, AS_NUMBERS);
    assert_eq!(results(&mut client, |op, to| Compare::lease(key, op, to), 0).await, AS_NUMBERS);
}

/// Values compare as bytes.
pub(crate) async fn compares_values(target: &Target) {
    let mut client = target.client_of(0).await;
    let key = "txn/values";
    put(&mut client, key, "mm").await;
    for (operand, expected) in [("m", ">!"), ("mm", "="), ("mma", "<!"), ("a", ">!"), ("z", "<!"), ("", ">!")] {
        let mut held = String::new();
        for (op, sign) in
            [(CompareOp::Less, '<'), (CompareOp::Equal, '='), (CompareOp::Greater, '>'), (CompareOp::NotEqual, '!')]
        {
            if holds(&mut client, &[Compare::value(key, op, operand)]).await {
                held.push(sign);
            }
        }
        assert_eq!(held, expected, "against {operand:?}");
    }
    // A byte above 127 is more than one below.
    put(&mut client, key, [0x80]).await;
    assert!(holds(&mut client, &[Compare::value(key, CompareOp::Greater, [0x7f])]).await);
}

/// No comparison of the value of a key that is not there holds, not even that it is another.
pub(crate) async fn compares_value_of_a_missing_key(target: &Target) {
    let mut client = target.client_of(0).await;
    for op in [CompareOp::Less, CompareOp::Equal, CompareOp::Greater, CompareOp::NotEqual] {
        for operand in ["", "x"] {
            let held = holds(&mut client, &[Compare::value("txn/no-value", op, operand)]).await;
            assert!(!held, "{op:?} {operand:?}");
        }
    }
}

/// A comparison over a range holds if it does for every key there.
pub(crate) async fn compares_ranges(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "txn/ranges/";
    let made = put_letters(&mut client, prefix, "abc").await;
    let key = |name: &str| format!("{prefix}{name}");
    let all = || Compare::version(prefix, CompareOp::Equal, 1).with_prefix();
    assert!(holds(&mut client, &[all()]).await);
    put(&mut client, key("c"), "again").await;
    assert!(!holds(&mut client, &[all()]).await);
    assert!(holds(&mut client, &[Compare::version(key("a"), CompareOp::Equal, 1).with_range(key("c"))]).await);
    let created = |op, at: i64| Compare::create_revision(prefix, op, at).with_prefix();
    assert!(holds(&mut client, &[created(CompareOp::Less, made[2] + 1)]).await);
    assert!(!holds(&mut client, &[created(CompareOp::Less, made[2])]).await);
    assert!(holds(&mut client, &[Compare::value(prefix, CompareOp::Greater, "0").with_prefix()]).await);
    assert!(holds(&mut client, &[Compare::value(prefix, CompareOp::NotEqual, "x").with_prefix()]).await);
    assert!(!holds(&mut client, &[Compare::value(prefix, CompareOp::NotEqual, "b").with_prefix()]).await);
    assert!(holds(&mut client, &[Compare::lease(prefix, CompareOp::Equal, 0).with_prefix()]).await);
    let from_key = Compare::mod_revision(key("a"), CompareOp::Greater, 0).with_range([0]);
    assert!(holds(&mut client, &[from_key]).await);
}

/// Over an empty range, numbers compare as those of one missing key, and values not at all.
pub(crate) async fn compares_an_empty_range(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "txn/empty-range/";
    let version = |op, to| Compare::version(prefix, op, to).with_prefix();
    assert!(holds(&mut client, &[version(CompareOp::Equal, 0)]).await);
    assert!(!holds(&mut client, &[version(CompareOp::Greater, 0)]).await);
    for op in [CompareOp::Equal, CompareOp::NotEqual] {
        assert!(!holds(&mut client, &[Compare::value(prefix, op, "").with_prefix()]).await);
    }
    // An end that lies before the start makes an empty range, too.
    put(&mut client, format!("{prefix}b"), "b").await;
    let backwards = Compare::version(format!("{prefix}b"), CompareOp::Equal, 0).with_range(format!("{prefix}a"));
    assert!(holds(&mut client, &[backwards]).await);
}

/// A comparison without an operand compares with zero, or with nothing; operands of another target do not count.
pub(crate) async fn compares_without_operand(target: &Target) {
    let key = b"txn/no-operand".to_vec();
    put(&mut target.client_of(0).await, &key, "").await;
    let compare = |result, target| wire::Compare { key: key.clone(), result, target, ..wire::Compare::default() };
    for (what, compare, expected) in [
        ("version = nothing", compare(0, 0), false),
        ("version > nothing", compare(1, 0), true),
        ("value = nothing", compare(0, 3), true),
        ("lease = nothing", compare(0, 4), true),
        ("mod = a version of 1", wire::Compare { version: Some(1), ..compare(0, 2) }, false),
        ("mod > a version of a million", wire::Compare { version: Some(1_000_000), ..compare(1, 2) }, true),
        // Nothing is compared where the target or the result is none that there is.
        ("an unknown target", compare(0, 99), true),
        ("an unknown target, greater", compare(1, 99), false),
        ("an unknown target, not equal", compare(3, 99), false),
        ("an unknown result", wire::Compare { version: Some(7), ..compare(99, 0) }, true),
    ] {
        let txn = wire::TxnRequest { compare: vec![compare], ..wire::TxnRequest::default() };
        let answer: wire::TxnResponse = wire::call(target, 0, "/etcdserverpb.KV/Txn", txn).await.unwrap();
        assert_eq!(answer.succeeded, expected, "{what}");
    }
}

/// All comparisons must hold; none hold.
pub(crate) async fn branches(target: &Target) {
    let mut client = target.client_of(0).await;
    let key = "txn/branches";
    let is = |version| Compare::version(key, CompareOp::Equal, version);
    for (compares, expected) in
        [(vec![], true), (vec![is(0)], true), (vec![is(0), is(0)], true), (vec![is(0), is(1)], false)]
    {
        let txn = Txn::new()
            .when(compares.clone())
            .and_then([TxnOp::get("txn/then", None)])
            .or_else([TxnOp::get("txn/else", None), TxnOp::get(key, None)]);
        let answer = client.txn(txn).await.unwrap();
        assert_eq!(answer.succeeded(), expected, "{compares:?}");
        assert_eq!(answer.op_responses().len(), if expected { 1 } else { 2 });
    }
    // Branches may be empty, and so may be the whole transaction.
    let empty = client.txn(Txn::new()).await.unwrap();
    assert!(empty.succeeded() && empty.op_responses().is_empty());
    let only_then = Txn::new().when([is(5)]).and_then([TxnOp::put(key, "no", None)]);
    let answer = client.txn(only_then).await.unwrap();
    assert!(!answer.succeeded() && answer.op_responses().is_empty());
    assert!(get(&mut client, key).await.is_none());
}

fn inner(answer: &TxnResponse, at: usize) -> TxnResponse {
    let TxnOpResponse::Txn(inner) = &answer.op_responses()[at] else { panic!("{answer:?}") };
    inner.clone()
}

/// Operations run in order, and each sees those before it; all have one revision.
pub(crate) async fn operations_see_earlier_ones(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "txn/order/";
    put_letters(&mut client, prefix, "ab").await;
    let key = |name: &str| format!("{prefix}{name}");
    let all = || TxnOp::get(prefix, Some(GetOptions::new().with_prefix()));
    let txn = Txn::new().and_then([
        all(),
        TxnOp::put(key("c"), "new", Some(PutOptions::new().with_prev_key())),
        all(),
        TxnOp::delete(key("a"), Some(DeleteOptions::new().with_prev_key())),
        all(),
        TxnOp::put(key("b"), "changed", Some(PutOptions::new().with_prev_key())),
        TxnOp::delete(key("x"), None),
        TxnOp::get(key("b"), None),
    ]);
    let answer = client.txn(txn).await.unwrap();
    let at = revision(answer.header());
    let shown: Vec<_> = answer
        .op_responses()
        .iter()
        .map(|response| match response {
            TxnOpResponse::Get(get) => word(get.kvs(), prefix),
            TxnOpResponse::Put(put) => format!("put over {:?}", put.prev_key().map(|kv| text(kv.value()))),
            TxnOpResponse::Delete(delete) => format!("deleted {}{}", delete.deleted(), word(delete.prev_kvs(), prefix)),
            TxnOpResponse::Txn(_) => "txn".to_owned(),
        })
        .collect();
    let expected = ["ab", "put over None", "abc", "deleted 1a", "bc", "put over Some(\"b\")", "deleted 0", "b"];
    assert_eq!(shown, expected);
    let after = below(&mut client, prefix, GetOptions::new()).await;
    assert!(after.kvs().iter().all(|kv| kv.mod_revision() == at), "one revision for all");
    assert_eq!(after.kvs()[1].version(), 1);
}

/// A transaction within one has its own comparisons, which see what was done before it.
pub(crate) async fn nested(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "txn/nested/";
    let key = |name: &str| format!("{prefix}{name}");
    let exists = |name: &str, version| Compare::version(key(name), CompareOp::Equal, version);
    let innermost = Txn::new()
        .when([exists("b", 0)])
        .and_then([TxnOp::put(key("d"), "d", None), TxnOp::get(key("c"), None)])
        .or_else([TxnOp::put(key("never"), "", None)]);
    let second = Txn::new()
        .when([exists("a", 1)])
        .and_then([TxnOp::put(key("never"), "", None)])
        .or_else([TxnOp::put(key("c"), "c", None), TxnOp::txn(innermost)]);
    let txn = Txn::new().and_then([TxnOp::put(key("a"), "a", None), TxnOp::txn(second), TxnOp::get(key("d"), None)]);
    let answer = client.txn(txn).await.unwrap();
    assert!(answer.succeeded());
    assert_eq!(answer.op_responses().len(), 3);
    let second = inner(&answer, 1);
    // All comparisons are decided before anything is done.
    assert!(!second.succeeded(), "a was not there when the transaction began");
    let innermost = inner(&second, 1);
    assert!(innermost.succeeded());
    assert!(matches!(&innermost.op_responses()[1], TxnOpResponse::Get(get) if get.kvs()[0].value() == b"c"));
    assert!(matches!(&answer.op_responses()[2], TxnOpResponse::Get(get) if get.count() == 1));
    let shown = below(&mut client, prefix, GetOptions::new()).await;
    assert_eq!(word(shown.kvs(), prefix), "acd");
    let at = revision(answer.header());
    assert!(shown.kvs().iter().all(|kv| kv.mod_revision() == at));
}

/// As many operations as there may be, in a branch and among the comparisons.
pub(crate) async fn most_operations(target: &Target) {
    let mut client = target.client_of(0).await;
    let prefix = "txn/most/";
    let key = |at: usize| format!("{prefix}{at:03}");
    let compares: Vec<_> =
        (0..OPERATIONS_MAX).map(|at| Compare::create_revision(key(at), CompareOp::Equal, 0)).collect();
    let puts: Vec<_> = (0..OPERATIONS_MAX).map(|at| TxnOp::put(key(at), "x", None)).collect();
    let gets: Vec<_> = (0..OPERATIONS_MAX).map(|at| TxnOp::get(key(at), None)).collect();
    let txn = || Txn::new().when(compares.clone()).and_then(puts.clone()).or_else(gets.clone());
    let answer = client.txn(txn()).await.unwrap();
    assert!(answer.succeeded());
    assert_eq!(answer.op_responses().len(), OPERATIONS_MAX);
    let answer = client.txn(txn()).await.unwrap();
    assert!(!answer.succeeded());
    assert_eq!(answer.op_responses().len(), OPERATIONS_MAX);
    let shown = below(&mut client, prefix, GetOptions::new().with_count_only()).await;
    assert_eq!(shown.count(), 128);
}

/// A key may be put in both branches, deleted twice, and read at will.
pub(crate) async fn repeated_keys(target: &Target) {
    let mut client = target.client_of(0).await;
    let key = "txn/repeated";
    let put_once = || TxnOp::put(key, "x", None);
    let txn = Txn::new().and_then([put_once(), TxnOp::get(key, None), TxnOp::get(key, None)]).or_else([put_once()]);
    assert!(client.txn(txn).await.unwrap().succeeded());
    let delete = || TxnOp::delete(key, None);
    let answer = client.txn(Txn::new().and_then([delete(), delete()])).await.unwrap();
    let of_one = |response: &TxnOpResponse| match response {
        TxnOpResponse::Delete(delete) => Some(delete.deleted()),
        TxnOpResponse::Put(_) | TxnOpResponse::Get(_) | TxnOpResponse::Txn(_) => None,
    };
    let deleted: Vec<_> = answer.op_responses().iter().filter_map(of_one).collect();
    assert_eq!(deleted, [1, 0]);
    // Both branches of one nested transaction, too: only one of them runs.
    let nested = Txn::new().and_then([put_once()]).or_else([put_once()]);
    assert!(client.txn(Txn::new().and_then([TxnOp::txn(nested)])).await.unwrap().succeeded());
}

/// One of many that compare and set wins each round.
pub(crate) async fn races_have_one_winner(target: &Target) {
    let key = "txn/race";
    let mut client = target.client_of(0).await;
    for round in 0..5 {
        let mut racers = tokio::task::JoinSet::new();
        for racer in 0..target.endpoints.len() * 2 {
            let mut client = target.client_of(racer % target.endpoints.len()).await;
            racers.spawn(async move {
                let txn = Txn::new().when([Compare::version(key, CompareOp::Equal, round)]).and_then([TxnOp::put(
                    key,
                    racer.to_string(),
                    None,
                )]);
                client.txn(txn).await.unwrap().succeeded()
            });
        }
        let won = racers.join_all().await.into_iter().filter(|won| *won).count();
        assert_eq!(won, 1, "in round {round}");
        assert_eq!(get(&mut client, key).await.unwrap().version(), round + 1);
    }
}

/// An operation that fails takes the whole transaction with it.
pub(crate) async fn all_or_nothing(target: &Target) {
    let mut client = target.client_of(0).await;
    let key = "txn/nothing";
    let txn = Txn::new().and_then([
        TxnOp::put(key, "x", None),
        TxnOp::put("txn/no-lease", "x", Some(PutOptions::new().with_lease(0x0bad_1ea5e))),
    ]);
    let refused = super::answers::refusal(client.txn(txn).await);
    assert_eq!(refused, (tonic::Code::NotFound, "etcdserver: requested lease not found".to_owned()));
    assert!(get(&mut client, key).await.is_none());
}

/// An operation of the branch that is not taken may be one that would fail.
pub(crate) async fn failing_operation_of_the_other_branch(target: &Target) {
    let mut client = target.client_of(0).await;
    let never = Compare::version("txn/other", CompareOp::Equal, 7);
    let fails = TxnOp::put("txn/other", "", Some(PutOptions::new().with_ignore_value()));
    let txn = Txn::new().when([never]).and_then([fails]);
    assert!(!client.txn(txn).await.unwrap().succeeded());
}

/// Reads of earlier revisions stand beside writes.
pub(crate) async fn reads_of_earlier_revisions(target: &Target) {
    let mut client = target.client_of(0).await;
    let key = "txn/earlier";
    let first = put(&mut client, key, "1").await;
    let txn = Txn::new().and_then([
        TxnOp::put(key, "2", None),
        TxnOp::get(key, Some(GetOptions::new().with_revision(first))),
        TxnOp::get(key, None),
    ]);
    let answer = client.txn(txn).await.unwrap();
    let of_one = |response: &TxnOpResponse| match response {
        TxnOpResponse::Get(get) => Some(text(get.kvs()[0].value())),
        TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
    };
    let values: Vec<_> = answer.op_responses().iter().filter_map(of_one).collect();
    assert_eq!(values, ["1", "2"]);
}
