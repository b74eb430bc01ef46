//! A Group Workload Manager (GWM): it tells load balancers, all the time, how much work each server can take.
//!
//! The protocol is SASP v1 (RFC 4678). Layers, each knowing only those above it in this list:
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`sasp`] | bytes ↔ messages: no I/O, no state |
//! | [`session`] | one connection's rules: which frame is a request, which is refused, which ends the connection |
//! | [`judgement`], [`roster`], [`network`], [`time`] | what monitoring concludes of an endpoint; what the operator says of it; address prefixes; points in time |
//! | [`access`] | who a peer proves to be, and what that lets it do |
//! | [`monitor`] | what checks find of endpoints → what to say of them |
//! | [`coordinator`] | load balancers, groups, memberships, endpoints; replies; what to push to whom and when |
//! | [`runtime`] | sockets, cores, clocks: the only module that names glommio |
//! | [`client`] | a blocking SASP client for load balancers and members |
//! | [`config`], [`limits`] | validated settings; every cap in one place |
//! | [`metrics`] | one table of all metrics; counters that other threads read |
//! | [`cli`] | one file a command |
//! | [`fuzz`] | entry points for fuzzers, run by the test suite too |

pub mod access;
pub mod cli;
pub mod client;
pub mod config;
pub mod coordinator;
pub mod fuzz;
pub mod judgement;
pub mod limits;
pub mod metrics;
pub mod monitor;
pub mod network;
pub mod roster;
pub mod runtime;
pub mod sasp;
pub mod session;
pub mod time;
