//! What the supervisor of a development cluster shows: its own words on standard output, the nodes'
//! logs on standard error, each line under its node's name.

use std::io::{IsTerminal, Write};

/// One colour a node, from those that read well on dark and light: cyan, yellow, green, magenta, blue, red.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// Prints. A closed terminal or pipe is no reason to stop a cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Printer {
    coloured: bool,
}

impl Printer {
    pub(super) fn new() -> Self {
        Self { coloured: std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }

    /// The supervisor's own words.
    pub(super) fn say(self, words: &str) {
        writeln!(std::io::stdout().lock(), "{words}").ok();
    }

    /// A line of a node's log.
    pub(super) fn forward(self, node: usize, name: &str, line: &str) {
        let mut out = std::io::stderr().lock();
        if self.coloured {
            let colour = COLOURS.get(node % COLOURS.len()).copied().unwrap_or_default();
            writeln!(out, "\x1b[{colour}m{name} |\x1b[0m {line}").ok();
        } else {
            writeln!(out, "{name} | {line}").ok();
        }
    }
}
