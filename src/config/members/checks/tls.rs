//! The `tls` table of a member's entry.

use std::path::PathBuf;

use rustls::pki_types::ServerName;
use serde::Deserialize;
use toml::Spanned;

use super::{Entry, Loader, loader::Protocols};
use crate::{
    files::{Fault, fault, place},
    roster::{Tls, TlsSource},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config::members) struct TlsTable {
    #[serde(default = "yes")]
    verify: bool,
    ca: Option<Spanned<PathBuf>>,
    server_name: Option<Spanned<String>>,
    certificate: Option<Spanned<PathBuf>>,
    key: Option<Spanned<PathBuf>>,
}

fn yes() -> bool {
    true
}

/// The TLS settings of the entry's checks.
pub(super) fn tls(entry: &Entry, loader: &mut Loader<'_>, protocols: Protocols) -> Result<Tls, Fault> {
    let plain = TlsTable { verify: true, ca: None, server_name: None, certificate: None, key: None };
    let (at, table) = match &entry.tls {
        Some(table) => (table.span().start, table.get_ref()),
        None => (place(&entry.monitor).unwrap_or(0), &plain),
    };
    if let (false, Some(ca)) = (table.verify, &table.ca) {
        return fault(
            ca.span().start,
            "ca names the authorities to trust, and verify = false trusts every certificate: leave one of them out",
        );
    }
    let identity = match (&table.certificate, &table.key) {
        (Some(certificate), Some(key)) => Some((loader.file(certificate)?, loader.file(key)?)),
        (None, None) => None,
        _ => return fault(at, "certificate and key go together"),
    };
    let server_name = match &table.server_name {
        Some(name) if ServerName::try_from(name.get_ref().as_str()).is_err() => {
            return fault(name.span().start, format!("server_name \"{}\" is no host name", name.get_ref()));
        }
        Some(name) => Some(name.get_ref().clone()),
        None => None,
    };
    let ca = table.ca.as_ref().map(|ca| loader.file(ca)).transpose()?;
    let source = TlsSource { verify: table.verify, ca, identity };
    let config = loader.config(&source, protocols).map_err(|message| {
        let file = [&table.ca, &table.certificate].into_iter().flatten().next();
        let name = file.map_or(String::new(), |file| format!("{}: ", file.get_ref().display()));
        (file.map_or(at, |file| file.span().start), format!("tls: {name}{message}"))
    })?;
    Ok(Tls { server_name, config, source })
}
