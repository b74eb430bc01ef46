//! Keys and values of the store that the nodes of a fleet share.

/// Any bytes are read or refused as a key and as each kind of value, and what is read is the same after it is written.
pub fn fleet_row(bytes: &[u8]) {
    crate::fleet::read_any(bytes);
}
