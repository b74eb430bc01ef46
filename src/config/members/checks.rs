//! The checks of a member's entry: `monitor` and the keys that belong to it.

mod grpc;
mod http;
mod loader;
mod tls;

use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;

use super::{Entry, Subject};
use crate::{
    files::{Fault, fault, place},
    roster::{AgentCheck, Check, Monitor, ProxyProtocol},
    sasp::component::TCP,
};

pub(super) use self::{grpc::GrpcTable, http::HttpTable, loader::Loader, tls::TlsTable};

/// The longest text that `gwm` sends to an agent.
const AGENT_SEND_BYTES: usize = 1024;

/// One name or a list of them.
#[derive(Deserialize)]
#[serde(untagged, expecting = "monitor is a name, or a list of names")]
pub(super) enum Names {
    One(String),
    List(Vec<String>),
}

/// A member's checks, or none.
pub(super) enum Watch {
    /// No checks: the operator fixes the weight.
    Fixed,
    Monitor(Monitor),
}

/// Refuses keys that belong to monitors other than `names`.
pub(super) fn nothing_extra(entry: &Entry, names: &[&str], why: &str) -> Result<(), Fault> {
    let has = |wanted: &[&str]| names.iter().any(|name| wanted.contains(name));
    for (key, given, wanted) in [
        ("agent_port", place(&entry.agent_port), &["agent"][..]),
        ("agent_send", place(&entry.agent_send), &["agent"]),
        ("http", place(&entry.http), &["http", "https"]),
        ("tls", place(&entry.tls), &["https", "grpc"]),
        ("grpc", place(&entry.grpc), &["grpc"]),
    ] {
        if let Some(at) = given.filter(|_| !has(wanted)) {
            return fault(at, format!("{key} is for monitor = \"{}\", and {why}", wanted.join("\" or \"")));
        }
    }
    Ok(())
}

/// Reads `monitor` and the keys that belong to it.
pub(super) fn watch(
    names: &Spanned<Names>,
    entry: &Entry,
    subject: &Subject,
    loader: &mut Loader<'_>,
) -> Result<Watch, Fault> {
    let at = names.span().start;
    let list: Vec<&str> = match names.get_ref() {
        Names::One(name) => vec![name],
        Names::List(names) => names.iter().map(String::as_str).collect(),
    };
    if list.is_empty() {
        return fault(
            at,
            "an empty list of monitors: write \"none\" to fix the weight, or \"off\" to leave the member unwatched",
        );
    }
    for (index, name) in list.iter().enumerate() {
        if !["none", "off", "auto", "tcp", "icmp", "http", "https", "grpc", "agent"].contains(name) {
            let known = "\"none\", \"off\", \"auto\", \"tcp\", \"icmp\", \"http\", \"https\", \"grpc\" or \"agent\"";
            return fault(at, format!("monitor \"{name}\" is not {known}"));
        }
        if list.iter().take(index).any(|other| other == name) {
            return fault(at, format!("monitor \"{name}\" is named twice"));
        }
        if list.len() > 1 && ["none", "off"].contains(name) {
            return fault(at, format!("monitor \"{name}\" stands alone: it means that there is no other"));
        }
    }
    if list.contains(&"http") && list.contains(&"https") {
        return fault(at, "monitor names both \"http\" and \"https\": choose one");
    }
    nothing_extra(entry, &list, "monitor does not name it")?;
    let has_port = match subject {
        Subject::One(endpoint) => endpoint.protocol == TCP && endpoint.port != 0,
        Subject::Many(_) => true, // some of them may have one
    };
    let mut monitor = Monitor::none();
    let mut checks = Vec::new();
    for &name in &list {
        match name {
            "none" | "off" => {
                let times = [place(&entry.interval), place(&entry.fast_interval), place(&entry.timeout)];
                let counts = [place(&entry.rise), place(&entry.fall)];
                if let Some(at) = times.into_iter().chain(counts).flatten().min() {
                    return fault(at, format!("monitor = \"{name}\" checks nothing: leave out when and how often"));
                }
                if name == "none" {
                    return Ok(Watch::Fixed);
                }
            }
            "auto" => monitor.auto = true,
            "tcp" if has_port => checks.push(Check::Tcp),
            "tcp" => return fault(at, "monitor \"tcp\" is for members with protocol \"tcp\" and a port"),
            "icmp" => checks.push(Check::Icmp),
            "agent" => checks.push(agent(entry, at)?),
            _ => {
                let (check, port) = match name {
                    "grpc" => {
                        let grpc = grpc::grpc(entry, &list, loader)?;
                        let port = grpc.port;
                        (Check::Grpc(Arc::new(grpc)), port)
                    }
                    _ => {
                        let http = http::http(entry, name == "https", loader)?;
                        let port = http.port;
                        (Check::Http(Arc::new(http)), port)
                    }
                };
                if !has_port && port.is_none() {
                    let table = name.trim_end_matches('s');
                    let message = "is for members with protocol \"tcp\" and a port: give the port in";
                    return fault(at, format!("monitor \"{name}\" {message} {table} = {{ port = … }}"));
                }
                checks.push(check);
            }
        }
    }
    monitor.checks = checks.into();
    Ok(Watch::Monitor(monitor))
}

fn agent(entry: &Entry, at: usize) -> Result<Check, Fault> {
    let Some(port) = &entry.agent_port else {
        return fault(at, "monitor \"agent\" needs agent_port, the agent's TCP port");
    };
    if *port.get_ref() == 0 {
        return fault(port.span().start, "agent_port is a TCP port: 1 to 65535");
    }
    let send = entry.agent_send.as_ref().map_or(String::new(), |send| send.get_ref().clone());
    if send.len() > AGENT_SEND_BYTES {
        let at = place(&entry.agent_send).unwrap_or(at);
        return fault(at, format!("agent_send has {} bytes, and {AGENT_SEND_BYTES} is the most", send.len()));
    }
    Ok(Check::Agent(Arc::new(AgentCheck { port: *port.get_ref(), send: send.into_bytes() })))
}

/// The header before everything else on the connection of a check.
pub(super) fn proxy_protocol(entry: &Entry, monitor: &Monitor) -> Result<Option<ProxyProtocol>, Fault> {
    let Some(given) = &entry.proxy_protocol else { return Ok(None) };
    let at = given.span().start;
    let connects = |check: &Check| matches!(check, Check::Tcp | Check::Http(_) | Check::Grpc(_));
    if !monitor.auto && !monitor.checks.iter().any(connects) {
        let checks = "\"auto\", \"tcp\", \"http\", \"https\" or \"grpc\"";
        return fault(at, format!("proxy_protocol is for checks by {checks}, and there is none"));
    }
    match given.get_ref().as_str() {
        "v1" => Ok(Some(ProxyProtocol::V1)),
        "v2" => Ok(Some(ProxyProtocol::V2)),
        other => fault(at, format!("proxy_protocol \"{other}\" is not \"v1\" or \"v2\"")),
    }
}
