//! One try to hold a name: a lease, the wait, the writes, the end.

use std::cell::RefCell;
use std::time::Duration;

use quorate::env::time::{self, Instant};
use quorate::proto::etcd::etcdserverpb as pb;
use quorate::proto::etcd::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate::proto::etcd::etcdserverpb::request_op::Request as Asked;
use quorate::proto::etcd::etcdserverpb::response_op::Response as Answered;
use quorate::proto::etcd::v3electionpb as election;
use quorate::proto::etcd::v3electionpb::election_client::ElectionClient;
use quorate::proto::etcd::v3lockpb as lock;
use quorate::proto::etcd::v3lockpb::lock_client::LockClient;

use super::{CALL, Setup};
use crate::chance::Chance;
use crate::fencing::{Before, Broken, Fencing, Guarded, Hold, Told};
use crate::watched::Keys;
use crate::workload::etcd::{Etcd, Failed, revision_of, signed, unsigned};
use crate::workload::outcome::text;

/// Lives of leases, in seconds.
const TTL_S: (u64, u64) = (2, 7);
/// How often a lease is renewed.
const RENEW_EVERY: Duration = Duration::from_millis(500);
/// Part of its time, in percent, that a lease lives at least: see `workload/ttl.rs`.
const LIVES_PERCENT: u64 = 80;
/// How long a wait may last before it is begun anew.
const WAIT_MAX: Duration = Duration::from_secs(25);
/// How long those wait, in milliseconds, who ask again by another node before the first call has left the line.
const ASKS_AGAIN_MS: (u64, u64) = (50, 1_500);

/// A name to contend for, as a lock or in an election.
#[derive(Clone, Debug)]
pub(super) struct Name {
    pub(super) name: &'static str,
    pub(super) elects: bool,
}

impl Name {
    /// The key that it guards.
    pub(super) fn guarded(&self) -> String {
        format!("guarded/{}", self.name)
    }
}

/// A name that is held.
#[derive(Clone, Debug)]
struct Held {
    key: String,
    /// The revision that made the key.
    fence: u64,
}

pub(super) struct Contender<'a> {
    setup: Setup,
    number: usize,
    round: u64,
    name: Name,
    fencing: &'a RefCell<Fencing>,
    chance: Chance,
    /// Waits on one connection, renews and writes on another.
    waiting: Etcd,
    etcd: Etcd,
    lease: i64,
    ttl_s: u64,
    /// The lease lives until then at least, in simulated milliseconds.
    until_ms: u64,
    held: Option<Held>,
    writes: u64,
}

impl<'a> Contender<'a> {
    pub(super) fn new(setup: &Setup, number: usize, round: u64, name: Name, fencing: &'a RefCell<Fencing>) -> Self {
        let etcd = |what: &str| Etcd::new(setup, &format!("locks {number} {round} {what}"), "");
        Self {
            setup: setup.clone(),
            number,
            round,
            name,
            fencing,
            chance: setup.chance(&format!("locks {number} {round} asks again")),
            waiting: etcd("waits"),
            etcd: etcd("works"),
            lease: 0,
            ttl_s: 0,
            until_ms: 0,
            held: None,
            writes: 0,
        }
    }

    /// Waits for the name, writes while it is held, gives it back or loses it.
    pub(super) async fn contend(&mut self, chance: &Chance) -> Result<(), Broken> {
        // Some have little patience: whoever stands behind them must not take their end for the holder's.
        let patience = if chance.percent(35) { chance.millis(100, 2_500) } else { chance.millis(4_000, 15_000) };
        let ttl_s = chance.between(TTL_S.0, TTL_S.1);
        if !self.wait(ttl_s, time::now() + patience).await? {
            // Or its place in the line stays until the lease ends.
            if chance.percent(50) {
                self.etcd.revoke(CALL, self.lease).await.ok();
            }
            return Ok(());
        }
        for _ in 0..chance.between(1, 7) {
            if self.setup.is_over() || !self.write().await? {
                break;
            }
            if chance.percent(25) {
                self.ask_once_more(chance).await;
            }
            time::sleep(chance.millis(20, 600)).await;
            self.renew().await;
        }
        match chance.below(10) {
            // It stands still, and does not know that its time is over.
            0..3 if !self.setup.is_over() => {
                time::sleep(Duration::from_millis(chance.between(self.ttl_s * 500, self.ttl_s * 1_800))).await;
                self.write().await?;
                if chance.percent(60) {
                    self.give_back(true).await;
                }
            }
            // Its lease ends it.
            3..5 => {}
            5..7 => self.give_back(false).await,
            _ => self.give_back(true).await,
        }
        Ok(())
    }

