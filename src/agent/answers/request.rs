//! What is asked by HTTP.

use percent_encoding::percent_decode_str;

use super::words::Form;
use crate::limits;

/// The most fields of a request.
const FIELDS: usize = 64;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// `/`: what can be asked.
    Paths,
    /// `/healthz`: whether the agent lives.
    Health,
    /// `/metrics`.
    Metrics {
        /// In the form of OpenMetrics.
        openmetrics: bool,
    },
    /// `/load`, `/load/NAME`, `/load?NAME`: Kemp's number.
    Load(Option<String>),
    /// `/orca`, `/orca/NAME`: a load report.
    Orca(Option<String>, Form),
}

/// What the bytes of a request are so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// There may be more.
    Unfinished,
    /// A whole one. `head`: no body is wanted.
    Whole {
        /// What is asked.
        ask: Ask,
        /// No body is wanted.
        head: bool,
    },
    /// The status to refuse it with, and why.
    Wrong(u16, &'static str),
}

/// Reads a request. The form of a load report is what `?form=text` says, else what the header
/// `endpoint-load-metrics-format` says, else JSON.
pub fn read(bytes: &[u8]) -> Request {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() < limits::AGENT_REQUEST_BYTES => return Request::Unfinished,
        Ok(httparse::Status::Partial) => return Request::Wrong(431, "the request is too long"),
        Err(_) => return Request::Wrong(400, "this is no request of HTTP"),
    }
    let head = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Request::Wrong(405, "only GET and HEAD are answered"),
    };
    let field = |name: &str| {
        let found = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
        str::from_utf8(found.value).ok().map(str::trim)
    };
    let target = request.path.unwrap_or_default();
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let named = |prefix: &str| match path.strip_prefix(prefix)? {
        "" | "/" => Some(None),
        rest => rest.strip_prefix('/').map(|name| Some(decoded(name))),
    };
    let ask = match path {
        "/" => Ask::Paths,
        "/healthz" => Ask::Health,
        "/metrics" => {
            Ask::Metrics { openmetrics: field("accept").is_some_and(|accept| accept.contains("openmetrics")) }
        }
        _ => match (named("/load"), named("/orca")) {
            (Some(name), _) => Ask::Load(name.or_else(|| query.filter(|query| !query.is_empty()).map(decoded))),
            (_, Some(name)) => {
                let of_query = query.and_then(|query| query.split('&').find_map(|part| part.strip_prefix("form=")));
                match of_query.or_else(|| field("endpoint-load-metrics-format")).map(str::to_ascii_lowercase).as_deref()
                {
                    None | Some("json") => Ask::Orca(name, Form::Json),
                    Some("text") => Ask::Orca(name, Form::Text),
                    Some(_) => return Request::Wrong(400, "the form of a load report is json or text"),
                }
            }
            _ => return Request::Wrong(404, "there is no such path: / lists them"),
        },
    };
    Request::Whole { ask, head }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(path: &str, fields: &str) -> Result<Ask, u16> {
        match read(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n").as_bytes()) {
            Request::Whole { ask, head: false } => Ok(ask),
            Request::Wrong(status, _) => Err(status),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn paths() {
        let web = || Some("web x".to_owned());
        for (path, ask) in [
            ("/", Ok(Ask::Paths)),
            ("/healthz", Ok(Ask::Health)),
            ("/metrics?x", Ok(Ask::Metrics { openmetrics: false })),
            ("/load", Ok(Ask::Load(None))),
            ("/load/", Ok(Ask::Load(None))),
            ("/load?", Ok(Ask::Load(None))),
            ("/load/web%20x", Ok(Ask::Load(web()))),
            ("/load?web%20x", Ok(Ask::Load(web()))),
            ("/orca", Ok(Ask::Orca(None, Form::Json))),
            ("/orca?form=text", Ok(Ask::Orca(None, Form::Text))),
            ("/orca/web%20x?a=b&form=JSON", Ok(Ask::Orca(web(), Form::Json))),
            ("/orca?form=bin", Err(400)),
            ("/loader", Err(404)),
            ("/x", Err(404)),
        ] {
            assert_eq!(asked(path, ""), ask, "{path}");
        }
        assert_eq!(asked("/orca", "Endpoint-Load-Metrics-Format: TEXT\r\n"), Ok(Ask::Orca(None, Form::Text)));
        assert_eq!(asked("/orca?form=json", "Endpoint-Load-Metrics-Format: text\r\n"), Ok(Ask::Orca(None, Form::Json)));
        let open = "Accept: application/openmetrics-text;version=1.0.0\r\n";
        assert_eq!(asked("/metrics", open), Ok(Ask::Metrics { openmetrics: true }));
    }

    #[test]
    fn a_request_ends_with_an_empty_line() {
        let whole = b"HEAD /load HTTP/1.0\r\nA: b\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end]), Request::Unfinished, "{end}");
        }
        assert_eq!(read(whole), Request::Whole { ask: Ask::Load(None), head: true });
        let wrong = |bytes: &[u8]| match read(bytes) {
            Request::Wrong(status, _) => status,
            other => panic!("{other:?}"),
        };
        assert_eq!(wrong(b"POST /load HTTP/1.1\r\n\r\n"), 405);
        assert_eq!(wrong(b"\x16\x03\x01\x02"), 400);
        assert_eq!(wrong(&[&b"GET /"[..], &[b'a'; 5000]].concat()), 431);
    }
}
