//! What the entries of a file share: the files that they name, TLS settings, expressions.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use regex::bytes::{Regex, RegexBuilder};
use rustls::ClientConfig;
use toml::Spanned;

use crate::{
    files::{Fault, fault},
    roster::TlsSource,
    tls,
};

/// The protocols that a check offers above TLS.
pub(super) type Protocols = &'static [&'static [u8]];

/// The most memory that a compiled expression may take: the time of a search grows with it.
const REGEX_BYTES: usize = 64 << 10;

/// Reads each file once, and makes equal TLS settings and expressions of members once.
pub(in crate::config::members) struct Loader<'a> {
    folder: &'a Path,
    files: HashMap<PathBuf, Vec<u8>>,
    configs: Vec<(TlsSource, Protocols, Arc<ClientConfig>)>,
    regexes: HashMap<String, Regex>,
}

impl<'a> Loader<'a> {
    pub(in crate::config::members) fn new(folder: &'a Path) -> Loader<'a> {
        Loader { folder, files: HashMap::new(), configs: Vec::new(), regexes: HashMap::new() }
    }

    pub(super) fn file(&mut self, path: &Spanned<PathBuf>) -> Result<Vec<u8>, Fault> {
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

    pub(super) fn config(&mut self, source: &TlsSource, protocols: Protocols) -> Result<Arc<ClientConfig>, String> {
        let known = self.configs.iter().find(|(known, offers, _)| known == source && *offers == protocols);
        if let Some((.., config)) = known {
            return Ok(config.clone());
        }
        let config = tls::check(source, protocols).map_err(|error| error.to_string())?;
        self.configs.push((source.clone(), protocols, config.clone()));
        Ok(config)
    }

    pub(super) fn regex(&mut self, text: &str) -> Result<Regex, String> {
        if let Some(regex) = self.regexes.get(text) {
            return Ok(regex.clone());
        }
        // Bodies are bytes: without Unicode's tables, `.` is a byte and `\w` is ASCII's.
        let regex = RegexBuilder::new(text).unicode(false).size_limit(REGEX_BYTES).build().map_err(|error| {
            // The library's text has several lines, and marks the place with a caret below the expression.
            let message = error.to_string();
            let reason = message.lines().last().unwrap_or_default();
            format!("regex \"{text}\": {}", reason.strip_prefix("error: ").unwrap_or(reason))
        })?;
        self.regexes.insert(text.to_owned(), regex.clone());
        Ok(regex)
    }
}
