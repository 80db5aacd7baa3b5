//! Requests on a shard as a whole: its leases, and its history.

use std::sync::Arc;

use super::{Kv, only_shard, unexpected};
use crate::env::chance;
use crate::env::time::Instant;
use crate::node::Failure;
use crate::node::near::Level;
use crate::node::recent::cost;
use crate::proto::internal::{
    Compact, GrantLease, RevokeLease, command_result, shard_command, shard_read, shard_read_result,
};
use crate::proto::v1::{self, ErrorCode};
use crate::shard::Interval;
use crate::types::limits::{COMPACTION_STEP, LEASE_ID_MAX, PAGE_BYTES_MAX};

impl Kv {
    pub(in crate::node) async fn compact(
        &self,
        request: v1::CompactRequest,
        deadline: Instant,
    ) -> Result<v1::CompactResponse, Failure> {
        let map = self.router.map();
        let shard = only_shard(&map, request.target.as_ref())?;
        let mut is_first = true;
        loop {
            // The steps that follow go on with the same.
            let anew = request.anew && is_first;
            let compact = Compact { revision: request.revision, step_max: COMPACTION_STEP, anew };
            let step = self.command_of(&map, shard, shard_command::Kind::Compact(compact), deadline).await;
            let executed = step.map_err(|failure| if is_first { failure } else { begun(failure) })?;
            is_first = false;
            match executed.result.kind {
                // What is left the shard's leader goes on with by itself.
                Some(command_result::Kind::Done(done)) if request.wait && done.more => {}
                Some(command_result::Kind::Done(_)) => {
                    return Ok(v1::CompactResponse { header: Some(executed.header) });
                }
                _ => return Err(unexpected()),
            }
        }
    }

    pub(in crate::node) async fn events(
        &self,
        request: v1::EventsRequest,
        deadline: Instant,
    ) -> Result<v1::EventsResponse, Failure> {
        let map = self.router.map();
        let shard = only_shard(&map, request.target.as_ref())?;
        let level = Level::of(request.level(), 0)?;
        let v1::EventsRequest { from_revision, ranges, previous, limit, .. } = request;
        let mut from = shard_read::Events { from_revision, ranges, previous, limit, from_sub: 0 };
        let mut events = Vec::new();
        let mut bytes = 0;
        let mut header = None;
        loop {
            let read = self.read(&map, shard, shard_read::Kind::Events(from.clone()), level, deadline).await?;
            let Some(shard_read_result::Kind::Events(page)) = read.result.kind else { return Err(unexpected()) };
            // The answer is as new as its first part was read.
            let header = header.get_or_insert(read.header);
            bytes += page.events.iter().map(cost).sum::<usize>();
            events.extend(page.events);
            if page.next_sub == 0 {
                let (header, next_revision) = (Some(header.clone()), page.next_revision);
                return Ok(v1::EventsResponse { header, events, next_revision });
            }
            if (page.next_revision, page.next_sub) == (from.from_revision, from.from_sub) {
                let message = "a replica that was asked for the rest of a revision has not come so far; try again";
                return Err(Failure::retry(ErrorCode::Unavailable, message));
            }
            // The rest of a revision that is larger than a page. One may have replaced more than any answer can hold.
            from.previous &= bytes < PAGE_BYTES_MAX;
            (from.from_revision, from.from_sub) = (page.next_revision, page.next_sub);
        }
    }

    pub(in crate::node) async fn changes(
        &self,
        request: v1::EventsRequest,
        deadline: Instant,
    ) -> Result<v1::EventsResponse, Failure> {
        let shard = only_shard(&self.router.map(), request.target.as_ref())?.id;
        if let Some(near) = self.router.near(shard) {
            let (from, target) = (request.from_revision, request.target.clone());
            let read = async |previous| {
                let whole = v1::EventsRequest { target, from_revision: from, previous, ..Default::default() };
                self.events(v1::EventsRequest { level: v1::ReadLevel::Local.into(), ..whole }, deadline).await
            };
            if let Some(pages) = near.recent.pages(from, request.previous, read).await? {
                return Ok(asked_for(&request, &pages));
            }
        }
        self.events(request, deadline).await
    }

