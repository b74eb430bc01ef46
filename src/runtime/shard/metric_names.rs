//! Names of metrics (`utilization`) that no load report has: they may be misspelt.

use std::{collections::HashMap, sync::Arc};

use crate::{monitor::outcome::Load, roster::Check};

/// After so many load reports without it, a name is reported.
const REPORTS: u32 = 10;

/// What the load reports of each check lack, by the address of the check's settings.
#[derive(Default)]
pub(super) struct MetricNames(HashMap<usize, Reports>);

struct Reports {
    /// Keeps the address from being used again.
    _check: Check,
    count: u32,
    lack: u32,
}

impl MetricNames {
    /// Takes a load report. After [`REPORTS`] of a check, gives the names that none of them has, once.
    pub(super) fn note(&mut self, check: &Check, load: &Load) -> Option<String> {
        let (address, names) = match check {
            Check::Http(http) => (Arc::as_ptr(http).addr(), &http.utilization),
            Check::Grpc(grpc) => (Arc::as_ptr(grpc).addr(), &grpc.utilization),
            Check::Tcp | Check::Icmp | Check::Agent(_) => return None,
        };
        if names.is_empty() {
            return None;
        }
        let new = || Reports { _check: check.clone(), count: 0, lack: u32::MAX };
        let reports = self.0.entry(address).or_insert_with(new);
        reports.count = reports.count.saturating_add(1);
        reports.lack &= load.lacks;
        if reports.count != REPORTS || reports.lack == 0 {
            return None;
        }
        let lack = reports.lack;
        let lacking = names.iter().take(32).enumerate().filter(|(at, _)| lack & 1 << at != 0);
        let lacking: Vec<String> = lacking.map(|(_, name)| format!("{name:?}")).collect();
        (!lacking.is_empty()).then(|| lacking.join(", "))
    }

    /// A new roster has new checks.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::Http;

    #[test]
    fn names_that_ten_reports_lack_are_told_once() {
        let check = |names: &[&str]| {
            let utilization = names.iter().map(|name| (*name).into()).collect();
            Check::Http(Arc::new(Http { utilization, ..Http::default() }))
        };
        let lacks = |lacks| Load { lacks, ..Load::default() };
        let mut names = MetricNames::default();
        let three = check(&["named_metrics.a", "named_metrics.b", "named_metrics.c"]);
        let told: Vec<_> = (0..100).map(|n| names.note(&three, &lacks(if n == 5 { 0b101 } else { 0b111 }))).collect();
        assert_eq!(told[9].as_deref(), Some("\"named_metrics.a\", \"named_metrics.c\""));
        assert_eq!(told.iter().flatten().count(), 1);
        let all = check(&["named_metrics.a"]);
        assert!((0..100).all(|n| names.note(&all, &lacks(u32::from(n > 0))).is_none()), "one report has it");
        assert!((0..100).all(|_| names.note(&check(&[]), &lacks(0)).is_none()), "no name, no address to remember");
        assert_eq!(names.0.len(), 2);
        names.forget();
        assert_eq!((0..10).filter_map(|_| names.note(&three, &lacks(0b111))).count(), 1);
    }
}
