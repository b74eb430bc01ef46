//! What a daemon hears of the process that takes over.

use crate::takeover::Message;

/// Any packet is read or refused; what is read is the same after it is written.
pub fn takeover_packet(bytes: &[u8]) {
    if let Ok(message) = Message::read(bytes)
        && let Some(written) = message.write()
    {
        assert_eq!(Message::read(&written), Ok(message));
    }
}
