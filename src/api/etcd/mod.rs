//! etcd's v3 API, for programs that already speak it.
//!
//! Knows etcd's messages, paths and words. What a node can do it knows as the rest of [`api`](super) does.

pub(super) mod gateway;
