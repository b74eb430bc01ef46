//! Where the figures of a service come from, as flags and the TOML file say: the table `load` of a service.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::{
    http::Url,
    kernel::Subject,
    log::Unit,
    page::{Selector, Wanted},
    sampler::{Settings, Source},
};
use crate::files::Fault;

/// What is given; `None` is not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given {
    /// Of what the CPU, the memory and the pressure are.
    pub of: Option<Subject>,
    /// The metrics page.
    pub metrics: Option<Url>,
    /// The series of requests there.
    pub requests: Option<Selector>,
    /// The series of failed requests there.
    pub errors: Option<Selector>,
    /// The histogram or summary of latencies there.
    pub latency: Option<Selector>,
    /// The access log.
    pub log: Option<PathBuf>,
    /// The unit of the time at the end of its lines.
    pub log_time: Option<Unit>,
}

/// The table in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    of: Option<Spanned<String>>,
    metrics: Option<Spanned<String>>,
    requests: Option<Spanned<String>>,
    errors: Option<Spanned<String>>,
    latency: Option<Spanned<String>>,
    log: Option<PathBuf>,
    log_time: Option<Spanned<String>>,
}

impl Table {
    /// What the table says.
    pub fn given(self) -> Result<Given, Fault> {
        fn parsed<T: std::str::FromStr<Err = String>>(value: Option<Spanned<String>>) -> Result<Option<T>, Fault> {
            let Some(value) = value else { return Ok(None) };
            value.get_ref().parse().map(Some).map_err(|error| (value.span().start, error))
        }
        Ok(Given {
            of: parsed(self.of)?,
            metrics: parsed(self.metrics)?,
            requests: parsed(self.requests)?,
            errors: parsed(self.errors)?,
            latency: parsed(self.latency)?,
            log: self.log,
            log_time: parsed(self.log_time)?,
        })
    }
}

impl Given {
    /// What this leaves out is taken from `flags`. Who counts the requests is one thing: a log in the file takes the place
    /// of a page in the flags, and a page that of a log.
    pub fn or(self, flags: &Given) -> Given {
        let (page, log) = (self.metrics.is_some(), self.log.is_some());
        let no_page = Given { metrics: None, requests: None, errors: None, latency: None, ..flags.clone() };
        let no_log = Given { log: None, log_time: None, ..flags.clone() };
        let flags = match (page, log) {
            (true, _) => no_log,
            (false, true) => no_page,
            (false, false) => flags.clone(),
        };
        Given {
            of: self.of.or(flags.of),
            metrics: self.metrics.or(flags.metrics),
            requests: self.requests.or(flags.requests),
            errors: self.errors.or(flags.errors),
            latency: self.latency.or(flags.latency),
            log: self.log.or(flags.log),
            log_time: self.log_time.or(flags.log_time),
        }
    }

    /// The settings, if nothing contradicts.
    pub fn settings(self) -> Result<Settings, String> {
        let has_series = self.requests.is_some() || self.errors.is_some() || self.latency.is_some();
        let requests = match (self.metrics, self.log) {
            (Some(_), Some(_)) => {
                return Err(
                    "requests are counted on a metrics page or in a log, not in both: --load-metrics, --load-log"
                        .into(),
                );
            }
            (None, _) if has_series => {
                return Err("a name of series needs the metrics page that has it: --load-metrics".into());
            }
            (_, None) if self.log_time.is_some() => {
                return Err("the unit of a log's time needs the log: --load-log".into());
            }
            (None, None) => Source::Nothing,
            (None, Some(path)) => Source::Log { path, unit: self.log_time },
            (Some(_), None) if self.requests.is_none() && self.latency.is_none() => {
                return Err("a metrics page needs the names of series there: --load-requests or --load-latency".into());
            }
            (Some(url), None) => {
                let wanted = Wanted { requests: self.requests, errors: self.errors, latency: self.latency };
                Source::Page { url, wanted: Box::new(wanted) }
            }
        };
        Ok(Settings { subject: self.of.unwrap_or_default(), requests })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;

    fn read(text: &str) -> Result<Settings, String> {
        let table = files::parse(text, |table: Table| table.given()).map_err(|mistake| mistake.to_string());
        table?.settings()
    }

    #[test]
    fn a_table_says_where_figures_come_from() {
        assert_eq!(read(""), Ok(Settings::default()));
        let settings = read("of = 'unit:web.service'\nlog = '/var/log/a'\nlog_time = 'us'").unwrap();
        assert_eq!(settings.subject, Subject::Unit("web.service".into()));
        assert_eq!(settings.requests, Source::Log { path: "/var/log/a".into(), unit: Some(Unit::Microseconds) });
        let page = "metrics = 'http://127.0.0.1:9/metrics'\nrequests = 'a_total'\nerrors = 'a_total{code=~\"5..\"}'\n";
        let Ok(Settings { requests: Source::Page { wanted, .. }, .. }) = read(page) else { panic!("{page}") };
        assert_eq!((wanted.requests, wanted.latency), (Some("a_total".parse().unwrap()), None));
        for (wrong, words) in [
            ("of = 'x'", "line 1: `x` is not process"),
            ("of = 'machine'\nmetrics = 'x'", "line 2: `x` is no URL"),
            ("what = 1", "unknown field `what`"),
            ("requests = 'a'", "needs the metrics page"),
            ("log_time = 's'", "needs the log"),
            ("metrics = 'http://127.0.0.1:9/'", "needs the names of series"),
            ("metrics = 'http://127.0.0.1:9/'\nerrors = 'a'", "needs the names of series"),
            ("metrics = 'http://127.0.0.1:9/'\nrequests = 'a'\nlog = '/x'", "not in both"),
        ] {
            let error = read(wrong).unwrap_err();
            assert!(error.contains(words), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_service_takes_from_the_flags_what_fits() {
        let given = |text: &str| files::parse(text, |table: Table| table.given()).unwrap();
        let flags = given("of = 'machine'\nmetrics = 'http://127.0.0.1:9/'\nrequests = 'a'");
        let log = given("log = '/x'").or(&flags);
        assert_eq!((log.of.clone(), log.metrics.clone(), log.requests.clone()), (Some(Subject::Machine), None, None));
        assert!(log.settings().is_ok());
        let other = given("metrics = 'http://127.0.0.1:8/'").or(&flags);
        assert!(other.metrics.is_some_and(|url| url.to_string().contains(":8/")) && other.requests.is_some());
        let page = given("metrics = 'http://127.0.0.1:8/'\nrequests = 'b'").or(&given("log = '/x'\nlog_time = 's'"));
        assert!(page.settings().is_ok());
        assert_eq!(Given::default().or(&flags), flags);
    }
}
