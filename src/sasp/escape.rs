//! Bytes as text and back. UIDs, group names, labels and names of certificates have one form in logs, tables, JSON, flags
//! and files: [`Escaped`] writes it, [`unescape`] reads it.
//!
//! | text | bytes |
//! | --- | --- |
//! | a character | its UTF-8 bytes |
//! | `\xFF` | one byte, two hexadecimal digits |
//! | `\u{202e}` | the UTF-8 bytes of a character, one to six hexadecimal digits |
//! | `\\` `\"` `\'` `\n` `\r` `\t` `\0` | one byte, as in C |
//!
//! [`Escaped`] escapes what is not printable UTF-8, quotes and backslashes. It also escapes `=` (the end of a name in
//! `--group NAME=MEMBER`), `*` and `?` (which stand for other bytes in a pattern), a `-` at the begin (a flag) and a blank
//! at the end. So its text means the same bytes in each of these places, between `'` and `'` in a shell or in TOML.

use std::{fmt, str::Chars};

/// Shows bytes as text; [`unescape`] turns the text into the same bytes.
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut at = 0;
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                let (first, last) = (at == 0, at + 1 == self.0.len());
                match character {
                    '\'' | '=' | '*' | '?' => write!(f, "\\x{:02X}", u32::from(character))?,
                    '-' if first => f.write_str("\\x2D")?,
                    ' ' if last => f.write_str("\\x20")?,
                    other => write!(f, "{}", other.escape_debug())?, // escapes bidirectional controls, too
                }
                at += character.len_utf8();
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02X}")?;
            }
            at += chunk.invalid().len();
        }
        Ok(())
    }
}

/// The bytes that a text means.
pub fn unescape(text: &str) -> Result<Vec<u8>, EscapeError> {
    let mut bytes = Vec::with_capacity(text.len());
    for piece in Pieces(text.chars()) {
        piece?.append_to(&mut bytes);
    }
    Ok(bytes)
}

/// A piece of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A character that stands for itself, or has a meaning of its own in a pattern.
    Plain(char),
    /// The byte that an escape means.
    Byte(u8),
    /// The character that an escape means.
    Character(char),
}

impl Piece {
    /// Appends the piece's bytes.
    pub(crate) fn append_to(self, bytes: &mut Vec<u8>) {
        match self {
            Piece::Plain(character) | Piece::Character(character) => {
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            Piece::Byte(byte) => bytes.push(byte),
        }
    }
}

/// The pieces of a text; an iterator.
pub(crate) struct Pieces<'a>(pub(crate) Chars<'a>);

impl Iterator for Pieces<'_> {
    type Item = Result<Piece, EscapeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let character = self.0.next()?;
        if character != '\\' {
            return Some(Ok(Piece::Plain(character)));
        }
        let rest = self.0.as_str();
        let piece = match self.0.next() {
            Some('x') => self.byte(),
            Some('u') => self.character(),
            Some('n') => Some(Piece::Byte(b'\n')),
            Some('r') => Some(Piece::Byte(b'\r')),
            Some('t') => Some(Piece::Byte(b'\t')),
            Some('0') => Some(Piece::Byte(0)),
            Some(quoted @ ('\\' | '"' | '\'')) => Some(Piece::Character(quoted)),
            _ => None,
        };
        Some(piece.ok_or_else(|| EscapeError::of(rest)))
    }
}

impl Pieces<'_> {
    /// `FF` of `\xFF`.
    fn byte(&mut self) -> Option<Piece> {
        let mut digit = || self.0.next()?.to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        Some(Piece::Byte(digit()? << 4 | digit()?))
    }

    /// `{202e}` of `\u{202e}`.
    fn character(&mut self) -> Option<Piece> {
        let (digits, rest) = self.0.as_str().strip_prefix('{')?.split_once('}')?;
        // A sign is no digit, though `from_str_radix` takes one.
        if digits.len() > 6 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let character = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
        self.0 = rest.chars();
        Some(Piece::Character(character))
    }
}

/// A text has a backslash that begins no escape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EscapeError {
    /// The backslash and at most nine characters after it.
    text: Box<str>,
}

impl EscapeError {
    /// The error of the backslash before `rest`.
    fn of(rest: &str) -> EscapeError {
        let printable = |character: char| if character.is_control() { char::REPLACEMENT_CHARACTER } else { character };
        EscapeError { text: ['\\'].into_iter().chain(rest.chars().take(9).map(printable)).collect() }
    }
}

impl fmt::Display for EscapeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` does not begin with an escape such as \\\\ (a backslash) or \\xFF (a byte)", self.text)
    }
}

impl std::error::Error for EscapeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_and_read() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"LB1", "LB1"),
            (b"c\x7F\xFF\x17\\", "c\\u{7f}\\xFF\\u{17}\\\\"),
            ("Zürich 東京".as_bytes(), "Zürich 東京"),
            (b"\0\n\r\t\x1B", "\\0\\n\\r\\t\\u{1b}"),
            (b"\"a\"", "\\\"a\\\""),
            (b"it's", "it\\x27s"),
            (b"a=b*c?", "a\\x3Db\\x2Ac\\x3F"),
            (b"-a-b-", "\\x2Da-b-"),
            (b" a b  ", " a b \\x20"),
            (b" ", "\\x20"),
            ("\u{202e}e\u{301}\u{a0}".as_bytes(), "\\u{202e}e\\u{301}\\u{a0}"),
            (b"\xE6\x9D", "\\xE6\\x9D"),
            (b"\xFF ", "\\xFF\\x20"),
        ] {
            assert_eq!(Escaped(bytes).to_string(), text);
            assert_eq!(unescape(text).as_deref(), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn a_text_has_many_forms() {
        for (text, bytes) in [
            ("c\\x7F\\xFF\\x17\\\\", &b"c\x7F\xFF\x17\\"[..]),
            ("\\xff\\xFf\\x00\\0", b"\xFF\xFF\0\0"),
            ("\\01", b"\x001"),
            ("\\'\\\"\\n\\r\\t", b"'\"\n\r\t"),
            ("it's \"a=b\" *?", b"it's \"a=b\" *?"),
            ("\\u{fc}\\u{0000FC}ü\\xC3\\xBC", "üüüü".as_bytes()),
            ("\n\u{1b}", b"\n\x1B"),
        ] {
            assert_eq!(unescape(text).as_deref(), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn a_backslash_without_an_escape_is_refused() {
        for (text, shown) in [
            ("\\", "\\"),
            ("a\\zebra", "\\zebra"),
            ("\\x", "\\x"),
            ("\\x1", "\\x1"),
            ("\\xG0", "\\xG0"),
            ("\\x+1", "\\x+1"),
            ("\\x٣٣", "\\x٣٣"),
            ("\\u", "\\u"),
            ("\\u{}", "\\u{}"),
            ("\\u{1b", "\\u{1b"),
            ("\\u{+1b}", "\\u{+1b}"),
            ("\\u{d800}", "\\u{d800}"),
            ("\\u{110000}", "\\u{110000}"),
            ("\\u{0000001}", "\\u{0000001"),
            ("\\\u{1b}[2J", "\\\u{FFFD}[2J"),
            ("\\\\\\", "\\"),
        ] {
            let error = unescape(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{shown}` does not begin")), "{text}: {error}");
        }
    }
}
