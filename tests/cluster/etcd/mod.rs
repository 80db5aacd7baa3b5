//! etcd's v3 API as its clients meet it, case by case. The cases are found right on a real etcd, and hold `kvd` to
//! the same.
//!
//! Every case has its own prefix of keys. Most run side by side on one cluster; those that look at revisions, compact,
//! or change what all share run one after the other; those that kill or spoil have a cluster each.

mod answers;
mod auth;
mod cluster;
mod election;
mod errors;
mod etcdctl;
mod failover;
mod import;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod revision;
mod target;
mod txn;
mod watch;
mod wire;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use target::{Server, Target};

/// With parts of names in it, comma between, only cases of such names run.
const ONLY: &str = "ETCD_CASES";
/// How long a case may take before it counts as stuck.
const CASE_MAX: Duration = Duration::from_secs(40);
/// Cases that run side by side.
const TOGETHER: usize = 8;
/// Clusters at a time, for cases that have one each.
const CLUSTERS: usize = 2;

/// Cases of what kvd does in another way, or not at all: `docs/etcd.md` lists each of these differences.
const DIFFERS: [&str; 10] = [
    "auth::off",
    "auth::users",
    "auth::roles",
    "errors::authentication",
    "errors::users_and_roles",
    "etcdctl::auth_enable",
    "etcdctl::users_and_roles",
    "etcdctl::snapshot_save",
    "maintenance::snapshot",
    "maintenance::alarm_of_space",
];

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a case asks of its target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Nothing: others may write while it runs.
    Nothing,
    /// That nobody else writes.
    Quiet,
    /// A cluster for itself, since it kills nodes or leaves them in a state to throw away.
    Own,
}

struct Case {
    name: &'static str,
    needs: Needs,
    run: fn(Arc<Target>) -> Running,
}

macro_rules! cases {
    ($($needs:ident $case:path,)*) => {
        &[$(Case {
            name: stringify!($case),
            needs: Needs::$needs,
            run: |target| Box::pin(async move { $case(&target).await }),
        }),*]
    };
}

const CASES: &[Case] = cases![
    Nothing kv::versions_and_revisions,
    Nothing kv::missing_key,
    Nothing kv::any_bytes,
    Nothing kv::ranges,
    Nothing kv::empty_ranges,
    Nothing kv::limits,
    Nothing kv::sorts,
    Nothing kv::sort_target_without_order,
    Nothing kv::keys_only_and_count_only,
    Nothing kv::revision_bounds,
    Nothing kv::earlier_revisions,
    Nothing kv::serializable,
    Nothing kv::linearizable,
    Nothing kv::put_with_previous,
    Nothing kv::put_that_keeps,
    Nothing kv::deletes,
    Quiet kv::delete_from_key,
    Nothing kv::large_answers,
    Nothing txn::compares_numbers,
    Nothing txn::compares_numbers_of_a_missing_key,
    Nothing txn::compares_values,
    Nothing txn::compares_value_of_a_missing_key,
    Nothing txn::compares_ranges,
    Nothing txn::compares_an_empty_range,
    Nothing txn::compares_without_operand,
    Nothing txn::branches,
    Nothing txn::operations_see_earlier_ones,
    Nothing txn::nested,
    Nothing txn::most_operations,
    Nothing txn::repeated_keys,
    Nothing txn::races_have_one_winner,
    Nothing txn::all_or_nothing,
    Nothing txn::failing_operation_of_the_other_branch,
    Nothing txn::reads_of_earlier_revisions,
    Quiet revision::headers,
    Quiet revision::changes_step_by_one,
    Quiet revision::no_changes_do_not_step,
    Quiet revision::headers_within_a_transaction,
    Quiet revision::compaction,
    Quiet revision::physical_compaction,
    Quiet revision::compaction_of_nothing,
    Own revision::transaction_with_a_compacted_read,
    Quiet revision::concurrent_puts,
    Quiet revision::deletion_at_the_compacted_revision,
    Nothing lease::grants,
    Nothing lease::longest,
    Nothing lease::revoke_deletes_keys,
    Nothing lease::time_to_live,
    Nothing lease::time_to_live_of_none,
    Nothing lease::list,
    Nothing lease::keys_move,
    Nothing lease::within_a_transaction,
    Nothing lease::keep_alive,
    Nothing lease::keep_alive_of_many,
    Nothing lease::expiry,
    Nothing lease::kept_alive_past_its_time,
    Nothing lease::puts_do_not_keep_alive,
    Nothing watch::from_now_on,
    Nothing watch::from_the_past,
    Nothing watch::past_of_transactions,
    Nothing watch::from_the_future,
    Nothing watch::ranges,
    Nothing watch::filters,
    Nothing watch::previous_values,
    Nothing watch::one_response_for_a_transaction,
    Nothing watch::no_change_no_event,
    Nothing watch::several_on_a_stream,
    Nothing watch::taken_id,
    Nothing watch::cancel_of_none,
    Nothing watch::backwards,
    Quiet watch::empty_key,
    Quiet watch::negative_start,
    Nothing watch::progress,
    Quiet watch::compacted_start,
    Quiet watch::compaction_under_a_watch,
    Nothing watch::long_past,
    Nothing watch::cancel_of_one_behind,
    Nothing watch::fragments,
    Nothing watch::leases_in_events,
    Nothing lock::key_of_a_lock,
    Nothing lock::lease_of_its_own,
    Nothing lock::waits_in_line,
    Nothing lock::names_are_apart,
    Nothing lock::passes_on_when_a_lease_ends,
    Nothing lock::lease_ends_while_waiting,
    Nothing lock::gives_up,
    Nothing lock::refusals,
    Nothing election::campaign_and_proclaim,
    Nothing election::nobody_leads,
    Nothing election::successors_in_line,
    Nothing election::observes,
    Nothing election::observes_before_the_first,
    Nothing cluster::member_list,
    Nothing cluster::header_of_the_member_list,
    Nothing cluster::linearizable_member_list,
    Quiet cluster::announced_member,
    Nothing maintenance::status,
    Quiet maintenance::alarms,
    Quiet maintenance::alarm_of_space,
    Quiet maintenance::hashes,
    Quiet maintenance::defragment,
    Nothing maintenance::snapshot,
    Quiet maintenance::move_leader,
    Quiet maintenance::move_leader_to_itself,
    Nothing maintenance::health,
    Nothing auth::users,
    Nothing auth::roles,
    Nothing auth::roles_of_users,
    Nothing auth::off,
    Nothing auth::client_with_a_password,
    Nothing errors::keys,
    Nothing errors::large_requests,
    Nothing errors::transactions,
    Nothing errors::within_transactions,
    Nothing errors::leases,
    Nothing errors::members,
    Nothing errors::maintenance,
    Nothing errors::authentication,
    Nothing errors::users_and_roles,
    Nothing errors::elections,
    Nothing errors::unknown_methods,
    Nothing errors::unknown_sorts,
    Nothing etcdctl::put_and_get,
    Nothing etcdctl::get_for_programs,
    Nothing etcdctl::del,
    Nothing etcdctl::refusals,
    Nothing etcdctl::auth_enable,
    Nothing etcdctl::txn,
    Nothing etcdctl::watch,
    Nothing etcdctl::watch_of_several,
    Quiet etcdctl::compaction,
    Nothing etcdctl::lease,
    Nothing etcdctl::lock,
    Nothing etcdctl::elect,
    Nothing etcdctl::member_list,
    Quiet etcdctl::endpoints,
    Quiet etcdctl::urls,
    Quiet etcdctl::hashkv,
    Own etcdctl::health_of_a_dead_node,
    Quiet etcdctl::alarms_and_defrag,
    Quiet etcdctl::move_leader,
    Nothing etcdctl::snapshot_save,
    Nothing etcdctl::users_and_roles,
    Nothing etcdctl::with_a_password,
    Nothing etcdctl::seen_by_others,
    Own failover::writes_and_watches,
    Own failover::leases_survive,
    Own failover::locks_survive,
    Own failover::a_minority,
    Own failover::all_at_once,
];

