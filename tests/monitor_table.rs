//! The shard's weight table: what it checks when, and what it says of what the checks find.

#[path = "monitor_table/rig.rs"]
mod rig;
#[path = "monitor_table/schedule.rs"]
mod schedule;
#[path = "monitor_table/verdicts.rs"]
mod verdicts;
