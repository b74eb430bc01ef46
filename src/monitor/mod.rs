//! Watching endpoints: what checks find becomes verdicts.
//!
//! Pure state machines and parsers; the runtime does the I/O of checks. One way through:
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`outcome`] | what one check can find |
//! | [`agent_check`], [`http`], [`orca`], [`echo`] | what is sent to a member, and what its answer says |
//! | [`health`] | findings → up, down or unknown |
//! | `schedule` | when each check is due, and how many are under way |
//! | [`policy`] | what is up or down, and reports → how much work an endpoint can take |
//! | [`table`] | all of it for the endpoints of one shard: checks to run in, verdicts to pass on out |

pub mod agent_check;
pub mod echo;
pub mod health;
pub mod http;
pub mod orca;
pub mod outcome;
pub mod policy;
mod schedule;
pub mod table;

pub use outcome::{Outcome, Reason};
pub use policy::Tuning;
pub use table::{MonitorSettings, Table, Token};
