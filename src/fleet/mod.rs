//! Several GWMs that show the same tables: a node's rows ↔ rows of a store that all nodes share (etcd).
//!
//! Each node's coordinator answers at once and stays the only writer of its tables. A [`Replica`] beside it, which does no
//! I/O, hears what the coordinator changes, in order, and what the store has. It gives transactions for the store and
//! orders for the coordinator.
//!
//! Of each row the replica knows three versions: `mine`, which the coordinator has; `etcd`, which the store has; and
//! `base`, which both had last. If they differ, the replica merges them (`merge`): what the coordinator lacks becomes an
//! order, and what the store lacks is written, if the store's row is still the one that was merged. A conflict, the time
//! after a cut, and normal work are the same path.
//!
//! An order says what it expects of the coordinator's tables. If a request has changed that meanwhile, the order does not
//! fit, and the row is merged again. So `mine` is exactly what the coordinator has had at some time, and nothing that
//! either side has done is lost without a [`Conflict`].
//!
//! | module | what it owns |
//! | --- | --- |
//! | `rows` | keys and values ↔ bytes |
//! | `buckets` | what the nodes' checks found ↔ bytes |
//! | `node_row` | nodes that are alive ↔ bytes |
//! | `clock` | the date that all nodes agree on |
//! | `gone` | members that a load balancer has deregistered |
//! | `merge` | three versions of a row → one |
//! | `checks` | what the nodes' checks found |
//! | `replica` | the state machine |

mod buckets;
mod checks;
mod clock;
mod gone;
mod merge;
mod node_row;
mod replica;
mod rows;

pub use replica::{Batch, Conflict, Moment, NodeStatus, Op, Replica, Settings, Status};
pub use rows::is_node_name;
pub(crate) use rows::read_any;
#[cfg(feature = "fleet")]
pub(crate) use rows::{STORE_KEY, store_number};

/// The most bytes of a key's value, and of the values of a transaction: etcd takes requests of 1.5 MiB, and a slow network
/// takes less than that in the time that a request may take.
pub const VALUE_BYTES: usize = 512 << 10;
