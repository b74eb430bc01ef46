//! SASP v1 (RFC 4678 with its errata): bytes ↔ messages, without I/O. [`protocol`] describes the wire format and the
//! rules.
//!
//! - [`Framer`] cuts a byte stream into frames. [`split_frame`] does the same with a `BytesMut`, for a codec.
//! - [`Message::decode`] checks one frame from the first byte to the last. The [`Message`] borrows from the frame, which
//!   can be a slice, a `Vec<u8>` or a `Bytes`.
//! - [`Writer`] and [`Message::encode`] append a message to a `Vec<u8>` or a `BytesMut`.
//!
//! A message is the 13-byte header, one message component, and the groups that the component announces:
//!
//! ```
//! use gwm::sasp::{Endpoint, EntryFlags, GroupData, MemberData, Message, WeightEntry, WeightedMember, Writer};
//!
//! let web1 = MemberData { endpoint: Endpoint::new("10.0.0.1".parse()?, 6, 80), label: b"" };
//! let entry = WeightEntry { state: 0, flags: EntryFlags::CONTACT | EntryFlags::CONFIDENT, weight: 40 };
//!
//! let mut bytes = Vec::new();
//! let mut writer = Writer::send_weights(&mut bytes);
//! writer.group(GroupData { lb_uid: b"LB1", name: b"FARM1" });
//! writer.entry(&WeightedMember { member: web1, entry });
//! writer.finish()?;
//!
//! let (header, message) = Message::decode(&bytes)?;
//! assert_eq!(header.length as usize, bytes.len());
//! let Message::SendWeights(push) = message else { panic!("not a Send Weights") };
//! for group in push.groups {
//!     for weighted in group.entries() {
//!         println!("{} has weight {}", weighted.member.endpoint, weighted.entry.weight);
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod code;
pub mod component;
pub mod dump;
pub mod escape;
pub mod frame;
pub(crate) mod image;
pub mod message;
pub mod protocol {
    #![doc = include_str!("PROTOCOL.md")]
}
mod reader;
mod standing;
pub mod writer;

pub use code::{ComponentType, EntryFlags, Health, LbFlags, MemberFlags, Reason, ReturnCode, SenderFlags};
pub use component::{
    Endpoint, Entry, Group, GroupData, GroupNames, Groups, MemberData, MemberState, WeightEntry, WeightedMember,
};
pub use dump::{Dump, Summary};
pub use escape::{EscapeError, Escaped, unescape};
pub use frame::{FrameError, Framer, split_frame};
pub use message::{Header, Message};
pub use reader::{DecodeError, Fault};
pub use standing::Standing;
pub use writer::{Buffer, EncodeError, Writer};

/// The one version of the protocol that exists.
pub const VERSION: u8 = 1;

/// The TCP port that IANA assigns to SASP.
pub const PORT: u16 = 3860;
