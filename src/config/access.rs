//! The access file: which peers may be which load balancer and speak for which members. An error names the file and the
//! line.
//!
//! The flags decide whether addresses or certificates identify a peer; the other key is an error. Nothing in the file is
//! ignored silently.
//!
//! To add a key: add a field to `LbTable` or `MemberTable`, read it in `lb` or `member` into [`access`](crate::access), add
//! a row to the table in `src/manual/gwm-access.5.md` and a test to `access/tests.rs`.

use std::{fmt::Display, net::IpAddr, path::Path};

use serde::Deserialize;
use toml::Spanned;

use crate::{
    access::{Access, Act, Acts, CertificateName, Certificates, Identity, Lb, Member, Who},
    files::{self, Fault, FileError, Mistake, fault, place},
    limits,
    network::Network,
    pattern::Pattern,
    sasp::{Escaped, unescape},
};

/// The longest access file: enough for a hundred thousand entries.
const FILE_BYTES: u64 = 64 << 20;

/// The identity flags.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// What a load balancer must prove.
    pub lb_identity: Identity,
    /// What a member must prove.
    pub member_identity: Identity,
    /// A certificate's CN counts as one of a load balancer's names.
    pub common_name: bool,
}

impl Rules {
    /// The rules without a file.
    pub fn access(&self) -> Access {
        Access::new(self.lb_identity, self.member_identity, self.common_name)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    lb: Vec<Spanned<LbTable>>,
    #[serde(default)]
    member: Vec<Spanned<MemberTable>>,
}

type Texts = Spanned<Vec<Spanned<String>>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LbTable {
    uid: Spanned<String>,
    addresses: Option<Texts>,
    certificates: Option<Texts>,
    may: Option<Texts>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberTable {
    sources: Option<Texts>,
    certificates: Option<Texts>,
    addresses: Option<Texts>,
    lbs: Option<Texts>,
    groups: Option<Texts>,
    may: Option<Texts>,
}

/// Reads an access file.
pub fn read(path: &Path, rules: &Rules) -> Result<Access, FileError> {
    let text = files::read(path, "access file", FILE_BYTES)?;
    parse(&text, rules).map_err(|mistake| mistake.of(path))
}

/// Parses the file's text.
pub fn parse(text: &str, rules: &Rules) -> Result<Access, Mistake> {
    let mut access = rules.access();
    files::parse_pieces(text, &["lb", "member"], |file, _| build(file, rules, &mut access))?;
    Ok(access)
}

/// Adds the entries of a piece of the file.
fn build(file: File, rules: &Rules, access: &mut Access) -> Result<(), Fault> {
    for table in file.lb {
        let at = table.span().start;
        let table = table.into_inner();
        let lb = lb(&table, at, rules.lb_identity)?;
        let uid_at = table.uid.span().start;
        let uid = unescape(table.uid.get_ref()).map_err(|error| (uid_at, format!("uid: {error}")))?;
        if !(1..=limits::LB_UID_BYTES).contains(&uid.len()) {
            return fault(uid_at, format!("uid has {} bytes: an LB UID has 1 to {}", uid.len(), limits::LB_UID_BYTES));
        }
        if !access.add_lb(&uid, lb) {
            return fault(uid_at, format!("uid \"{}\" is listed twice: give it one entry", Escaped(&uid)));
        }
    }
    for table in file.member {
        let at = table.span().start;
        let (who, member) = member(&table.into_inner(), at, rules.member_identity)?;
        access.add_member(who, member);
    }
    Ok(())
}

fn lb(table: &LbTable, at: usize, identity: Identity) -> Result<Lb, Fault> {
    let (certificates, addresses) = (place(&table.certificates), place(&table.addresses));
    match (identity, certificates, addresses) {
        (Identity::Any, ..) => {
            return fault(
                at,
                "an [[lb]] has no effect while --lb-identity is any: set the flag, or leave this entry out",
            );
        }
        (Identity::SourceIp, Some(at), _) => {
            return fault(
                at,
                "certificates are for --lb-identity certificate, but the flag is source-ip: use addresses",
            );
        }
        (Identity::SourceIp, None, None) => {
            return fault(at, "an [[lb]] needs addresses that it connects from: --lb-identity is source-ip");
        }
        (Identity::Certificate, _, Some(at)) => {
            return fault(
                at,
                "addresses are for --lb-identity source-ip, but the flag is certificate: use certificates",
            );
        }
        _ => {}
    }
    // With an empty list, no peer is this load balancer.
    let addresses = table.addresses.as_ref().map_or(Ok(Vec::new()), |texts| each(texts, network))?;
    let certificates = table.certificates.as_ref().map(|texts| {
        let mut certificates = Certificates::default();
        let names = each(texts, CertificateName::parse)?;
        names.into_iter().for_each(|name| *certificates.entry(name) = ());
        Ok(certificates)
    });
    let certificates = certificates.transpose()?;
    Ok(Lb { addresses: addresses.into_iter().collect(), certificates, may: may(&table.may, true)? })
}

fn member(table: &MemberTable, at: usize, identity: Identity) -> Result<(Who, Member), Fault> {
    let (certificates, sources) = (place(&table.certificates), place(&table.sources));
    let who = match (identity, certificates, sources) {
        (Identity::Any, ..) => {
            return fault(
                at,
                "a [[member]] has no effect while --member-identity is any: set the flag, or leave this entry out",
            );
        }
        (Identity::SourceIp, Some(at), _) => {
            return fault(
                at,
                "certificates are for --member-identity certificate, but the flag is source-ip: use sources",
            );
        }
        (Identity::SourceIp, None, None) => {
            return fault(at, "a [[member]] needs sources that it connects from: --member-identity is source-ip");
        }
        (Identity::Certificate, _, Some(at)) => {
            return fault(
                at,
                "sources are for --member-identity source-ip, but the flag is certificate: use certificates",
            );
        }
        (Identity::Certificate, None, None) => {
            return fault(at, "a [[member]] needs the certificates that it shows: --member-identity is certificate");
        }
        (Identity::SourceIp, ..) => Who::Sources(list(&table.sources, network)?),
        (Identity::Certificate, ..) => Who::Certificates(list(&table.certificates, CertificateName::parse)?),
    };
    let patterns = |given, most| list(given, |text| pattern(text, most));
    let member = Member {
        addresses: list(&table.addresses, network)?.into_iter().collect(),
        lbs: patterns(&table.lbs, limits::LB_UID_BYTES)?,
        groups: patterns(&table.groups, limits::GROUP_NAME_BYTES)?,
        may: may(&table.may, false)?,
    };
    Ok((who, member))
}

/// Reads each text of a list; an empty list is an error.
fn list<T, E: Display>(given: &Option<Texts>, read: impl Fn(&str) -> Result<T, E>) -> Result<Vec<T>, Fault> {
    match given {
        None => Ok(Vec::new()),
        Some(texts) if texts.get_ref().is_empty() => {
            fault(texts.span().start, "an empty list has no effect: leave it out, or fill it")
        }
        Some(texts) => each(texts, read),
    }
}

fn each<T, E: Display>(texts: &Texts, read: impl Fn(&str) -> Result<T, E>) -> Result<Vec<T>, Fault> {
    let one = |text: &Spanned<String>| read(text.get_ref()).map_err(|error| (text.span().start, error.to_string()));
    texts.get_ref().iter().map(one).collect()
}

/// An address, or a network as in `10.0.0.0/8`.
fn network(text: &str) -> Result<Network, String> {
    match text.contains('/') {
        true => Network::parse(text).map_err(|error| error.to_string()),
        false => text
            .parse::<IpAddr>()
            .map(Network::from)
            .map_err(|_| format!("\"{text}\" is not an address such as 10.0.0.1, nor a network such as 10.0.0.0/8")),
    }
}

/// A pattern of names that have 1 to `most` bytes.
fn pattern(text: &str, most: usize) -> Result<Pattern, String> {
    let pattern = Pattern::parse(text).map_err(|error| error.to_string())?;
    match pattern.least_bytes() {
        0 if !pattern.is_wide() => Err("\"\" fits no name; \"*\" fits all of them".into()),
        bytes if bytes > most => Err(format!("no name has the {bytes} bytes that fit this: {most} are the most")),
        _ => Ok(pattern),
    }
}

/// The rights of an entry; without the key, all rights.
fn may(given: &Option<Texts>, lb: bool) -> Result<Acts, Fault> {
    let Some(texts) = given else { return Ok(Acts::ALL) };
    let mut acts = Acts::NONE;
    for text in texts.get_ref() {
        let act = match text.get_ref().as_str() {
            "register" => Act::Register,
            "deregister" => Act::Deregister,
            "state" => Act::SetState,
            "trust" if lb => Act::Trust,
            other => {
                let known = if lb { "\"deregister\", \"state\" or \"trust\"" } else { "\"deregister\" or \"state\"" };
                return fault(text.span().start, format!("may {other:?} is not \"register\", {known}"));
            }
        };
        if acts.contains(act) {
            return fault(text.span().start, format!("may names \"{}\" twice", text.get_ref()));
        }
        acts = acts.with(act);
    }
    Ok(acts)
}

#[cfg(test)]
mod tests;
