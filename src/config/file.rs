//! Files of the operator's (TOML): reading them, and saying in which line a mistake is.

use std::{io::Read, path::Path};

use serde::de::DeserializeOwned;
use toml::Spanned;

/// What is wrong, and the byte of the file where.
pub(crate) type Fault = (usize, String);

pub(crate) fn fault<T>(at: usize, message: impl Into<String>) -> Result<T, Fault> {
    Err((at, message.into()))
}

/// Where something stands in the file.
pub(super) fn place<T>(spanned: &Option<Spanned<T>>) -> Option<usize> {
    spanned.as_ref().map(|spanned| spanned.span().start)
}

/// Reads a whole file of at most so many bytes; the error is one line for the operator, who knows it as `what`.
pub(crate) fn read(path: &Path, what: &str, most: u64) -> Result<String, String> {
    let mut bytes = Vec::new();
    // Not the length that the file system states: a device states none, and a file can grow.
    std::fs::File::open(path)
        .and_then(|file| file.take(most + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("can not read the {what} {}: {error}", path.display()))?;
    if bytes.len() as u64 > most {
        return Err(format!("the {what} {} has more than {most} bytes", path.display()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let fault = line(error.as_bytes(), error.utf8_error().valid_up_to());
        located(path, (fault, "this is not UTF-8 text".into()))
    })
}

/// The number, from 1, of the line that this byte is in.
fn line(text: &[u8], at: usize) -> usize {
    text.iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

/// Parses a file's text, and builds from it what it means; an error has its line, from 1.
pub(crate) fn parse<F: DeserializeOwned, T>(
    text: &str,
    build: impl FnOnce(F) -> Result<T, Fault>,
) -> Result<T, (usize, String)> {
    let line = |at: usize| line(text.as_bytes(), at);
    let file = toml::from_str(text).map_err(|error| {
        let message = error.message().lines().collect::<Vec<_>>().join("; ");
        (line(error.span().map_or(0, |span| span.start)), plain(&message))
    })?;
    build(file).map_err(|(at, message)| (line(at), message))
}

/// What serde says of a value, in words of TOML instead of Rust.
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

/// An error of [`parse`] as one line for the operator.
pub(crate) fn located(path: &Path, (line, message): (usize, String)) -> String {
    format!("{}:{line}: {message}", path.display())
}
