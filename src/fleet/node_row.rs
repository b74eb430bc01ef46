//! A node that is alive ↔ bytes.

use super::{
    clock::Told,
    rows::{Result, begin, new_value, put_text, read_text},
};
use crate::journal::Date;

/// A node that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeRow {
    pub(super) incarnation: u64,
    pub(super) blind: bool,
    pub(super) address: Box<str>,
    pub(super) version: Box<str>,
    /// What it tells of the fleet's date; `None`: its version knows no such date.
    pub(super) told: Option<Told>,
}

impl NodeRow {
    /// Whether the row tells the same as another one, whatever the date.
    pub(super) fn is_like(&self, other: &NodeRow) -> bool {
        let NodeRow { incarnation, blind, address, version, told: _ } = self;
        (*incarnation, *blind, address, version) == (other.incarnation, other.blind, &other.address, &other.version)
    }

    pub(super) fn read(value: &[u8]) -> Result<NodeRow> {
        let mut fields = begin(value)?;
        let incarnation = fields.u64("the life of a node")?;
        let blind = fields.flag("whether a node is blind")?;
        let address = read_text(&mut fields, "the address of a node")?;
        let version = read_text(&mut fields, "the version of a node")?;
        let told = if fields.0.is_empty() {
            None
        } else {
            Some(Told {
                date: Date(fields.u64("the date of a node")?),
                era: fields.u64("the era of a node")?,
                error: fields.u64("the error of a node's date")?,
                asks: fields.flag("whether a node asks for the date")?,
                seen: fields.u64("the revision that a node has seen")?.cast_signed(),
            })
        };
        // A newer version may know more.
        Ok(NodeRow { incarnation, blind, address, version, told })
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = new_value();
        out.extend_from_slice(&self.incarnation.to_be_bytes());
        out.push(self.blind.into());
        put_text(&mut out, &self.address);
        put_text(&mut out, &self.version);
        if let Some(Told { date, era, error, asks, seen }) = &self.told {
            for number in [date.0, *era, *error] {
                out.extend_from_slice(&number.to_be_bytes());
            }
            out.push((*asks).into());
            out.extend_from_slice(&seen.to_be_bytes());
        }
        out
    }
}
