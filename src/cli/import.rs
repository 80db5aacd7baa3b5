//! `import`: writes each record of a file exactly once.
//!
//! Batches are pipelined under a session, so a broken connection or a new leader costs a retry and
//! never a second write. Lines keep their order where it matters: a key that is being written is
//! not written again before that is done.

mod etcd;

use std::collections::BTreeSet;
use std::mem;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use super::args::{Format, ImportArgs, LineFormat};
use super::exit::{Exit, Failure};
use super::progress::Progress;
use super::{Context, TIMEOUT_BULK_DEFAULT, interrupted, lines};
use crate::client;
use crate::client::BatchOperation;
use crate::env::console::Input;
use crate::types::limits::{BATCH_OPERATIONS_MAX, KEY_BYTES_MAX, REQUEST_BYTES_MAX};

/// Bytes of keys and values in one batch; a larger record goes alone.
const BATCH_BYTES: usize = 256 * 1024;
/// Batches in flight.
const BATCHES_IN_FLIGHT: usize = 16;
/// Longest line: a value of the largest request, every byte of it escaped.
const LINE_BYTES_MAX: usize = 6 * (REQUEST_BYTES_MAX + KEY_BYTES_MAX);
/// Bytes read ahead of the parser.
const READ_AHEAD_BYTES: usize = 256 * 1024;

/// A batch on its way, and what it is made of.
struct Sent {
    keys: Vec<Bytes>,
    lines: (u64, u64),
    bytes: u64,
    result: client::Result<()>,
}

type InFlight = FuturesUnordered<Pin<Box<dyn Future<Output = Sent> + Send>>>;

/// A batch that is being filled.
#[derive(Default)]
struct Pending {
    operations: Vec<BatchOperation>,
    keys: BTreeSet<Bytes>,
    size: usize,
    bytes: u64,
    lines: Option<(u64, u64)>,
}

struct Importer<'a, 'b> {
    context: &'a mut Context<'b>,
    writer: client::Session,
    progress: Progress,
    pending: Pending,
    in_flight: InFlight,
    // Keys of batches in flight: an import that writes a key twice does so in the file's order.
    busy: BTreeSet<Bytes>,
    skipped: u64,
    /// What the numbers of records count.
    unit: &'static str,
    tally: etcd::Tally,
}

pub(crate) async fn import(context: &mut Context<'_>, args: ImportArgs) -> Result<(), Failure> {
    let of_etcd = !args.etcd.from_etcd.is_empty();
    let (input, size, name) = if of_etcd {
        (Box::new(tokio::io::empty()) as Input, None, String::new())
    } else {
        context.open(args.file.clone()).await?
    };
    let client = context.client_with(TIMEOUT_BULK_DEFAULT, true).await?;
    let progress = Progress::new("imported", size, context.console.stderr_is_terminal);
    let mut importer = Importer {
        writer: client.session(),
        context,
        progress,
        pending: Pending::default(),
        in_flight: InFlight::new(),
        busy: BTreeSet::new(),
        skipped: 0,
        unit: if of_etcd { "records" } else { "lines" },
        tally: etcd::Tally::default(),
    };
    let read = if of_etcd { importer.read_etcd(&args.etcd).await } else { importer.read(input, &name, &args).await };
    // What is on its way is seen through, also after a bad line.
    let drained = importer.drain(0).await;
    importer.progress.clear();
    if !importer.context.interrupt.is_cancelled() {
        importer.writer.close().await;
    }
    match read.and(drained) {
        Ok(()) => {
            importer.report(of_etcd).await?;
            if args.skip_invalid { Ok(()) } else { importer.complain_of_refused() }
        }
        Err(failure) => Err(importer.explain(failure)),
    }
}

impl Importer<'_, '_> {
    async fn read(&mut self, input: Input, name: &str, args: &ImportArgs) -> Result<(), Failure> {
        let mut input = BufReader::with_capacity(READ_AHEAD_BYTES, input);
        let mut format = args.format;
        let mut number = 0_u64;
        let mut line = Vec::new();
        loop {
            line.clear();
            let interrupt = self.context.interrupt.clone();
            let read = tokio::select! {
                biased;
                () = interrupt.cancelled() => return Err(interrupted(false)),
                read = read_line(&mut input, &mut line) => read.map_err(|error| Failure::from(error).at(name))?,
            };
            let Some(bytes) = read else { break };
            number += 1;
            if line.is_empty() {
                self.pending.bytes += bytes;
                continue;
            }
            let format = *format.get_or_insert_with(|| lines::detect(&line));
            let parsed = if line.len() > LINE_BYTES_MAX {
                Err(format!("has more than {LINE_BYTES_MAX} bytes"))
            } else {
                lines::parse(format, &line)
            };
            match parsed {
                Ok((key, value)) => self.add(BatchOperation::put(key, value), number, bytes).await?,
                Err(_) if args.skip_invalid => {
                    self.skipped += 1;
                    self.pending.bytes += bytes;
                }
                Err(message) => return Err(bad_line(name, number, &message, format)),
            }
        }
        self.flush().await
    }

    async fn add(&mut self, operation: BatchOperation, number: u64, bytes: u64) -> Result<(), Failure> {
        let (key, size) = (operation.key().clone(), operation.size());
        let full = self.pending.operations.len() >= BATCH_OPERATIONS_MAX
            || (self.pending.size + size > BATCH_BYTES && !self.pending.operations.is_empty());
        if full || self.pending.keys.contains(&key) {
            self.flush().await?;
        }
        while self.busy.contains(&key) {
            self.drain(self.in_flight.len().saturating_sub(1)).await?;
        }
        let pending = &mut self.pending;
        pending.keys.insert(key);
        pending.operations.push(operation);
        pending.size += size;
        pending.bytes += bytes;
        pending.lines = Some((pending.lines.map_or(number, |(first, _)| first), number));
        Ok(())
    }

