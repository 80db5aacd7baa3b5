//! Lines from a pipe or a file.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio_util::sync::CancellationToken;

use super::words::{Tail, lex};
use super::{INPUT_END, Lines};
use crate::cli::exit::Failure;
use crate::cli::{INPUT_BYTES_MAX, Session, interrupted};
use crate::env::console::Input;
use crate::types::limits::REQUEST_BYTES_MAX;

/// Longest entry: a value of the largest request, with room for quotes.
const ENTRY_BYTES_MAX: usize = 2 * REQUEST_BYTES_MAX;

pub(crate) struct Piped {
    input: BufReader<Input>,
    interrupt: CancellationToken,
    /// Lines read so far, and where the present entry began.
    number: u64,
    began: u64,
}

impl Piped {
    pub(crate) fn new(input: Input, interrupt: CancellationToken) -> Self {
        Self { input: BufReader::new(input), interrupt, number: 0, began: 0 }
    }

    /// Reads a line without its line feed to the end of `text`; `false` when there is none.
    async fn line(&mut self, text: &mut Vec<u8>, max: usize) -> Result<bool, Failure> {
        let room = max.saturating_sub(text.len()) as u64 + 1;
        let mut limited = (&mut self.input).take(room);
        let read = tokio::select! {
            biased;
            () = self.interrupt.cancelled() => return Err(interrupted(false)),
            read = limited.read_until(b'\n', text) => read?,
        };
        self.number += u64::from(read > 0);
        if text.len() > max {
            return Err(Failure::usage(
                format!("line {} and what belongs to it have more than {max} bytes", self.number),
                "`kvctl import` reads many records from a file",
            ));
        }
        if read > 0 && text.last() == Some(&b'\n') {
            text.pop();
        }
        Ok(read > 0)
    }
}

impl Lines for Piped {
    async fn entry(&mut self, _: &Session<'_>) -> Result<Option<Vec<u8>>, Failure> {
        let mut text = Vec::new();
        if !self.line(&mut text, ENTRY_BYTES_MAX).await? {
            return Ok(None);
        }
        self.began = self.number;
        let mut tail = lex(&text).tail;
        while let Tail::Open(open) = tail {
            let before = text.len();
            text.push(b'\n');
            if !self.line(&mut text, ENTRY_BYTES_MAX).await? {
                text.pop();
                break;
            }
            // A long value is not taken apart again for each of its lines.
            let may_close = text.get(before..).is_some_and(|line| open == '\\' || line.contains(&(open as u8)));
            if may_close {
                tail = lex(&text).tail;
            }
        }
        Ok(Some(text))
    }

    async fn input(&mut self, _: &Session<'_>) -> Result<Vec<u8>, Failure> {
        let mut input = Vec::new();
        let max = usize::try_from(INPUT_BYTES_MAX).unwrap_or(usize::MAX);
        loop {
            let mut line = Vec::new();
            if !self.line(&mut line, max).await? || line == INPUT_END {
                return Ok(input);
            }
            input.append(&mut line);
            input.push(b'\n');
            if input.len() > max {
                return Err(super::too_long());
            }
        }
    }

    fn place(&self) -> Option<String> {
        Some(format!("line {}", self.began))
    }
}
