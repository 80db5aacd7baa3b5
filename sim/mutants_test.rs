//! Every mutant applies to the tree as it is, and none that is required is missing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Bugs that the simulator must be able to notice.
const REQUIRED: [&str; 24] = [
    "append-before-sync",
    "vote-before-durable",
    "read-without-index",
    "read-index-reused",
    "follower-read-without-index",
    "stale-read-unbounded",
    "apply-before-durable",
    "applied-index-apart",
    "snapshot-without-sessions",
    "log-cut-at-damage",
    "purge-beyond-flush",
    "snapshot-unverified",
    "truncation-not-durable",
    "older-disk-accepted",
    "timeout-not-applied",
    "watch-skips-a-revision",
    "watch-splits-a-revision",
    "watch-over-a-gap",
    "watch-progress-overtakes",
    "key-stays-under-its-old-lease",
    "lock-without-order",
    "unlock-of-another",
    "compaction-takes-what-is-needed",
    "history-kept-too-short",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).canonicalize().unwrap()
}

/// A change of the source that a mutant's patch does not survive must mend the patch.
#[test]
fn every_mutant_applies_to_the_tree_as_it_is() {
    let root = root();
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(root.join("sim/mutants")).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        let header = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        assert_eq!(header("name: "), stem, "the header names the file");
        assert!(!header("about: ").is_empty() && !header("caught-by: ").is_empty(), "{stem} lacks a header");
        let checked = Command::new("git")
            .args(["apply", "-p1", "--check"])
            .arg(&path)
            .current_dir(&root)
            // The tree may be a copy within another repository, or in none at all.
            .env("GIT_CEILING_DIRECTORIES", root.parent().unwrap_or(&root))
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "sim/mutants/{stem}.patch no longer applies; make it anew:\n{said}");
        names.insert(stem);
    }
    let missing: Vec<_> = REQUIRED.iter().filter(|name| !names.contains(**name)).collect();
    assert!(missing.is_empty(), "mutants are missing: {missing:?}");
}
