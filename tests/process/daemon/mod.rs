//! `gwm serve`: every rule that crosses a socket, the limits of what peers can do to the daemon, and its behaviour as
//! a process.

mod access;
mod command_line;
mod concurrency;
mod config_file;
mod doubt;
mod excess;
mod framing;
mod grpc;
mod hostile;
mod lenient;
mod limits;
mod machine;
mod members_file;
mod monitoring;
mod mutations;
mod names;
mod placement;
mod pushes;
mod reasons;
mod requests;
mod sessions;
mod signals;
mod slow_readers;
mod systemd;
mod thousands;
mod tls;
mod tshark;
