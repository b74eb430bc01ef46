//! The real `gwm serve` as a spawned process: every rule that crosses a socket, the limits of what peers can do to
//! it, and its behaviour as a process.
//!
//! No test waits by sleeping for a fixed time, and none asserts a duration: it waits for a condition, and
//! [`harness::PATIENCE`] only tells a hang from slowness.

mod access;
#[path = "../authority/mod.rs"]
mod authority;
mod command_line;
mod concurrency;
mod excess;
mod framing;
mod harness;
mod hostile;
mod limits;
mod machine;
mod members_file;
mod monitoring;
mod mutations;
mod placement;
mod pushes;
mod requests;
mod sessions;
mod signals;
mod site;
mod slow_readers;
mod thousands;
mod tls;
mod tshark;
mod wire;
