//! Generated wire and storage types: the public APIs and what nodes say, replicate and store.

mod map;

pub use generated::{etcd, internal, rpc, v1};
pub use map::MalformedMap;

/// Encoded `FileDescriptorSet` of the public APIs, for gRPC reflection.
pub const REFLECTION: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/reflection.bin"));

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::wildcard_enum_match_arm,
    clippy::allow_attributes_without_reason,
    clippy::disallowed_types,
    reason = "generated from proto/, which carries the comments"
)]
mod generated {
    /// The public API.
    pub mod v1 {
        tonic::include_proto!("quorate.v1");
    }

    /// Between nodes, in the log and in the engine. No promise to clients.
    pub mod internal {
        pub use v1::*;
        pub mod v1 {
            tonic::include_proto!("quorate.internal.v1");
        }
    }

    /// The v3 API of etcd. Its packages name each other as siblings.
    pub mod etcd {
        pub mod mvccpb {
            tonic::include_proto!("mvccpb");
        }
        pub mod authpb {
            tonic::include_proto!("authpb");
        }
        pub mod etcdserverpb {
            tonic::include_proto!("etcdserverpb");
        }
        pub mod v3lockpb {
            tonic::include_proto!("v3lockpb");
        }
        pub mod v3electionpb {
            tonic::include_proto!("v3electionpb");
        }
    }

    /// The standard error model of gRPC.
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}
