//! Files and directories, with the operations a log needs and no others.
//!
//! All calls block; run them on a [`Worker`](super::work::Worker). What was written is durable only
//! after [`File::sync`]; a created, renamed or removed name only after [`Disk::sync_dir`].

mod memory;
mod real;

pub use memory::{DiskCounts, DiskDelay, DiskImage, MemoryDisk};
pub use real::RealDisk;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory tree.
pub trait Disk: Send + Sync + 'static {
    /// Creates a file that must not exist, of `size` zero bytes with their space reserved.
    ///
    /// # Errors
    /// As the file system; [`io::ErrorKind::StorageFull`] when there is no space.
    fn create(&self, path: &Path, size: u64) -> io::Result<Arc<dyn File>>;
    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// As the file system; [`io::ErrorKind::NotFound`] when it does not exist.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Reads a whole file of at most `limit` bytes, which this process need not be allowed to write.
    ///
    /// # Errors
    /// As the file system; [`io::ErrorKind::InvalidData`] when the file is larger.
    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        read_open(&*self.open(path)?, path, limit)
    }
    /// Renames, replacing what is there.
    ///
    /// # Errors
    /// As the file system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// As the file system.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Creates a directory and its parents and makes their names durable.
    ///
    /// # Errors
    /// As the file system.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Names in a directory, sorted.
    ///
    /// # Errors
    /// As the file system.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As the file system. After a failure nothing is known of what is durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes free for this process where `path` is.
    ///
    /// # Errors
    /// As the file system.
    fn free_space(&self, path: &Path) -> io::Result<u64>;
    /// Takes the exclusive lock on a file, which is created if need be. Held until dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when another process holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>>;
}

/// An open file.
pub trait File: Send + Sync + 'static {
    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the file ends first.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// As the file system; part may have been written.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Makes all that was written durable.
    ///
    /// # Errors
    /// After a failure nothing is known of what is durable, and the process must not go on.
    fn sync(&self) -> io::Result<()>;
    /// Bytes in the file.
    ///
    /// # Errors
    /// As the file system.
    fn size(&self) -> io::Result<u64>;
}

/// A held lock.
pub trait DirLock: Send + Sync + 'static {}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// As the file system; [`io::ErrorKind::InvalidData`] when the file is larger.
pub fn read_file(disk: &dyn Disk, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    read_open(&*disk.open(path)?, path, limit)
}

fn read_open(file: &dyn File, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let size = usize::try_from(file.size()?).unwrap_or(usize::MAX);
    if size > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} holds {size} bytes, more than {limit}", path.display()),
        ));
    }
    let mut data = vec![0; size];
    file.read_at(&mut data, 0)?;
    Ok(data)
}

/// Replaces a small file so that a crash leaves the old or the new content, and makes it durable.
///
/// # Errors
/// As the file system.
pub fn replace_file(disk: &dyn Disk, path: &Path, data: &[u8]) -> io::Result<()> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&temporary, data.len() as u64)?;
    file.write_at(data, 0)?;
    file.sync()?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(parent)
}