    /// Sends what was gathered, once there is room.
    async fn flush(&mut self) -> Result<(), Failure> {
        let Pending { operations, keys, bytes, lines, .. } = mem::take(&mut self.pending);
        let Some(lines) = lines else { return Ok(()) };
        self.drain(BATCHES_IN_FLIGHT - 1).await?;
        self.busy.extend(keys.iter().cloned());
        let writer = self.writer.clone();
        self.in_flight.push(Box::pin(async move {
            let result = match writer.batch(&operations).await {
                Ok(outcomes) => outcomes.into_iter().try_for_each(|outcome| outcome.result.map(|_| ())),
                Err(error) => Err(error),
            };
            Sent { keys: keys.into_iter().collect(), lines, bytes, result }
        }));
        Ok(())
    }

    /// Waits until at most `left` batches are in flight. After a failure the others are waited for,
    /// so that the count at the end is right.
    async fn drain(&mut self, left: usize) -> Result<(), Failure> {
        let mut failed = None;
        let interrupt = self.context.interrupt.clone();
        while self.in_flight.len() > if failed.is_some() { 0 } else { left } {
            let sent = tokio::select! {
                biased;
                () = interrupt.cancelled() => return Err(interrupted(false)),
                sent = self.in_flight.next() => sent,
            };
            let Some(sent) = sent else { break };
            sent.keys.iter().for_each(|key| {
                self.busy.remove(key);
            });
            match sent.result {
                Ok(()) => {
                    let records = sent.keys.len() as u64;
                    self.progress.advance(records, sent.bytes, &mut self.context.console.stderr).await;
                }
                Err(error) => {
                    let failure =
                        Failure::from(error).at(&format!("{} {} to {}", self.unit, sent.lines.0, sent.lines.1));
                    failed = match failed {
                        // An unknown outcome is the worst to hear of, so it is the one to tell.
                        Some(earlier) if failure.exit != Exit::Unknown => Some(earlier),
                        _ => Some(failure),
                    };
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn report(&mut self, of_etcd: bool) -> Result<(), Failure> {
        let (progress, tally) = (&self.progress, &self.tally);
        let text = match self.context.format() {
            Format::Json if of_etcd => {
                let summary = json!({
                    "imported": progress.records,
                    "revision": tally.revision,
                    "refused": tally.refused,
                    "with_ttl": tally.with_ttl,
                    "left_out": tally.left_out,
                    "bytes": progress.bytes,
                    "seconds": progress.seconds(),
                });
                format!("{summary}\n")
            }
            Format::Simple | Format::Table if of_etcd => format!(
                "{} as of revision {}; {} with a lease now expire by themselves, {} with a lease were left out, {} were refused\n",
                progress.summary(),
                tally.revision,
                tally.with_ttl,
                tally.left_out,
                tally.refused
            ),
            Format::Json => {
                let summary = json!({
                    "imported": progress.records,
                    "skipped": self.skipped,
                    "bytes": progress.bytes,
                    "seconds": progress.seconds(),
                });
                format!("{summary}\n")
            }
            Format::Simple | Format::Table if self.skipped > 0 => {
                format!("{}, skipped {} invalid lines\n", progress.summary(), self.skipped)
            }
            Format::Simple | Format::Table => format!("{}\n", progress.summary()),
        };
        self.context.print(text).await
    }

    fn explain(&self, failure: Failure) -> Failure {
        if failure.message.is_empty() {
            return failure;
        }
        let message = format!("{}; {} records were imported before", failure.message, self.progress.records);
        let hint = if failure.exit == Exit::Usage {
            failure.hint
        } else {
            format!("{}; running the same import again is safe", failure.hint).trim_start_matches("; ").to_owned()
        };
        Failure { message, hint, ..failure }
    }
}

fn bad_line(name: &str, number: u64, message: &str, format: LineFormat) -> Failure {
    let hint = match format {
        LineFormat::Json => "mend the line, or count such lines with --skip-invalid; --format tsv reads KEY<TAB>VALUE",
        LineFormat::Tsv => "mend the line, or count such lines with --skip-invalid; --format json reads JSON lines",
    };
    Failure::usage(format!("{name}: line {number} {message}"), hint)
}

/// Reads a line without its line feed; says how many bytes it took, `None` at the end. Of a line
/// that is too long only the beginning is kept.
async fn read_line(input: &mut BufReader<Input>, line: &mut Vec<u8>) -> std::io::Result<Option<u64>> {
    let limit = LINE_BYTES_MAX as u64 + 2;
    let mut bytes = (&mut *input).take(limit).read_until(b'\n', line).await? as u64;
    if bytes == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if bytes == limit {
        bytes += skip_line(input).await?;
    }
    Ok(Some(bytes))
}

async fn skip_line(input: &mut BufReader<Input>) -> std::io::Result<u64> {
    let mut skipped = 0;
    loop {
        let available = input.fill_buf().await?;
        if available.is_empty() {
            return Ok(skipped);
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(available.len(), |end| end + 1);
        input.consume(used);
        skipped += used as u64;
        if end.is_some() {
            return Ok(skipped);
        }
    }
}
