//! The file system of the operating system.
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "this is the seam")]

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, statvfs};

use super::{DirLock, Disk, File};

/// The operating system's files.
pub struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path, size: u64) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        if size > 0 {
            let reserved = match fallocate(&file, FallocateFlags::empty(), 0, size) {
                Err(rustix::io::Errno::OPNOTSUPP) => write_zeros(&file, size),
                other => other.map_err(io::Error::from),
            };
            if let Err(error) = reserved {
                // Leave nothing half made behind; the first error is the one to report.
                fs::remove_file(path).ok();
                return Err(error);
            }
        }
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let mut data = Vec::new();
        // Size is not asked for: it may change while it is read, and a pipe has none.
        fs::File::open(path)?.take(limit as u64 + 1).read_to_end(&mut data)?;
        if data.len() > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it holds more than {limit} bytes")));
        }
        Ok(data)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        self.create_dir(parent)?;
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        self.sync_dir(parent)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut names =
            fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let stat = statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(HeldLock { _file: file }))
    }
}

fn write_zeros(file: &fs::File, size: u64) -> io::Result<()> {
    const BLOCK: usize = 1 << 20;
    let zeros = vec![0; BLOCK];
    let mut at = 0;
    while at < size {
        let left = usize::try_from(size - at).unwrap_or(BLOCK).min(BLOCK);
        file.write_all_at(&zeros[..left], at)?;
        at += left as u64;
    }
    Ok(())
}

impl File for fs::File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

struct HeldLock {
    // Closing the file releases the lock.
    _file: fs::File,
}

impl DirLock for HeldLock {}
