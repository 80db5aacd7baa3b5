//! etcd's v3 API: a face over the same node, for its clients.
//!
//! Knows etcd's messages, texts and codes, and how each is said in Quorate's own. One keyspace of one shard
//! is shown as if it were an etcd cluster: `default`, or the one that the request's metadata or port names.

mod auth;
mod cluster;
mod contest;
mod convert;
mod election;
pub(super) mod error;
mod face;
pub(super) mod gateway;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod watch;

pub(super) use face::{Entered, Etcd};

/// The version of etcd whose API this is: clients choose by it what they ask for.
pub(super) const COMPATIBLE: &str = "3.4.0";

/// The version that clients of etcd are told of a node: etcd's for them, and Quorate's for people.
pub(super) fn version(own: &str) -> String {
    format!("{COMPATIBLE}+quorate.{own}")
}
