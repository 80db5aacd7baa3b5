//! The records of an etcd, for import: all as of one revision.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use super::{BatchOperation, Importer};
use crate::cli::args::{EtcdArgs, Leases};
use crate::cli::exit::Failure;
use crate::cli::{TIMEOUT_BULK_DEFAULT, interrupted, text};
use crate::client::{ClientConfig, ClientFiles, EtcdRecord, EtcdSource, TlsIdentity};
use crate::env::time::{self, Instant};
use crate::types::limits::{KEY_BYTES_MAX, TTL_MS_MAX, VALUE_BYTES_MAX};

/// Refused keys that are named; the others are counted.
const REFUSED_NAMED_MAX: u64 = 100;
/// Bytes of a refused key that are shown.
const REFUSED_KEY_SHOWN_MAX: usize = 120;
/// What is left of a lease at least: etcd counts whole seconds.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_millis(TTL_MS_MAX);

/// What became of the records of an etcd.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) revision: u64,
    /// Records that no Quorate takes.
    pub(super) refused: u64,
    /// Records with a lease that were imported with a time to live.
    pub(super) with_ttl: u64,
    /// Records with a lease that were left out.
    pub(super) left_out: u64,
}

impl Importer<'_, '_> {
    /// Reads all records of an etcd.
    pub(super) async fn read_etcd(&mut self, args: &EtcdArgs) -> Result<(), Failure> {
        let settings = self.context.settings;
        let config =
            ClientConfig::new(args.from_etcd.clone()).timeout(settings.timeout.unwrap_or(TIMEOUT_BULK_DEFAULT));
        let prefix = args.prefix.as_ref().map(|prefix| prefix.as_bytes()).unwrap_or_default();
        let source = EtcdSource::new(self.context.session.env, ClientConfig { tls: tls(args), ..config }, prefix);
        let mut source = source.map_err(|error| Failure::from(error).at("--from-etcd"))?;
        let interrupt = self.context.interrupt.clone();
        let mut ends = BTreeMap::new();
        let mut number = 0;
        loop {
            let page = tokio::select! {
                biased;
                () = interrupt.cancelled() => return Err(interrupted(false)),
                page = source.next_page() => page.map_err(source_failure)?,
            };
            self.tally.revision = source.revision();
            let Some(page) = page else { break };
            for record in page {
                number += 1;
                let lease = if record.lease == 0 {
                    None
                } else {
                    Some(self.lease(&source, &record, args.leases, &mut ends).await?)
                };
                self.add_of_etcd(record, lease, number).await?;
            }
        }
        self.flush().await
    }

    async fn add_of_etcd(&mut self, record: EtcdRecord, lease: Option<Fate>, number: u64) -> Result<(), Failure> {
        let EtcdRecord { key, value, .. } = record;
        if key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
            return self.refuse(&key, &value).await;
        }
        let bytes = (key.len() + value.len()) as u64;
        let operation = match lease {
            None | Some(Fate::Kept) => BatchOperation::put(key, value),
            Some(Fate::Until(end)) => {
                self.tally.with_ttl += 1;
                let left = end.saturating_duration_since(time::now());
                BatchOperation::put_for(key, value, left.max(TTL_MIN))
            }
            Some(Fate::LeftOut) => {
                self.tally.left_out += 1;
                return Ok(());
            }
        };
        self.add(operation, number, bytes).await
    }

    /// Names a record that is too large, and goes on: all of them are to be known in the end.
    async fn refuse(&mut self, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        self.tally.refused += 1;
        if self.tally.refused > REFUSED_NAMED_MAX {
            return Ok(());
        }
        let shown = text::printable(key.get(..REFUSED_KEY_SHOWN_MAX).unwrap_or(key));
        let cut = if key.len() > REFUSED_KEY_SHOWN_MAX { "…" } else { "" };
        let line = format!(
            "refused: {shown}{cut} has a key of {} and a value of {} bytes; key_bytes_max is {KEY_BYTES_MAX}, \
             value_bytes_max {VALUE_BYTES_MAX}",
            key.len(),
            value.len()
        );
        self.context.warn(&line).await
    }

    /// What becomes of a record with a lease. Each lease is asked for once.
    async fn lease(
        &mut self,
        source: &EtcdSource,
        record: &EtcdRecord,
        leases: Leases,
        ends: &mut BTreeMap<i64, Option<Instant>>,
    ) -> Result<Fate, Failure> {
        match leases {
            Leases::Skip => return Ok(Fate::LeftOut),
            Leases::Permanent => return Ok(Fate::Kept),
            Leases::Ttl => {}
        }
        let end = match ends.get(&record.lease) {
            Some(end) => *end,
            None => {
                let asked = time::now();
                let left = source.lease_remaining(record.lease).await.map_err(source_failure)?;
                // Whatever the other side says: no life is longer than one that can be put.
                *ends.entry(record.lease).or_insert(left.map(|left| asked + left.min(TTL_MAX)))
            }
        };
        // A lease that has ended took its keys with it, after the revision that is read.
        Ok(end.map_or(Fate::LeftOut, Fate::Until))
    }

    /// The import must not pass for a whole one.
    pub(super) fn complain_of_refused(&self) -> Result<(), Failure> {
        match self.tally.refused {
            0 => Ok(()),
            refused => Err(Failure::usage(
                format!("{refused} records are too large and were refused; all others were imported"),
                "make them smaller at the source and import again, or accept that with --skip-invalid",
            )),
        }
    }
}

/// What becomes of a record with a lease.
enum Fate {
    Kept,
    Until(Instant),
    LeftOut,
}

fn source_failure(error: crate::client::Error) -> Failure {
    let hint = if error.denied {
        "`etcdctl get --prefix '' -w json` with --user writes all keys, as base64, for a script of yours"
    } else if error.is_unavailable() {
        "check --from-etcd, that etcd runs there, and --etcd-tls-ca if it speaks TLS"
    } else {
        ""
    };
    Failure { hint: hint.to_owned(), ..Failure::from(error) }.at("--from-etcd")
}

fn tls(args: &EtcdArgs) -> Option<ClientFiles> {
    let identity = args.etcd_tls_cert.clone().zip(args.etcd_tls_key.clone());
    let identity = identity.map(|(cert, key)| TlsIdentity { cert, key });
    args.etcd_tls_ca.clone().map(|ca| ClientFiles { ca, identity })
}
