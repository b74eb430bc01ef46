//! The header fields of HTTP/2 (HPACK, RFC 7541): writes them in the plainest form, and reads every form.

use std::{borrow::Cow, collections::VecDeque};

use super::huffman;

/// The most bytes that the table of repeated fields has by the specification; a check does not ask for another number.
const TABLE_BYTES: usize = 4096;

/// The fields that need no bytes (appendix A). Of the values only those of `:status` count here.
static STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", ""),
    (":method", ""),
    (":path", ""),
    (":path", ""),
    (":scheme", ""),
    (":scheme", ""),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", ""),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// A name or a value, as it stands in a block or decoded.
type Text<'b> = Cow<'b, [u8]>;

/// Appends a field that no table has to keep.
pub(super) fn write(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.push(0);
    for text in [name.as_bytes(), value] {
        integer(text.len(), out);
        out.extend_from_slice(text);
    }
}

/// Appends a length with a prefix of seven bits.
fn integer(value: usize, out: &mut Vec<u8>) {
    if value < 0x7F {
        return out.push(value as u8);
    }
    out.push(0x7F);
    let mut rest = value - 0x7F;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Reads the blocks of one connection, in order.
#[derive(Clone, Debug)]
pub(super) struct Decoder {
    /// The table of repeated fields, the newest first.
    table: VecDeque<(Vec<u8>, Vec<u8>)>,
    /// The bytes of the table by the count of the specification, and how many it may have.
    bytes: usize,
    most: usize,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { table: VecDeque::new(), bytes: 0, most: TABLE_BYTES }
    }
}

impl Decoder {
    /// Gives each field of a whole block to `take`; `None` if the block is malformed.
    pub(super) fn read(&mut self, mut block: &[u8], mut take: impl FnMut(&[u8], &[u8])) -> Option<()> {
        let block = &mut block;
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let (name, value) = self.field(prefixed(block, 7)?)?;
                take(name, value);
            } else if first & 0x40 != 0 {
                let (name, value) = self.literal(block, 6)?;
                take(&name, &value);
                self.keep(name.into_owned(), value.into_owned());
            } else if first & 0x20 != 0 {
                self.most = prefixed(block, 5).filter(|most| *most <= TABLE_BYTES)?;
                self.evict(0);
            } else {
                let (name, value) = self.literal(block, 4)?;
                take(&name, &value);
            }
        }
        Some(())
    }

    fn field(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let own = index.checked_sub(STATIC.len() + 1);
        match own {
            Some(place) => self.table.get(place).map(|(name, value)| (name.as_slice(), value.as_slice())),
            None => STATIC.get(index.checked_sub(1)?).map(|(name, value)| (name.as_bytes(), value.as_bytes())),
        }
    }

    fn literal<'b>(&self, block: &mut &'b [u8], bits: u32) -> Option<(Text<'b>, Text<'b>)> {
        let name = match prefixed(block, bits)? {
            0 => text(block)?,
            index => Cow::Owned(self.field(index)?.0.to_vec()),
        };
        Some((name, text(block)?))
    }

    fn keep(&mut self, name: Vec<u8>, value: Vec<u8>) {
        let size = name.len() + value.len() + 32;
        self.evict(size);
        if size <= self.most {
            self.bytes += size;
            self.table.push_front((name, value));
        }
    }

    /// Makes room for so many bytes, as far as possible.
    fn evict(&mut self, room: usize) {
        while self.bytes + room > self.most
            && let Some((name, value)) = self.table.pop_back()
        {
            self.bytes -= name.len() + value.len() + 32;
        }
    }
}

/// An integer whose first byte has so many bits of it.
fn prefixed(block: &mut &[u8], bits: u32) -> Option<usize> {
    let most = (1 << bits) - 1;
    let first = usize::from(*block.split_off_first()?) & most;
    if first < most {
        return Some(first);
    }
    let mut value = most;
    // Longer texts than a block, and higher places than a table has, are wrong anyway.
    for shift in [0, 7, 14] {
        let byte = *block.split_off_first()?;
        value += usize::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn text<'b>(block: &mut &'b [u8]) -> Option<Text<'b>> {
    let coded = block.first()? & 0x80 != 0;
    let length = prefixed(block, 7)?;
    let text = block.split_off(..length)?;
    if coded { huffman::decode(text).map(Cow::Owned) } else { Some(Cow::Borrowed(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(decoder: &mut Decoder, block: &str) -> Option<Vec<(String, String)>> {
        let digits: Vec<u8> = block.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let bytes: Vec<u8> = digits.chunks(2).map(byte).collect();
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        decoder.read(&bytes, |name, value| fields.push((text(name), text(value))))?;
        Some(fields)
    }

    fn fields(list: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
        Some(list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// RFC 7541 appendix C.6, whose table has room for 256 bytes.
    #[test]
    fn blocks_of_the_specification_are_read() {
        let mut decoder = Decoder::default();
        let first = [
            (":status", "302"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("location", "https://www.example.com"),
        ];
        let block = "3fe101 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d \
                     29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3";
        assert_eq!(read(&mut decoder, block), fields(&first));
        assert_eq!(decoder.bytes, 222);
        let mut second = first;
        second[0].1 = "307";
        assert_eq!(read(&mut decoder, "4883 640e ffc1 c0bf"), fields(&second));
        assert_eq!(decoder.bytes, 222, "the oldest field is gone");
        let third = [
            (":status", "200"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
            ("location", "https://www.example.com"),
            ("content-encoding", "gzip"),
            ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
        ];
        let block = "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 \
                     e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07";
        assert_eq!(read(&mut decoder, block), fields(&third));
        assert_eq!(decoder.bytes, 215);
    }

    #[test]
    fn what_is_written_is_read() {
        let long = "x".repeat(20_000);
        for (name, value) in [("te", "trailers"), ("a", ""), ("b", &long[..126]), ("c", &long[..127]), ("d", &long)] {
            let mut block = Vec::new();
            write(name, value.as_bytes(), &mut block);
            let mut found = Vec::new();
            let read = Decoder::default().read(&block, |name, value| found.push((name.to_vec(), value.to_vec())));
            assert_eq!((read, found), (Some(()), vec![(name.into(), value.into())]));
            for cut in 1..block.len().min(200) {
                assert_eq!(Decoder::default().read(&block[..cut], |_, _| {}), None, "{name}: {cut} bytes");
            }
        }
    }

    #[test]
    fn malformed_blocks_are_refused() {
        for block in
            ["80", "be", "ffffffff7f", "7f00", "3fe21f", "00 01", "00 01 61 ff", "00 81 ff 00", "40 01 61 03 62"]
        {
            assert_eq!(read(&mut Decoder::default(), block), None, "{block}");
        }
        // A table of no bytes keeps nothing.
        assert_eq!(read(&mut Decoder::default(), "20 40 0161 0162 be"), None);
        assert_eq!(read(&mut Decoder::default(), "40 0161 0162 be"), fields(&[("a", "b"), ("a", "b")]));
    }
}