    /// Waits until `deadline` for the name, under a new lease. Returns whether it is held.
    pub(super) async fn wait(&mut self, ttl_s: u64, deadline: Instant) -> Result<bool, Broken> {
        while time::now() < deadline {
            let called_ms = crate::now_ms();
            let Ok(lease) = self.etcd.grant(CALL, 0, signed(ttl_s)).await else { continue };
            (self.lease, self.ttl_s) = (lease, ttl_s);
            self.until_ms = called_ms + ttl_s * 10 * LIVES_PERCENT;
            if self.stand_in_line(deadline).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn stand_in_line(&mut self, deadline: Instant) -> Result<bool, Broken> {
        let Self { waiting, etcd, name, lease, ttl_s, until_ms, number, chance, .. } = self;
        let value = format!("{number}");
        let granted = async {
            loop {
                let asks_again = chance.percent(30);
                let patience = if asks_again { chance.millis(ASKS_AGAIN_MS.0, ASKS_AGAIN_MS.1) } else { 2 * WAIT_MAX };
                {
                    let asked = time::timeout(patience, ask(waiting, name, *lease, value.clone()));
                    let mut asked = std::pin::pin!(asked);
                    loop {
                        tokio::select! {
                            biased;
                            granted = &mut asked => match granted {
                                Ok(granted) => return granted.ok(),
                                Err(_) => break,
                            },
                            () = time::sleep(RENEW_EVERY) => {}
                        }
                        let called_ms = crate::now_ms();
                        match etcd.keep_alive(CALL, *lease).await {
                            Ok(Some(_)) => *until_ms = called_ms + *ttl_s * 10 * LIVES_PERCENT,
                            // Without a lease there is nothing to wait for.
                            Ok(None) => return None,
                            Err(_) => {}
                        }
                    }
                }
                waiting.leave();
            }
        };
        let Ok(Some((key, fence, granted))) = time::timeout_at(deadline, granted).await else { return Ok(false) };
        let fence = match fence {
            Some(fence) => fence,
            None => match self.fence_of(&key).await? {
                Some(fence) => fence,
                None => return Ok(false),
            },
        };
        let hold = Hold { client: self.number, fence, granted };
        tracing::debug!(name = self.name.name, ?hold, lease = self.lease, "held");
        self.fencing.borrow_mut().holds.push(hold);
        self.held = Some(Held { key, fence });
        Ok(true)
    }

    /// The revision that made the key of a lock; `None` if its lease has ended, or nobody answers.
    async fn fence_of(&mut self, key: &str) -> Result<Option<u64>, Broken> {
        let keys = Keys::from(key);
        for _ in 0..3 {
            let Ok(answer) = self.etcd.range(CALL, &keys, 0).await else { continue };
            if let Some(kv) = answer.kvs.first() {
                return Ok(Some(unsigned(kv.create_revision)));
            }
            self.lost()?;
            return Ok(None);
        }
        Ok(None)
    }

    /// Asks for what it holds, and does not wait for the answer: that takes nothing away.
    async fn ask_once_more(&mut self, chance: &Chance) {
        self.waiting.leave();
        let asked = ask(&mut self.waiting, &self.name, self.lease, format!("{}", self.number));
        time::timeout(chance.millis(1, 60), asked).await.ok();
        self.waiting.leave();
    }

    async fn renew(&mut self) {
        let called_ms = crate::now_ms();
        if let Ok(Some(_)) = self.etcd.keep_alive(CALL, self.lease).await {
            self.until_ms = called_ms + self.ttl_s * 10 * LIVES_PERCENT;
        }
    }

    /// Writes what the name guards. Returns whether it is still held.
    async fn write(&mut self) -> Result<bool, Broken> {
        let Some(held) = self.held.clone() else { return Ok(false) };
        self.writes += 1;
        let value = format!("{}.{}.{}", self.number, self.round, self.writes);
        let guarded = Guarded { fence: held.fence, value: value.clone(), told: Told::Nothing };
        let at = self.fencing.borrow().writes.len();
        self.fencing.borrow_mut().writes.push(guarded);
        let answer = self.etcd.txn(CALL, guard(&held, self.name.guarded(), value)).await;
        let told = match answer {
            Ok(answer) if answer.succeeded => {
                let before = answer.responses.first().and_then(|response| match &response.response {
                    Some(Answered::ResponsePut(put)) => put.prev_kv.as_ref(),
                    _ => None,
                });
                let before = before.map(|kv| Before {
                    value: text(&kv.value),
                    modified: unsigned(kv.mod_revision),
                    version: unsigned(kv.version),
                });
                Told::Applied { revision: revision_of(answer.header.as_ref()), before }
            }
            Ok(_) | Err(Failed::Not(_)) => Told::Refused,
            Err(Failed::Open) => Told::Nothing,
        };
        let is_lost = matches!(told, Told::Refused);
        tracing::debug!(name = self.name.name, fence = held.fence, ?told, "guarded write");
        self.fencing.borrow_mut().writes[at].told = told;
        if is_lost && self.is_known_lost().await {
            self.lost()?;
            return Ok(false);
        }
        Ok(true)
    }

    /// A write may have been refused because it was never sent; a key that is not there is lost.
    async fn is_known_lost(&mut self) -> bool {
        let Some(held) = &self.held else { return true };
        let keys = Keys::from(held.key.as_str());
        let fence = held.fence;
        let found = self.etcd.range(CALL, &keys, 0).await;
        found.is_ok_and(|found| found.kvs.first().is_none_or(|kv| unsigned(kv.create_revision) != fence))
    }

    /// The key of the lock is gone, which nobody may take away but its lease.
    fn lost(&self) -> Result<(), Broken> {
        let now_ms = crate::now_ms();
        if now_ms >= self.until_ms {
            return Ok(());
        }
        let detail =
            format!("{:?} of client {} was lost at {now_ms}, before {}", self.held, self.number, self.until_ms);
        Err(("a lock stays with its holder", detail))
    }

    /// Gives the name back by itself, or with the lease.
    pub(super) async fn give_back(&mut self, by_name: bool) {
        let Some(held) = self.held.clone().filter(|_| by_name) else {
            self.etcd.revoke(CALL, self.lease).await.ok();
            return;
        };
        let key = held.key.into();
        if self.name.elects {
            let leader = Some(election::LeaderKey {
                name: self.name.name.into(),
                key,
                rev: signed(held.fence),
                lease: self.lease,
            });
            let resign = election::ResignRequest { leader };
            let resigned = self.etcd.call(CALL, resign, |channel, request| async move {
                ElectionClient::new(channel).resign(request).await
            });
            resigned.await.ok();
        } else {
            let unlock = lock::UnlockRequest { key };
            let unlocked = self
                .etcd
                .call(CALL, unlock, |channel, request| async move { LockClient::new(channel).unlock(request).await });
            unlocked.await.ok();
        }
    }
}

/// Waits for a name. Returns the key, the revision that made it if that is told, and the revision of the answer.
async fn ask(etcd: &mut Etcd, name: &Name, lease: i64, value: String) -> Result<(String, Option<u64>, u64), Failed> {
    if name.elects {
        let campaign = election::CampaignRequest { name: name.name.into(), lease, value: value.into() };
        let answer = etcd.call(WAIT_MAX, campaign, |channel, request| async move {
            ElectionClient::new(channel).campaign(request).await
        });
        let answer = answer.await?;
        let leader = answer.leader.ok_or(Failed::Open)?;
        return Ok((text(&leader.key), Some(unsigned(leader.rev)), revision_of(answer.header.as_ref())));
    }
    let request = lock::LockRequest { name: name.name.into(), lease };
    let answer =
        etcd.call(WAIT_MAX, request, |channel, request| async move { LockClient::new(channel).lock(request).await });
    let answer = answer.await?;
    Ok((text(&answer.key), None, revision_of(answer.header.as_ref())))
}

/// A put that takes place only while the name is held.
fn guard(held: &Held, key: String, value: String) -> pb::TxnRequest {
    let compare = pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: held.key.clone().into(),
        target_union: Some(TargetUnion::CreateRevision(signed(held.fence))),
        ..Default::default()
    };
    let put = pb::PutRequest { key: key.into(), value: value.into(), prev_kv: true, ..Default::default() };
    let success = vec![pb::RequestOp { request: Some(Asked::RequestPut(put)) }];
    pb::TxnRequest { compare: vec![compare], success, failure: Vec::new() }
}
