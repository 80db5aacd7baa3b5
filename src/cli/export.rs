//! `export`: all records, of one revision in each shard, as import reads them.

use std::path::PathBuf;

use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::args::{ExportArgs, Format};
use super::exit::Failure;
use super::progress::Progress;
use super::{Context, TIMEOUT_BULK_DEFAULT, keys, lines};
use crate::client::ScanOptions;
use crate::env::console::Output;

pub(crate) async fn export(context: &mut Context<'_>, args: ExportArgs) -> Result<(), Failure> {
    let Some(file) = args.file.clone().filter(|file| file.as_os_str() != "-") else {
        let (progress, revision) = write_all(context, &args, None).await?;
        // Standard output carries the records; what is said about them goes elsewhere.
        return context.warn(&summary(&progress, revision)).await;
    };
    let name = file.display().to_string();
    let partial = partial(&file);
    let mut out = context.console.files.create(&partial).await.map_err(|error| Failure::from(error).at(&name))?;
    let (progress, revision) = write_all(context, &args, Some(&mut out)).await?;
    out.shutdown().await.map_err(|error| Failure::from(error).at(&name))?;
    context.console.files.rename(&partial, &file).await.map_err(|error| Failure::from(error).at(&name))?;
    match context.format() {
        Format::Json => {
            let summary = json!({
                "exported": progress.records,
                "revision": revision,
                "bytes": progress.bytes,
                "seconds": progress.seconds(),
            });
            context.print_json(&summary).await
        }
        Format::Simple | Format::Table => context.print(format!("{}\n", summary(&progress, revision))).await,
    }
}

/// Many shards have no revision in common.
fn summary(progress: &Progress, revision: u64) -> String {
    match revision {
        0 => progress.summary(),
        revision => format!("{} at revision {revision}", progress.summary()),
    }
}

/// Where an export is written until it is complete.
fn partial(file: &std::path::Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// Writes to a file, or to standard output.
async fn write_all(
    context: &mut Context<'_>,
    args: &ExportArgs,
    mut file: Option<&mut Output>,
) -> Result<(Progress, u64), Failure> {
    let client = context.client_with(TIMEOUT_BULK_DEFAULT, true).await?;
    let options = ScanOptions::new().revision(args.rev);
    let mut scan = client.scan(keys::range(args.range.clone()), options);
    let mut progress = Progress::new("exported", None, context.console.stderr_is_terminal);
    while let Some(page) = scan.next_page().await? {
        let mut text = Vec::new();
        for record in &page {
            lines::write(args.format, &record.key, &record.value, &mut text)
                .map_err(|message| Failure::usage(message, "export with --format json, which takes every record"))?;
        }
        match &mut file {
            Some(file) => file.write_all(&text).await?,
            None => context.print(&text).await?,
        }
        progress.advance(page.len() as u64, text.len() as u64, &mut context.console.stderr).await;
    }
    match file {
        Some(file) => file.flush().await?,
        None => context.console.stdout.flush().await?,
    }
    progress.clear();
    Ok((progress, scan.revision()))
}
