//! The token of a node that has no identity yet: drawn once, so that the cluster knows the node again
//! when it asks for its id a second time, after a crash or a lost answer.

use std::path::Path;

use super::file::{self, FileError};
use crate::env::chance;
use crate::env::disk::Disk;
use crate::proto::internal as wire;

const MAGIC: [u8; 4] = *b"QRJN";
/// Name of the file within the data directory.
const FILE: &str = "joining";

/// The token of `dir`, which must exist. Never 0.
///
/// # Errors
/// When the file is damaged or the device refuses.
pub fn joining_token(disk: &dyn Disk, dir: &Path, name: &str) -> Result<u64, FileError> {
    let path = dir.join(FILE);
    if let Some(stored) = file::read::<wire::StoredJoining>(disk, &path, MAGIC)?
        && stored.name == name
    {
        return Ok(stored.token);
    }
    let token = chance::bits().max(1);
    file::write(disk, &path, MAGIC, &wire::StoredJoining { name: name.to_owned(), token })?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::disk::RealDisk;

    #[test]
    fn a_directory_keeps_its_token_and_a_new_name_gets_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let token = |name| joining_token(&RealDisk, dir.path(), name).unwrap();
        let first = token("n4");
        assert_ne!(first, 0);
        assert_eq!(token("n4"), first);
        assert_ne!(token("n5"), first);
    }
}
