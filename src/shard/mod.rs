//! The key-value state machine of a shard: records with revisions, transactions, sessions, leases,
//! compaction, and the reads over what they leave behind.
//!
//! Pure: state and command in, effects and answer out. Knows keys, values and revisions; knows no
//! clock, no task, no network, and nothing of the group or node it runs in. What needs time
//! (expiry) is bookkeeping that is fed with instants from outside.
//!
//! | file | what |
//! |---|---|
//! | [`machine`] | applies commands: the way in |
//! | `txn`, `compare`, `range`, `mutation` | transactions and their parts; what changing one key writes |
//! | `sessions`, `leases`, `compaction`, [`fence`] | the other commands |
//! | `blocks` | counts of live keys, so that counting needs no walk |
//! | [`read`], `events` | reads at a revision; what changed since one |
//! | [`check`] | what is refused before it is proposed |
//! | [`changes`], [`expiry`] | what a leader keeps in mind to end leases and sessions |
//! | [`digest`] | one number for the whole state, to compare replicas |
//! | `table/` | keys and values as stored, one file a table |

mod blocks;
pub mod changes;
pub mod check;
mod compaction;
mod compare;
pub mod digest;
mod error;
mod events;
pub mod expiry;
pub mod fence;
mod interval;
mod leases;
pub mod machine;
mod mutation;
mod range;
pub mod read;
mod sessions;
mod table;
mod txn;
mod visible;

pub use changes::Changes;
pub use check::WriteLimits;
pub use compaction::History;
pub use error::ShardError;
pub use expiry::{Expiry, Renewed};
pub use interval::Interval;
pub use machine::ShardMachine;

#[cfg(test)]
mod blocks_test;
#[cfg(test)]
mod check_test;
#[cfg(test)]
mod events_test;
#[cfg(test)]
mod expiry_test;
#[cfg(test)]
mod machine_test;
#[cfg(test)]
mod model_test;
#[cfg(test)]
mod testing;
