//! One owner of leases at work, one call after the other.

use std::cell::RefCell;

use quorate::proto::etcd::etcdserverpb as pb;
use quorate::proto::etcd::etcdserverpb::kv_client::KvClient;

use super::{CALL, LONG_S, NAME, SHORT_S, Setup, own, read};
use crate::chance::Chance;
use crate::leased::{Broken, Owner};
use crate::workload::etcd::{Etcd, Failed, signed, unsigned};
use crate::workload::outcome::text;

/// Leases that an owner has at a time, and the keys that it puts under them.
const LEASES: usize = 3;
const KEYS: usize = 6;

/// One owner at work.
pub(super) struct Caller<'a> {
    number: usize,
    pub(super) etcd: Etcd,
    /// Renewals have a connection of their own: they may reach another node than everything else.
    pub(super) renewing: Etcd,
    pub(super) chance: Chance,
    owner: &'a RefCell<Owner>,
    slots: [Slot; LEASES],
    /// Raised whenever a name must not be used again.
    generation: u64,
    /// Of each key; raised likewise.
    keys: [u64; KEYS],
}

/// A place for a lease.
#[derive(Clone, Copy, Default)]
struct Slot {
    id: i64,
    /// Its owner renews it.
    is_kept: bool,
    /// But not before, in simulated milliseconds: a renewal shows its worth when the next one is long in coming.
    rests_until_ms: u64,
}

impl<'a> Caller<'a> {
    pub(super) fn new(number: usize, owner: &'a RefCell<Owner>, setup: &Setup) -> Self {
        Self {
            number,
            etcd: Etcd::new(setup, &format!("{NAME} {number}"), ""),
            renewing: Etcd::new(setup, &format!("{NAME} renewals {number}"), ""),
            chance: setup.chance(&format!("{NAME} {number}")),
            owner,
            slots: Default::default(),
            generation: 0,
            keys: Default::default(),
        }
    }

    /// Does something, at random.
    pub(super) async fn operate(&mut self, round: u64) -> Result<(), Broken> {
        let at = usize::try_from(self.chance.below(LEASES as u64)).unwrap_or(0);
        let Slot { id, is_kept, rests_until_ms } = self.slots[at];
        let is_due = is_kept && rests_until_ms <= crate::now_ms();
        let is_there = self.owner.borrow().lease(id).is_some_and(|lease| !lease.is_gone());
        if !is_there {
            return self.grant(at).await;
        }
        match self.chance.below(100) {
            0..40 if is_due => self.renew(at).await,
            0..65 => self.put(&round.to_string(), id).await,
            65..70 => self.put(&round.to_string(), 0).await,
            70..74 => self.delete().await,
            74..82 => self.time_left(id).await,
            82..93 => self.look().await,
            93..96 => self.grant_again(at, id).await,
            96..99 => self.revoke(id).await,
            _ => self.renew_a_stranger().await,
        }
    }

    async fn grant(&mut self, at: usize) -> Result<(), Broken> {
        let (shortest, longest) = if self.chance.percent(55) { SHORT_S } else { LONG_S };
        let ttl_s = self.chance.between(shortest, longest);
        let before = self.slots[at].id;
        let may_come = |owner: &Owner| owner.lease(before).is_none_or(|lease| lease.may_be_ended());
        let (chooses, is_spent) = (self.chance.percent(70), may_come(&self.owner.borrow()));
        if chooses && is_spent {
            self.generation += 1;
        }
        let id = match chooses {
            false => 0,
            // An id may be used again.
            true if !is_spent && self.chance.percent(60) => before,
            true => self.own_id(at),
        };
        let called_ms = crate::now_ms();
        let granted = self.etcd.grant(CALL, id, signed(ttl_s)).await;
        tracing::debug!(id, ttl_s, ?granted, "grant");
        let is_kept = self.chance.percent(60);
        match granted {
            Ok(id) => {
                self.slots[at] = Slot { id, is_kept, rests_until_ms: 0 };
                self.owner.borrow_mut().granted(id, ttl_s, called_ms, crate::now_ms())
            }
            Err(Failed::Not(status)) if status.message().contains("already exists") => {
                self.owner.borrow().exists(id)?;
                self.generation += 1;
                Ok(())
            }
            Err(Failed::Not(_)) => Ok(()),
            // It may be granted at any time: nobody uses its id again.
            Err(Failed::Open) => {
                self.generation += 1;
                self.slots[at] = Slot::default();
                Ok(())
            }
        }
    }

    /// No two are the same, whatever the generation.
    fn own_id(&mut self, at: usize) -> i64 {
        self.generation += 1;
        let parts = [(self.number as u64 + 1) * 1_000_000, self.generation * 10, at as u64];
        signed(parts.iter().sum())
    }

