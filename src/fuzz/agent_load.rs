//! What the member's agent reads: files of the kernel, metrics pages, access logs, requests.

use std::time::Duration;

use crate::{
    agent::{
        answers::request,
        load::{
            capacity,
            cpu::{self, Cpu, Cpus, Machine},
            groups::Groups,
            http, log,
            memory::{self, Level, Pressure},
            page::{self, Selector, Wanted},
            requests::Requests,
        },
        pages,
    },
    limits,
};

/// A share is 0 to 1.
fn check_share(share: Option<f64>) {
    assert!(share.is_none_or(|share| (0.0..=1.0).contains(&share)), "{share:?}");
}

/// Whatever files of the kernel contain, figures are in their ranges. Two texts are divided by the first byte 0.
pub fn agent_kernel_file(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (first, second) = data.split_at(at);
    let (first, second) =
        (String::from_utf8_lossy(first), String::from_utf8_lossy(second.get(1..).unwrap_or_default()));
    let cpus = [Cpus::parse(&second), Cpus::of_status(&second)].into_iter().flatten().next();
    let quota = [cpu::quota(&second), cpu::cores_of(&first, &second)].into_iter().flatten().next();
    assert!(quota.is_none_or(|quota| quota > 0.0 && quota.is_finite()));
    let reading = |text: &str| cpu::Reading {
        machine: Machine::parse(text, cpus.as_ref()),
        quota,
        used: cpu::used(text).or_else(|| cpu::used_v1(text)),
    };
    if let Some(cpu) = Cpu::between(&reading(&first), &reading(&second), Duration::from_secs(1)) {
        assert!(cpu.limit > 0.0 && cpu.used >= 0.0 && cpu.available >= cpu.used, "{cpu:?}");
        assert!(cpu.available <= cpu.limit * 1.000_001, "{cpu:?}");
        check_share(Some(cpu.utilization()));
    }
    check_share(memory::of_machine(&first));
    let level = Level::parse(&first, &second, &second, &first);
    check_share(memory::utilization(level, None));
    let pressure = Pressure { cpu: memory::waited(&first), memory: memory::waited(&second), io: None };
    check_share(pressure.cpu);
    assert!(pressure.class().is_none_or(|class| class.byte() < 4));
    for ghz in [capacity::of_cpufreq(&first), capacity::of_cpuinfo(&first)].into_iter().flatten() {
        assert!(capacity::hint(1.0, ghz) > 0);
    }
    let mappings = pages::mappings(first.as_bytes()).expect("memory is read without error");
    assert!(mappings.iter().all(|range| range.start < range.end));
    let groups = Groups::parse(&first, &second);
    for group in [groups.cpu, groups.account, groups.memory, groups.pressure].into_iter().flatten() {
        assert!(!group.levels.is_empty());
        let inside = group.levels.iter().all(|level| level.starts_with(group.levels.last().expect("it has one")));
        assert!(inside, "{group:?}");
    }
}

/// Two metrics pages, divided by the first byte 0: rates and latencies are finite and not negative.
pub fn agent_metrics_page(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (first, second) = data.split_at(at);
    let selector = |text: &str| text.parse::<Selector>().ok();
    let wanted = Wanted {
        requests: selector("r_total"),
        errors: selector("r_total{code=~\"5..\",x!=\"y\"}"),
        latency: selector("l_seconds"),
    };
    let counts = |text: &[u8]| page::counts(&String::from_utf8_lossy(text), &wanted);
    let requests = Requests::between(&counts(first), &counts(second.get(1..).unwrap_or_default()), 5.0);
    for value in [requests.rate, requests.errors, requests.mean, requests.p99].into_iter().flatten() {
        assert!(value.is_finite() && value >= 0.0, "{requests:?}");
    }
    // What a person writes is read or refused, and reads the same again.
    if let Some(selector) = std::str::from_utf8(first).ok().and_then(selector) {
        assert_eq!(selector.to_string().parse(), Ok(selector));
    }
}

/// A line of a log has a status of HTTP and a finite time, or is none.
pub fn agent_log_line(line: &[u8]) {
    for unit in [None, Some(log::Unit::Seconds), Some(log::Unit::Microseconds)] {
        if let Some(line) = log::line(line, unit) {
            assert!((100..1000).contains(&line.status));
            assert!(line.seconds.is_none_or(|seconds| seconds.is_finite() && seconds >= 0.0 && unit.is_some()));
            let mut tally = log::Tally::default();
            tally.add(line);
            let counts = tally.counts();
            assert!(counts.buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
        }
    }
}

/// The page in an answer is the same, however the answer is cut: what was whole once does not change by more bytes.
pub fn agent_page_answer(answer: &[u8]) {
    let whole = http::body(answer, true);
    for end in 0..answer.len() {
        match http::body(&answer[..end], false) {
            Ok(None) | Err(_) => {}
            Ok(Some(body)) => {
                assert!(body.len() <= end);
                assert_eq!(whole, Ok(Some(body)), "more bytes change the page");
            }
        }
    }
    assert_ne!(whole, Ok(None), "an answer that has ended is waited for");
}

/// A request is whole, refused or has more to come; once it is whole, more bytes do not change it.
pub fn agent_request(bytes: &[u8]) {
    let mut whole = None;
    for end in 0..=bytes.len() {
        match (request::read(&bytes[..end]), &whole) {
            (request::Request::Unfinished, None) => assert!(end < limits::AGENT_REQUEST_BYTES),
            (request @ request::Request::Whole { .. }, None) => whole = Some(request),
            (request, Some(first)) => assert_eq!(request, *first),
            (request::Request::Wrong(status, why), None) => {
                assert!((400..500).contains(&status) && !why.is_empty());
                break;
            }
        }
    }
}
