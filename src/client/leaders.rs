//! Whoever holds a name, one after the other.

use bytes::Bytes;

use super::contest::{below, first, oldest_below};
use super::error::{Error, Result};
use super::options::{Keys, WatchOptions};
use super::txn::{Op, Txn};
use super::watch::Watch;
use super::{Client, EventKind, Record};
use crate::proto::v1::{self, ErrorCode};

/// The holders of a name, and what they say of themselves; see [`Client::leaders`].
pub struct Leaders {
    client: Client,
    name: Bytes,
    watch: Option<Watch>,
    /// The holder's key, as far as it was shown.
    leader: Option<Bytes>,
    /// Up to where that is known.
    revision: u64,
    /// The holder must be looked up: as it was at this revision, or with 0 as it is now.
    look_at: Option<u64>,
}

impl Client {
    /// Follows who holds a name: the present holder first, and from then on whoever becomes it or changes its value.
    pub fn leaders(&self, name: impl Into<Bytes>) -> Leaders {
        let (client, name) = (self.clone(), name.into());
        Leaders { client, name, watch: None, leader: None, revision: 0, look_at: None }
    }
}

impl Leaders {
    /// The next holder. Dropping the future loses none.
    ///
    /// # Errors
    /// As a watch of the keys below the name.
    pub async fn next(&mut self) -> Result<Record> {
        loop {
            match self.advance().await {
                Ok(Some(record)) => return Ok(record),
                Ok(None) => {}
                // What was missed is gone for good; the present is not.
                Err(error) if error.code == ErrorCode::Compacted => (self.watch, self.look_at) = (None, None),
                Err(error) => return Err(error),
            }
        }
    }

    async fn advance(&mut self) -> Result<Option<Record>> {
        if self.watch.is_none() {
            let (start, end) = below(&self.name);
            let mut watch = self.client.watch_range(&Keys::all().from(start).to(end), WatchOptions::new());
            watch.begin().await?;
            (self.watch, self.look_at) = (Some(watch), Some(0));
        }
        if let Some(at) = self.look_at {
            let holder = v1::Range { revision: at, ..oldest_below(&self.name) };
            let result = self.client.repeatable(Txn::new().then(Op::of_range(holder))).await?;
            self.revision = if at == 0 { result.revision } else { at };
            self.look_at = None;
            let holder = first(&result, 0).cloned();
            self.leader = holder.as_ref().map(|record| record.key.clone());
            return Ok(holder);
        }
        let Some(watch) = &mut self.watch else { return Ok(None) };
        let event = watch.next().await?;
        let is_put = event.kind() == EventKind::Put;
        let record = event.record.ok_or_else(no_record)?;
        if record.mod_revision <= self.revision {
            return Ok(None);
        }
        let is_leaders = self.leader.as_ref().is_some_and(|leader| *leader == record.key);
        if is_put && (is_leaders || self.leader.is_none()) {
            self.leader = Some(record.key.clone());
            return Ok(Some(record));
        }
        if !is_put && is_leaders {
            (self.leader, self.look_at) = (None, Some(record.mod_revision));
        }
        Ok(None)
    }
}

fn no_record() -> Error {
    Error::not_applied(ErrorCode::Internal, "the server showed a change without its record")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::client::PutOptions;
    use crate::client::fake::Fake;
    use crate::env::time;

    #[tokio::test(start_paused = true)]
    async fn each_leader_is_shown_with_its_value() {
        const TTL: Duration = Duration::from_secs(30);
        let fake = Fake::start(1);
        let client = fake.client(Duration::from_secs(5)).await;
        let mut leaders = client.leaders("e");
        assert!(time::timeout(Duration::from_secs(1), leaders.next()).await.is_err(), "nobody leads");
        let first = client.contend("e", "one", TTL).await.unwrap();
        assert_eq!(leaders.next().await.unwrap().value, "one");
        let second = client.contend("e", "two", TTL).await.unwrap();
        assert!(time::timeout(Duration::from_secs(1), leaders.next()).await.is_err(), "who waits does not lead");
        client.put_with(first.key().clone(), "uno", &PutOptions::new().lease(first.lease())).await.unwrap();
        assert_eq!(leaders.next().await.unwrap().value, "uno");
        assert_eq!(client.leaders("e").next().await.unwrap().value, "uno");
        first.leave().await.unwrap();
        assert_eq!(leaders.next().await.unwrap().key, second.key());
    }
}
