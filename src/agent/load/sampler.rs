//! Takes readings of each service, on a thread of its own: the page of a slow service keeps nobody waiting who asks how a
//! service is. The figures of the last interval are kept for those.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    Figures,
    cpu::{self, Cpu},
    http::{self, Url},
    kernel::{self, Identity, Place, Subject},
    log::{Follower, Unit},
    page::{self, Wanted},
    requests::{Counts, Requests},
};
use crate::agent::pulse::Pulse;

/// The stack of the thread.
const STACK_BYTES: usize = 256 << 10;

/// The longest time that a page may take.
const PAGE_TIMEOUT: Duration = Duration::from_secs(1);

/// The shortest time that a page has, however many services there are.
const PAGE_LEAST: Duration = Duration::from_millis(20);

/// The first figures come after this time, if the interval is longer.
const FIRST: Duration = Duration::from_secs(1);

/// Figures older than so many intervals do not count.
const INTERVALS: u32 = 3;

/// Where figures of a service come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Of what the CPU, the memory and the pressure are.
    pub subject: Subject,
    /// Who counts its requests.
    pub requests: Source,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { subject: Subject::Process, requests: Source::Nothing }
    }
}

/// Who counts the requests of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Source {
    /// Nobody.
    #[default]
    Nothing,
    /// The service, on a metrics page.
    Page {
        /// Where it is.
        url: Url,
        /// Which series count.
        wanted: Box<Wanted>,
    },
    /// The agent, in the service's access log.
    Log {
        /// Where it is.
        path: PathBuf,
        /// The unit of its last field, if that is the time of the request.
        unit: Option<Unit>,
    },
}

/// Takes readings of one service.
pub struct Sampler {
    settings: Settings,
    follower: Option<Follower>,
    ghz: Option<f64>,
    cores: f64,
    identity: Identity,
    place: Place,
    before: Option<Sample>,
}

struct Sample {
    at: Instant,
    cpu: cpu::Reading,
    counted_at: Instant,
    counts: Option<Counts>,
}

impl Sampler {
    /// Begins with what is there now.
    pub fn new(settings: Settings) -> Sampler {
        let follower = match &settings.requests {
            Source::Log { path, unit } => Some(Follower::new(path, *unit)),
            _ => None,
        };
        let (ghz, cores) = (kernel::frequency(), kernel::cores());
        let (identity, place) = Default::default();
        Sampler { settings, follower, ghz, cores, identity, place, before: None }
    }

    /// The figures since the last call; without those that need two readings at the first. The error is why requests are
    /// not known, in one line. `process` is the service's, if it is known. A page may take `timeout`.
    pub fn sample(&mut self, process: Option<u32>, timeout: Duration) -> (Figures, Result<(), String>) {
        let identity = Identity::read(&self.settings.subject, process);
        if identity != self.identity || !self.place.exists() {
            let place = Place::find(&self.settings.subject, &identity);
            // Times of another control group say nothing together with those of this one.
            if place != self.place {
                (self.place, self.before) = (place, None);
            }
            self.identity = identity;
        }
        let (at, cpu) = (Instant::now(), self.place.cpu());
        let counts = self.counts(timeout);
        let now = Sample { at, cpu, counted_at: Instant::now(), counts: counts.as_ref().ok().cloned().flatten() };
        let mut figures = Figures {
            memory: self.place.memory(),
            pressure: self.place.pressure(),
            ghz: self.ghz,
            cores: self.cores,
            ..Figures::default()
        };
        if let Some(before) = &self.before {
            figures.cpu = Cpu::between(&before.cpu, &now.cpu, now.at.saturating_duration_since(before.at));
            if let (Some(before_counts), Some(counts)) = (&before.counts, &now.counts) {
                let elapsed = now.counted_at.saturating_duration_since(before.counted_at);
                figures.requests = Requests::between(before_counts, counts, elapsed.as_secs_f64());
            }
        }
        self.before = Some(now);
        (figures, counts.map(drop))
    }

    fn counts(&mut self, timeout: Duration) -> Result<Option<Counts>, String> {
        match (&self.settings.requests, &mut self.follower) {
            (Source::Page { url, wanted }, _) => {
                let page = http::get(url, timeout).map_err(|why| format!("{url}: {why}"))?;
                let counts = page::counts(&String::from_utf8_lossy(&page), wanted);
                match counts.requests {
                    Some(_) => Ok(Some(counts)),
                    None => Err(format!("{url}: it has no such series")),
                }
            }
            (Source::Log { path, .. }, Some(follower)) => {
                follower.read().map(Some).map_err(|error| format!("{}: {error}", path.display()))
            }
            _ => Ok(None),
        }
    }
}

