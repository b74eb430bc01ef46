//! TOML files that a person writes: read them, and say on which line a mistake is.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use thiserror::Error;
use toml::Spanned;
use toml_parser::{
    Source,
    lexer::{Token, TokenKind},
};

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
pub(crate) fn line(text: &[u8], at: usize) -> usize {
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

/// A parsed text takes forty times its bytes in memory. So a long text is parsed in pieces of about this size.
const PIECE_BYTES: usize = 64 << 10;

/// As [`parse`], for a file that is a list of `[[table]]`s: in pieces, each with some of the tables. `build` gets one piece
/// after the other, with the byte of the file where it begins; the places of values are counted from there.
pub(crate) fn parse_pieces<F: DeserializeOwned>(
    text: &str,
    tables: &[&str],
    mut build: impl FnMut(F, usize) -> Result<(), Fault>,
) -> Result<(), Mistake> {
    let mut from = 0;
    for until in seams(text, tables, PIECE_BYTES).chain([text.len()]) {
        parse(&text[from..until], |file| build(file, from))
            .map_err(|mistake| Mistake { line: line(text.as_bytes(), from) - 1 + mistake.line, ..mistake })?;
        from = until;
    }
    Ok(())
}

/// Where a text can be cut: headers `[[table]]` of these tables, at least `piece` bytes apart. A text that begins with a key
/// is not cut, because the key may have the name of a table.
fn seams(text: &str, tables: &[&str], piece: usize) -> impl Iterator<Item = usize> {
    let blank = |token: &Token| matches!(token.kind(), TokenKind::Whitespace | TokenKind::Comment | TokenKind::Newline);
    let first = Source::new(text).lex().find(|token| !blank(token));
    let has_key = first.is_some_and(|first| first.kind() != TokenKind::LeftSquareBracket);
    let mut tokens = Source::new(if has_key { "" } else { text }).lex();
    let (mut depth, mut line_begins, mut last) = (0usize, true, 0);
    std::iter::from_fn(move || {
        loop {
            let token = tokens.next()?;
            let at = token.span().start();
            let header = line_begins && depth == 0 && is_header(&text[at..], tables);
            match token.kind() {
                TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket => depth += 1,
                TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => depth = depth.saturating_sub(1),
                _ => {}
            }
            line_begins = token.kind() == TokenKind::Newline || line_begins && token.kind() == TokenKind::Whitespace;
            if header && at >= last + piece {
                last = at;
                return Some(at);
            }
        }
    })
}

/// Whether a text begins with `[[table]]`, for one of these tables.
fn is_header(text: &str, tables: &[&str]) -> bool {
    let name = text.strip_prefix("[[").map(str::trim_start);
    let ends = |rest: &str| rest.trim_start().starts_with("]]");
    tables.iter().any(|table| name.and_then(|name| name.strip_prefix(table)).is_some_and(ends))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces of a text that is cut wherever that is possible.
    fn pieces(text: &str) -> Vec<&str> {
        let ends = seams(text, &["lb", "member"], 1).chain([text.len()]);
        let mut from = 0;
        ends.map(|end| &text[std::mem::replace(&mut from, end)..end]).collect()
    }

    #[test]
    fn a_text_is_cut_at_the_headers_of_its_tables_and_nowhere_else() {
        assert_eq!(pieces(""), [""]);
        assert_eq!(pieces("# [[lb]]\n[[member]]\na = 1\n[[lb]]\n"), ["# [[lb]]\n", "[[member]]\na = 1\n", "[[lb]]\n"]);
        assert_eq!(
            pieces("[[group]]\n  [[ member ]] # x\n[member.tls]\n"),
            ["[[group]]\n  ", "[[ member ]] # x\n[member.tls]\n"]
        );
        for whole in [
            "member = [1]\n[[member]]\n", // the key and the header contradict each other
            "[[group]]\n[[members]]\n[[member.http]]\n[member]\n", // other tables
            "[[group]]\na = \"\"\"\n[[member]]\n\"\"\"\n", // in a text
            "[[group]]\na = '''\n[[member]]\n'''\n",
            "[[group]]\na = [\n[[member]]\n]\n", // in a list
            "[[group]]\na = [\n[[member]]\n",    // in a list without an end
        ] {
            assert_eq!(pieces(whole), [whole]);
        }
    }

    #[test]
    fn the_pieces_of_a_long_text_are_parsed_in_order_and_with_their_lines() {
        #[derive(serde::Deserialize)]
        struct File {
            #[serde(default)]
            lb: Vec<Spanned<Numbered>>,
        }
        #[derive(serde::Deserialize)]
        struct Numbered {
            number: usize,
        }
        let text: String = (0..20_000).map(|number| format!("[[lb]]\nnumber = {number}\n")).collect();
        let (mut calls, mut numbers) = (0, Vec::new());
        let parsed = parse_pieces(&text, &["lb"], |file: File, _| {
            calls += 1;
            numbers.extend(file.lb.into_iter().map(|lb| lb.into_inner().number));
            Ok(())
        });
        assert_eq!(parsed, Ok(()));
        assert!(numbers.into_iter().eq(0..20_000) && calls >= text.len() / PIECE_BYTES, "{calls} pieces");
        // The line of a fault that the parser finds, and of one that `build` finds.
        let bad = text.replace("number = 15000\n", "number = x\n");
        assert_eq!(parse_pieces(&bad, &["lb"], |_: File, _| Ok(())).map_err(|mistake| mistake.line), Err(30_002));
        let parsed = parse_pieces(&text, &["lb"], |file: File, from| {
            match file.lb.iter().find(|lb| lb.get_ref().number == 17_000) {
                Some(lb) => {
                    let at = lb.span().start;
                    assert!(text[from + at..].starts_with("[[lb]]\nnumber = 17000\n"), "byte {from} + {at}");
                    fault(at, "a fault")
                }
                None => Ok(()),
            }
        });
        assert_eq!(parsed, Err(Mistake { line: 34_001, text: "a fault".into() }));
    }
}
