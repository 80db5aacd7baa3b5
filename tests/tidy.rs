//! The tree stays the map: imports point down, and what must stay behind a seam stays there.

#![allow(clippy::unwrap_used, reason = "a file that cannot be read fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms and what each may import, as drawn in `docs/ARCHITECTURE.md`. A room may always import itself.
const ROOMS: [(&str, &[&str]); 14] = [
    ("types", &[]),
    ("env", &["types"]),
    ("proto", &["types"]),
    ("storage/log", &["types", "env"]),
    ("storage/engine", &["types", "env", "proto"]),
    ("merkle", &["types"]),
    ("causality", &["types"]),
    ("raft", &["types", "env", "proto", "storage"]),
    ("shard", &["types", "env", "proto", "storage", "raft"]),
    ("meta", &["types", "env", "proto", "storage", "raft"]),
    ("node", &["types", "env", "proto", "storage", "raft", "shard", "meta"]),
    ("api", &["types", "env", "proto", "node"]),
    ("client", &["types", "env", "proto"]),
    ("cli", &["types", "env", "proto", "client"]),
];

/// Crates that only some rooms may name.
const CONFINED: [(&str, &[&str]); 8] = [
    ("openraft", &["raft"]),
    ("tonic", &["api", "client", "raft/transport", "proto.rs"]),
    ("fjall", &["storage/engine"]),
    ("sled", &["storage/engine"]),
    ("axum", &["api"]),
    ("rustyline", &["cli/repl/editor.rs"]),
    ("rustls", &["env/tls"]),
    ("tokio_rustls", &["env/tls"]),
];

/// What may be named only in its seam, as it stands in code.
const SEAMS: [(&str, &[&str]); 14] = [
    ("std::time::Instant", &["env"]),
    ("Instant::now", &["env"]),
    ("SystemTime", &["env"]),
    // For people only: no decision follows the wall clock.
    ("time::wall", &["env"]),
    ("wall()", &["env"]),
    ("tokio::time", &["env"]),
    ("std::thread", &["env"]),
    ("spawn_blocking", &["env"]),
    ("std::fs", &["env", "node/dev.rs", "node/config.rs", "cli", "bin", "storage/engine/fjall_engine.rs"]),
    ("tokio::fs", &["env", "cli"]),
    ("tokio::net", &["env"]),
    ("std::net::Tcp", &["env", "node/dev.rs"]),
    ("rand::", &["env"]),
    ("HashMap", &[]),
];

struct Source {
    /// Relative to `src`.
    path: PathBuf,
    /// Without comments and without test modules at the foot.
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(&root).unwrap().to_owned();
                if !is_test(&relative) {
                    found.push(Source { code: code_of(&fs::read_to_string(&path).unwrap()), path: relative });
                }
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 20, "the walk found only {} files", found.len());
    found
}

/// Files that exist for tests only.
fn is_test(path: &Path) -> bool {
    const SUPPORT: [&str; 7] = ["conformance", "tests", "model", "testing", "test_bed", "test_cluster", "fake"];
    let is_support = |part: &std::ffi::OsStr| SUPPORT.iter().any(|name| part == *name);
    let stem = path.with_extension("");
    stem.to_str().unwrap().ends_with("_test") || stem.iter().any(is_support)
}

/// The code that ships: no comment lines, nothing from the first `#[cfg(test)]` that opens a module.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let opens_tests = line.trim() == "#[cfg(test)]"
            && lines.peek().is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'));
        if opens_tests {
            break;
        }
        if !line.trim_start().starts_with("//") {
            code.push_str(line);
            code.push('\n');
        }
    }
    code
}

/// The room a file is in, or `None` for `lib.rs`, `bin/` and `storage/mod.rs`.
fn room_of(path: &Path) -> Option<&'static str> {
    let path = path.to_str().unwrap();
    ROOMS
        .iter()
        .map(|(room, _)| *room)
        .find(|room| path.strip_prefix(room).is_some_and(|rest| rest.starts_with('/') || rest == ".rs"))
}

