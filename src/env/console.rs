//! What a command-line tool sees of the world: its standard streams, and plain files that it reads
//! or writes from start to end.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::net::BoxFuture;
use super::program::{Programs, RealPrograms};

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
    /// Whether somebody types on standard input and reads standard output.
    pub is_interactive: bool,
    /// Files named by arguments.
    pub files: Arc<dyn Files>,
    /// Programs named by arguments.
    pub programs: Arc<dyn Programs>,
    /// Where a person's own files lie.
    pub places: Places,
}

/// Directories for what a person keeps between runs, by the XDG base directory specification.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Places {
    /// For what a person writes.
    pub config: Option<PathBuf>,
    /// For what programs remember.
    pub state: Option<PathBuf>,
}

impl Places {
    /// Reads them from variables; a relative path counts as not set, as the specification has it.
    pub fn from_variables(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let absolute = |name: &str| get(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let place = |name: &str, below_home: &str| {
            let base = absolute(name).or_else(|| Some(absolute("HOME")?.join(below_home)))?;
            Some(base.join("quorate"))
        };
        Self { config: place("XDG_CONFIG_HOME", ".config"), state: place("XDG_STATE_HOME", ".local/state") }
    }
}

impl Console {
    /// The process's own.
    pub fn real() -> Self {
        Self {
            stdin: Box::new(tokio::io::stdin()),
            stdout: Box::new(tokio::io::stdout()),
            stderr: Box::new(tokio::io::stderr()),
            stderr_is_terminal: io::stderr().is_terminal(),
            is_interactive: io::stdin().is_terminal() && io::stdout().is_terminal(),
            files: Arc::new(RealFiles),
            programs: Arc::new(RealPrograms),
            places: Places::from_variables(|name| std::env::var_os(name)),
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Places;

    #[test]
    fn places_follow_the_variables_and_else_the_home_directory() {
        let places = |variables: &[(&str, &str)]| {
            let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into());
            Places::from_variables(get)
        };
        let home = places(&[("HOME", "/home/a"), ("XDG_CONFIG_HOME", "relative")]);
        assert_eq!(home.config.as_deref(), Some(Path::new("/home/a/.config/quorate")));
        assert_eq!(home.state.as_deref(), Some(Path::new("/home/a/.local/state/quorate")));
        let set = places(&[("HOME", "/home/a"), ("XDG_CONFIG_HOME", "/c"), ("XDG_STATE_HOME", "/s")]);
        assert_eq!((set.config.unwrap(), set.state.unwrap()), ("/c/quorate".into(), "/s/quorate".into()));
        assert_eq!(places(&[("HOME", "")]), Places::default());
    }
}
