//! What fjall's errors mean: a failing device, damage, or an earlier failure.

use std::io;
use std::path::Path;

use super::super::EngineError;

/// fjall's errors name no file; say at least which database it was.
pub(super) fn at(path: &Path, error: EngineError) -> EngineError {
    match error {
        EngineError::Corrupt(what) => EngineError::Corrupt(format!("{}: {what}", path.display())),
        EngineError::Io(error) => EngineError::Io(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        other @ (EngineError::NoStore(_) | EngineError::Poisoned(_) | EngineError::ViewExpired { .. }) => other,
    }
}

/// Its background work meets damage like a read does, and keeps the cause to itself.
const POISONED: &str = "fjall refuses after a failed write of its own, as on a full disk; the log has the cause, in a \
                        line of `fjall` or `lsm_tree`. Restart the node, with room on the disk. If that happens \
                        again for another cause, its files are damaged: remove the data directory and bring the node \
                        back with `kvd --join HOST:PORT --replace NAME`";

/// What an error of fjall means to us.
#[allow(clippy::wildcard_enum_match_arm, reason = "both enums are non-exhaustive; the rest is damage")]
pub(super) fn translate(error: fjall::Error) -> EngineError {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => translate_io(error),
        fjall::Error::Poisoned => EngineError::Poisoned(POISONED.to_owned()),
        fjall::Error::Locked => EngineError::Io(io::Error::new(io::ErrorKind::WouldBlock, "another process holds it")),
        damage => EngineError::Corrupt(damage.to_string()),
    }
}

/// A file that ends early, or holds what cannot be, is damage and no failure of the device.
#[allow(clippy::wildcard_enum_match_arm, reason = "the enum is non-exhaustive; the rest is the device's")]
fn translate_io(error: io::Error) -> EngineError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => EngineError::Corrupt(error.to_string()),
        _ => EngineError::Io(error),
    }
}
