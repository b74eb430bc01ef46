//! The checks of a request that need no table: steps 3, 4 and 7 of section 3 of PROTOCOL.md.

use std::collections::BTreeSet;

use super::model::Code;
use crate::wire::Request;

/// Step 3.
pub(crate) fn uid_sizes(request: &Request) -> Result<(), Code> {
    if request.uids().iter().all(|uid| (1..=64).contains(&uid.len())) { Ok(()) } else { Err(0x51) }
}

/// Step 4.
pub(crate) fn name_sizes(request: &Request) -> Result<(), Code> {
    for group in request.groups() {
        match request {
            Request::Register { .. } | Request::SetMemberState { .. } if group.name.is_empty() => return Err(0x50),
            Request::Deregister { .. } if group.name.is_empty() && !group.items.is_empty() => return Err(0x10),
            _ => {}
        }
    }
    Ok(())
}

/// Step 7, first half.
pub(crate) fn duplicate_groups(request: &Request) -> Result<(), Code> {
    let groups = request.groups();
    for (i, one) in groups.iter().enumerate() {
        for (j, other) in groups.iter().enumerate() {
            if i == j || one.uid != other.uid {
                continue;
            }
            let bad = match request {
                Request::GetWeights { .. } => one.name.is_empty() || one.name == other.name,
                Request::SetMemberState { .. } => one.name == other.name,
                Request::Deregister { .. } => one.name.is_empty() || (one.items.is_empty() && one.name == other.name),
                Request::Register { .. } | Request::SetLbState { .. } => false,
            };
            if bad {
                return Err(0x46);
            }
        }
    }
    Ok(())
}

/// Step 7, second half.
pub(crate) fn duplicate_members(request: &Request) -> Result<(), Code> {
    let mut named = BTreeSet::new();
    for group in request.groups() {
        for item in &group.items {
            if !named.insert((&group.uid, &group.name, item.endpoint)) {
                return Err(0x44);
            }
        }
    }
    Ok(())
}