/// Runs one case; returns how it failed, if it did.
async fn run(case: &Case, target: Arc<Target>) -> Option<String> {
    let since = Instant::now();
    let running = tokio::spawn(tokio::time::timeout(CASE_MAX, (case.run)(target)));
    let failed = match running.await {
        Ok(Ok(())) => None,
        Ok(Err(_)) => Some("stuck".to_owned()),
        Err(ended) => Some(match ended.try_into_panic() {
            Ok(panic) => said(&*panic),
            Err(ended) => ended.to_string(),
        }),
    };
    let word = if failed.is_some() { "FAILED" } else { "ok" };
    println!("{word:6} {:5} ms  {}", since.elapsed().as_millis(), case.name);
    failed.map(|failed| format!("{}: {failed}", case.name))
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("panicked").to_owned()
}

async fn run_all(server: Server) {
    if !server.is_installed() {
        println!("skipped: there is no {server:?} here");
        return;
    }
    let only = std::env::var(ONLY).unwrap_or_default();
    let has_etcdctl = target::has_etcdctl();
    if !has_etcdctl {
        println!("skipped: the cases of etcdctl, which is not installed (Debian package etcd-client)");
    }
    let differs = |name: &str| server == Server::Kvd && DIFFERS.iter().any(|known| name.starts_with(known));
    let needs_etcdctl = |name: &str| name.starts_with("etcdctl::") || name.starts_with("failover::");
    let chosen: Vec<_> = CASES
        .iter()
        .filter(|case| only.split(',').any(|part| case.name.contains(part)))
        .filter(|case| !differs(case.name) && (has_etcdctl || !needs_etcdctl(case.name)))
        .collect();
    assert!(!chosen.is_empty(), "no case is named like {only:?}");
    let of = |needs| chosen.iter().filter(move |case| case.needs == needs);
    let shared = Arc::new(Target::start(server).await);
    let together = of(Needs::Nothing).map(|case| run(case, shared.clone()));
    let mut failed: Vec<_> =
        futures_util::stream::iter(together).buffer_unordered(TOGETHER).filter_map(std::future::ready).collect().await;
    for case in of(Needs::Quiet) {
        failed.extend(run(case, shared.clone()).await);
    }
    drop(shared);
    let apart = of(Needs::Own).map(async |case| run(case, Arc::new(Target::start(server).await)).await);
    let apart = futures_util::stream::iter(apart).buffer_unordered(CLUSTERS);
    failed.extend(apart.filter_map(std::future::ready).collect::<Vec<_>>().await);
    assert!(failed.is_empty(), "{} of {} cases failed:\n{}", failed.len(), chosen.len(), failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "proves the cases, not kvd: .ci/run runs it where etcd is installed"]
async fn real_etcd_passes() {
    run_all(Server::Etcd).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kvd_passes() {
    run_all(Server::Kvd).await;
}
