//! The line editor: rustyline with our candidates, suggestions and history.
//!
//! It blocks, so it lives on a thread of its own. What only the cluster knows it asks through
//! [`Question`]s, whose answers are bounded in time by who gives them.

use std::borrow::Cow;
use std::path::Path;

use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::{Hint, Hinter, HistoryHinter};
use rustyline::history::{History, MemHistory};
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper};
use tokio::sync::{mpsc, oneshot};

use super::complete::{Spot, Wanted, fitting, spot, usage};
use super::history::{HISTORY_ENTRIES_MAX, HistoryFile, is_kept};
use super::words::{Tail, lex};

/// Asks for the names that may stand at a place.
pub(crate) struct Question {
    pub(crate) wanted: Wanted,
    pub(crate) word: String,
    pub(crate) keyspace: Option<String>,
    pub(crate) answer: oneshot::Sender<Vec<String>>,
}

/// What came of reading a line.
pub(crate) enum Typed {
    Line(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D, or the terminal is gone.
    End,
}

/// Reads lines from the terminal.
pub(crate) struct LineEditor {
    editor: Editor<Assistant, MemHistory>,
    kept: Option<HistoryFile>,
}

impl LineEditor {
    /// Starts with the history kept in `folder`. Also returns why no history is kept, if none is.
    pub(crate) fn open(
        mut definition: clap::Command,
        folder: Option<&Path>,
        questions: mpsc::Sender<Question>,
    ) -> rustyline::Result<(Self, Option<String>)> {
        definition.build();
        let config = Config::builder()
            .max_history_size(HISTORY_ENTRIES_MAX)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .build();
        let mut editor = Editor::with_history(config.clone(), MemHistory::with_config(&config))?;
        editor.set_helper(Some(Assistant { definition, questions, idle: false }));
        let (kept, trouble) = match folder.map(HistoryFile::open) {
            Some(Ok((kept, entries))) => {
                for entry in entries {
                    editor.history_mut().add_owned(entry)?;
                }
                (Some(kept), None)
            }
            Some(Err(error)) => (None, Some(error.to_string())),
            None => (None, None),
        };
        Ok((Self { editor, kept }, trouble))
    }

    /// Reads one entry, which has several lines where a quote spans them.
    pub(crate) fn read(&mut self, prompt: &str) -> rustyline::Result<Typed> {
        let typed = self.typed(prompt, false)?;
        // Completion leaves a blank at the end.
        let entry = if let Typed::Line(line) = &typed { line.trim_end() } else { "" };
        if is_kept(entry) {
            self.editor.add_history_entry(entry)?;
            if self.kept.as_mut().is_some_and(|kept| kept.add(entry).is_err()) {
                // The disk may be full; the lines of this run are still there.
                self.kept = None;
            }
        }
        Ok(typed)
    }

    /// Reads one line of a command's input as it is.
    pub(crate) fn read_input(&mut self, prompt: &str) -> rustyline::Result<Typed> {
        self.typed(prompt, true)
    }

    fn typed(&mut self, prompt: &str, idle: bool) -> rustyline::Result<Typed> {
        if let Some(assistant) = self.editor.helper_mut() {
            assistant.idle = idle;
        }
        match self.editor.readline(prompt) {
            Ok(line) => Ok(Typed::Line(line)),
            Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => Ok(Typed::Interrupted),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(error) => Err(error),
        }
    }
}

/// Helps while a line is typed.
struct Assistant {
    /// Built, so that options of every command are in each.
    definition: clap::Command,
    questions: mpsc::Sender<Question>,
    /// What is typed is no command.
    idle: bool,
}

impl Assistant {
    fn names(&self, spot: &Spot) -> Vec<String> {
        match &spot.wanted {
            Wanted::Anything => Vec::new(),
            Wanted::These(words) => words.clone(),
            wanted @ (Wanted::Keyspace | Wanted::Node | Wanted::Key | Wanted::Profile) => {
                let (answer, answered) = oneshot::channel();
                let (word, keyspace) = (spot.word.clone(), spot.keyspace.clone());
                let question = Question { wanted: wanted.clone(), word, keyspace, answer };
                match self.questions.blocking_send(question) {
                    Ok(()) => answered.blocking_recv().unwrap_or_default(),
                    Err(_) => Vec::new(),
                }
            }
        }
    }
}

impl Helper for Assistant {}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        if self.idle {
            return Ok((at, Vec::new()));
        }
        let spot = spot(&self.definition, line.get(..at).unwrap_or_default());
        let candidates = fitting(&spot, self.names(&spot));
        let pair = |text: String| Pair { display: text.trim_end().to_owned(), replacement: text };
        Ok((spot.start, candidates.into_iter().map(pair).collect()))
    }
}

/// What is shown behind the cursor.
pub(crate) struct Suggestion {
    text: String,
    /// Whether the right arrow takes it over: an earlier line, but no usage.
    is_line: bool,
}

impl Hint for Suggestion {
    fn display(&self) -> &str {
        &self.text
    }

    fn completion(&self) -> Option<&str> {
        self.is_line.then_some(&self.text)
    }
}

impl Hinter for Assistant {
    type Hint = Suggestion;

    fn hint(&self, line: &str, at: usize, context: &Context<'_>) -> Option<Suggestion> {
        if self.idle || at < line.len() {
            return None;
        }
        let earlier = HistoryHinter::new().hint(line, at, context).filter(|text| !text.contains('\n'));
        let earlier = earlier.map(|text| Suggestion { text, is_line: true });
        earlier.or_else(|| Some(Suggestion { text: usage(&self.definition, line)?, is_line: false }))
    }
}

impl Highlighter for Assistant {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(format!("\x1b[2m{hint}\x1b[0m"))
    }
}

impl Validator for Assistant {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let open = !self.idle && matches!(lex(context.input().as_bytes()).tail, Tail::Open(_));
        Ok(if open { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}
