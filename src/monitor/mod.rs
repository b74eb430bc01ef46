//! Watching endpoints: what checks find becomes verdicts.
//!
//! Pure state machines and parsers; the runtime does the I/O of checks. One way through:
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`outcome`] | what one check can find |
//! | [`agent`], [`http`], [`orca`], [`echo`] | what is sent to a member, and what its answer says |
//! | [`health`] | findings → up, down or unknown |
//! | [`policy`] | that and reports → how much work an endpoint can take |

pub mod agent;
pub mod echo;
pub mod health;
pub mod http;
pub mod orca;
pub mod outcome;
pub mod policy;

pub use outcome::{Outcome, Reason};
