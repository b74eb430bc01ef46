//! A Group Workload Manager (GWM): it tells load balancers, all the time, how much work each server can take.
//!
//! The protocol is SASP v1 (RFC 4678). Each module names only the modules that its row lists, and each row lists only
//! modules above it. A pure module does no I/O, reads no clock, holds no lock and draws no random number.
//! `tests/library/layers` reads this table and checks the code against it.
//!
//! | module | what it owns | may know | pure |
//! | --- | --- | --- | --- |
//! | [`limits`] | every limit |  | yes |
//! | [`time`] | points in time |  | yes |
//! | [`throttle`] | how many log lines a cause gets | `time` | yes |
//! | [`sasp`] | bytes ↔ messages |  | yes |
//! | [`network`] | address prefixes |  | yes |
//! | [`pattern`] | patterns of names | `sasp` | yes |
//! | [`session`] | the rules of one connection: which frame is a request, which is refused, which ends the connection | `sasp` | yes |
//! | [`judgement`] | what monitoring concludes about an endpoint | `time`, `sasp` | yes |
//! | [`roster`] | what the operator says about members | `sasp`, `network`, `pattern`, `judgement` | yes |
//! | [`access`] | who a peer is, and what the peer may do | `sasp`, `network`, `pattern` | yes |
//! | [`monitor`] | results of checks → weights | `time`, `sasp`, `judgement`, `roster` | yes |
//! | [`coordinator`] | load balancers, groups, memberships, endpoints; replies; what to push, to which load balancer, and when | `limits`, `time`, `sasp`, `session`, `network`, `judgement`, `roster`, `access` | yes |
//! | [`takeover`] | what a daemon and the process that takes over from it say to each other | `limits` | no |
//! | [`journal`] | state on disk: changes → rows of a file, and back | `limits`, `time`, `sasp`, `judgement`, `coordinator` | no |
//! | [`fleet`] | several GWMs: rows of this node ↔ rows of a store that all nodes share | `limits`, `time`, `sasp`, `judgement`, `coordinator`, `journal` | yes |
//! | [`agent_checks`] | what agent-checks of load balancers ask; weights → answers | `sasp` | yes |
//! | [`metrics`] | one table of all metrics; counters that other threads read |  | no |
//! | [`notify`] | what systemd hears |  | no |
//! | [`netlink`] | questions to the kernel by netlink |  | no |
//! | [`files`] | TOML files that a person writes: reading, and the line of a mistake |  | no |
//! | [`tls`] | certificates and keys from files; TLS settings for the server, for checks and for clients | `roster`, `access` | no |
//! | [`client`] | a blocking SASP client for load balancers and members; groups as text | `limits`, `sasp`, `files` | no |
//! | [`config`] | flags and files → validated settings | `limits`, `sasp`, `network`, `pattern`, `judgement`, `roster`, `access`, `coordinator`, `files`, `tls` | no |
//! | [`web`] | HTTP for admin sides: listeners, who may ask, TLS, answers, metrics as text | `limits`, `sasp`, `access`, `metrics`, `config` | no |
//! | [`admin`] | requests of operators → questions; answers → JSON, metrics, events | `limits`, `time`, `sasp`, `judgement`, `monitor`, `coordinator`, `web` | no |
//! | [`connect`] | connectors: real load balancers that use the weights | `limits`, `time`, `throttle`, `sasp`, `pattern`, `netlink`, `files`, `client`, `metrics`, `web` | no |
//! | [`agent`] | the member's side: services of a host stay registered, and leave without a lost request | `limits`, `time`, `sasp`, `metrics`, `notify`, `netlink`, `files`, `client`, `web` | no |
//! | [`runtime`] | sockets, cores, clocks; only this module names glommio | `limits`, `time`, `throttle`, `sasp`, `session`, `network`, `judgement`, `roster`, `access`, `monitor`, `coordinator`, `takeover`, `journal`, `fleet`, `agent_checks`, `tls`, `metrics`, `notify`, `config`, `web`, `admin` | no |
//! | [`cli`] | one file a command | `limits`, `sasp`, `pattern`, `journal`, `tls`, `client`, `config`, `web`, `connect`, `agent`, `runtime` | no |
//! | [`fuzz`] | entry points for fuzzers; the test suite runs them too | `limits`, `time`, `sasp`, `session`, `judgement`, `roster`, `access`, `monitor`, `coordinator`, `takeover`, `journal`, `fleet`, `agent_checks`, `client`, `config`, `admin`, `connect`, `agent`, `cli` | no |
//! | `main.rs` | the binary | `cli` | no |

// Some functions of the codec are for the daemon only, and stand beside the others.
#![cfg_attr(not(feature = "daemon"), allow(dead_code))]

#[cfg(feature = "daemon")]
pub mod access;
#[cfg(feature = "admin")]
pub mod admin;
#[cfg(feature = "daemon")]
pub mod agent;
#[cfg(feature = "daemon")]
pub mod agent_checks;
#[cfg(feature = "daemon")]
pub mod cli;
pub mod client;
#[cfg(feature = "daemon")]
pub mod config;
#[cfg(feature = "daemon")]
pub mod connect;
#[cfg(feature = "daemon")]
pub mod coordinator;
pub mod files;
#[cfg(feature = "daemon")]
pub mod fleet;
#[cfg(feature = "daemon")]
pub mod fuzz;
#[cfg(feature = "daemon")]
pub mod journal;
#[cfg(feature = "daemon")]
pub mod judgement;
pub mod limits;
#[cfg(feature = "daemon")]
pub mod metrics;
#[cfg(feature = "daemon")]
pub mod monitor;
#[cfg(feature = "daemon")]
pub mod netlink;
pub mod network;
#[cfg(feature = "daemon")]
pub mod notify;
pub mod pattern;
#[cfg(feature = "daemon")]
pub mod roster;
#[cfg(feature = "daemon")]
pub mod runtime;
pub mod sasp;
pub mod session;
#[cfg(feature = "daemon")]
pub mod takeover;
pub mod throttle;
pub mod time;
#[cfg(feature = "daemon")]
pub mod tls;
#[cfg(feature = "admin")]
pub mod web;
