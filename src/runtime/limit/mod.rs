//! How much of something a peer may have or do: connections and handshakes of one source, requests.

pub(super) mod budget;
pub(super) mod rate;
pub(super) mod sources;
