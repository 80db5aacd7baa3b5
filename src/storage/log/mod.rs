//! The node's one Raft log, shared by all groups.
