//! The shard's weight table: what it checks when, and what it says of what the checks find.

mod rig;
mod schedule;
mod verdicts;
