//! Files of the operator's (TOML): reading them, and saying in which line a mistake is.

use std::{io::Read, path::Path};

use serde::de::DeserializeOwned;
use toml::Spanned;

/// What is wrong, and the byte of the file where.
pub(super) type Fault = (usize, String);

pub(super) fn fault<T>(at: usize, message: impl Into<String>) -> Result<T, Fault> {
    Err((at, message.into()))
}

/// Where something stands in the file.
pub(super) fn place<T>(spanned: &Option<Spanned<T>>) -> Option<usize> {
    spanned.as_ref().map(|spanned| spanned.span().start)
}

/// Reads a whole file of at most so many bytes; the error is one line for the operator, who knows it as `what`.
pub(super) fn read(path: &Path, what: &str, most: u64) -> Result<String, String> {
    let mut text = String::new();
    // Not the length that the file system states: a device states none, and a file can grow.
    let bytes = std::fs::File::open(path)
        .and_then(|file| file.take(most + 1).read_to_string(&mut text))
        .map_err(|error| format!("can not read the {what} {}: {error}", path.display()))?;
    match bytes as u64 > most {
        true => Err(format!("the {what} {} has more than {most} bytes", path.display())),
        false => Ok(text),
    }
}

/// Parses a file's text, and builds from it what it means; an error has its line, from 1.
pub(super) fn parse<F: DeserializeOwned, T>(
    text: &str,
    build: impl FnOnce(F) -> Result<T, Fault>,
) -> Result<T, (usize, String)> {
    let line = |at: usize| text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
    let file = toml::from_str(text).map_err(|error| {
        let message = error.message().lines().collect::<Vec<_>>().join("; ");
        (line(error.span().map_or(0, |span| span.start)), message)
    })?;
    build(file).map_err(|(at, message)| (line(at), message))
}

/// An error of [`parse`] as one line for the operator.
pub(super) fn located(path: &Path, (line, message): (usize, String)) -> String {
    format!("{}:{line}: {message}", path.display())
}
