//! The real `gwm` as a spawned process, and the client library against a GWM that plays a script.
//!
//! No test sleeps for a fixed time, and none asserts a duration: a test waits for a condition, and
//! [`harness::PATIENCE`] tells a hang from slowness. All tests share one process, and with it [`harness::Permit`]:
//! a test that opens thousands of connections or keeps the machine busy starts its daemon alone.

#[cfg(feature = "admin")]
mod admin;
mod agent;
mod attack;
#[path = "../support/authority.rs"]
mod authority;
#[path = "../support/captures.rs"]
mod captures;
mod cli;
mod client;
mod client_tls;
#[cfg(feature = "admin")]
mod completions;
mod connect;
mod container;
mod daemon;
mod decode;
mod demo;
mod examples;
mod fake_gwm;
#[cfg(feature = "fleet")]
mod fleet;
mod hang;
mod haproxy;
mod harness;
mod manual;
mod page;
mod site;
mod state;
mod takeover;
mod tshark;
mod wire;
