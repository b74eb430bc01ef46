//! Benchmarks of the codec, the framer, histograms, the coordinator, the channels between cores, the weight table, TCP checks,
//! and TLS.
//!
//! `cargo bench` measures; `cargo bench -- coordinator` those whose name contains that. `cargo test` runs each
//! once, on small tables, so that they stay true. The columns are time per iteration (one message, one change, one
//! tick, as the benchmark says); rows below it give items or bytes a second and, where anything was allocated,
//! allocations. The sockets of load balancers are the business of `gwm-loadgen`.

#[path = "../tests/support/authority.rs"]
mod authority;
mod codec;
mod coordinator;
mod framer;
mod histogram;
mod mesh;
mod monitor;
mod probe;
mod tls;

/// The daemon's allocator, counted.
#[global_allocator]
static ALLOCATOR: divan::AllocProfiler<mimalloc::MiMalloc> = divan::AllocProfiler::new(mimalloc::MiMalloc);

/// So many when measuring, a hundredth (but at least one) in the test suite.
fn scaled(count: u32) -> u32 {
    let measuring = std::env::args().any(|argument| argument == "--bench");
    if measuring { count } else { (count / 100).max(1) }
}

fn main() {
    divan::main();
}
