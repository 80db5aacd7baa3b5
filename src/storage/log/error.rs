//! Why the log refuses.

use crate::types::GroupId;

/// Why the log refuses or cannot go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LogError {
    /// A write or sync failed earlier: what is durable is unknown, and the process must end.
    #[error("the raft log has failed and accepts nothing more: {0}")]
    Failed(String),
    /// The log was closed.
    #[error("the raft log is closed")]
    Closed,
    /// The disk is full. Nothing was touched; votes, truncations and purges still work.
    #[error("the disk is full: the raft log takes no new entries until space is freed or entries are purged")]
    Full,
    /// The group's log was damaged. Only removing the group, to rebuild it from its peers, helps.
    #[error("the log of group {group} is quarantined: {reason}")]
    Quarantined {
        /// Which group.
        group: GroupId,
        /// What was found.
        reason: String,
    },
    /// An append that does not continue the log.
    #[error("append to group {group} at index {got}, expected {expected}")]
    NotConsecutive {
        /// Which group.
        group: GroupId,
        /// The next index of its log.
        expected: u64,
        /// The index that was given.
        got: u64,
    },
    /// Something that no frame can hold.
    #[error("{what} of {bytes} bytes exceeds {limit} bytes")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The log's files contradict each other so that nothing in them can be trusted.
    #[error("the raft log is corrupt: {0}")]
    Corrupt(String),
    /// A file operation failed without harm to what is durable.
    #[error("raft log: {0}")]
    Io(String),
    /// A setting out of its bounds.
    #[error("raft log configuration: {0}")]
    Config(String),
}
