//! Clients of the server's admin side: many follow the changes, and one lists everything again and again.
//!
//! They are threads of the player's process, so their CPU is counted with the player's and never with the server's. They
//! run on the player's core when no other thread wants that core: clients have machines of their own.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    event::{Timespec, epoll},
    io::Errno,
    process::setpriority_process,
};

use crate::{
    Result,
    options::pin,
    player::Stage,
    report::{Sample, Unit},
};

/// Clients that follow the changes.
pub(crate) const STREAMS: u64 = 100;

/// What one client lists, page by page.
const LISTS: [&str; 7] = ["load-balancers", "groups", "members", "endpoints", "checks", "words", "totals"];

/// How long a client waits for bytes of an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the thread of the streams looks for the order to end.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// The nice value of a thread that runs when no other wants to.
pub(crate) const LEAST: i32 = 19;

/// Counts of what the clients were given.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pages: AtomicU64,
    bytes_listed: AtomicU64,
    /// Times that everything was listed to its end.
    walks: AtomicU64,
    bytes_followed: AtomicU64,
}

impl Counts {
    /// Adds the counts to a sample.
    pub(crate) fn add_to(&self, sample: &mut Sample) {
        for (name, count, unit) in [
            ("admin side: pages listed", &self.pages, Unit::Count),
            ("admin side: times that all was listed", &self.walks, Unit::Count),
            ("admin side: bytes listed", &self.bytes_listed, Unit::Bytes),
            ("admin side: bytes of events, all streams", &self.bytes_followed, Unit::Bytes),
        ] {
            sample.add(name, count.load(Relaxed) as f64, unit);
        }
    }
}

/// The running clients.
pub(crate) struct Clients {
    counts: Arc<Counts>,
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts them on this core; when this returns, all streams are open and a first page has come. A client that fails
    /// fails the run.
    pub(crate) fn start(to: SocketAddr, cpu: usize, stage: &Arc<Stage>) -> Result<Clients> {
        let mut clients = Clients { counts: Arc::default(), end: Arc::default(), threads: Vec::new() };
        let failed = |error: io::Error| format!("the admin side at {to}: {error}");
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            let mut http = Http::connect(to).map_err(failed)?;
            http.send("/api/v1/events").and_then(|()| http.head()).map_err(failed)?;
            streams.push(http.stream);
        }
        let mut lister = Http::connect(to).map_err(failed)?;
        list_page(&mut lister, &clients.counts, LISTS[0], None).map_err(failed)?;
        let (counts, end) = (clients.counts.clone(), clients.end.clone());
        clients.spawn("followers", cpu, stage, move || follow(streams, &counts, &end))?;
        let (counts, end) = (clients.counts.clone(), clients.end.clone());
        clients.spawn("lister", cpu, stage, move || list(lister, &counts, &end))?;
        Ok(clients)
    }

    fn spawn(
        &mut self,
        name: &'static str,
        cpu: usize,
        stage: &Arc<Stage>,
        run: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Result<()> {
        let stage = stage.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            let nice = || setpriority_process(None, LEAST).map_err(|error| format!("can not be nice: {error}"));
            let done = pin(cpu).and_then(|()| nice()).and_then(|()| run().map_err(|error| error.to_string()));
            if let Err(error) = done {
                stage.fail(format!("{name} of the admin side: {error}"));
            }
        });
        self.threads.push(thread.map_err(|error| format!("can not start a thread: {error}"))?);
        Ok(())
    }

    /// Ends them, and gives what they counted. A short run may be over before the server tells of its changes: so they wait
    /// for the first event.
    pub(crate) fn stop(mut self) -> Arc<Counts> {
        let until = Instant::now() + PATIENCE;
        let failed = |clients: &Clients| clients.threads.iter().any(JoinHandle::is_finished);
        while self.counts.bytes_followed.load(Relaxed) == 0 && !failed(&self) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.join();
        self.counts.clone()
    }

    fn join(&mut self) {
        self.end.store(true, Relaxed);
        // A thread that panicked has told so on standard error, and the run has counts without it.
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.join();
    }
}

/// A connection that stays open.
struct Http {
    stream: TcpStream,
    host: SocketAddr,
}

