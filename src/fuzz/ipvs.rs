//! What the kernel tells of IPVS.

use crate::connect::ipvs::wire::{destination, family_id, read, scheduler};

/// Any datagram is taken apart or refused.
pub fn ipvs_answer(datagram: &[u8]) {
    let mut found = Vec::new();
    let _ = read(datagram, 1, &mut found);
    assert!(found.len() <= datagram.len() / 16, "a message has a header of 16 bytes");
    for body in &found {
        for ipv6 in [false, true] {
            if let Some(destination) = destination(body, ipv6) {
                let port = destination.port.to_be_bytes();
                assert!(datagram.windows(2).any(|bytes| bytes == port));
            }
        }
        if let Some(scheduler) = scheduler(body) {
            assert!(!scheduler.contains('\0'));
        }
        family_id(body);
    }
}
