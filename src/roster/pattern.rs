//! Patterns of names.

/// A pattern of names: `*` stands for any bytes, `?` for one byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<u8>);

impl Pattern {
    /// Makes a pattern; any text is one.
    pub fn new(text: &str) -> Pattern {
        Pattern(text.as_bytes().to_vec())
    }

    /// Whether the whole name fits. Takes no memory, and at worst time with the length of the pattern times the name.
    pub fn fits(&self, name: &[u8]) -> bool {
        let (mut pattern, mut rest) = (self.0.as_slice(), name);
        // The positions after the last `*`. If the rest does not fit, the `*` takes one more byte.
        let mut again: Option<(&[u8], &[u8])> = None;
        loop {
            match (pattern.split_first(), rest.split_first()) {
                (Some((b'*', after)), _) => {
                    again = Some((after, rest));
                    pattern = after;
                    continue;
                }
                (Some((want, after)), Some((have, more))) if *want == b'?' || want == have => {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, name, fits) in [
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
            assert_eq!(Pattern::new(pattern).fits(name.as_bytes()), fits, "{pattern} {name}");
        }
        assert!(Pattern::new("a?c").fits(b"a\xFFc"), "names are bytes");
    }
}
