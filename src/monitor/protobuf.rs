//! Reads the fields of a protobuf message (encoding of protobuf.dev), as far as load reports and health checks need them.

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// A number of variable length, as in `uint64` and enums.
    Varint(u64),
    /// Eight bytes, as in `double`.
    Fixed64(u64),
    /// A string, bytes or a message.
    Bytes(&'a [u8]),
    /// Four bytes, as in `float`.
    Fixed32(u32),
}

impl Value<'_> {
    /// The number of a field of type `double`.
    pub fn double(self) -> Option<f64> {
        match self {
            Value::Fixed64(bits) => Some(f64::from_bits(bits)),
            _ => None,
        }
    }
}

/// The fields of a message, in order: the number and the value of each. Ends after the first field that is not well
/// formed, with [`Malformed`].
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

/// The bytes are no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl<'a> Fields<'a> {
    /// The fields of this message.
    pub fn new(message: &'a [u8]) -> Fields<'a> {
        Fields { rest: message }
    }

    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(*self.rest.split_off(..8)?.first_chunk()?)),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.rest.split_off(..length)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(*self.rest.split_off(..4)?.first_chunk()?)),
            // Groups are older than every message that is read here.
            _ => return None,
        };
        (tag >> 3 > 0).then_some((tag >> 3, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let byte = *self.rest.split_off_first()?;
            let bits = u64::from(byte & 0x7F);
            // The tenth byte has one bit.
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.rest = &[];
        }
        Some(field.ok_or(Malformed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: &[u8]) -> Result<Vec<(u64, Value<'_>)>, Malformed> {
        Fields::new(message).collect()
    }

    #[test]
    fn every_kind_of_field_is_read() {
        let message = [
            &[0x08, 0x96, 0x01][..],
            &[0x12, 2, b'h', b'i'],
            &[0x19, 0, 0, 0, 0, 0, 0, 0xE0, 0x3F],
            &[0xA5, 0x06, 1, 0, 0, 0],
            &[0x20, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
        ]
        .concat();
        let fields = [
            (1, Value::Varint(150)),
            (2, Value::Bytes(b"hi")),
            (3, Value::Fixed64(0.5_f64.to_bits())),
            (100, Value::Fixed32(1)),
            (4, Value::Varint(u64::MAX)),
        ];
        assert_eq!(read(&message), Ok(fields.to_vec()));
        let ends = [0, 3, 7, 16, 22, 33];
        for cut in 0..message.len() {
            assert_eq!(read(&message[..cut]).is_ok(), ends.contains(&cut), "{cut} bytes");
        }
    }

    #[test]
    fn what_is_no_message_is_malformed() {
        for message in [
            &[0x00, 0x00][..],                                                         // field 0
            &[0x0B],                                                                   // a group
            &[0x0E, 0],                                                                // no such type
            &[0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],       // longer than memory
            &[0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02],       // 65 bits
            &[0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80], // without end
        ] {
            assert_eq!(read(message), Err(Malformed), "{message:02X?}");
        }
        let mut fields = Fields::new(&[0x0B, 0x08, 0x01]);
        assert_eq!((fields.next(), fields.next()), (Some(Err(Malformed)), None));
    }
}
