//! What a client was told of its operations, and what that says about the truth.

use std::time::Duration;

use quorate::client::{Client, Error, ErrorCode, Keys, Outcome, Record, Result, Scan, ScanOptions};

use super::Setup;
use crate::chance::Chance;

/// What became of a write, as far as its client was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate<T> {
    /// Applied, with this answer.
    Done(T),
    /// Applied; the answer was lost.
    Applied,
    /// It changed nothing and never will.
    Not,
    /// It may take effect, now or later; so may one that is still in flight.
    Open,
}

impl<T> Fate<T> {
    /// Reads the result of a write. A refusal that no fault explains is a violation.
    pub(super) fn of(setup: &Setup, result: Result<T>) -> Self {
        let error = match result {
            Ok(answer) => return Self::Done(answer),
            Err(error) => error,
        };
        explain(setup, &error);
        match error.outcome {
            Outcome::Applied => Self::Applied,
            Outcome::NotApplied => Self::Not,
            Outcome::Unknown => Self::Open,
        }
    }
}

/// Holds an error against what faults may cause: a well-formed request is never called malformed, nor
/// is what was acknowledged ever in the future.
pub(super) fn explain(setup: &Setup, error: &Error) {
    let is_unexplained = matches!(
        error.code,
        ErrorCode::InvalidArgument
            | ErrorCode::LimitExceeded
            | ErrorCode::KeyspaceNotFound
            | ErrorCode::CrossShard
            | ErrorCode::FutureRevision
            | ErrorCode::PageToken
            | ErrorCode::LeaseNotFound
    );
    if is_unexplained || error.denied {
        setup.seen.violation("errors have a reason", format!("{:?}: {error}", error.code));
    }
}

/// Everything under a prefix at one revision, read in pages of random size.
pub(super) async fn read(client: &Client, prefix: &str, chance: &Chance) -> Result<(u64, Vec<Record>)> {
    let page = u32::try_from(chance.between(20, 400)).unwrap_or(1);
    all_of(client.scan(Keys::prefix(prefix.to_owned()), ScanOptions::new().page_records(page))).await
}

/// The rest of a scan, with its revision.
pub(super) async fn all_of(mut scan: Scan) -> Result<(u64, Vec<Record>)> {
    let mut records = Vec::new();
    while let Some(page) = scan.next_page().await? {
        records.extend(page);
    }
    Ok((scan.revision(), records))
}

/// Everything under a prefix after the healing, when a failure to read is a violation too.
pub(super) async fn read_back(setup: &Setup, prefix: &str) -> Option<Vec<Record>> {
    let chance = setup.chance(&format!("read back {prefix}"));
    let Some(client) = setup.client(Duration::from_secs(20)).await else {
        setup.seen.violation("service after the healing", "no node answers");
        return None;
    };
    match read(&client, prefix, &chance).await {
        Ok((_, records)) => Some(records),
        Err(error) => {
            setup.seen.violation("service after the healing", error.to_string());
            None
        }
    }
}

/// A key or value of a workload, all of which are text.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
