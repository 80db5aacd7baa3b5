//! The history file: what was typed, one entry a line, for its owner only. It is bounded, and several
//! REPLs may add to it at once, because each adds whole lines at the end.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Entries kept.
pub(crate) const HISTORY_ENTRIES_MAX: usize = 1_000;
/// Bytes of the file that are read; what is older is dropped at the next start.
const HISTORY_BYTES_MAX: u64 = 1024 * 1024;
/// Longest entry kept: a longer one holds data rather than a command.
const HISTORY_ENTRY_BYTES_MAX: usize = 8 * 1024;
/// Its name in the directory of what programs remember.
const FILE_NAME: &str = "kvctl_history";

/// The file that entries are added to.
pub(crate) struct HistoryFile {
    path: PathBuf,
    last: String,
}

impl HistoryFile {
    /// Opens the file in `folder`, which is made where it is missing, and reads what it holds.
    pub(crate) fn open(folder: &Path) -> io::Result<(Self, Vec<String>)> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let path = folder.join(FILE_NAME);
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).mode(0o600).open(&path)?;
        // Also when another umask or another hand made it.
        file.set_permissions(Permissions::from_mode(0o600))?;
        let size = file.metadata()?.len();
        let skipped = size.saturating_sub(HISTORY_BYTES_MAX);
        file.seek(SeekFrom::Start(skipped))?;
        let mut bytes = Vec::new();
        file.take(HISTORY_BYTES_MAX).read_to_end(&mut bytes)?;
        let (entries, dropped) = read(&String::from_utf8_lossy(&bytes), skipped > 0);
        if dropped {
            rewrite(&path, &entries)?;
        }
        let last = entries.last().cloned().unwrap_or_default();
        Ok((Self { path, last }, entries))
    }

    /// Adds an entry; returns whether it is one to keep.
    pub(crate) fn add(&mut self, entry: &str) -> io::Result<bool> {
        if !is_kept(entry) || entry == self.last {
            return Ok(false);
        }
        entry.clone_into(&mut self.last);
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        file.write_all(format!("{}\n", escaped(entry)).as_bytes())?;
        Ok(true)
    }
}

/// A line that begins with a blank is its writer's own business.
pub(crate) fn is_kept(entry: &str) -> bool {
    !entry.starts_with(char::is_whitespace) && !entry.is_empty() && entry.len() <= HISTORY_ENTRY_BYTES_MAX
}

/// The newest entries of a file's text, and whether older ones were left out. Of a text that is `cut`
/// the first line is no whole entry.
fn read(text: &str, cut: bool) -> (Vec<String>, bool) {
    let lines: Vec<_> = text.lines().skip(usize::from(cut)).filter(|line| !line.is_empty()).collect();
    let first = lines.len().saturating_sub(HISTORY_ENTRIES_MAX);
    (lines.iter().skip(first).map(|line| unescaped(line)).collect(), cut || first > 0)
}

/// Replaces the file at once, so that a crash leaves the old or the new one.
fn rewrite(path: &Path, entries: &[String]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(entries.iter().map(|entry| format!("{}\n", escaped(entry))).collect::<String>().as_bytes())?;
    fs::rename(&fresh, path)
}

/// An entry on one line.
fn escaped(entry: &str) -> String {
    entry.replace('\\', r"\\").replace('\n', r"\n").replace('\r', r"\r")
}

fn unescaped(line: &str) -> String {
    let mut entry = String::new();
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => entry.push('\n'),
                Some('r') => entry.push('\r'),
                Some(other) => entry.push(other),
                None => {}
            },
            (c, false) => entry.push(c),
        }
    }
    entry
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::{HISTORY_ENTRIES_MAX, HistoryFile, escaped, is_kept, read, unescaped};

    #[test]
    fn entries_outlive_the_process_for_their_owner_only() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("state/quorate");
        let (mut file, entries) = HistoryFile::open(&folder).unwrap();
        assert!(entries.is_empty());
        assert!(file.add("put a 'x\ny'").unwrap() && file.add("get a").unwrap());
        assert!(!file.add("get a").unwrap() && !file.add(" put secret 1").unwrap());
        let path = folder.join("kvctl_history");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let (_, entries) = HistoryFile::open(&folder).unwrap();
        assert_eq!(entries, ["put a 'x\ny'", "get a"]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_file_is_bounded() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("kvctl_history");
        let lines: String = (0..HISTORY_ENTRIES_MAX + 5).map(|number| format!("get {number}\n")).collect();
        std::fs::write(&path, lines).unwrap();
        let (_, entries) = HistoryFile::open(root.path()).unwrap();
        assert_eq!((entries.len(), entries[0].as_str()), (HISTORY_ENTRIES_MAX, "get 5"));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), HISTORY_ENTRIES_MAX);

        std::fs::write(&path, "x".repeat(3 << 20) + "\nget a\n").unwrap();
        let (_, entries) = HistoryFile::open(root.path()).unwrap();
        assert_eq!(entries, ["get a"]);
        assert!(std::fs::metadata(&path).unwrap().len() < 10);
        assert!(!is_kept(&"x".repeat(9_000)) && !is_kept("") && !is_kept("\tget a"));
        assert_eq!(read("ome get\nget b\n", true), (vec!["get b".to_owned()], true));
    }

    proptest! {
        #[test]
        fn an_entry_takes_one_line_and_comes_back(entry in "(\\PC|[\\\\\n\rnr])*") {
            prop_assert!(!escaped(&entry).contains(['\n', '\r']));
            prop_assert_eq!(unescaped(&escaped(&entry)), entry);
        }
    }
}
