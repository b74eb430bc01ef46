//! The Huffman code of HPACK (RFC 7541 appendix B). It is canonical: the lengths of the codes give the codes.

/// The lengths of the codes of all bytes, in bits, and of the end mark.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26, 30,
];

/// The longest code.
const LONGEST: usize = 30;

/// How many codes have each length.
const COUNTS: [u32; LONGEST + 1] = {
    let mut counts = [0; LONGEST + 1];
    let mut symbol = 0;
    while symbol < LENGTHS.len() {
        counts[LENGTHS[symbol] as usize] += 1;
        symbol += 1;
    }
    counts
};

/// The symbols, by the lengths of their codes and then by themselves.
static SYMBOLS: [u16; 257] = {
    let mut symbols = [0; 257];
    let (mut length, mut at) = (1, 0);
    while length <= LONGEST {
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                symbols[at] = symbol as u16;
                at += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    symbols
};

/// Decodes a text; `None` if it is not one, as with a wrong end.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 2);
    // The code so far, its length, the first code of this length, and the place of this code's symbol.
    let (mut code, mut length, mut first, mut place) = (0_u32, 0, 0_u32, 0_u32);
    for bit in text.iter().flat_map(|byte| (0..8).rev().map(move |shift| u32::from(byte >> shift & 1))) {
        (code, length) = (code << 1 | bit, length + 1);
        let count = *COUNTS.get(length)?;
        first <<= 1;
        if code < first + count {
            let symbol = *SYMBOLS.get((place + code - first) as usize)?;
            // The end mark must not be in a text.
            out.push(u8::try_from(symbol).ok()?);
            (code, length, first, place) = (0, 0, 0, 0);
        } else {
            (first, place) = (first + count, place + count);
        }
    }
    // The last byte is filled with the begin of the end mark, which has ones only.
    (length < 8 && code == (1 << length) - 1).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 7541 appendix C.4 and C.6.
    #[test]
    fn texts_of_the_specification_are_read() {
        for (bytes, text) in [
            (&[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..], "www.example.com"),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f], "custom-key"),
            (&[0x64, 0x02], "302"),
            (
                &[
                    0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b, 0x81, 0x66,
                    0xe0, 0x82, 0xa6, 0x2d, 0x1b, 0xff,
                ],
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
            (&[], ""),
        ] {
            assert_eq!(decode(bytes).as_deref(), Some(text.as_bytes()));
        }
    }

    #[test]
    fn every_byte_has_a_code() {
        assert_eq!(
            COUNTS.iter().zip(0..).map(|(count, length)| u64::from(*count) << (LONGEST - length)).sum::<u64>(),
            1 << LONGEST
        );
        // The codes in order, from the lengths.
        let (mut code, mut before) = (0_u64, usize::from(LENGTHS[usize::from(SYMBOLS[0])]));
        for symbol in SYMBOLS {
            let length = usize::from(LENGTHS[usize::from(symbol)]);
            code <<= length - before;
            before = length;
            let bits = 64 - length;
            let filled = (code << bits | ((1 << bits) - 1)).to_be_bytes();
            let text = &filled[..length.div_ceil(8)];
            let expected = u8::try_from(symbol).ok().map(|byte| vec![byte]);
            assert_eq!(decode(text), expected, "{symbol}");
            code += 1;
        }
    }

    #[test]
    fn a_wrong_end_is_refused() {
        assert_eq!((decode(&[0x07]), decode(&[0x00])), (Some(b"0".to_vec()), None), "zeros");
        assert_eq!(decode(&[0x64, 0x02, 0xFF]), None, "a whole byte");
        assert_eq!(decode(&[0xFF; 4]), None, "the end mark");
    }
}
