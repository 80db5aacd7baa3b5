//! What a command-line tool sees of the world: its standard streams, and plain files that it reads
//! or writes from start to end.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::net::BoxFuture;

/// Bytes that come in.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;
/// Bytes that go out.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// Plain files.
pub trait Files: Send + Sync + 'static {
    /// Opens a file for reading, with its size when it is a regular file.
    fn open<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<(Input, Option<u64>)>>;
    /// Creates or empties a file for writing.
    fn create<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<Output>>;
    /// Renames, replacing what is there.
    fn rename<'a>(&'a self, from: &'a Path, to: &'a Path) -> BoxFuture<'a, io::Result<()>>;
}

/// The streams and files of one process.
pub struct Console {
    /// Standard input.
    pub stdin: Input,
    /// Standard output.
    pub stdout: Output,
    /// Standard error.
    pub stderr: Output,
    /// Whether somebody watches standard error.
    pub stderr_is_terminal: bool,
    /// Files named by arguments.
    pub files: Arc<dyn Files>,
}

impl Console {
    /// The process's own.
    pub fn real() -> Self {
        Self {
            stdin: Box::new(tokio::io::stdin()),
            stdout: Box::new(tokio::io::stdout()),
            stderr: Box::new(tokio::io::stderr()),
            stderr_is_terminal: io::stderr().is_terminal(),
            files: Arc::new(RealFiles),
        }
    }
}

struct RealFiles;

impl Files for RealFiles {
    fn open<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<(Input, Option<u64>)>> {
        Box::pin(async move {
            let file = tokio::fs::File::open(path).await?;
            let metadata = file.metadata().await?;
            if metadata.is_dir() {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            let size = metadata.is_file().then_some(metadata.len());
            Ok((Box::new(file) as Input, size))
        })
    }

    fn create<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<Output>> {
        Box::pin(async move { Ok(Box::new(tokio::fs::File::create(path).await?) as Output) })
    }

    fn rename<'a>(&'a self, from: &'a Path, to: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move { tokio::fs::rename(from, to).await })
    }
}
