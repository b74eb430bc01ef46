//! The checks of a member's entry: `monitor` and the keys that belong to it.

use std::{
    collections::HashMap,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{ClientConfig, pki_types::ServerName};
use serde::Deserialize;
use toml::Spanned;

use super::{Entry, Subject};
use crate::{
    files::{Fault, fault, place},
    roster::{AgentCheck, Check, Http, Monitor, Tls, TlsSource},
    sasp::component::TCP,
    tls,
};

/// The longest texts that `gwm` sends to a member.
const PATH_BYTES: usize = 4096;
const NAME_BYTES: usize = 255;
const AGENT_SEND_BYTES: usize = 1024;

/// One name or a list of them.
#[derive(Deserialize)]
#[serde(untagged, expecting = "monitor is a name, or a list of names")]
pub(super) enum Names {
    One(String),
    List(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HttpTable {
    method: Option<Spanned<String>>,
    path: Option<Spanned<String>>,
    host: Option<Spanned<String>>,
    port: Option<Spanned<u16>>,
    expect: Option<Spanned<Expect>>,
    utilization: Option<Spanned<Vec<String>>>,
}

/// Status codes: `200`, `"200-399"`, `"200, 300-304"`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expect is a status code, or text such as \"200-399\"")]
enum Expect {
    Code(u16),
    List(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsTable {
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

/// A member's checks, or none.
pub(super) enum Watch {
    /// No checks: the operator fixes the weight.
    Fixed,
    Monitor(Monitor),
}

/// Reads each file once, and makes equal TLS settings of members once.
pub(super) struct Loader<'a> {
    folder: &'a Path,
    files: HashMap<PathBuf, Vec<u8>>,
    configs: Vec<(TlsSource, Arc<ClientConfig>)>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(folder: &'a Path) -> Loader<'a> {
        Loader { folder, files: HashMap::new(), configs: Vec::new() }
    }

    fn file(&mut self, path: &Spanned<PathBuf>) -> Result<Vec<u8>, Fault> {
        let whole = self.folder.join(path.get_ref());
        if let Some(bytes) = self.files.get(&whole) {
            return Ok(bytes.clone());
        }
        match tls::file(&whole) {
            Err(error) => fault(path.span().start, error.to_string()),
            Ok(bytes) => {
                self.files.insert(whole, bytes.clone());
                Ok(bytes)
            }
        }
    }

    fn config(&mut self, source: &TlsSource) -> Result<Arc<ClientConfig>, String> {
        if let Some((_, config)) = self.configs.iter().find(|(known, _)| known == source) {
            return Ok(config.clone());
        }
        let config = tls::check(source).map_err(|error| error.to_string())?;
        self.configs.push((source.clone(), config.clone()));
        Ok(config)
    }
}

/// Refuses keys that belong to monitors other than `names`.
pub(super) fn nothing_extra(entry: &Entry, names: &[&str], why: &str) -> Result<(), Fault> {
    let has = |wanted: &[&str]| names.iter().any(|name| wanted.contains(name));
    for (key, given, wanted) in [
        ("agent_port", place(&entry.agent_port), &["agent"][..]),
        ("agent_send", place(&entry.agent_send), &["agent"]),
        ("http", place(&entry.http), &["http", "https"]),
        ("tls", place(&entry.tls), &["https"]),
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
        if !["none", "off", "auto", "tcp", "icmp", "http", "https", "agent"].contains(name) {
            let known = "\"none\", \"off\", \"auto\", \"tcp\", \"icmp\", \"http\", \"https\" or \"agent\"";
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
    for name in list {
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
                let http = http(entry, name == "https", loader)?;
                if !has_port && http.port.is_none() {
                    let message =
                        "is for members with protocol \"tcp\" and a port: give the port in http = { port = … }";
                    return fault(at, format!("monitor \"{name}\" {message}"));
                }
                checks.push(Check::Http(Arc::new(http)));
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

fn http(entry: &Entry, secure: bool, loader: &mut Loader<'_>) -> Result<Http, Fault> {
    let mut http = Http::default();
    if let Some(table) = &entry.http {
        let table = table.get_ref();
        if let Some(method) = &table.method {
            let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            http.method = text(method, "method", NAME_BYTES, token)?;
        }
        if let Some(path) = &table.path {
            http.path = text(path, "path", PATH_BYTES, |byte| byte.is_ascii_graphic())?;
            if !http.path.starts_with('/') && http.path != "*" {
                return fault(path.span().start, "path begins with \"/\"");
            }
        }
        if let Some(host) = &table.host {
            http.host = Some(text(host, "host", NAME_BYTES, |byte| byte.is_ascii_graphic())?);
        }
        if let Some(port) = &table.port {
            http.port = Some(*port.get_ref());
            if http.port == Some(0) {
                return fault(port.span().start, "port is a TCP port: 1 to 65535");
            }
        }
        if let Some(expected) = &table.expect {
            http.expect = expect(expected.get_ref()).map_err(|message| (expected.span().start, message))?;
        }
        if let Some(names) = &table.utilization {
            for name in names.get_ref() {
                let known = ["cpu_utilization", "mem_utilization"].contains(&name.as_str());
                if !known && !name.starts_with("named_metrics.") && !name.starts_with("utilization.") {
                    let forms =
                        "\"named_metrics.NAME\", \"utilization.NAME\", \"cpu_utilization\" or \"mem_utilization\"";
                    return fault(names.span().start, format!("utilization \"{name}\" is not {forms}"));
                }
            }
            http.utilization = names.get_ref().clone();
        }
    }
    if secure {
        let mut tls = tls(entry, loader)?;
        // The name in the request is the name that the certificate must have.
        let host = http.host.as_deref().map(|host| host.rsplit_once(':').map_or(host, |(name, _)| name));
        tls.server_name =
            tls.server_name.or(host.filter(|host| ServerName::try_from(*host).is_ok()).map(str::to_owned));
        http.tls = Some(tls);
    }
    Ok(http)
}

/// A text in a request; each byte must be allowed there.
fn text(given: &Spanned<String>, key: &str, most: usize, allowed: impl Fn(u8) -> bool) -> Result<String, Fault> {
    let value = given.get_ref();
    match value.bytes().all(allowed) && (1..=most).contains(&value.len()) {
        true => Ok(value.clone()),
        false => {
            let rule =
                format!("{key} has 1 to {most} characters, none of them a blank or another that HTTP forbids there");
            fault(given.span().start, rule)
        }
    }
}

fn expect(expect: &Expect) -> Result<Vec<RangeInclusive<u16>>, String> {
    let wrong = |part: &str| format!("expect \"{part}\" is not a status such as 200, or a range such as 200-399");
    let code = |text: &str| {
        let code = text.trim().parse().ok().filter(|code| (100..=599).contains(code));
        code.ok_or_else(|| wrong(text))
    };
    let list = match expect {
        Expect::Code(code) => code.to_string(),
        Expect::List(list) => list.clone(),
    };
    let range = |part: &str| {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (code(first)?, code(last)?),
            None => (code(part)?, code(part)?),
        };
        if first > last { Err(wrong(part)) } else { Ok(first..=last) }
    };
    list.split(',').map(range).collect()
}

fn tls(entry: &Entry, loader: &mut Loader<'_>) -> Result<Tls, Fault> {
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
    let config = loader.config(&source).map_err(|message| {
        let file = [&table.ca, &table.certificate].into_iter().flatten().next();
        let name = file.map_or(String::new(), |file| format!("{}: ", file.get_ref().display()));
        (file.map_or(at, |file| file.span().start), format!("tls: {name}{message}"))
    })?;
    Ok(Tls { server_name, config, source })
}
