//! Patterns of names.

use std::fmt;

use crate::sasp::{
    EscapeError, Escaped,
    escape::{Piece, Pieces},
};

/// A pattern of names: `*` stands for any bytes, `?` for one byte, all else for itself. An escape stands for itself, too:
/// `\x2A` is the byte `*`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(Vec<Part>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    /// Any bytes, or none.
    Any,
    /// One byte.
    One,
    /// This byte.
    Byte(u8),
}

impl Pattern {
    /// Reads a pattern, in the form of [`escape`](crate::sasp::escape).
    pub fn parse(text: &str) -> Result<Pattern, EscapeError> {
        let mut parts = Vec::with_capacity(text.len());
        let mut bytes = Vec::new();
        for piece in Pieces(text.chars()) {
            match piece? {
                Piece::Plain('*') => parts.push(Part::Any),
                Piece::Plain('?') => parts.push(Part::One),
                other => {
                    other.append_to(&mut bytes);
                    parts.extend(bytes.drain(..).map(Part::Byte));
                }
            }
        }
        Ok(Pattern(parts))
    }

    /// Whether the whole name fits.
    pub fn fits(&self, name: &[u8]) -> bool {
        fits(&self.0, name, |wanted, byte| wanted == Part::One || wanted == Part::Byte(*byte))
    }

    /// Whether it is certain that all names that fit the other pattern fit this pattern, too.
    pub fn covers(&self, other: &Pattern) -> bool {
        fits(&self.0, &other.0, |wanted, part| *part != Part::Any && (wanted == Part::One || wanted == *part))
    }

    /// Whether all names fit.
    pub fn fits_all(&self) -> bool {
        self.0.contains(&Part::Any) && self.0.iter().all(|part| *part == Part::Any)
    }

    /// The fewest bytes that a name has that fits.
    pub fn least_bytes(&self) -> usize {
        self.0.iter().filter(|part| **part != Part::Any).count()
    }

    /// Whether more than one name fits.
    pub fn is_wide(&self) -> bool {
        self.0.iter().any(|part| !matches!(part, Part::Byte(_)))
    }
}

/// Whether a whole list fits the pattern; `fits_one` compares an item with a part that is not [`Part::Any`]. Takes no
/// memory, and at worst time with the length of the pattern times the list.
fn fits<T>(pattern: &[Part], list: &[T], fits_one: impl Fn(Part, &T) -> bool) -> bool {
    let (mut pattern, mut rest) = (pattern, list);
    // The positions after the last `*`. If the rest does not fit, the `*` takes one more item.
    let mut again: Option<(&[Part], &[T])> = None;
    loop {
        match (pattern.split_first(), rest.split_first()) {
            (Some((Part::Any, after)), _) => {
                again = Some((after, rest));
                pattern = after;
                continue;
            }
            (Some((wanted, after)), Some((have, more))) if fits_one(*wanted, have) => {
                (pattern, rest) = (after, more);
                continue;
            }
            (None, None) => return true,
            _ => {}
        }
        match again {
            Some((after, [_, more @ ..])) => {
                again = Some((after, more));
                (pattern, rest) = (after, more);
            }
            _ => return false,
        }
    }
}

impl fmt::Display for Pattern {
    /// The pattern as [`Pattern::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for run in self.0.chunk_by(|one, next| matches!((one, next), (Part::Byte(_), Part::Byte(_)))) {
            match run {
                [Part::Any] => f.write_str("*")?,
                [Part::One] => f.write_str("?")?,
                bytes => {
                    let byte = |part: &Part| if let Part::Byte(byte) = part { Some(*byte) } else { None };
                    write!(f, "{}", Escaped(&bytes.iter().filter_map(byte).collect::<Vec<_>>()))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn patterns_fit_whole_names() {
        for (text, name, fits) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "abc", true),
            ("FARM", "FARM", true),
            ("FARM", "FARM1", false),
            ("FARM", "farm", false),
            ("FARM*", "FARM", true),
            ("FARM*", "FARM12", true),
            ("FARM?", "FARM", false),
            ("FARM?", "FARM1", true),
            ("FARM?", "FARM12", false),
            ("*web*db", "a-web-db", true),
            ("*web*db", "web-db-db", true),
            ("*web*db", "web-db-x", false),
            ("a*b*c", "abbc", true),
            ("a*b*c", "acb", false),
            ("**", "x", true),
        ] {
            assert_eq!(pattern(text).fits(name.as_bytes()), fits, "{text} {name}");
        }
        assert!(pattern("a?c").fits(b"a\xFFc"), "names are bytes");
        assert!(pattern("c\\x7F\\xFF*").fits(b"c\x7F\xFF\x17\\"));
        assert!(Pattern::parse("a\\z").is_err());
    }

    #[test]
    fn a_pattern_may_have_all_names_of_another() {
        for (wide, other, covers) in [
            ("*", "", true),
            ("*", "FARM?*", true),
            ("**", "*", true),
            ("FARM*", "FARM1", true),
            ("FARM*", "FARM1*", true),
            ("FARM*", "FARM?", true),
            ("F*M*", "FARM?", true),
            ("F?RM", "FARM", true),
            ("F?RM", "F?RM", true),
            ("F?RM", "F*RM", false),
            ("FARM?", "FARM*", false),
            ("FARM1*", "FARM*", false),
            ("FARM*", "*FARM", false),
            ("F*M", "FARM?", false),
            ("F\\x2A", "FA", false),
        ] {
            assert_eq!(pattern(wide).covers(&pattern(other)), covers, "{wide} {other}");
        }
        assert!(pattern("*").fits_all() && pattern("**").fits_all());
        assert!(!pattern("").fits_all() && !pattern("*?").fits_all() && !pattern("\\x2A").fits_all());
        let least = ["", "*", "a*", "*a?b*", "\\x2A"].map(|text| pattern(text).least_bytes());
        assert_eq!(least, [0, 0, 1, 3, 1]);
        assert!(pattern("a?").is_wide() && !pattern("a\\x3F").is_wide() && !pattern("").is_wide());
    }

    #[test]
    fn an_escape_stands_for_itself() {
        for text in ["a\\x2Ab\\x3F", "a\\u{2a}b\\u{3f}"] {
            assert!(
                pattern(text).fits(b"a*b?") && !pattern(text).fits(b"a--b?") && !pattern(text).fits(b"a*bx"),
                "{text}"
            );
        }
        assert_eq!(pattern("*\\x2A?\\\\ \\xFF").to_string(), "*\\x2A?\\\\ \\xFF");
    }
}
