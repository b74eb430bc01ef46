//! What a node's checks found ↔ bytes: endpoints by their hash, each with its verdicts, in buckets.

use super::rows::{Result, begin, new_value, put_packed, unpack};
use crate::{
    coordinator::endpoint_hash,
    journal::{self, Fields, put_endpoint, read_verdicts, write_verdicts},
    judgement::Verdicts,
    limits,
    sasp::Endpoint,
};

/// Bytes of verdicts on one endpoint.
const VERDICT_BYTES: usize = 19 + journal::VERDICT_BYTES;

/// Verdicts of a node are in so many values at most.
pub(super) const BUCKETS: u16 = 4096;

/// The bucket of an endpoint.
pub(super) fn of(endpoint: &Endpoint) -> u16 {
    (endpoint_hash(endpoint) >> 52) as u16 // 12 bits: below `BUCKETS`
}

/// The value of a bucket of verdicts.
pub(super) fn write<'a>(bucket: impl Iterator<Item = (&'a Endpoint, &'a Verdicts)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (endpoint, verdicts) in bucket {
        put_endpoint(&mut bytes, endpoint);
        bytes.extend_from_slice(&write_verdicts(verdicts));
    }
    let mut out = new_value();
    put_packed(&mut out, &bytes);
    out
}

/// Bytes of the verdicts of one bucket: ten times those of a bucket of the most memberships.
const BUCKET_BYTES: usize = 10 * VERDICT_BYTES * (limits::MEMBERSHIPS as usize / BUCKETS as usize);

/// Reads a bucket's value.
pub(super) fn read(value: &[u8]) -> Result<Vec<(Endpoint, Verdicts)>> {
    let bytes = unpack(begin(value)?, BUCKET_BYTES, "a list of verdicts")?;
    let mut fields = Fields(&bytes);
    let mut list = Vec::with_capacity(bytes.len() / VERDICT_BYTES);
    while !fields.0.is_empty() {
        list.push((fields.endpoint()?, read_verdicts(fields.take(journal::VERDICT_BYTES, "verdicts")?)?));
    }
    Ok(list)
}
