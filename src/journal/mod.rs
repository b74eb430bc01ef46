//! State on disk: what a crash or a restart must not forget.
//!
//! The coordinator's [`Change`](crate::coordinator::Change)s become [`Entry`]s, which outlive the message that they came
//! from. [`Store::apply`] writes many entries in one transaction, so one `fdatasync` serves all requests of a batch.
//!
//! On disk are the rows of the tables, not a log of changes: a row is written again when it changes. So the file grows
//! with the tables and not with their past, a start reads each row once and replays nothing, and no part rewrites a log
//! in the background. A log would make the writes smaller, and every start and every backup larger.
//!
//! Members of a group stand in chunks of about one page, in the order of their registration: a million memberships are
//! some thousands of rows. A registration appends to the last chunk. A deregistration looks for the member in all chunks
//! of its group. States that members were given are rows of their own, because they change often and most members have
//! none.
//!
//! A node of a fleet also notes which rows and members it has changed by itself, until etcd has the changes (`own`): if it
//! dies before that, its next life tells etcd these, and nothing that others may have removed meanwhile.
//!
//! The engine is `redb`: checksums, torn and reordered writes, and locks of the file are its part. It takes any
//! [`StorageBackend`]; the tests give it a disk that loses power.

mod date;
pub mod directory;
mod entry;
mod own;
mod restore;
mod rows;
mod store;
mod tables;
pub mod text;
mod unchanged;

pub use date::{Date, Epoch};
pub use entry::{Entry, Known, Whole};
pub use own::{Began, Did, FleetDate, OwnRow, Owns, RowKey, Sessions};
pub use redb::StorageBackend;
pub use restore::{Restored, restore};
pub use rows::{Fault, Member, Row};
pub use store::{Ahead, Past, Store, StoreError};

pub(crate) use rows::{
    Fields, VERDICT_BYTES, put_endpoint, put_short, read_any, read_verdicts, read_word, write_verdicts, write_word,
};
pub(crate) use text::read_any_line;
