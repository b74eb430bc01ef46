//! `gwm connect xds`: a control plane for Envoy and gRPC.

use std::{io::Write, net::SocketAddr, path::PathBuf, process::ExitCode, time::SystemTime};

use super::{Common, Groups};
use crate::{
    cli::target::{self, Failure},
    connect::xds::{Files, TlsSettings, XdsConnector},
    tls,
};

pub(super) const HELP: &str = "\
One port serves ADS, EDS, CDS, LDS and RDS over gRPC (state of the world and delta), EDS by REST with JSON, and LRS, by \
which clients report their load for --admin-listen. A group is \
a cluster of the same name. gRPC clients open `xds:///GROUP`. Each endpoint has a locality of its own, and both have its \
weight; members that may get no work are left out.

Envoy's static cluster needs `type: EDS` and `common_lb_config: {healthy_panic_threshold: {value: 0}, \
locality_weighted_lb_config: {}}`.

A port below 1024 needs the capability CAP_NET_BIND_SERVICE.

Clients wait until the first weights have come. When the connector ends, they keep what they have. A response that a \
client refuses is logged with the client's reason.";

/// Flags of `gwm connect xds`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    groups: Groups,
    /// Serve xDS here: IPv4:PORT or `[IPv6]:PORT`
    #[arg(long, env = "GWM_XDS_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:18000")]
    listen: SocketAddr,
    /// Write each group's endpoints into a file of its own, too, for Envoy's `path_config_source`: replaced by rename. The
    /// one `*` of the name stands for the group's name: `/run/gwm/eds/*.json`
    #[arg(long, env = "GWM_XDS_FILE", value_name = "PATTERN")]
    file: Option<String>,
    /// Serve with TLS: the certificate chain (PEM); needs --xds-tls-key. SIGHUP reads the three TLS files again
    #[arg(long, env = "GWM_XDS_TLS_CERT", value_name = "FILE", requires = "xds_tls_key")]
    xds_tls_cert: Option<PathBuf>,
    /// The private key (PEM) of --xds-tls-cert
    #[arg(long, env = "GWM_XDS_TLS_KEY", value_name = "FILE", requires = "xds_tls_cert")]
    xds_tls_key: Option<PathBuf>,
    /// Serve only clients with a certificate from these authorities (PEM)
    #[arg(long, env = "GWM_XDS_TLS_CLIENT_CA", value_name = "FILE", requires = "xds_tls_cert")]
    xds_tls_client_ca: Option<PathBuf>,
}

pub(super) fn run(common: &Common, args: Args) -> ExitCode {
    match connector(args, common.check || common.dry_run) {
        Ok((connector, mut tls)) => super::serve_and_reload(common, connector, move || reload(tls.as_mut())),
        Err(failure) => target::finish(Err(failure)),
    }
}

/// The TLS files in force, and where their settings go.
type InForce = (tls::Server, TlsSettings);

/// Reads the TLS files again.
fn reload(tls: Option<&mut InForce>) {
    let Some((server, settings)) = tls else { return };
    match server.read_again(SystemTime::now()) {
        Ok(Some(new)) => {
            tracing::info!("SIGHUP: new TLS files are in force, for new connections: {}", new.files);
            settings.replace(&new.config);
            *server = new;
        }
        Ok(None) => tracing::info!("SIGHUP: the TLS files are as they were: {}", server.files),
        Err(error) => tracing::error!("SIGHUP: the old TLS files stay in force: {}", of_xds(&error)),
    }
}

/// The error with this command's flags.
fn of_xds(error: &tls::TlsError) -> String {
    error.to_string().replace("--tls-", "--xds-tls-")
}

fn connector(args: Args, silent: bool) -> Result<(XdsConnector, Option<InForce>), Failure> {
    let pools = args.groups.pools()?;
    let tls = args.xds_tls_cert.zip(args.xds_tls_key).map(|(certificate, key)| {
        let files = tls::Files {
            certificate,
            key,
            client_ca: args.xds_tls_client_ca,
            min_version: tls::Version::Tls12,
            allow_expired: false,
        };
        let server = tls::Server::read(files, SystemTime::now());
        server.map_err(|error| Failure::Usage(of_xds(&error)))
    });
    let tls = tls.transpose()?.map(|server| {
        let settings = TlsSettings::new(&server.config);
        (server, settings)
    });
    let files = args.file.map(|path| Files::parse(&path)).transpose();
    let files = files.map_err(|error| Failure::Usage(format!("--file: {error}")))?;
    let mut connector = XdsConnector::new(pools, files).map_err(Failure::Usage)?;
    if !silent {
        let address = connector.serve(args.listen, tls.as_ref().map(|(_, settings)| settings.clone()));
        let address = address.map_err(|error| {
            let help = match error.kind() {
                std::io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
                _ => "",
            };
            Failure::Failed(format!("can not listen on {} for xDS: {error}{help}", args.listen))
        })?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "gwm: xDS on {address}")?;
        out.flush()?;
    }
    Ok((connector, tls))
}