impl Http {
    fn connect(to: SocketAddr) -> io::Result<Http> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Http { stream, host: to })
    }

    fn send(&mut self, target: &str) -> io::Result<()> {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.stream.write_all(request.as_bytes())
    }

    /// The head of an answer that says success, and the bytes behind the head that have come with it.
    fn head(&mut self) -> io::Result<(String, Vec<u8>)> {
        let mut bytes = Vec::new();
        loop {
            let mut piece = [0; 16 << 10];
            let read = self.stream.read(&mut piece)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.extend_from_slice(&piece[..read]);
            let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            if head.split(' ').nth(1) != Some("200") {
                return Err(io::Error::other(head.lines().next().unwrap_or_default().to_owned()));
            }
            return Ok((head, bytes.split_off(end + 4)));
        }
    }

    /// The body of an answer to this target.
    fn get(&mut self, target: &str) -> io::Result<Vec<u8>> {
        self.send(target)?;
        let (head, mut body) = self.head()?;
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        let length = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let length = length.and_then(|(_, length)| length.parse().ok());
        let length: usize = length.ok_or_else(|| io::Error::other(format!("{target}: an answer without a length")))?;
        let rest = length.checked_sub(body.len()).ok_or_else(|| io::Error::other("more bytes than the answer has"))?;
        let have = body.len();
        body.resize(length, 0);
        if rest > 0 {
            self.stream.read_exact(&mut body[have..])?;
        }
        Ok(body)
    }
}

/// Lists a page, and says where the next begins.
fn list_page(http: &mut Http, counts: &Counts, list: &str, after: Option<&str>) -> io::Result<Option<String>> {
    // The operator's words and the totals are no lists with pages.
    let target = match (list, after) {
        ("words" | "totals", _) => format!("/api/v1/{list}"),
        (_, None) => format!("/api/v1/{list}?limit=1000"),
        (_, Some(after)) => format!("/api/v1/{list}?limit=1000&after={after}"),
    };
    let body = http.get(&target)?;
    counts.pages.fetch_add(1, Relaxed);
    counts.bytes_listed.fetch_add(body.len() as u64, Relaxed);
    Ok(next_page(&body))
}

/// The `next` at the end of a page. The page is not parsed as a whole: the client takes as little CPU as it can.
fn next_page(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, next) = text.rsplit_once("\"next\":\"")?;
    Some(next.strip_suffix("\"}")?.into())
}

/// Lists everything, again and again.
fn list(mut http: Http, counts: &Counts, end: &AtomicBool) -> io::Result<()> {
    loop {
        for list in LISTS {
            let mut after = None;
            loop {
                if end.load(Relaxed) {
                    return Ok(());
                }
                after = list_page(&mut http, counts, list, after.as_deref())?;
                if after.is_none() {
                    break;
                }
            }
        }
        counts.walks.fetch_add(1, Relaxed);
    }
}

/// Reads all streams.
fn follow(mut streams: Vec<TcpStream>, counts: &Counts, end: &AtomicBool) -> io::Result<()> {
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (at, stream) in streams.iter().enumerate() {
        stream.set_nonblocking(true)?;
        epoll::add(&poller, stream, epoll::EventData::new_u64(at as u64), epoll::EventFlags::IN)?;
    }
    let (mut events, mut bytes): (Vec<epoll::Event>, _) = (Vec::with_capacity(64), vec![0; 64 << 10]);
    while !end.load(Relaxed) {
        events.clear();
        match epoll::wait(&poller, rustix::buffer::spare_capacity(&mut events), Some(&LOOK)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let Some(stream) = streams.get_mut(event.data.u64() as usize) else { continue };
            match stream.read(&mut bytes) {
                Ok(0) => return Err(io::Error::other("the server has ended a stream of events")),
                Ok(read) => _ = counts.bytes_followed.fetch_add(read as u64, Relaxed),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_named_at_the_end() {
        assert_eq!(next_page(br#"{"members":[{"group":"next"}],"next":"12.7"}"#).as_deref(), Some("12.7"));
        assert_eq!(next_page(br#"{"members":[],"next":null}"#), None);
        assert_eq!(next_page(br#"{"words":[{"reason":"\"next\":\"3\""}]}"#), None);
        assert_eq!(next_page(b"{\"load_balancers\":1}"), None);
    }
}
