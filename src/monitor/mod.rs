//! The results of checks become verdicts about endpoints.
//!
//! All modules are state machines and parsers; the runtime does the I/O of checks.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`outcome`] | the possible results of one check |
//! | [`explanation`] | why a check failed, in words |
//! | [`agent_check`], [`http`], [`grpc`], [`echo`] | the bytes for a member, and the meaning of its answer |
//! | [`proxy_protocol`] | the bytes before them |
//! | [`orca`], [`protobuf`] | load reports in answers |
//! | [`health`] | results of checks → up, down or unknown |
//! | `schedule` | when each check is due, and how many checks run |
//! | [`swing`] | the statements of an agent, smoothed while they swing |
//! | [`policy`] | the formulas: up or down, and reports → how much work an endpoint can take |
//! | [`table`] | the endpoints of one shard: gives checks to run, takes their results, gives verdicts |
//!
//! # How to add a check
//!
//! 1. `src/roster/checks.rs`: a variant of `Check` with the check's settings; `src/roster/mod.rs`: `Roster::checks` says
//!    for which endpoints the check is possible.
//! 2. `src/monitor/`: a module that writes the request and reads the answer, without I/O; an answer is an
//!    [`Outcome`]. A new reason of a failure is a variant of [`Reason`], and may
//!    have words in [`explanation`].
//! 3. `src/runtime/probe/`: `stream.rs` for a check over TCP (a variant of `Listener`), `mod.rs` for another way.
//! 4. `src/config/members/checks.rs`: the name for `monitor = …` and the keys of the members file, which
//!    `src/manual/gwm-members.5.md` lists.
//! 5. Tests: the module's own; `src/fuzz.rs`, an entry point for the answer; `src/runtime/probe/tests/`, real sockets;
//!    `tests/process/daemon/monitoring.rs`, the daemon.

pub mod agent_check;
pub mod echo;
pub mod explanation;
pub mod grpc;
pub mod health;
pub mod http;
pub mod orca;
pub mod outcome;
pub mod policy;
pub mod protobuf;
pub mod proxy_protocol;
mod schedule;
pub mod swing;
pub mod table;

pub use outcome::{AgentText, Outcome, Reason, TlsFault};
pub use policy::Tuning;
pub use table::{MonitorSettings, Table, Token};
