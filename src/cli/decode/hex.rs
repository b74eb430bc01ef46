//! Hexadecimal text → bytes: plain digits, `0x` and commas, colons between bytes, and the dumps of `xxd`,
//! `hexdump -C` and `tshark -x`, whose offsets are checked and whose text column is dropped.

use std::fmt;

/// The place where the text is not hexadecimal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HexError {
    line: u64,
    what: String,
}

impl fmt::Display for HexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for HexError {}

/// Reads text line by line.
#[derive(Debug, Default)]
pub(super) struct HexLines {
    lines: u64,
    bytes: u64,
    /// Whether lines begin with an offset, known once a line had text.
    offsets: Option<bool>,
}

impl HexLines {
    /// Appends the bytes of one line, with or without its line break.
    pub(super) fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<(), HexError> {
        self.lines += 1;
        let line = line.split(|byte| *byte == b'#').next().unwrap_or_default().trim_ascii();
        if line.is_empty() {
            return Ok(());
        }
        let offsets = *self.offsets.get_or_insert_with(|| has_offset(line));
        let digits = if offsets { self.after_offset(line)? } else { line };
        let before = out.len();
        for token in digits.split(|byte| byte.is_ascii_whitespace() || matches!(byte, b':' | b',' | b';')) {
            let token = token.strip_prefix(b"0x").or_else(|| token.strip_prefix(b"0X")).unwrap_or(token);
            self.token(token, out)?;
        }
        self.bytes += (out.len() - before) as u64;
        Ok(())
    }

    fn token(&self, token: &[u8], out: &mut Vec<u8>) -> Result<(), HexError> {
        if let Some(bad) = token.iter().find(|byte| !byte.is_ascii_hexdigit()) {
            return Err(self.error(format!("'{}' is not a hexadecimal digit", bad.escape_ascii())));
        }
        if !token.len().is_multiple_of(2) {
            let shown = String::from_utf8_lossy(&token[..token.len().min(20)]);
            return Err(self.error(format!("'{shown}' has an odd number of digits")));
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_default() as u8; // checked above
        out.extend(token.chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])));
        Ok(())
    }

    /// The part between the offset, which must be right, and the text column.
    fn after_offset<'l>(&self, line: &'l [u8]) -> Result<&'l [u8], HexError> {
        if line == b"*" {
            return Err(self.error("the dump leaves out repeated lines (use `hexdump -v`)".into()));
        }
        let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
        let (offset, rest) = line.split_at(end);
        let stated = std::str::from_utf8(offset).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
        if stated != Some(self.bytes) {
            let offset = String::from_utf8_lossy(&offset[..offset.len().min(20)]);
            return Err(self.error(format!("offset '{offset}', but 0x{:x} bytes stand before it", self.bytes)));
        }
        let rest = rest.strip_prefix(b":").unwrap_or(rest).trim_ascii_start();
        Ok(match rest.iter().position(|byte| *byte == b'|') {
            Some(text) => &rest[..text],
            None => rest.windows(2).position(|pair| pair == b"  ").map_or(rest, |text| &rest[..text]),
        })
    }

    fn error(&self, what: String) -> HexError {
        HexError { line: self.lines, what }
    }
}

/// Whether a first line begins with an offset: four zeros or more, which no SASP message begins with.
fn has_offset(line: &[u8]) -> bool {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    end >= 4 && end < line.len() && line[..end].iter().all(|digit| *digit == b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<u8>, String> {
        let mut lines = HexLines::default();
        let mut out = Vec::new();
        for line in text.lines() {
            lines.line(line.as_bytes(), &mut out).map_err(|error| error.to_string())?;
        }
        Ok(out)
    }

    #[test]
    fn all_notations_give_the_same_bytes() {
        let bytes = b"\x20\x10\x00\x0D\x01\x00\x00\x00\x12\x00\x00\x00\x07\x10\x15\x00\x05\x40";
        for text in [
            "2010000D010000001200000007101500 0540",
            "2010 000d 01 00000012 00000007\n# the reply\n1015 0005 40 # already registered\n",
            "0x20, 0x10, 0x00, 0x0D, 0x01, 0x00000012 0X00000007 0x1015 0x0005 0x40",
            "20:10:00:0d:01:00:00:00:12:00:00:00:07:10:15:00:05:40",
            "00000000: 2010 000d 0100 0000 1200 0000 0710 1500   ...............\n00000010: 0540                                     .@",
            "00000000  20 10 00 0d 01 00 00 00  12 00 00 00 07 10 15 00  | ..............|\n\
             00000010  05 40                                             |.@|\n00000012",
            "0000  20 10 00 0d 01 00 00 00 12 00 00 00 07 10 15 00    ...............\n0010  05 40   .@",
        ] {
            assert_eq!(read(text).as_deref(), Ok(&bytes[..]), "{text}");
        }
    }

    #[test]
    fn faults_name_the_line() {
        assert_eq!(read("20 10\n20 1").unwrap_err(), "line 2: '1' has an odd number of digits");
        assert_eq!(read("20 1g").unwrap_err(), "line 1: 'g' is not a hexadecimal digit");
        assert_eq!(read("0000: 2010\n0003: 00").unwrap_err(), "line 2: offset '0003', but 0x2 bytes stand before it");
        let squeezed = "00000000  20 10\n*\n";
        assert_eq!(read(squeezed).unwrap_err(), "line 2: the dump leaves out repeated lines (use `hexdump -v`)");
    }
}
