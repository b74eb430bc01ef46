//! The library by itself: no process is spawned but `man`, and only tests of files open a file.

#[path = "../support/captures.rs"]
mod captures;
mod codec;
mod codec_properties;
mod coordinator_model;
mod coordinator_rules;
mod fleet;
mod fuzz;
mod journal;
mod layers;
mod manual;
mod monitor_table;
mod names;
mod outbox;
mod simulator;
mod wire;
