//! Everything openraft: types, log store, state machine adapter, transport, snapshot transfer and
//! the group handle. Commands are opaque bytes here.

pub mod apply;
mod codec;
mod flusher;
pub mod group;
pub mod host;
mod log_store;
mod machine;
pub mod members;
mod observe;
pub mod peers;
mod read_index;
mod registry;
mod runtime;
mod settings;
mod snapshot;
mod start;
mod status;
#[cfg(test)]
mod suite_test;
#[cfg(test)]
mod test_bed;
#[cfg(test)]
mod test_cluster;
mod transport;
mod types;

pub use flusher::LOG_ENTRIES_KEPT;
pub use group::{Applied, Group, GroupSpec, GroupStatus, ProposeError, ReadError, Role};
pub use host::{ForwardError, HelloError, Host, HostConfig, HostError, PeerHandler, PeerInfo, join};
pub use members::{ChangeError, Member, Members};
pub use peers::{FileError, Identity, IdentityError, Known, PeerBook, PeerBookError, joining_token};
pub use read_index::{Confirm, IndexApplied, ReadIndex};
pub use settings::TickConfig;
pub use start::GroupError;
