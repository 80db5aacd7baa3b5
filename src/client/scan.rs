//! A scan: pages of records in key order, all of one revision, or, over many shards, of one for each.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::stream;

use super::Client;
use super::call::{Plan, Route, Safety};
use super::error::Result;
use super::options::{Keys, ScanOptions};
use super::routes::KeyRange;
use crate::env::time;
use crate::proto::v1::{Record, ScanRequest};
use crate::types::limits::{PAGE_RECORDS_DEFAULT, PAGE_RECORDS_MAX};

/// Where a scan stands: give it to [`ScanOptions::resume`] to go on from there, even in another
/// process. It pins the scan's revision.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScanPosition {
    /// The server's page token; empty before the first page.
    pub token: Bytes,
    /// The revision that all pages show.
    pub revision: u64,
    /// Records that were returned before, counted against the limit.
    pub returned: u64,
}

/// A scan in progress. After an error it can be asked again and goes on where it was.
///
/// ```no_run
/// # async fn example(client: quorate::client::Client) -> quorate::client::Result<()> {
/// use quorate::client::{Keys, ScanOptions};
///
/// let mut scan = client.scan(Keys::prefix("user/"), ScanOptions::new().limit(100));
/// while let Some(record) = scan.next().await? {
///     println!("{:?} = {:?}", record.key, record.value);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Scan {
    client: Client,
    ranges: [KeyRange; 1],
    request: ScanRequest,
    limit: Option<u64>,
    position: ScanPosition,
    buffered: VecDeque<Record>,
    finished: bool,
}

impl Scan {
    pub(crate) fn new(client: Client, keys: &Keys, options: ScanOptions) -> Self {
        let page_max = u32::try_from(PAGE_RECORDS_MAX).unwrap_or(u32::MAX);
        let page_default = u32::try_from(PAGE_RECORDS_DEFAULT).unwrap_or(page_max);
        let wanted = options.limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(u32::MAX);
        let page = options.page_records.unwrap_or(page_default).min(page_max).min(wanted).max(1);
        let position = options.resume.unwrap_or_default();
        let (level, max_stale_ms) = options.consistency.unwrap_or(client.consistency).wire();
        let request = ScanRequest {
            start: keys.start.clone(),
            end: keys.end.clone().unwrap_or_default(),
            reverse: options.reverse,
            limit: page,
            keys_only: options.keys_only,
            revision: options.revision,
            level,
            max_stale_ms,
            ..ScanRequest::default()
        };
        let finished = keys.is_empty() || options.limit.is_some_and(|limit| limit <= position.returned);
        let ranges = [keys.touched()];
        Self { client, ranges, request, limit: options.limit, position, buffered: VecDeque::new(), finished }
    }

    /// The next page; `None` after the last. A page may be empty.
    ///
    /// # Errors
    /// As any read; `COMPACTED` when the pinned revision is gone.
    pub async fn next_page(&mut self) -> Result<Option<Vec<Record>>> {
        if !self.buffered.is_empty() {
            let page: Vec<_> = self.buffered.drain(..).collect();
            self.position.returned += page.len() as u64;
            return Ok(Some(page));
        }
        if !self.fetch().await? {
            return Ok(None);
        }
        let page: Vec<_> = self.buffered.drain(..).collect();
        self.position.returned += page.len() as u64;
        Ok(Some(page))
    }

    /// The next record; `None` after the last.
    ///
    /// # Errors
    /// As [`next_page`](Self::next_page).
    pub async fn next(&mut self) -> Result<Option<Record>> {
        loop {
            if let Some(record) = self.buffered.pop_front() {
                self.position.returned += 1;
                return Ok(Some(record));
            }
            if !self.fetch().await? {
                return Ok(None);
            }
        }
    }

    /// The scan as a stream, which ends after the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Record>> + Send {
        stream::try_unfold(self, |mut scan| async move { Ok(scan.next().await?.map(|record| (record, scan))) })
    }

    /// The revision that all pages show; 0 before the first page, and over many shards.
    pub fn revision(&self) -> u64 {
        self.position.revision
    }

    /// Where the next page begins; `None` while records of a page were taken one by one and some
    /// are left, and after the last page.
    pub fn position(&self) -> Option<ScanPosition> {
        (self.buffered.is_empty() && !self.finished).then(|| self.position.clone())
    }

    async fn fetch(&mut self) -> Result<bool> {
        if self.finished {
            return Ok(false);
        }
        let request = ScanRequest { page_token: self.position.token.clone(), ..self.request.clone() };
        let plan = Plan {
            route: Route::Gather { keyspace: &self.client.keyspace, ranges: &self.ranges },
            safety: Safety::Read,
            deadline: time::now() + self.client.timeout,
            once: false,
        };
        let answer = self.client.core.call(&request, &plan).await?;
        self.position.revision = answer.revision;
        self.buffered = answer.records.into();
        if let Some(limit) = self.limit {
            let left = limit.saturating_sub(self.position.returned);
            self.buffered.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            self.finished = self.buffered.len() as u64 >= left;
        }
        self.finished |= answer.next_page.is_empty();
        self.position.token = answer.next_page;
        Ok(true)
    }
}
