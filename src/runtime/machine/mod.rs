//! The machine under the daemon: its limits, executors and threads, epoll sets, and the few system calls that are
//! `unsafe`.

pub(super) mod clock;
pub(super) mod environment;
pub mod executor;
pub(super) mod poller;
pub(super) mod sys;
