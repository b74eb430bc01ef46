//! Every cap on what a peer can make the server hold, in one place, with the relations between them checked
//! at compile time. The adjustable ones are the upper ends of flags (see [`crate::config`]).

/// Longest LB UID in bytes (RFC 4678 section 4.4: 1 to 64).
pub const LB_UID_BYTES: usize = 64;

/// Longest group name in bytes: its length is one byte on the wire.
pub const GROUP_NAME_BYTES: usize = u8::MAX as usize;

/// Longest member label in bytes: its length is one byte on the wire.
pub const LABEL_BYTES: usize = u8::MAX as usize;

/// Most groups that one message, and so one load balancer, can have: a count of 16 bits.
pub const GROUPS_PER_LB: u32 = u16::MAX as u32;

/// Most members that one group can have: a count of 16 bits.
pub const MEMBERS_PER_GROUP: u32 = u16::MAX as u32;

/// Most memberships in the whole server: all of them in one load balancer's hands still make a message
/// whose length fits the header's signed 32 bits.
pub const MEMBERSHIPS: u32 = 7_000_000;

/// Most load balancers that can be configured.
pub const LOAD_BALANCERS: u32 = 1_000_000;

/// Most groups that can be configured: one a membership.
pub const GROUPS: u32 = MEMBERSHIPS;

/// Longest message that `gwm decode` puts together; a longer one is taken for a fault of the input.
pub const DECODE_MESSAGE_BYTES: u32 = 64 << 20;

/// Bytes of one weight entry with the longest label: Member Data and Weight Entry.
const ENTRY_BYTES_MAX: u64 = 24 + LABEL_BYTES as u64 + 8;

/// Bytes of one group's own part with the longest names: Group of Weight Entry Data and Group Data.
const GROUP_BYTES_MAX: u64 = 6 + 6 + LB_UID_BYTES as u64 + GROUP_NAME_BYTES as u64;

/// The largest message that one load balancer's tables can become.
const MESSAGE_BYTES_MAX: u64 = 13 + 9 + GROUPS_PER_LB as u64 * GROUP_BYTES_MAX + MEMBERSHIPS as u64 * ENTRY_BYTES_MAX;

const _: () = assert!(MESSAGE_BYTES_MAX <= i32::MAX as u64);

/// The largest message that the client takes from a GWM; its buffer grows with what arrives, not with what a
/// header promises.
pub const CLIENT_MESSAGE_BYTES: u32 = 256 * 1024 * 1024;

/// The most bytes of pushes that the client keeps while it waits for a reply.
pub const CLIENT_BACKLOG_BYTES: usize = CLIENT_MESSAGE_BYTES as usize;

/// The longest message that can be configured to be taken, in bytes: far over what a load balancer needs to
/// register all its groups at once.
pub const MESSAGE_BYTES_TAKEN: u32 = 256 << 20;

const _: () = assert!(MESSAGE_BYTES_TAKEN as u64 <= i32::MAX as u64);

/// The most connections that can be configured: slots are numbered with 32 bits, and the sweep for timeouts
/// visits each of them a few times a second.
pub const CONNECTIONS: u32 = 1_000_000;

/// The highest rate that can be configured, a second: one in a microsecond.
pub const RATE: u32 = 1_000_000;

/// Bytes that one read takes from a socket; also the most that a connection can have received beyond the
/// request that is under way.
pub const READ_BYTES: usize = 16 << 10;

/// Bytes after which a batch between cores is sent; one message more may be in it.
pub const BATCH_BYTES: usize = 512 << 10;

/// Entries after which a batch between cores is sent.
pub const BATCH_ENTRIES: usize = 1024;

/// Batches of one direction between a shard and the coordinator.
pub const BATCHES: usize = 4;

/// Bytes read and thrown away after the server has ended its side of a connection.
pub const LINGER_BYTES: usize = 1 << 20;

/// Connections accepted in one go, before others get their turn.
pub const ACCEPT_BURST: usize = 256;

/// Of the sources and causes of refusals that were logged, how many are known, so as not to log them again.
pub const REFUSALS_REMEMBERED: usize = 4096;

/// The most checks under way at a time that can be configured.
pub const PROBES: u32 = 1_000_000;
