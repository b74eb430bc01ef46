//! All limits on what a peer can make the server hold. Relations between them are checked at compile time. Limits that
//! can be configured stand here with their highest value (see [`crate::config`] for the flags).

use std::time::Duration;

/// Longest LB UID in bytes (RFC 4678 section 4.4: 1 to 64).
pub const LB_UID_BYTES: usize = 64;

/// Longest group name in bytes: its length is one byte on the wire.
pub const GROUP_NAME_BYTES: usize = u8::MAX as usize;

/// Longest member label in bytes: its length is one byte on the wire.
pub const LABEL_BYTES: usize = u8::MAX as usize;

/// Most groups of one message, and so of one load balancer: the count on the wire has 16 bits.
pub const GROUPS_PER_LB: u32 = u16::MAX as u32;

/// Most members of one group: the count on the wire has 16 bits.
pub const MEMBERS_PER_GROUP: u32 = u16::MAX as u32;

/// Most memberships in the whole server. Even if one load balancer has all of them, the length of its message fits the
/// header's signed 32 bits.
pub const MEMBERSHIPS: u32 = 7_000_000;

/// Most load balancers that can be configured.
pub const LOAD_BALANCERS: u32 = 1_000_000;

/// Most groups that can be configured: one for each membership.
pub const GROUPS: u32 = MEMBERSHIPS;

/// Longest message that `gwm decode` assembles; a longer one counts as a fault of the input.
pub const DECODE_MESSAGE_BYTES: u32 = 64 << 20;

/// Bytes of one weight entry with the longest label: Member Data and Weight Entry.
const ENTRY_BYTES_MAX: u64 = 24 + LABEL_BYTES as u64 + 8;

/// Bytes of one group without its members, with the longest names: Group of Weight Entry Data and Group Data.
const GROUP_BYTES_MAX: u64 = 6 + 6 + LB_UID_BYTES as u64 + GROUP_NAME_BYTES as u64;

/// The largest message that one load balancer's groups can make.
const MESSAGE_BYTES_MAX: u64 = 13 + 9 + GROUPS_PER_LB as u64 * GROUP_BYTES_MAX + MEMBERSHIPS as u64 * ENTRY_BYTES_MAX;

const _: () = assert!(MESSAGE_BYTES_MAX <= i32::MAX as u64);

/// The largest message that the client takes from a GWM. Its buffer grows with the bytes that arrive, not with the
/// length in the header.
pub const CLIENT_MESSAGE_BYTES: u32 = 256 * 1024 * 1024;

/// The most bytes of pushes that the client keeps while it waits for a reply.
pub const CLIENT_BACKLOG_BYTES: usize = CLIENT_MESSAGE_BYTES as usize;

/// The highest limit that can be configured for the length of a message, in bytes: much more than a load balancer needs
/// to register all its groups at once.
pub const MESSAGE_BYTES_TAKEN: u32 = 256 << 20;

const _: () = assert!(MESSAGE_BYTES_TAKEN as u64 <= i32::MAX as u64);

/// The most connections that can be configured: slots are numbered with 32 bits, and the sweep for timeouts
/// visits each of them a few times a second.
pub const CONNECTIONS: u32 = 1_000_000;

/// The highest rate that can be configured, per second: one event in a microsecond.
pub const RATE: u32 = 1_000_000;

/// Bytes that one read takes from a socket; also the most bytes that a connection can have received after the request
/// that is with the coordinator.
pub const READ_BYTES: usize = 16 << 10;

/// Bytes after which a batch between threads is sent; one more message may be in it.
pub const BATCH_BYTES: usize = 512 << 10;

/// Entries after which a batch between threads is sent.
pub const BATCH_ENTRIES: usize = 1024;

/// Batches of one direction between a shard and the coordinator.
pub const BATCHES: usize = 4;

/// Bytes read and thrown away after the server has ended its side of a connection.
pub const LINGER_BYTES: usize = 1 << 20;

/// Most peers and causes of logged refusals that are remembered, so that they are not logged again.
pub const REFUSALS_REMEMBERED: usize = 4096;

/// The most checks at a time that can be configured.
pub const PROBES: u32 = 1_000_000;

/// TLS handshakes at a time that each shard allows at least; one source gets a quarter.
pub const HANDSHAKES_PER_SHARD: u32 = 4;

/// Most connections of the admin side; one more ends the one whose peer has kept it waiting longest.
pub const ADMIN_CONNECTIONS: usize = 256;

/// Of these, those that only UNIX sockets get.
pub const ADMIN_SOCKET_CONNECTIONS: usize = 32;

/// Most clients that follow the changes at a time.
pub const ADMIN_STREAMS: usize = 128;

/// Pieces of the change stream that wait for one client; a client that is further behind is dropped.
pub const ADMIN_STREAM_PIECES: usize = 64;

