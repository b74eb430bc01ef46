//! Answers of HTTP, and why a request is refused.

use std::fmt;

use axum::{
    body::Body,
    http::{self, HeaderName, HeaderValue, StatusCode, header},
};
use serde::Serialize;

/// The content security policy of everything but a page: a browser shows it as text, and it loads nothing.
pub const NOTHING: &str = "default-src 'none'; frame-ancestors 'none'";

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// For programs.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// The parameter or field that is wrong.
    pub field: Option<&'static str>,
}

impl Problem {
    /// A problem without a field.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Problem {
        Problem { status, code, message: message.into(), field: None }
    }

    /// A parameter or field is wrong.
    pub fn field(field: &'static str, message: impl fmt::Display) -> Problem {
        Problem { status: 400, code: "bad_request", message: format!("{field}: {message}"), field: Some(field) }
    }

    /// The daemon did not answer in time.
    pub fn busy() -> Problem {
        Problem::new(503, "busy", "the daemon is busy or stops: try again")
    }

    /// The answer.
    pub fn response(&self) -> Response {
        #[derive(Serialize)]
        struct Body<'a> {
            error: Error<'a>,
        }
        #[derive(Serialize)]
        struct Error<'a> {
            code: &'a str,
            message: &'a str,
            field: Option<&'a str>,
        }
        let error = Error { code: self.code, message: &self.message, field: self.field };
        Response::json(self.status, &Body { error })
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The Content-Type.
    pub kind: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

/// The Content-Type of JSON.
pub const JSON: &str = "application/json";

impl Response {
    /// A JSON document.
    pub fn json(status: u16, value: &impl Serialize) -> Response {
        let mut body = serde_json::to_vec(value).expect("strings, numbers and lists are JSON");
        body.push(b'\n');
        Response { status, kind: JSON, body }
    }
}

/// The answer as HTTP has it.
pub fn plain(answered: Response) -> http::Response<Body> {
    let mut response = with_headers(answered.status, answered.kind, NOTHING, Body::from(answered.body));
    if answered.status == 401 {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// An answer with a content security policy, and what else keeps pages of other sites away from it.
pub fn with_headers(status: u16, kind: &str, policy: &str, body: Body) -> http::Response<Body> {
    let mut response = http::Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    let value = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    headers.insert(header::CONTENT_TYPE, value(kind));
    headers.insert(header::CONTENT_SECURITY_POLICY, value(policy));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let same_origin = HeaderValue::from_static("same-origin");
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), same_origin.clone());
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), same_origin);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_what_is_wrong() {
        let response = Problem::field("limit", "0 is less than 1").response();
        assert_eq!((response.status, response.kind), (400, "application/json"));
        let text = String::from_utf8(response.body).unwrap();
        let expected = r#"{"error":{"code":"bad_request","message":"limit: 0 is less than 1","field":"limit"}}"#;
        assert_eq!(text.trim_end(), expected);
    }
}
