//! Splits lines into words as a POSIX shell does: single quotes keep everything, double quotes keep
//! all but `\` before `$`, `` ` ``, `"`, `\` and a line feed, a backslash keeps one character, `#` at
//! the start of a word begins a comment, and a line feed ends a command. Nothing is expanded. Pure.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// One word and where in the text it begins.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Word {
    /// Offset of its first byte, quotes included.
    pub(crate) start: usize,
    /// What it says, without quotes and escapes.
    pub(crate) bytes: Vec<u8>,
}

/// Where the text ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tail {
    /// Between words.
    Between,
    /// In a word that may be whole.
    Word,
    /// In a comment.
    Comment,
    /// After a quote or a backslash that waits for more.
    Open(char),
}

/// A text taken apart, as far as it goes.
#[derive(Debug)]
pub(crate) struct Lexed {
    /// The words of each command; of the last one also the word that is still open.
    pub(crate) commands: Vec<Vec<Word>>,
    pub(crate) tail: Tail,
}

/// The words of each command in a text that is whole; the error is the quote that is never closed.
pub(crate) fn split(text: &[u8]) -> Result<Vec<Vec<OsString>>, char> {
    let lexed = lex(text);
    if let Tail::Open(open) = lexed.tail {
        return Err(open);
    }
    let words = |command: Vec<Word>| command.into_iter().map(|word| OsString::from_vec(word.bytes)).collect();
    Ok(lexed.commands.into_iter().filter(|command| !command.is_empty()).map(words).collect())
}

/// Takes a text apart that may not be whole yet.
pub(crate) fn lex(text: &[u8]) -> Lexed {
    let mut lexer = Lexer { mode: Mode::Plain, word: None, commands: vec![Vec::new()], dangling: false };
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        at += lexer.step(at, *byte, text.get(at + 1).copied());
    }
    let tail = match lexer.mode {
        Mode::Single => Tail::Open('\''),
        Mode::Double => Tail::Open('"'),
        Mode::Comment => Tail::Comment,
        Mode::Plain if lexer.dangling => Tail::Open('\\'),
        Mode::Plain if lexer.word.is_some() => Tail::Word,
        Mode::Plain => Tail::Between,
    };
    lexer.end_word();
    Lexed { commands: lexer.commands, tail }
}

/// A word that reads as `text` again, quoted where it must be.
pub(crate) fn quote(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-./:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[derive(Clone, Copy)]
enum Mode {
    Plain,
    Single,
    Double,
    Comment,
}

struct Lexer {
    mode: Mode,
    word: Option<Word>,
    commands: Vec<Vec<Word>>,
    /// The text ended in a backslash.
    dangling: bool,
}

impl Lexer {
    /// Takes one byte, and the next where they belong together; returns how many it took.
    fn step(&mut self, at: usize, byte: u8, next: Option<u8>) -> usize {
        match (self.mode, byte) {
            (Mode::Single, b'\'') | (Mode::Double, b'"') => self.mode = Mode::Plain,
            (Mode::Single, _) => self.push(at, byte),
            (Mode::Double, b'\\') => match next {
                Some(b'\n') => return 2,
                Some(kept @ (b'$' | b'`' | b'"' | b'\\')) => {
                    self.push(at, kept);
                    return 2;
                }
                Some(_) | None => self.push(at, byte),
            },
            (Mode::Double, _) => self.push(at, byte),
            (Mode::Comment, b'\n') => {
                self.mode = Mode::Plain;
                self.end_command();
            }
            (Mode::Comment, _) => {}
            (Mode::Plain, b'\n') => self.end_command(),
            (Mode::Plain, b' ' | b'\t' | b'\r') => self.end_word(),
            (Mode::Plain, b'#') if self.word.is_none() => self.mode = Mode::Comment,
            (Mode::Plain, b'\'') => self.open(at, Mode::Single),
            (Mode::Plain, b'"') => self.open(at, Mode::Double),
            (Mode::Plain, b'\\') => match next {
                // The line goes on, as if neither were there.
                Some(b'\n') => return 2,
                Some(kept) => {
                    self.push(at, kept);
                    return 2;
                }
                None => self.dangling = true,
            },
            (Mode::Plain, _) => self.push(at, byte),
        }
        1
    }

    fn open(&mut self, at: usize, mode: Mode) {
        self.word(at);
        self.mode = mode;
    }

    fn word(&mut self, at: usize) -> &mut Word {
        self.word.get_or_insert_with(|| Word { start: at, bytes: Vec::new() })
    }

    fn push(&mut self, at: usize, byte: u8) {
        self.word(at).bytes.push(byte);
    }

    fn end_word(&mut self) {
        let word = self.word.take();
        if let Some(command) = self.commands.last_mut() {
            command.extend(word);
        }
    }

    fn end_command(&mut self) {
        self.end_word();
        self.commands.push(Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Tail, lex, quote, split};

    fn words(text: &str) -> Vec<Vec<String>> {
        let line = |line: Vec<std::ffi::OsString>| line.into_iter().map(|word| word.into_string().unwrap()).collect();
        split(text.as_bytes()).unwrap().into_iter().map(line).collect()
    }

    #[test]
    fn words_are_split_as_a_shell_does() {
        for (text, expected) in [
            ("put a 1", vec!["put", "a", "1"]),
            ("  put\t'a key'  \"it's\" ", vec!["put", "a key", "it's"]),
            (r#"put "a \"b\" \n \\" 'c\d' e\ f"#, vec!["put", r#"a "b" \n \"#, r"c\d", "e f"]),
            ("put '' \"\"", vec!["put", "", ""]),
            ("a'b'\"c\"d", vec!["abcd"]),
            ("get a # the first", vec!["get", "a"]),
            ("get a#b", vec!["get", "a#b"]),
            ("get '#'", vec!["get", "#"]),
            ("put a \\\n  1", vec!["put", "a", "1"]),
            ("put a 'two\nlines'", vec!["put", "a", "two\nlines"]),
            ("get $HOME;ls|wc >x", vec!["get", "$HOME;ls|wc", ">x"]),
        ] {
            assert_eq!(words(text), [expected], "{text}");
        }
        assert_eq!(words(" # nothing"), Vec::<Vec<String>>::new());
        assert_eq!(words("get a # x\r\n\nget b\n"), [["get", "a"], ["get", "b"]]);
    }

    #[test]
    fn what_is_not_whole_says_what_it_waits_for() {
        for (text, tail) in [
            ("put 'a", Tail::Open('\'')),
            ("put \"a\\", Tail::Open('"')),
            ("put a\\", Tail::Open('\\')),
            ("put a", Tail::Word),
            ("put a ", Tail::Between),
            ("", Tail::Between),
            ("put # a", Tail::Comment),
        ] {
            assert_eq!(lex(text.as_bytes()).tail, tail, "{text}");
        }
        assert_eq!(split(b"get 'a"), Err('\''));
        let lexed = lex(b"get 'two wo");
        let last = lexed.commands.last().unwrap().last().unwrap();
        assert_eq!((last.start, last.bytes.as_slice()), (4, b"two wo".as_slice()));
    }

    proptest! {
        #[test]
        fn quoted_words_come_back(texts in proptest::collection::vec("\\PC*|[ '\"\\\\\n#$-]*", 1..5)) {
            let line: Vec<_> = texts.iter().map(|text| quote(text)).collect();
            prop_assert_eq!(words(&line.join(" ")), vec![texts]);
        }

        #[test]
        fn any_text_is_whole_or_open(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            let whole = !matches!(lex(&text).tail, Tail::Open(_));
            prop_assert_eq!(split(&text).is_ok(), whole);
        }
    }
}