/// Questions of the admin side that wait for the coordinator, and for each shard.
pub const ADMIN_CALLS: usize = 64;

/// How long a reply, and the answer to an act of the operator, wait for the disk and etcd.
pub const KEEPING_WAIT: Duration = Duration::from_secs(5);

/// How long the admin side waits for the answer of another thread.
pub const ADMIN_WAIT: Duration = Duration::from_secs(10);

/// How long `gwm quiesce` and its like wait for the admin side, unless a flag says more.
pub const ACT_WAIT: Duration = Duration::from_secs(12);

// Who waits hears what became of it.
const _: () =
    assert!(KEEPING_WAIT.as_millis() < ADMIN_WAIT.as_millis() && ADMIN_WAIT.as_millis() < ACT_WAIT.as_millis());

/// Bytes of the longest body of a write.
pub const ADMIN_BODY_BYTES: usize = 16 << 10;

/// Bytes of the longest head of a request to the admin side.
pub const ADMIN_HEAD_BYTES: usize = 16 << 10;

/// How much less often than the process's other threads those beside the data path get a CPU that both want.
pub const NICENESS: i32 = 5;

/// Most connections of agent-checks at a time; more wait in the kernel.
pub const AGENT_CONNECTIONS: usize = 1024;

/// Most groups, and members asked by address, that answers to agent-checks are kept of.
pub const AGENT_PLACES: usize = 65536;

/// Most agent-checks that wait until the daemon knows whether there is such a member: unknown names leave the other
/// connections to the known ones.
pub const AGENT_SEARCHES: usize = 256;

/// Most services of one `gwm agent`: each has a thread.
pub const AGENT_SERVICES: usize = 1024;

/// Most memberships of one `gwm agent` at each GWM.
pub const AGENT_MEMBERSHIPS: usize = 16384;

/// The most memberships that can have series of their own.
pub const METRICS_MEMBERS: u32 = 100_000;

/// The most members of a real load balancer that have series of their own in the metrics of its connector.
pub const OBSERVED_MEMBERS: usize = 10_000;

/// The most memberships of one document for other programs.
pub const ADMIN_DISCOVERED: usize = 100_000;

/// Most rows of one page of the admin side.
pub const ADMIN_ROWS: usize = 1000;

/// Most words of the operator that are in force.
pub const OPERATOR_WORDS: usize = 1000;

/// Bytes of the reason, the author or the origin of such a word in the state on disk; the admin side takes shorter ones.
pub const WORD_TEXT_BYTES: usize = 4096;

/// Bytes of changes that wait for the disk; with more, no request that changes something is taken. What the coordinator
/// changes by itself meanwhile may take as much again.
pub const JOURNAL_BYTES: usize = 64 << 20;

/// Changes that are kept of each endpoint.
pub const CHANGES_PER_ENDPOINT: usize = 64;

/// Changes that are kept of all endpoints together; about 100 bytes each.
pub const CHANGES_KEPT: usize = 1 << 18;

/// Events that are kept for those who follow the changes.
pub const EVENTS_KEPT: usize = 8192;

/// Bytes that the member's agent reads of a file of the kernel: `/proc/stat` of 8192 CPUs has less.
pub const AGENT_KERNEL_BYTES: u64 = 1 << 20;

/// The longest metrics page that the member's agent reads.
pub const AGENT_PAGE_BYTES: usize = 4 << 20;

/// Bytes of an access log that the member's agent reads at a time; more are counted in proportion.
pub const AGENT_LOG_BYTES: u64 = 4 << 20;

/// The longest line of an access log that counts.
pub const AGENT_LOG_LINE_BYTES: usize = 16 << 10;

/// Bytes of a name of series, and of a path, that a user gives the member's agent.
pub const AGENT_SELECTOR_BYTES: usize = 1024;

/// The longest request to the member's agent.
pub const AGENT_REQUEST_BYTES: usize = 4096;

/// Most connections of those who ask the member's agent; one more ends the oldest.
pub const AGENT_ANSWER_CONNECTIONS: usize = 64;

/// Bytes of a packet between a daemon and the process that takes over from it.
pub const TAKEOVER_BYTES: usize = 64 << 10;

/// Listeners in such a packet; the kernel passes 253 descriptors at most.
pub const TAKEOVER_DESCRIPTORS: usize = 64;

/// The GWMs of a fleet.
pub const FLEET_NODES: u8 = 7;

/// The etcds that a fleet is told of.
pub const FLEET_ETCDS: usize = 9;

/// The longest name of a fleet or a node, in bytes.
pub const FLEET_NAME_BYTES: usize = 64;

/// Orders of the fleet that wait for the coordinator before the fleet's thread holds further ones back.
pub const FLEET_ORDERS: usize = 4096;
