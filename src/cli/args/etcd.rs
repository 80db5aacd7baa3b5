//! The arguments of `import` that concern an etcd.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Which etcd to import from, and how.
#[derive(Args, Debug, Default)]
pub struct EtcdArgs {
    /// Reads all keys of this etcd (or Quorate), as of one moment: host:port of its members, separated by commas.
    #[arg(long, value_name = "ENDPOINT", value_delimiter = ',', conflicts_with_all = ["file", "format"])]
    pub from_etcd: Vec<String>,
    /// Only keys that begin with this.
    #[arg(long, requires = "from_etcd")]
    pub prefix: Option<OsString>,
    /// What becomes of keys with a lease.
    #[arg(long, value_enum, default_value_t = Leases::Ttl, requires = "from_etcd")]
    pub leases: Leases,
    /// Speaks TLS to members whose certificates a CA in this PEM file has signed.
    #[arg(long, value_name = "FILE", requires = "from_etcd")]
    pub etcd_tls_ca: Option<PathBuf>,
    /// Certificate to present to them, in PEM form.
    #[arg(long, value_name = "FILE", requires_all = ["etcd_tls_ca", "etcd_tls_key"])]
    pub etcd_tls_cert: Option<PathBuf>,
    /// Private key of that certificate, in PEM form.
    #[arg(long, value_name = "FILE", requires = "etcd_tls_cert")]
    pub etcd_tls_key: Option<PathBuf>,
}

/// What becomes of keys with a lease.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Leases {
    /// Each expires by itself when the rest of its lease is over.
    #[default]
    Ttl,
    /// They are left out.
    Skip,
    /// They are kept for ever.
    Permanent,
}