/// Every `crate::…` path in the code, with `{}` lists at the top level taken apart.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back().unwrap_or(' ');
        if before.is_alphanumeric() || before == '_' || before == ':' {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let end = list.find("};").unwrap_or(list.len());
            found.extend(list[..end].split(',').map(first_segments).filter(|name| !name.is_empty()));
        } else {
            found.insert(first_segments(rest));
        }
    }
    found
}

fn first_segments(path: &str) -> String {
    let mut segments = path
        .trim()
        .split("::")
        .map(|part| part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>());
    let first = segments.next().unwrap_or_default();
    match segments.next() {
        Some(second) if first == "storage" => format!("{first}/{second}"),
        _ => first,
    }
}

#[test]
fn imports_point_down() {
    let allowed: BTreeMap<_, _> = ROOMS.into();
    let mut wrong = Vec::new();
    for source in sources() {
        let Some(room) = room_of(&source.path) else { continue };
        for import in imports(&source.code) {
            let target = if import.starts_with("storage/") { "storage" } else { &import };
            let within = room == import || room.split('/').next() == Some(target) && import == target;
            let down = allowed[room].contains(&target) || allowed[room].contains(&import.as_str());
            if !within && !down {
                wrong.push(format!("{}: {room} imports {import}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports must point down (docs/ARCHITECTURE.md):\n{}", wrong.join("\n"));
}

#[test]
fn every_file_is_in_a_room() {
    let homeless: Vec<_> = sources()
        .into_iter()
        .filter(|source| room_of(&source.path).is_none())
        .map(|source| source.path.display().to_string())
        .filter(|path| !matches!(path.as_str(), "lib.rs" | "storage/mod.rs" | "bin/kvd.rs" | "bin/kvctl.rs"))
        .collect();
    assert!(homeless.is_empty(), "no room for {homeless:?}");
}

#[test]
fn confined_crates_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (name, rooms) in CONFINED {
            let named = source.code.contains(&format!("{name}::")) || source.code.contains(&format!("use {name};"));
            if named && !is_in(&source.path, rooms) {
                wrong.push(format!("{} names {name}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_world_enters_through_the_seams() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (name, rooms) in SEAMS {
            if names(&source.code, name) && !is_in(&source.path, rooms) {
                wrong.push(format!("{} names {name}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "use the seams of src/env:\n{}", wrong.join("\n"));
}

/// Whether `name` stands in the code, and not as the end of a longer name.
fn names(code: &str, name: &str) -> bool {
    code.match_indices(name)
        .any(|(at, _)| !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_'))
}

fn is_in(path: &Path, rooms: &[&str]) -> bool {
    rooms.iter().any(|room| path.starts_with(room))
}

#[test]
fn files_stay_readable() {
    const LINES_MAX: usize = 500;
    let long: Vec<_> = sources()
        .into_iter()
        .map(|source| (source.code.lines().count(), source.path))
        .filter(|(lines, _)| *lines > LINES_MAX)
        .collect();
    assert!(long.is_empty(), "more than {LINES_MAX} lines of code: {long:?}");
}

#[test]
fn rooms_say_what_they_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for source in sources() {
        let text = fs::read_to_string(root.join(&source.path)).unwrap();
        assert!(text.starts_with("//!"), "{} opens without saying what it is", source.path.display());
    }
}

#[test]
fn no_catch_all_rooms() {
    for source in sources() {
        for part in source.path.with_extension("").iter() {
            let name = part.to_str().unwrap();
            for vague in ["util", "utils", "common", "helper", "helpers", "manager"] {
                assert_ne!(name, vague, "{}", source.path.display());
            }
        }
    }
}

/// The checks above read text; this shows that they would see what they look for.
#[test]
fn the_checks_can_fail() {
    let code = code_of(
        "use crate::{api, types::NodeId};\n// use crate::gone;\nfn f() { crate::storage::log::x() }\n#[cfg(test)]\nmod tests {\n use crate::late;\n",
    );
    let found = imports(&code);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["api", "storage/log", "types"]);
    assert_eq!(room_of(Path::new("storage/log/frame.rs")), Some("storage/log"));
    assert_eq!(room_of(Path::new("proto.rs")), Some("proto"));
    assert_eq!(room_of(Path::new("protocol/x.rs")), None);
    assert!(names("let x = rand::rng();", "rand::") && !names("Operand::Value", "rand::"));
}