    pub(in crate::node) async fn grant_lease(
        &self,
        request: v1::GrantLeaseRequest,
        deadline: Instant,
    ) -> Result<v1::GrantLeaseResponse, Failure> {
        let map = self.router.map();
        let shard = only_shard(&map, request.target.as_ref())?;
        loop {
            let lease = if request.lease == 0 { (chance::bits() & LEASE_ID_MAX).max(1) } else { request.lease };
            let grant = shard_command::Kind::GrantLease(GrantLease { lease, ttl_ms: request.ttl_ms });
            match self.command_of(&map, shard, grant, deadline).await {
                Ok(executed) => {
                    let (header, ttl_ms) = (Some(executed.header), request.ttl_ms);
                    return Ok(v1::GrantLeaseResponse { header, lease, ttl_ms });
                }
                // Somebody has the id that was drawn.
                Err(failure) if request.lease == 0 && failure.detail.code() == ErrorCode::AlreadyExists => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    pub(in crate::node) async fn revoke_lease(
        &self,
        request: v1::RevokeLeaseRequest,
        deadline: Instant,
    ) -> Result<v1::RevokeLeaseResponse, Failure> {
        let map = self.router.map();
        let shard = only_shard(&map, request.target.as_ref())?;
        let revoke = shard_command::Kind::RevokeLease(RevokeLease { lease: request.lease });
        let executed = self.command_of(&map, shard, revoke, deadline).await?;
        Ok(v1::RevokeLeaseResponse { header: Some(executed.header) })
    }

    pub(in crate::node) async fn renew_lease(
        &self,
        request: v1::RenewLeaseRequest,
        deadline: Instant,
    ) -> Result<v1::RenewLeaseResponse, Failure> {
        let map = self.router.map();
        let shard = only_shard(&map, request.target.as_ref())?;
        let timed = self.router.renew_lease(shard.id, request.lease, deadline).await?;
        if timed.ttl_ms == 0 {
            return Err(no_lease(request.lease));
        }
        Ok(v1::RenewLeaseResponse { header: Some(self.bare_header(&map, shard)), ttl_ms: timed.ttl_ms })
    }

    pub(in crate::node) async fn lease_time(
        &self,
        request: v1::LeaseTimeRequest,
        deadline: Instant,
    ) -> Result<v1::LeaseTimeResponse, Failure> {
        let map = self.router.map();
        let shard = only_shard(&map, request.target.as_ref())?;
        let timed = self.router.lease_time(shard.id, request.lease, deadline).await?;
        let read = shard_read::Lease { lease: request.lease, keys: request.keys };
        let read = self.read(&map, shard, shard_read::Kind::Lease(read), Level::Leader, deadline).await?;
        match read.result.kind {
            Some(shard_read_result::Kind::Lease(lease)) if timed.ttl_ms > 0 && lease.ttl_ms > 0 => {
                Ok(v1::LeaseTimeResponse {
                    header: Some(read.header),
                    ttl_ms: timed.ttl_ms,
                    remaining_ms: timed.remaining_ms,
                    keys: lease.keys,
                })
            }
            Some(shard_read_result::Kind::Lease(_)) => Err(no_lease(request.lease)),
            _ => Err(unexpected()),
        }
    }

    pub(in crate::node) async fn leases(
        &self,
        request: v1::LeasesRequest,
        deadline: Instant,
    ) -> Result<v1::LeasesResponse, Failure> {
        let map = self.router.map();
        let shard = only_shard(&map, request.target.as_ref())?;
        let leases = shard_read::Kind::Leases(shard_read::Leases {});
        let read = self.read(&map, shard, leases, Level::Leader, deadline).await?;
        match read.result.kind {
            Some(shard_read_result::Kind::Leases(leases)) => {
                Ok(v1::LeasesResponse { header: Some(read.header), leases: leases.leases })
            }
            _ => Err(unexpected()),
        }
    }
}

/// Whatever became of a later step: the older revisions can be read no more, and the rest follows by itself.
fn begun(mut failure: Failure) -> Failure {
    failure.detail.set_outcome(v1::Outcome::Applied);
    failure.detail.retryable = false;
    failure
}

fn no_lease(lease: u64) -> Failure {
    let message = format!("lease {lease} does not exist, or its time is over: grant another one");
    Failure::refused(ErrorCode::LeaseNotFound, message)
}

/// What a request asks for of all that has changed.
fn asked_for(request: &v1::EventsRequest, pages: &[Arc<v1::EventsResponse>]) -> v1::EventsResponse {
    let ranges: Vec<_> =
        request.ranges.iter().map(|range| Interval::of_operation(&range.key, &range.range_end)).collect();
    let is_asked_for = |event: &&v1::Event| {
        event.record.as_ref().is_some_and(|record| {
            record.mod_revision >= request.from_revision
                && (ranges.is_empty() || ranges.iter().any(|range| range.contains(&record.key)))
        })
    };
    let shown = |event: &v1::Event| v1::Event {
        previous: if request.previous { event.previous.clone() } else { None },
        ..event.clone()
    };
    let last = pages.last();
    v1::EventsResponse {
        header: last.and_then(|page| page.header.clone()),
        events: pages.iter().flat_map(|page| &page.events).filter(is_asked_for).map(shown).collect(),
        next_revision: last.map_or(request.from_revision, |page| page.next_revision),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_pages_that_all_share_each_gets_what_it_asked_for() {
        let event = |key: &'static str, mod_revision| {
            let record = v1::Record { key: key.into(), mod_revision, ..Default::default() };
            v1::Event { record: Some(record.clone()), previous: Some(record), ..Default::default() }
        };
        let page = |events, next_revision| Arc::new(v1::EventsResponse { events, next_revision, header: None });
        let pages = [page(vec![event("a", 3), event("b", 4)], 5), page(vec![event("a", 5), event("ab", 5)], 6)];
        let range = |key: &'static str, end: &'static str| v1::KeyRange { key: key.into(), range_end: end.into() };
        let asked = |from_revision, ranges, previous| {
            let request = v1::EventsRequest { from_revision, ranges, previous, ..Default::default() };
            let answer = asked_for(&request, &pages);
            assert_eq!(answer.next_revision, 6);
            assert!(answer.events.iter().all(|event| event.previous.is_some() == previous));
            answer.events.iter().map(|event| event.record.as_ref().unwrap().mod_revision).collect::<Vec<_>>()
        };
        assert_eq!(asked(1, vec![], true), [3, 4, 5, 5]);
        assert_eq!(asked(4, vec![range("a", "")], false), [5]);
        assert_eq!(asked(4, vec![range("a", "b"), range("b", "")], false), [4, 5, 5]);
        assert!(asked(6, vec![], false).is_empty());
    }
}
