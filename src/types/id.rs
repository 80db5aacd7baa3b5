//! Identities. All but [`ClusterId`] are counters that are never reused; 0 is never an identity.

use std::fmt;

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

identity!(
    /// A member of the cluster: one data directory. A wiped disk comes back under a new id.
    NodeId,
    "n"
);
identity!(
    /// A Raft group. Group 1 holds the metadata; every other group is a shard under the same id.
    GroupId,
    "g"
);
identity!(
    /// One replica of one group: openraft's node id. Its descriptor says on which node it lives.
    ReplicaId,
    "r"
);
identity!(
    /// A named key space.
    KeyspaceId,
    "k"
);
identity!(
    /// Version of a shard's descriptor, raised by every change of span or replicas.
    Epoch,
    "e"
);
identity!(
    /// A running change of a shard's replicas.
    OperationId,
    "o"
);
identity!(
    /// A shard's count of mutating transactions. An empty shard is at revision 1.
    Revision,
    ""
);

impl GroupId {
    /// The metadata group.
    pub const META: Self = Self(1);
}

/// Sixteen random bytes, chosen once by the node that founds the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// Reads the wire form; `None` unless `bytes` are sixteen.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
