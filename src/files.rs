//! TOML files that a person writes: read them, and say on which line a mistake is.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use thiserror::Error;
use toml::Spanned;

/// Why a file can not be used; the text is one line for the person who wrote the file.
#[derive(Debug, Error)]
pub enum FileError {
    /// The system does not give the file.
    #[error("can not read the {what} {}: {error}", path.display())]
    Unreadable {
        /// What the file is for.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The file is too large.
    #[error("the {what} {} has more than {max_bytes} bytes", path.display())]
    TooLarge {
        /// What the file is for.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// The most bytes that are read.
        max_bytes: u64,
    },
    /// The file has a mistake.
    #[error("{}:{}: {}", path.display(), mistake.line, mistake.text)]
    Mistake {
        /// Where the file is.
        path: PathBuf,
        /// What is wrong, and where.
        mistake: Mistake,
    },
}

/// A mistake in a file's text.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {text}")]
pub struct Mistake {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there, in one line.
    pub text: String,
}

impl Mistake {
    /// The mistake, with its line in the text.
    pub(crate) fn at(text: &str, (at, message): Fault) -> Mistake {
        // A text of the file may have line breaks, and stands in some messages.
        Mistake { line: line(text.as_bytes(), at), text: message.lines().collect::<Vec<_>>().join("; ") }
    }

    /// The mistake in the file that has the text.
    pub(crate) fn of(self, path: &Path) -> FileError {
        FileError::Mistake { path: path.into(), mistake: self }
    }
}

/// The byte of the file where a mistake is, and what is wrong there.
pub(crate) type Fault = (usize, String);

pub(crate) fn fault<T>(at: usize, message: impl Into<String>) -> Result<T, Fault> {
    Err((at, message.into()))
}

/// The byte of the file where a value begins.
pub(crate) fn place<T>(spanned: &Option<Spanned<T>>) -> Option<usize> {
    spanned.as_ref().map(|spanned| spanned.span().start)
}

/// Reads a whole file of at most so many bytes.
pub(crate) fn read(path: &Path, what: &'static str, max_bytes: u64) -> Result<String, FileError> {
    let mut bytes = Vec::new();
    // Not the length that the file system states: a device states none, and a file can grow.
    std::fs::File::open(path)
        .and_then(|file| file.take(max_bytes + 1).read_to_end(&mut bytes))
        .map_err(|error| FileError::Unreadable { what, path: path.into(), error })?;
    if bytes.len() as u64 > max_bytes {
        return Err(FileError::TooLarge { what, path: path.into(), max_bytes });
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = line(error.as_bytes(), error.utf8_error().valid_up_to());
        Mistake { line, text: "this is not UTF-8 text".into() }.of(path)
    })
}

/// The line of a byte, from 1.
fn line(text: &[u8], at: usize) -> usize {
    text.iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

/// Parses a file's text and builds its meaning.
pub(crate) fn parse<F: DeserializeOwned, T>(
    text: &str,
    build: impl FnOnce(F) -> Result<T, Fault>,
) -> Result<T, Mistake> {
    let mistake = |fault| Mistake::at(text, fault);
    let file = toml::from_str(text)
        .map_err(|error| mistake((error.span().map_or(0, |span| span.start), plain(error.message()))))?;
    build(file).map_err(mistake)
}

/// serde's message about a value, in words of TOML instead of Rust.
pub(crate) fn plain(message: &str) -> String {
    let mut words: Vec<&str> = message.split(' ').collect();
    if let Some(at) = words.iter().position(|word| *word == "struct") {
        words.splice(at..(at + 2).min(words.len()), ["a", "table"]); // and without its name
    }
    words
        .join(" ")
        .replace("expected u8", "expected a number from 0 to 255")
        .replace("expected u16", "expected a number from 0 to 65535")
        .replace("type: map, expected a sequence", "type: table, expected a list of them ([[ ]])")
        .replace("a sequence", "a list")
        .replace(" as i128", "")
}
