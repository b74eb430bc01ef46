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
    let file = toml::from_str(text).map_err(|error| mistake(explained(text, &error)))?;
    build(file).map_err(mistake)
}

/// What TOML's parser has to say about a text: where, and what to write instead if that can be told.
pub(crate) fn explained(text: &str, error: &toml::de::Error) -> Fault {
    let at = error.span().map_or(0, |span| span.start);
    let (before, after) = text.split_at_checked(at).unwrap_or(("", text));
    let begin = before.rfind('\n').map_or(0, |end| end + 1);
    let line = &text[begin..before.len() + after.find('\n').unwrap_or(after.len())];
    (at, advice(line, error.message()).unwrap_or_else(|| plain(error.message())))
}

/// The longest value that is shown with quotes around it.
const QUOTED_BYTES: usize = 80;

/// What to write instead of this line, if it has one of the two mistakes that people make most: brackets and quotes.
fn advice(line: &str, message: &str) -> Option<String> {
    let header = line.trim_start().strip_prefix('[').and_then(|rest| rest.split_once(']'));
    if let Some((name, _)) = header {
        let is_name = !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
        let is_list = message.contains("duplicate key") || message.contains("expected a sequence");
        return (is_name && is_list)
            .then(|| format!("there can be several [{name}]: write [[{name}]], with two brackets, for each"));
    }
    let (key, rest) = line.split_once('=')?;
    let value = rest.split('#').next()?.trim();
    let is_word = value.starts_with(|first: char| first.is_alphanumeric() || matches!(first, '/' | ':' | '*' | '.'));
    let is_toml = || toml::from_str::<toml::Table>(&format!("key = {value}")).is_ok();
    (is_word && value.len() <= QUOTED_BYTES && !value.contains(['"', '\'']) && !is_toml())
        .then(|| format!("a text needs quotes: {} = \"{value}\"", key.trim()))
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
    fn brackets_and_quotes_that_are_missing_are_named() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "what is read is not looked at")]
        struct File {
            #[serde(default)]
            member: Vec<toml::Table>,
        }
        let wrong = |text: &str| parse(text, |file: File| Ok(file)).map_err(|mistake| mistake.to_string()).unwrap_err();
        let brackets = "there can be several [member]: write [[member]], with two brackets, for each";
        assert_eq!(wrong("[member]\nport = 80\n"), format!("line 1: {brackets}"));
        assert_eq!(wrong("[member]\nport = 80\n\n [member] # 2\nport = 81\n"), format!("line 4: {brackets}"));
        for (line, shown) in [
            ("address = 127.0.0.1", "address = \"127.0.0.1\""),
            ("address=::1", "address = \"::1\""),
            ("  interval = 2s # fast", "interval = \"2s\""),
            ("protocol = tcp", "protocol = \"tcp\""),
            ("cidr = 10.0.0.0/8", "cidr = \"10.0.0.0/8\""),
        ] {
            assert_eq!(wrong(&format!("[[member]]\n{line}\n")), format!("line 2: a text needs quotes: {shown}"));
        }
        // Other mistakes are told as before.
        for (line, part) in [
            ("port = 80\nport = 81", "line 3: duplicate key"),
            ("port =", "line 2: "),
            ("address = \"127.0.0.1", "line 2: "),
            ("tls = { verify = fals }", "line 2: "),
        ] {
            let told = wrong(&format!("[[member]]\n{line}\n"));
            assert!(told.starts_with(part) && !told.contains("quotes:"), "{line}: {told}");
        }
        let long = format!("[[member]]\naddress = {}\n", "1.".repeat(100));
        assert!(!wrong(&long).contains("quotes:"), "{}", wrong(&long));
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
