//! The `http` table of a member's entry.

use std::{collections::BTreeMap, ops::RangeInclusive};

use rustls::pki_types::ServerName;
use serde::Deserialize;
use toml::Spanned;

use super::{Entry, Loader, tls::tls};
use crate::{
    files::{Fault, fault},
    roster::{Content, Http},
};

/// The longest texts that `gwm` sends to a member.
const PATH_BYTES: usize = 4096;
pub(super) const NAME_BYTES: usize = 255;
const BODY_BYTES: usize = 64 << 10;

/// The most further fields of a request, and the longest value of one.
const FIELDS: usize = 64;
const VALUE_BYTES: usize = 4096;

/// The longest text or expression to look for.
const CONTENT_BYTES: usize = 1024;

/// Fields that `gwm` makes itself.
const OWN_FIELDS: [&str; 4] = ["host", "content-length", "transfer-encoding", "connection"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config::members) struct HttpTable {
    method: Option<Spanned<String>>,
    path: Option<Spanned<String>>,
    host: Option<Spanned<String>>,
    port: Option<Spanned<u16>>,
    headers: Option<Spanned<BTreeMap<String, String>>>,
    body: Option<Spanned<String>>,
    expect: Option<Spanned<Expect>>,
    r#match: Option<Spanned<Match>>,
    utilization: Option<Spanned<Vec<String>>>,
}

/// Status codes: `200`, `"200-399"`, `"200, 300-304"`, `[200, 302]`, `[200, "300-304"]`.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expect is a status code, text such as \"200-399\", or a list of them such as [200, 302]"
)]
enum Expect {
    Code(u16),
    Text(String),
    List(Vec<Codes>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expect lists status codes such as 200 and ranges such as \"300-304\"")]
enum Codes {
    Code(u16),
    Text(String),
}

