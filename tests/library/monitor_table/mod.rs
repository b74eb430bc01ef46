//! The weight table of a shard: which endpoint it checks when, and which judgement follows from the results.

mod rig;
mod schedule;
mod verdicts;
