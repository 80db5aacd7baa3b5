//! Reads of a client: get, scan, count.

use bytes::Bytes;

use super::call::{Plan, Route, Safety};
use super::routes::KeyRange;
use super::{Client, Keys, ReadOptions, Record, Result, Scan, ScanOptions};
use crate::env::time;
use crate::proto::v1::{CountRequest, GetRequest};

impl Client {
    /// Reads a key, linearizably unless the client's settings say otherwise.
    ///
    /// # Errors
    /// When nobody who may serve it could be reached in time, or the key is refused.
    ///
    /// ```no_run
    /// # async fn example(client: quorate::client::Client) -> quorate::client::Result<()> {
    /// match client.get("config/mode").await? {
    ///     Some(record) => println!("{:?}, version {}", record.value, record.version),
    ///     None => println!("not set"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Record>> {
        self.get_at(key, 0).await
    }

    /// Reads a key as it was at a revision of its shard; 0 is the present.
    ///
    /// # Errors
    /// As [`get`](Self::get); `COMPACTED` or `FUTURE_REVISION` when there is no such revision.
    pub async fn get_at(&self, key: impl Into<Bytes>, revision: u64) -> Result<Option<Record>> {
        self.get_with(key, &ReadOptions::new().revision(revision)).await
    }

    /// Reads a key with options.
    ///
    /// # Errors
    /// As [`get_at`](Self::get_at).
    ///
    /// ```no_run
    /// # async fn example(client: quorate::client::Client) -> quorate::client::Result<()> {
    /// use quorate::client::{Consistency, ReadOptions};
    ///
    /// let nearby = ReadOptions::new().consistency(Consistency::Follower);
    /// let record = client.get_with("config/mode", &nearby).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_with(&self, key: impl Into<Bytes>, options: &ReadOptions) -> Result<Option<Record>> {
        let key = key.into();
        let ranges = [KeyRange::key(&key)];
        let (level, max_stale_ms) = self.level(options);
        let request = GetRequest { key, revision: options.revision, level, max_stale_ms, target: None };
        let answer =
            self.core.call(&request, &self.read(Route::Keys { keyspace: &self.keyspace, ranges: &ranges })).await?;
        Ok(answer.record)
    }

    /// Records of a range in key order, all of one revision in each shard; see [`Scan`].
    pub fn scan(&self, keys: Keys, options: ScanOptions) -> Scan {
        Scan::new(self.clone(), &keys, options)
    }

    /// How many keys a range holds.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn count(&self, keys: Keys) -> Result<u64> {
        self.count_with(keys, &ReadOptions::new()).await
    }

    /// How many keys a range holds, with options; a revision among them is ignored.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn count_with(&self, keys: Keys, options: &ReadOptions) -> Result<u64> {
        if keys.is_empty() {
            return Ok(0);
        }
        let ranges = [keys.touched()];
        let end = keys.end.unwrap_or_default();
        let (level, max_stale_ms) = self.level(options);
        let request = CountRequest { start: keys.start, end, level, max_stale_ms, target: None };
        let route = Route::Gather { keyspace: &self.keyspace, ranges: &ranges };
        Ok(self.core.call(&request, &self.read(route)).await?.count)
    }

    fn level(&self, options: &ReadOptions) -> (i32, u64) {
        options.consistency.unwrap_or(self.consistency).wire()
    }

    pub(crate) fn read<'a>(&self, route: Route<'a>) -> Plan<'a> {
        Plan { route, safety: Safety::Read, deadline: time::now() + self.timeout, once: false }
    }
}
