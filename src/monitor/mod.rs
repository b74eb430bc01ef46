//! Watching endpoints: what checks find becomes verdicts.
//!
//! Pure state machines and parsers; the runtime does the I/O of checks. One way through:
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`outcome`] | what one check can find |
//! | [`health`] | findings → up, down or unknown |

pub mod health;
pub mod outcome;

pub use outcome::{Outcome, Reason};
