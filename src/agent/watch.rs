//! The thread that checks one service, and reads its opaque state.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{
    check::{self, Kind, Streak},
    children::Children,
    load::kernel::{Identity, Place},
    opaque::Opaque,
    pulse::{Pulse, Pulses},
    service::{Checked, Leaving, Service},
};

/// From one reading of the opaque state to the next, if that is longer than from one check to the next: a command costs.
const OPAQUE_EVERY: Duration = Duration::from_secs(5);

/// The stack of the thread.
const STACK_BYTES: usize = 256 << 10;

/// Starts the thread. It ends when the service leaves.
pub(super) fn start(service: Arc<Service>, children: Arc<Children>, pulses: &Pulses, number: usize) -> io::Result<()> {
    let name = format!("gwm-check-{number}");
    let pulse = pulses.add(&name);
    let thread = thread::Builder::new().name(name).stack_size(STACK_BYTES);
    thread.spawn(move || run(&service, &children, &pulse))?;
    Ok(())
}

fn run(service: &Service, children: &Children, pulse: &Pulse) {
    let check = &service.settings.check;
    let places = service.settings.places();
    let mut streak = Streak::new(service.with(|state| state.checked == Checked::Up));
    let mut opaque_due = Instant::now();
    let mut told_opaque = None;
    // Failed checks of a service that has not answered yet.
    let mut failed = 0_u32;
    service.set_watcher(thread::current());
    // A service that leaves is not checked: the connections of its checks would be counted.
    while service.with(|state| state.leaving == Leaving::No) {
        // Two commands, each of which may have to be killed.
        pulse.works(4 * check.timeout);
        if Instant::now() >= opaque_due {
            read_opaque(service, children, &mut told_opaque);
            opaque_due = Instant::now() + OPAQUE_EVERY;
        }
        // An answer from before the order says nothing.
        let resumes = service.with(|state| state.resumes);
        let result = check::run(&check.kind, &places, check.timeout, children);
        if let (Kind::Process(file), Ok(())) = (&check.kind, &result)
            && let Ok(id) = check::process(file)
        {
            service.set_process(id);
        }
        if resumes && result.is_ok() {
            service.order(|state| state.resumes = false);
        }
        if result.is_err() && service.with(|state| state.checked == Checked::Starting) {
            failed = failed.saturating_add(1);
        }
        if failed == check.fall
            && let Err(fault) = &result
        {
            // Once; a service that is started now needs a moment.
            failed = failed.saturating_add(1);
            let name = &service.settings.name;
            tracing::warn!(service = name, "it does not answer yet: {fault}: it is registered when it answers");
        }
        take(service, &mut streak, result);
        // A service that starts is awaited.
        let starting = service.with(|state| state.checked == Checked::Starting || state.resumes);
        let pause = if starting { check.interval / 4 } else { check.interval };
        pulse.works(pause);
        thread::park_timeout(pause);
    }
}

fn take(service: &Service, streak: &mut Streak, result: Result<(), String>) {
    let changed = streak.take(result.is_ok(), &service.settings.check);
    let name = &service.settings.name;
    let fault = result.err().unwrap_or_default();
    match changed {
        Some(true) => tracing::info!(service = name, "up"),
        Some(false) => tracing::warn!(service = name, "down: {fault}"),
        None => {}
    }
    service.change(|state| {
        if let Some(up) = changed {
            state.checked = if up { Checked::Up } else { Checked::Down };
        }
        state.fault = fault;
    });
}

fn read_opaque(service: &Service, children: &Children, told: &mut Option<String>) {
    if matches!(service.settings.opaque, Opaque::Number(_)) {
        return;
    }
    let pressure = || {
        let subject = &service.settings.telling.load.subject;
        Place::find(subject, &Identity::read(subject, service.process())).pressure().class()
    };
    match service.settings.opaque.read(service.settings.check.timeout, children, pressure) {
        Ok(byte) => {
            *told = None;
            service.change(|state| state.opaque = byte);
        }
        Err(why) => {
            if told.as_ref() != Some(&why) {
                tracing::warn!(service = service.settings.name, "{why}; the last one stays");
            }
            *told = Some(why);
        }
    }
}
