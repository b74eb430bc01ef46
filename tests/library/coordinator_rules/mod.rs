//! Every rule of sections 3 to 6 of PROTOCOL.md by itself, in literal requests and answers.
//! [`crate::coordinator_model`] tests the interleavings of the rules.

mod authors;
mod codes;
mod delta;
mod doubt;
mod fleet;
mod flows;
mod monitoring;
mod operator;
mod push;
pub(crate) mod rig;
mod rights;
mod sessions;
mod sharing;
mod tables;
mod unmatched;
mod watched;