/// What the answer's body must have: `"text"` or `{ regex = "expression" }`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "match is a text, or an expression such as { regex = \"^ok\" }")]
enum Match {
    Text(String),
    Regex(RegexTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegexTable {
    regex: String,
}

/// The request of an HTTP check, and which answers are good.
pub(super) fn http(entry: &Entry, secure: bool, loader: &mut Loader<'_>) -> Result<Http, Fault> {
    let mut http = Http::default();
    if let Some(table) = &entry.http {
        let table = table.get_ref();
        request(table, &mut http)?;
        if let Some(expected) = &table.expect {
            http.expect = expect(expected.get_ref()).map_err(|message| (expected.span().start, message))?;
        }
        if let Some(wanted) = &table.r#match {
            if http.method == "HEAD" {
                return fault(wanted.span().start, "match looks at the answer's body, and HEAD asks for no body");
            }
            let content = content(wanted.get_ref(), loader).map_err(|message| (wanted.span().start, message))?;
            http.content = Some(content);
        }
        if let Some(names) = &table.utilization {
            http.utilization = utilization(names)?;
        }
    }
    if secure {
        let mut tls = tls(entry, loader, &[])?;
        // The name in the request is the name that the certificate must have.
        let host = http.host.as_deref().map(|host| host.rsplit_once(':').map_or(host, |(name, _)| name));
        tls.server_name =
            tls.server_name.or(host.filter(|host| ServerName::try_from(*host).is_ok()).map(str::to_owned));
        http.tls = Some(tls);
    }
    Ok(http)
}

fn request(table: &HttpTable, http: &mut Http) -> Result<(), Fault> {
    if let Some(body) = &table.body {
        if body.get_ref().len() > BODY_BYTES {
            let message = format!("body has {} bytes, and {BODY_BYTES} is the most", body.get_ref().len());
            return fault(body.span().start, message);
        }
        http.method = "POST".into();
        http.body = body.get_ref().clone().into_bytes();
    }
    if let Some(method) = &table.method {
        http.method = text(method, "method", NAME_BYTES, is_token)?;
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
    http.port = port(&table.port)?;
    if let Some(headers) = &table.headers {
        http.headers = fields(headers.get_ref()).map_err(|message| (headers.span().start, message))?;
    }
    Ok(())
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

pub(super) fn port(port: &Option<Spanned<u16>>) -> Result<Option<u16>, Fault> {
    match port {
        Some(port) if *port.get_ref() == 0 => fault(port.span().start, "port is a TCP port: 1 to 65535"),
        port => Ok(port.as_ref().map(|port| *port.get_ref())),
    }
}

/// A text in a request; each byte must be allowed there.
pub(super) fn text(
    given: &Spanned<String>,
    key: &str,
    most: usize,
    allowed: impl Fn(u8) -> bool,
) -> Result<String, Fault> {
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

fn fields(headers: &BTreeMap<String, String>) -> Result<Vec<(String, String)>, String> {
    if headers.len() > FIELDS {
        return Err(format!("headers has {} fields, and {FIELDS} is the most", headers.len()));
    }
    let mut names: Vec<String> = headers.keys().map(|name| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    if let Some([twice, _]) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("headers names \"{twice}\" twice"));
    }
    for (name, value) in headers {
        if name.is_empty() || name.len() > NAME_BYTES || !name.bytes().all(is_token) {
            return Err(format!("\"{name}\" is not the name of a header"));
        }
        if OWN_FIELDS.contains(&name.to_ascii_lowercase().as_str()) {
            let host = if name.eq_ignore_ascii_case("host") { ": use host" } else { "" };
            return Err(format!("gwm makes the header \"{name}\" itself{host}"));
        }
        if value.len() > VALUE_BYTES || value.trim() != value || value.bytes().any(|byte| byte.is_ascii_control()) {
            let rule = "has no line break or other control character, and no blank at its begin or end";
            return Err(format!("the value of the header \"{name}\" {rule}, and {VALUE_BYTES} bytes at most"));
        }
    }
    Ok(headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

fn expect(expect: &Expect) -> Result<Vec<RangeInclusive<u16>>, String> {
    let wrong = |part: &str| format!("expect \"{part}\" is not a status such as 200, or a range such as 200-399");
    let code = |text: &str| {
        let code = text.trim().parse().ok().filter(|code| (100..=599).contains(code));
        code.ok_or_else(|| wrong(text))
    };
    let range = |part: &str| {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (code(first)?, code(last)?),
            None => (code(part)?, code(part)?),
        };
        if first > last { Err(wrong(part)) } else { Ok(first..=last) }
    };
    let texts: Vec<String> = match expect {
        Expect::Code(code) => vec![code.to_string()],
        Expect::Text(list) => vec![list.clone()],
        Expect::List(list) if list.is_empty() => return Err("expect is an empty list: no answer would be good".into()),
        Expect::List(list) => list
            .iter()
            .map(|codes| match codes {
                Codes::Code(code) => code.to_string(),
                Codes::Text(text) => text.clone(),
            })
            .collect(),
    };
    texts.iter().flat_map(|text| text.split(',')).map(range).collect()
}

fn content(wanted: &Match, loader: &mut Loader<'_>) -> Result<Content, String> {
    let (Match::Text(text) | Match::Regex(RegexTable { regex: text })) = wanted;
    if !(1..=CONTENT_BYTES).contains(&text.len()) {
        return Err(format!("match has 1 to {CONTENT_BYTES} bytes"));
    }
    match wanted {
        Match::Text(text) => Ok(Content::Text(text.clone().into_bytes())),
        Match::Regex(RegexTable { regex }) => loader.regex(regex).map(Content::Regex),
    }
}

/// The names of metrics that are the utilisation.
pub(super) fn utilization(names: &Spanned<Vec<String>>) -> Result<Vec<String>, Fault> {
    for name in names.get_ref() {
        let known = ["cpu_utilization", "mem_utilization"].contains(&name.as_str());
        if !known && !name.starts_with("named_metrics.") && !name.starts_with("utilization.") {
            let forms = "\"named_metrics.NAME\", \"utilization.NAME\", \"cpu_utilization\" or \"mem_utilization\"";
            return fault(names.span().start, format!("utilization \"{name}\" is not {forms}"));
        }
    }
    Ok(names.get_ref().clone())
}
