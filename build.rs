//! Compiles `proto/` without a `protoc`.

use std::error::Error;

const FILES: [&str; 16] = [
    "google/rpc/status.proto",
    "etcd/kv.proto",
    "etcd/auth.proto",
    "etcd/rpc.proto",
    "etcd/lock.proto",
    "etcd/election.proto",
    "quorate/v1/error.proto",
    "quorate/v1/kv.proto",
    "quorate/v1/lease.proto",
    "quorate/v1/cluster.proto",
    "quorate/v1/admin.proto",
    "quorate/internal/v1/command.proto",
    "quorate/internal/v1/meta.proto",
    "quorate/internal/v1/raft.proto",
    "quorate/internal/v1/token.proto",
    "quorate/internal/v1/forward.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    let public: Vec<_> = descriptors.file.iter().filter(|file| !file.package().contains("internal")).cloned().collect();
    let reflected = prost_types::FileDescriptorSet { file: public };
    std::fs::write(out.join("reflection.bin"), prost::Message::encode_to_vec(&reflected))?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
