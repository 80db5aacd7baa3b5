//! A small file that is replaced as a whole: magic, version, length, checksum, protobuf.
//!
//! ```text
//! 0   4  magic, one per kind of file
//! 4   4  version, little-endian: 1
//! 8   4  length of the message, little-endian
//! 12  4  CRC-32C over bytes 0..12, then the message, little-endian
//! 16  …  the message
//! ```

use std::io;
use std::path::Path;

use prost::Message;

use crate::env::disk::{self, Disk};

const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
/// Largest such file that is read.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Why such a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The device refused.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// What the device said.
        error: io::Error,
    },
    /// The content fails its checksum or is of another kind.
    #[error("{path} is damaged: {why}; start the node empty with --join and --replace to rebuild it from its peers")]
    Damaged {
        /// The file.
        path: String,
        /// What does not fit.
        why: String,
    },
}

/// Reads a file; `None` when there is none.
pub(super) fn read<M: Message + Default>(disk: &dyn Disk, path: &Path, magic: [u8; 4]) -> Result<Option<M>, FileError> {
    let name = path.display().to_string();
    let bytes = match disk::read_file(disk, path, FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::Io { path: name, error }),
    };
    match unseal(&bytes, magic) {
        Ok(message) => Ok(Some(message)),
        Err(why) => Err(FileError::Damaged { path: name, why }),
    }
}

/// Replaces a file durably.
pub(super) fn write<M: Message>(disk: &dyn Disk, path: &Path, magic: [u8; 4], message: &M) -> Result<(), FileError> {
    let failed = |error| FileError::Io { path: path.display().to_string(), error };
    let sealed = seal(magic, &message.encode_to_vec()).map_err(failed)?;
    disk::replace_file(disk, path, &sealed).map_err(failed)
}

fn seal(magic: [u8; 4], message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(message.len()).ok().filter(|_| message.len() <= FILE_BYTES_MAX - HEADER_BYTES);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "too much to store"))?;
    let mut sealed = Vec::with_capacity(HEADER_BYTES + message.len());
    sealed.extend_from_slice(&magic);
    sealed.extend_from_slice(&VERSION.to_le_bytes());
    sealed.extend_from_slice(&length.to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&sealed), message);
    sealed.extend_from_slice(&checksum.to_le_bytes());
    sealed.extend_from_slice(message);
    Ok(sealed)
}

fn unseal<M: Message + Default>(bytes: &[u8], magic: [u8; 4]) -> Result<M, String> {
    let (header, message) = bytes.split_at_checked(HEADER_BYTES).ok_or("it is too short")?;
    let (head, checksum) = header.split_at(HEADER_BYTES - 4);
    if head.get(..4) != Some(magic.as_slice()) {
        return Err("it is a file of another kind".into());
    }
    if crc32c::crc32c_append(crc32c::crc32c(head), message).to_le_bytes() != checksum {
        return Err("its checksum does not match".into());
    }
    if head.get(4..8) != Some(VERSION.to_le_bytes().as_slice()) {
        return Err("its version is not known".into());
    }
    if head.get(8..12).map(|length| length == (message.len() as u64).to_le_bytes().split_at(4).0) != Some(true) {
        return Err("its length does not match".into());
    }
    M::decode(message).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::{seal, unseal};
    use crate::proto::internal::StoredIdentity;
    use prost::Message;

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let message = StoredIdentity { name: "n1".into(), boot: 7, ..Default::default() };
        let sealed = seal(*b"TEST", &message.encode_to_vec()).unwrap();
        assert_eq!(unseal::<StoredIdentity>(&sealed, *b"TEST"), Ok(message));
        assert!(unseal::<StoredIdentity>(&sealed, *b"ELSE").is_err());
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal::<StoredIdentity>(&damaged, *b"TEST").is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(unseal::<StoredIdentity>(&sealed[..length], *b"TEST").is_err(), "length {length}");
        }
    }
}
