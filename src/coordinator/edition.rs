//! The editions of a listing: values, which groups remember by reference as sent, and encoded entries, which are made
//! once for all groups.

use std::sync::Arc;

use bytes::Bytes;

use crate::{judgement::Scale, sasp::image::VALUE_BYTES};

/// The value of an entry: state, flags and weight, as on the wire.
pub(super) type Value = [u8; VALUE_BYTES];

/// The value of an entry that was never sent: no entry has these flags.
pub(super) const UNSENT: Value = [0, 0xFF, 0, 0];

/// Values by slot. If there are more slots than values, the last ones were never sent.
pub(super) type Values = Arc<[Value]>;

/// What groups that are (not) in doubt and have this scale show of one version of a listing.
pub(super) struct Edition {
    pub(super) version: u32,
    pub(super) doubted: bool,
    /// The scale that the groups had before.
    pub(super) before: Option<Scale>,
    pub(super) scale: Option<Scale>,
    pub(super) values: Values,
    /// All entries, encoded for those who share them.
    pub(super) body: Option<Bytes>,
    /// The entries that differ from other values, encoded, and how many these are.
    pub(super) deltas: Vec<(Option<Values>, Bytes, u32)>,
}
