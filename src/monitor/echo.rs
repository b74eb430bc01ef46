//! ICMP echo requests and replies (RFC 792, RFC 4443).

/// Bytes of a request: eight bytes of header, and the mark.
pub const BYTES: usize = 8 + MARK_BYTES;

/// Bytes of the mark. A request carries a mark, and its reply repeats it.
pub const MARK_BYTES: usize = 16;

/// The IP version of an echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// ICMP for IPv4.
    V4,
    /// ICMPv6.
    V6,
}

impl Version {
    /// The types of request and reply.
    fn types(self) -> (u8, u8) {
        match self {
            Version::V4 => (8, 0),
            Version::V6 => (128, 129),
        }
    }
}

/// A request. The checksum is right for IPv4. For IPv6 the kernel fills it in, because it covers the addresses.
pub fn request(version: Version, identifier: u16, sequence: u16, mark: &[u8; MARK_BYTES]) -> [u8; BYTES] {
    let mut packet = [0; BYTES];
    let (head, body) = packet.split_at_mut(8);
    let ([i0, i1], [s0, s1]) = (identifier.to_be_bytes(), sequence.to_be_bytes());
    head.copy_from_slice(&[version.types().0, 0, 0, 0, i0, i1, s0, s1]);
    body.copy_from_slice(mark);
    let [high, low] = checksum(&packet).to_be_bytes();
    if let (Version::V4, [_, _, c0, c1, ..]) = (version, &mut packet[..]) {
        (*c0, *c1) = (high, low);
    }
    packet
}

/// The mark of a reply to one of our requests; `None` for any other packet. An IPv4 packet may begin with its IP header,
/// as raw sockets give it.
pub fn reply(version: Version, packet: &[u8]) -> Option<[u8; MARK_BYTES]> {
    let packet = match (version, packet) {
        // The first byte of an IPv4 header is 4 and its length in words; the first byte of an echo reply is 0.
        (Version::V4, [first @ 0x45..=0x4F, ..]) => packet.get(usize::from(first & 0xF) * 4..)?,
        _ => packet,
    };
    let (head, body) = packet.split_first_chunk::<8>()?;
    let [kind, code, ..] = *head;
    (kind == version.types().1 && code == 0).then_some(())?;
    body.try_into().ok()
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(packet: &[u8; BYTES]) -> u16 {
    let (words, _) = packet.as_chunks::<2>();
    let sum: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    let sum = (sum >> 16) + (sum & 0xFFFF);
    !((sum + (sum >> 16)) as u16)
}

const _: () = assert!(BYTES.is_multiple_of(2));

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: [u8; MARK_BYTES] = *b"0123456789abcdef";

    #[test]
    fn a_request_is_what_rfc_792_says() {
        let packet = request(Version::V4, 0x1234, 0xABCD, &MARK);
        assert_eq!(packet[..2], [8, 0]);
        assert_eq!(packet[4..8], [0x12, 0x34, 0xAB, 0xCD]);
        assert_eq!(packet[8..], MARK);
        assert_eq!(checksum(&packet), 0, "the sum over everything, checksum included, is all ones");
        // Worked out by hand for all-zero data: ~(0x0800 + 0x1234 + 0xABCD).
        assert_eq!(request(Version::V4, 0x1234, 0xABCD, &[0; 16])[2..4], [0x39, 0xFE]);
        assert_eq!(request(Version::V6, 1, 2, &MARK)[..8], [128, 0, 0, 0, 0, 1, 0, 2]);
    }

    #[test]
    fn a_reply_gives_its_mark_back() {
        let mut v4 = request(Version::V4, 1, 2, &MARK);
        assert_eq!(reply(Version::V4, &v4), None, "a request is no reply");
        v4[0] = 0;
        assert_eq!(reply(Version::V4, &v4), Some(MARK));
        assert_eq!(reply(Version::V6, &v4), None);
        for words in 5..=15_usize {
            let mut raw = vec![0; words * 4];
            raw[0] = 0x40 | words as u8;
            raw.extend_from_slice(&v4);
            assert_eq!(reply(Version::V4, &raw), Some(MARK), "{words} words of IP header");
        }
        let mut v6 = request(Version::V6, 1, 2, &MARK);
        v6[0] = 129;
        assert_eq!(reply(Version::V6, &v6), Some(MARK));
    }

    #[test]
    fn other_packets_are_none() {
        let mut good = request(Version::V4, 1, 2, &MARK);
        good[0] = 0;
        for cut in 0..good.len() {
            assert_eq!(reply(Version::V4, &good[..cut]), None, "{cut} bytes");
        }
        assert_eq!(reply(Version::V4, &[&good[..], b"x"].concat()), None, "longer than ours");
        assert_eq!(reply(Version::V4, &[0x4F, 0]), None);
        let mut unreachable = good;
        unreachable[0] = 3;
        assert_eq!(reply(Version::V4, &unreachable), None);
        let mut code = good;
        code[1] = 1;
        assert_eq!(reply(Version::V4, &code), None);
    }
}