/// The last figures of each service.
pub struct Board {
    interval: Duration,
    rows: Mutex<Vec<Row>>,
    stop: Condvar,
}

#[derive(Clone, Debug, Default)]
struct Row {
    figures: Option<(Instant, Figures)>,
    fault: Option<String>,
    stops: bool,
}

impl Board {
    /// For so many services, without figures yet.
    pub fn new(services: usize, interval: Duration) -> Board {
        Board { interval, rows: Mutex::new(vec![Row::default(); services]), stop: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The figures of a service, if they are not too old.
    pub fn figures(&self, service: usize) -> Option<Figures> {
        let (at, figures) = self.lock().get(service)?.figures?;
        // A page may take its time.
        (at.elapsed() < self.interval * INTERVALS + PAGE_TIMEOUT).then_some(figures)
    }

    /// Why the requests of a service are not known, if they should be.
    pub fn fault(&self, service: usize) -> Option<String> {
        self.lock().get(service)?.fault.clone()
    }

    /// Puts figures there.
    pub fn set(&self, service: usize, figures: Figures, fault: Option<String>) {
        if let Some(row) = self.lock().get_mut(service) {
            row.figures = Some((Instant::now(), figures));
            row.fault = fault;
        }
    }

    /// Takes the figures of a service of another board.
    pub fn carry(&self, service: usize, from: &Board, of: usize) {
        let row = from.lock().get(of).map(|row| Row { stops: false, ..row.clone() });
        if let (Some(row), Some(place)) = (row, self.lock().get_mut(service)) {
            *place = row;
        }
    }

    /// Asks the thread to end.
    pub fn stop(&self) {
        self.lock().iter_mut().for_each(|row| row.stops = true);
        self.stop.notify_all();
    }

    /// Whether the thread is to end.
    fn ends(&self) -> bool {
        stops(&self.lock())
    }

    /// Sleeps; false if the thread is to end.
    fn sleep(&self, time: Duration) -> bool {
        let waited = self.stop.wait_timeout_while(self.lock(), time, |rows| !stops(rows));
        let (rows, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !stops(&rows)
    }
}

fn stops(rows: &[Row]) -> bool {
    rows.iter().any(|row| row.stops)
}

/// A service to take readings of.
pub struct Watched {
    /// Its name in the log.
    pub name: String,
    /// Where its figures come from.
    pub settings: Settings,
    /// Its process, if it is known now.
    pub process: Box<dyn Fn() -> Option<u32> + Send>,
}

/// Starts the thread, which takes readings until [`Board::stop`]. `board` has a row for each of `services`.
pub fn start(services: Vec<Watched>, board: &Arc<Board>, pulse: Pulse) -> io::Result<JoinHandle<()>> {
    let board = Arc::clone(board);
    std::thread::Builder::new().name("load".into()).stack_size(STACK_BYTES).spawn(move || run(services, &board, &pulse))
}

fn run(services: Vec<Watched>, board: &Board, pulse: &Pulse) {
    let mut samplers: Vec<Sampler> = services.iter().map(|service| Sampler::new(service.settings.clone())).collect();
    let mut wait = Duration::ZERO;
    let mut is_first = true;
    loop {
        // A round after the sleep.
        pulse.works(wait + board.interval.max(PAGE_TIMEOUT));
        if !board.sleep(wait) {
            return;
        }
        let begin = Instant::now();
        for (at, (service, sampler)) in services.iter().zip(&mut samplers).enumerate() {
            if board.ends() {
                return;
            }
            let timeout = page_timeout(board.interval, begin.elapsed(), services.len() - at);
            let (figures, counted) = sampler.sample((service.process)(), timeout);
            // Those of the readings before are better than the first one, which has no rates.
            if is_first && board.figures(at).is_some_and(|figures| figures.cpu.is_some()) {
                continue;
            }
            tell(&service.name, board.fault(at).as_deref(), counted.as_ref().err().map(String::as_str));
            board.set(at, figures, counted.err());
        }
        let interval = if std::mem::take(&mut is_first) { board.interval.min(FIRST) } else { board.interval };
        wait = interval.saturating_sub(begin.elapsed());
    }
}

/// How long the next page may take, if so many services are left in a round that began `elapsed` ago: pages that hang
/// must not make a round longer than figures count, or no service would have figures.
fn page_timeout(interval: Duration, elapsed: Duration, services: usize) -> Duration {
    let left = interval.max(PAGE_TIMEOUT).saturating_sub(elapsed);
    (left / u32::try_from(services).unwrap_or(u32::MAX).max(1)).clamp(PAGE_LEAST, PAGE_TIMEOUT)
}

/// Logs a fault once, and its end.
fn tell(service: &str, before: Option<&str>, now: Option<&str>) {
    match (before, now) {
        (before, Some(now)) if before != Some(now) => tracing::warn!("{service}: its requests are not known: {now}"),
        (Some(_), None) => tracing::info!("{service}: its requests are known again"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    use super::*;
    use crate::agent::pulse::Pulses;

    #[test]
    fn a_page_gives_rates_and_its_absence_a_reason() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url: Url = format!("http://{}/metrics", listener.local_addr().unwrap()).parse().unwrap();
        let wanted = Wanted { requests: Some("r_total".parse().unwrap()), ..Wanted::default() };
        let settings = Settings {
            subject: Subject::Machine,
            requests: Source::Page { url: url.clone(), wanted: Box::new(wanted) },
        };
        let server = std::thread::spawn(move || {
            for body in ["r_total 5\n", "r_total 25\n", "other 1\n"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                let length = stream.read(&mut request).unwrap();
                assert!(request[..length].starts_with(b"GET /metrics HTTP/1.1\r\n"));
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
            }
        });
        let mut sampler = Sampler::new(settings);
        let (first, counted) = sampler.sample(None, PAGE_TIMEOUT);
        assert_eq!((first.cpu, first.requests, counted), (None, Requests::default(), Ok(())));
        assert!(first.memory.is_some() && first.cores >= 1.0);
        let (second, _) = sampler.sample(None, PAGE_TIMEOUT);
        assert!(second.requests.rate.is_some_and(|rate| rate > 0.0) && second.cpu.is_some(), "{second:?}");
        let (third, counted) = sampler.sample(None, PAGE_TIMEOUT);
        assert_eq!((third.requests, counted), (Requests::default(), Err(format!("{url}: it has no such series"))));
        server.join().unwrap();
        let (_, refused) = sampler.sample(None, PAGE_TIMEOUT);
        assert!(refused.is_err_and(|why| why.starts_with(&format!("{url}: "))));
    }

    #[test]
    fn pages_that_hang_leave_a_round_short_enough() {
        for (interval, services) in [(100, 1), (100, 30), (5000, 1), (5000, 30), (5000, 240), (60_000, 1024)] {
            let (interval, mut round) = (Duration::from_millis(interval), Duration::ZERO);
            for left in (1..=services).rev() {
                round += page_timeout(interval, round, left);
            }
            assert!(round <= interval.max(PAGE_TIMEOUT), "{services} services, {interval:?}: {round:?}");
        }
        // One slow page has its whole second, also among many that answer at once.
        assert_eq!(page_timeout(Duration::from_millis(100), Duration::ZERO, 1), PAGE_TIMEOUT);
        assert_eq!(page_timeout(Duration::from_secs(5), Duration::from_millis(10), 4), PAGE_TIMEOUT);
        assert_eq!(page_timeout(Duration::from_secs(5), Duration::from_secs(9), 4), PAGE_LEAST);
    }

    #[test]
    fn figures_come_until_the_stop() {
        let board = Arc::new(Board::new(1, Duration::from_millis(10)));
        assert_eq!(board.figures(0), None);
        let watched = Watched {
            name: "web".into(),
            settings: Settings::default(),
            process: Box::new(|| Some(std::process::id())),
        };
        let thread = start(vec![watched], &board, Pulses::new(None).add("load")).unwrap();
        let begin = Instant::now();
        while board.figures(0).is_none_or(|figures| figures.cpu.is_none()) {
            assert!(begin.elapsed() < Duration::from_secs(60), "no figures");
            std::thread::sleep(Duration::from_millis(1));
        }
        board.stop();
        thread.join().unwrap();
        assert_eq!(board.figures(1), None);
        let next = Board::new(2, Duration::from_secs(60));
        next.carry(1, &board, 0);
        assert!(next.figures(0).is_none() && next.figures(1).is_some() && next.sleep(Duration::ZERO));
    }
}
