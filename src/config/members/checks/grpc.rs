//! The `grpc` table of a member's entry.

use rustls::pki_types::ServerName;
use serde::Deserialize;
use toml::Spanned;

use super::{
    Entry, Loader,
    http::{self, NAME_BYTES},
    tls::tls,
};
use crate::{
    files::{Fault, fault, place},
    roster::Grpc,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config::members) struct GrpcTable {
    service: Option<Spanned<String>>,
    host: Option<Spanned<String>>,
    port: Option<Spanned<u16>>,
    tls: Option<Spanned<bool>>,
    utilization: Option<Spanned<Vec<String>>>,
}

/// The request of a check by gRPC's health protocol. TLS is used if `grpc.tls` says so, or the entry has a `tls` table.
pub(super) fn grpc(entry: &Entry, monitors: &[&str], loader: &mut Loader<'_>) -> Result<Grpc, Fault> {
    let mut grpc = Grpc::default();
    let mut secure = entry.tls.is_some();
    if let Some(table) = &entry.grpc {
        let table = table.get_ref();
        if let Some(service) = &table.service {
            if service.get_ref().len() > NAME_BYTES {
                return fault(service.span().start, format!("service has {NAME_BYTES} bytes at most"));
            }
            grpc.service = service.get_ref().clone();
        }
        if let Some(host) = &table.host {
            grpc.host = Some(http::text(host, "host", NAME_BYTES, |byte| byte.is_ascii_graphic())?);
        }
        grpc.port = http::port(&table.port)?;
        if let Some(names) = &table.utilization {
            grpc.utilization = http::utilization(names)?;
        }
        if let Some(wanted) = &table.tls {
            secure = *wanted.get_ref();
        }
    }
    if let (false, Some(at)) = (secure || monitors.contains(&"https"), place(&entry.tls)) {
        return fault(at, "grpc has tls = false, so the tls table has no effect: leave one of them out");
    }
    if secure {
        let mut tls = tls(entry, loader, &[b"h2"])?;
        // The name in the request is the name that the certificate must have.
        let host = grpc.host.as_deref().map(|host| host.rsplit_once(':').map_or(host, |(name, _)| name));
        tls.server_name =
            tls.server_name.or(host.filter(|host| ServerName::try_from(*host).is_ok()).map(str::to_owned));
        grpc.tls = Some(tls);
    }
    Ok(grpc)
}
