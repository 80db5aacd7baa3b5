//! Lines from a terminal. The editor blocks, so it reads on a worker thread, and meanwhile its
//! questions are answered here, where the clients are.

use tokio::sync::mpsc;

use super::editor::{LineEditor, Question, Typed};
use super::{INPUT_END, Lines, prompt};
use crate::cli::exit::{Exit, Failure};
use crate::cli::{INPUT_BYTES_MAX, Session};
use crate::env::Env;
use crate::env::console::Console;
use crate::env::work::{Worker, WorkerGone};

/// Stands before lines of a command's input.
const INPUT_PROMPT: &str = "... ";
/// Questions of the editor that wait; it asks one at a time.
const QUESTIONS_MAX: usize = 1;

pub(crate) struct Terminal {
    worker: Worker,
    /// Away while it reads.
    editor: Option<Box<LineEditor>>,
    questions: mpsc::Receiver<Question>,
}

impl Terminal {
    /// Opens the editor. Also returns why no history is kept, if none is.
    pub(crate) fn open(
        env: &Env,
        console: &Console,
        definition: clap::Command,
    ) -> Result<(Self, Option<String>), Failure> {
        let (ask, questions) = mpsc::channel(QUESTIONS_MAX);
        let opened = LineEditor::open(definition, console.places.state.as_deref(), ask);
        let (editor, trouble) = opened.map_err(|error| broken(&error.to_string()))?;
        let worker = env.workers.start("line editor");
        Ok((Self { worker, editor: Some(Box::new(editor)), questions }, trouble))
    }

    async fn read(&mut self, session: &Session<'_>, prompt: &str, input: bool) -> Result<Typed, Failure> {
        let Some(mut editor) = self.editor.take() else { return Ok(Typed::End) };
        let prompt = prompt.to_owned();
        let reading = self.worker.run(move || {
            let typed = if input { editor.read_input(&prompt) } else { editor.read(&prompt) };
            (editor, typed)
        });
        tokio::pin!(reading);
        let (editor, typed) = loop {
            tokio::select! {
                biased;
                read = &mut reading => break read.map_err(|gone: WorkerGone| broken(&gone.to_string()))?,
                Some(question) = self.questions.recv() => {
                    let Question { wanted, word, keyspace, answer } = question;
                    // The editor waits for this; if it is gone, the next turn shows it.
                    answer.send(session.names(&wanted, &word, keyspace.as_deref()).await).ok();
                }
            }
        };
        self.editor = Some(editor);
        typed.map_err(|error| broken(&error.to_string()))
    }
}

fn broken(why: &str) -> Failure {
    Failure::usage(format!("the line editor cannot go on: {why}"), "`kvctl repl < FILE` needs no terminal")
}

impl Lines for Terminal {
    async fn entry(&mut self, session: &Session<'_>) -> Result<Option<Vec<u8>>, Failure> {
        let prompt = prompt(session.profile.as_deref(), &session.settings);
        loop {
            match self.read(session, &prompt, false).await? {
                Typed::Line(line) => return Ok(Some(line.into_bytes())),
                // As in a shell, it takes the line back.
                Typed::Interrupted => {}
                Typed::End => return Ok(None),
            }
        }
    }

    async fn input(&mut self, session: &Session<'_>) -> Result<Vec<u8>, Failure> {
        let mut input = Vec::new();
        loop {
            let line = match self.read(session, INPUT_PROMPT, true).await? {
                Typed::Line(line) if line.as_bytes() != INPUT_END => line,
                Typed::Line(_) | Typed::End => return Ok(input),
                Typed::Interrupted => {
                    let message = "interrupted; nothing was sent".to_owned();
                    return Err(Failure { exit: Exit::Interrupted, message, hint: String::new() });
                }
            };
            input.extend_from_slice(line.as_bytes());
            input.push(b'\n');
            if input.len() as u64 > INPUT_BYTES_MAX {
                return Err(super::too_long());
            }
        }
    }

    fn place(&self) -> Option<String> {
        None
    }
}