    async fn renew(&mut self, at: usize) -> Result<(), Broken> {
        let id = self.slots[at].id;
        let called_ms = crate::now_ms();
        let renewed = self.renewing.keep_alive(CALL, id).await;
        tracing::debug!(id, ?renewed, "renewal");
        if let Ok(Some(ttl)) = renewed {
            self.slots[at].rests_until_ms = called_ms + self.chance.below(unsigned(ttl) * 900 + 1);
        }
        match renewed {
            Ok(Some(ttl)) => {
                self.owner.borrow_mut().renewed(id, unsigned(ttl), called_ms)?;
                // Somebody else may have ended it long ago.
                if self.chance.percent(30) { self.look().await } else { Ok(()) }
            }
            Ok(None) => self.owner.borrow_mut().gone(id, crate::now_ms()),
            Err(_) => Ok(()),
        }
    }

    async fn renew_a_stranger(&mut self) -> Result<(), Broken> {
        match self.renewing.keep_alive(CALL, i64::MAX - signed(self.number as u64)).await {
            Ok(Some(ttl)) => Err(("an unknown lease has no time", format!("{ttl} s"))),
            Ok(None) | Err(_) => Ok(()),
        }
    }

    async fn put(&mut self, value: &str, id: i64) -> Result<(), Broken> {
        let (slot, key) = self.draw_key();
        let put =
            pb::PutRequest { key: key.clone().into(), value: value.to_owned().into(), lease: id, ..Default::default() };
        let put =
            self.etcd.call(CALL, put, |channel, request| async move { KvClient::new(channel).put(request).await });
        let put = put.await;
        tracing::debug!(key, value, id, is_done = put.is_ok(), "put");
        let mut owner = self.owner.borrow_mut();
        match put {
            Ok(_) => owner.wrote(&key, Some(value), id),
            Err(Failed::Not(status)) if status.message().contains("lease not found") => owner.gone(id, crate::now_ms()),
            Err(Failed::Not(_)) => Ok(()),
            Err(Failed::Open) => {
                owner.unsure(&key, Some(value), id);
                self.keys[slot] += 1;
                Ok(())
            }
        }
    }

    async fn delete(&mut self) -> Result<(), Broken> {
        let (slot, key) = self.draw_key();
        let delete = pb::DeleteRangeRequest { key: key.clone().into(), ..Default::default() };
        let deleted = self
            .etcd
            .call(CALL, delete, |channel, request| async move { KvClient::new(channel).delete_range(request).await });
        let deleted = deleted.await;
        let mut owner = self.owner.borrow_mut();
        match deleted {
            Ok(_) => owner.wrote(&key, None, 0),
            Err(Failed::Not(_)) => Ok(()),
            Err(Failed::Open) => {
                owner.unsure(&key, None, 0);
                self.keys[slot] += 1;
                Ok(())
            }
        }
    }

    async fn time_left(&mut self, id: i64) -> Result<(), Broken> {
        let Ok(answer) = self.etcd.time_to_live(CALL, id).await else { return Ok(()) };
        tracing::debug!(id, ttl = answer.ttl, "time to live");
        let mut owner = self.owner.borrow_mut();
        if answer.ttl < 0 {
            return owner.gone(id, crate::now_ms());
        }
        let keys = answer.keys.iter().map(|key| text(key)).collect();
        owner.has(id, unsigned(answer.granted_ttl), unsigned(answer.ttl), &keys)
    }

    async fn look(&mut self) -> Result<(), Broken> {
        let Ok(records) = read(&mut self.etcd, self.number).await else { return Ok(()) };
        self.owner.borrow_mut().read(&records, crate::now_ms()).map(drop)
    }

    /// One that lives is not granted again.
    async fn grant_again(&mut self, at: usize, id: i64) -> Result<(), Broken> {
        let ttl_s = self.chance.between(SHORT_S.0, SHORT_S.1);
        let called_ms = crate::now_ms();
        let granted = self.etcd.grant(CALL, id, signed(ttl_s)).await;
        let mut owner = self.owner.borrow_mut();
        match granted {
            Ok(id) => owner.granted(id, ttl_s, called_ms, crate::now_ms()),
            Err(Failed::Not(_)) => Ok(()),
            // Which of the two there is nobody knows: neither is used, nor anything that hangs on it.
            Err(Failed::Open) => {
                owner.may_end(id);
                self.slots[at] = Slot::default();
                Ok(())
            }
        }
    }

    async fn revoke(&mut self, id: i64) -> Result<(), Broken> {
        let revoked = self.etcd.revoke(CALL, id).await;
        tracing::debug!(id, ?revoked, "revoke");
        judge_revoked(&mut self.owner.borrow_mut(), id, &revoked)
    }

    fn draw_key(&self) -> (usize, String) {
        let slot = usize::try_from(self.chance.below(KEYS as u64)).unwrap_or(0);
        (slot, format!("{}{slot}.{:04}", own(self.number), self.keys[slot]))
    }
}

/// Takes in what an end of a lease that was asked for came to.
pub(super) fn judge_revoked(owner: &mut Owner, id: i64, revoked: &Result<(), Failed>) -> Result<(), Broken> {
    match revoked {
        Ok(()) => owner.ended(id),
        Err(Failed::Not(status)) if status.message().contains("lease not found") => {
            return owner.gone(id, crate::now_ms());
        }
        Err(Failed::Not(_)) => {}
        Err(Failed::Open) => owner.may_end(id),
    }
    Ok(())
}
