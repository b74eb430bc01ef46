//! The agent's socket: `gwm agent status`, `quiesce` and `resume` of the same user speak through it. A question is one line
//! of JSON, an answer is one line of JSON; then the connection ends.

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{
    claims, connections,
    quiesced::{self, Store},
    service::{AtGwm, ByHand, Leaving, Service},
    services::Services,
    settings::ServiceSettings,
};

/// The most bytes of a question.
const QUESTION_BYTES: u64 = 4096;

/// The most bytes of an answer: 1,024 services with a few KiB each.
const ANSWER_BYTES: u64 = 16 << 20;

/// How long the other side may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most sockets of a directory that are asked.
const SOCKETS: usize = 256;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase", deny_unknown_fields)]
pub enum Question {
    /// How the services are.
    Status {
        /// The service; all without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
    },
    /// No new work for a service, or all.
    Quiesce {
        /// The service; all without it.
        service: Option<String>,
        /// The person's words.
        #[serde(default)]
        reason: String,
    },
    /// New work again.
    Resume {
        /// The service; all without it.
        service: Option<String>,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The agent's process.
    pub process: u32,
    /// How many services the question was about.
    pub found: usize,
    /// How the services of the question are now.
    pub services: Vec<Shown>,
}

/// How a service is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// Its name.
    pub service: String,
    /// `starting`, `up`, `down`, `maint`, `drain` or `gone`.
    pub state: String,
    /// Why, in one line; may be empty.
    pub reason: String,
    /// Since when it is quiesced by hand, in seconds since 1970.
    pub quiesced_since: Option<u64>,
    /// Its endpoints.
    pub members: Vec<String>,
    /// Its open connections; nothing if they can not be counted.
    pub connections: Option<u64>,
    /// Those of them that are idle.
    #[serde(default)]
    pub idle_connections: Option<u64>,
    /// The opaque state.
    pub opaque_state: u8,
    /// Its process, if known.
    pub process: Option<u32>,
    /// Whether all GWMs that can be reached have heard the last order, and load balancers have had time to hear of a quiesce.
    pub settled: bool,
    /// The GWMs.
    pub gwms: Vec<ShownGwm>,
}

/// What a GWM has of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShownGwm {
    /// The GWM.
    pub gwm: String,
    /// Whether a session exists.
    pub connected: bool,
    /// Memberships that are registered.
    pub registered: usize,
    /// Memberships that there are to be.
    pub memberships: usize,
    /// Why it waits.
    pub waits: Option<String>,
}

/// Counts the connections of the services that have some.
fn count(services: &[&Arc<Service>]) {
    let has_places = |service: &&&Arc<Service>| !service.settings.places().is_empty();
    let services: Vec<_> = services.iter().filter(has_places).collect();
    let wanted: Vec<_> = services.iter().map(|service| service.settings.connections()).collect();
    // An old count would be waited for in vain.
    let counted = connections::count(&wanted).unwrap_or_default();
    for (at, service) in services.iter().enumerate() {
        service.change(|state| state.connections = counted.get(at).copied());
    }
}

fn shown(service: &Service) -> Shown {
    let ServiceSettings { name, members, quiesce_time, .. } = &service.settings;
    let state = service.state();
    let seconds = |by_hand: &ByHand| by_hand.since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // A clock that was set back counts as no time.
    let lasts = |by_hand: &ByHand| by_hand.since.elapsed().is_ok_and(|lasts| lasts >= *quiesce_time);
    let gwm = |gwm: &AtGwm| ShownGwm {
        gwm: gwm.gwm.clone(),
        connected: gwm.connected,
        registered: gwm.registered,
        memberships: gwm.memberships,
        waits: gwm.waits.clone(),
    };
    Shown {
        service: name.clone(),
        state: state.condition().to_string(),
        reason: state.reason().to_owned(),
        quiesced_since: state.by_hand.as_ref().map(seconds),
        members: members.iter().map(ToString::to_string).collect(),
        connections: state.connections.map(|open| open.all),
        idle_connections: state.connections.map(|open| open.idle),
        opaque_state: state.opaque,
        process: service.process(),
        settled: state.is_told() && !state.resumes && state.by_hand.as_ref().is_none_or(lasts),
        gwms: state.gwms.iter().map(gwm).collect(),
    }
}

/// Quiesces a service by hand.
pub fn quiesce(service: &Service, store: &Store, reason: &str) {
    let by_hand = ByHand { reason: quiesced::line(reason), since: SystemTime::now() };
    tracing::info!(service = service.settings.name, reason = by_hand.reason, "quiesced by hand");
    store.keep(&service.settings.name, Some(&by_hand));
    service.order(|state| state.by_hand = Some(by_hand));
}

/// Ends a quiesce by hand, when the service answers its check: it may have been started again meanwhile.
pub fn resume(service: &Service, store: &Store) {
    tracing::info!(service = service.settings.name, "resumed by hand");
    store.keep(&service.settings.name, None);
    service.order(|state| state.resumes |= state.by_hand.take().is_some());
    service.check_now();
}

/// Answers a question.
pub fn answer(question: &Question, services: &Services, store: &Store) -> Answer {
    let name = match question {
        Question::Status { service } | Question::Quiesce { service, .. } | Question::Resume { service } => {
            service.as_ref()
        }
    };
    let meant = |service: &&Arc<Service>| name.is_none_or(|name| *name == service.settings.name);
    let stays = |service: &Service| service.with(|state| state.leaving == Leaving::No);
    let services = services.all();
    let meant: Vec<_> = services.iter().filter(meant).collect();
    match question {
        Question::Status { .. } => {}
        Question::Quiesce { reason, .. } => {
            meant.iter().filter(|service| stays(service)).for_each(|service| quiesce(service, store, reason));
        }
        Question::Resume { .. } => {
            meant.iter().filter(|service| stays(service)).for_each(|service| resume(service, store));
        }
    }
    count(&meant);
    let services = meant.iter().map(|service| shown(service)).collect();
    Answer { process: std::process::id(), found: meant.len(), services }
}

/// The agent's socket; removed when this value is dropped.
pub struct Control(PathBuf);

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Listens in the directory, on a thread that ends with the process.
pub fn start(directory: &Path, services: &Arc<Services>, store: &Arc<Store>) -> io::Result<Control> {
    claims::make_directory(directory)?;
    for socket in sockets(directory)? {
        // Agents that were killed have left it.
        if UnixStream::connect(&socket).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            let _ = fs::remove_file(socket);
        }
    }
    // Agents that are process 1 of containers may share the directory. The standard library's hasher has random keys.
    let name = format!("{}-{:016x}", std::process::id(), RandomState::new().hash_one(0));
    let new = Control(directory.join(format!("{name}.new")));
    let listener = UnixListener::bind(&new.0)?;
    fs::set_permissions(&new.0, fs::Permissions::from_mode(0o600))?;
    // It takes connections before it has a name that is asked: who is refused removes a socket.
    let control = Control(directory.join(format!("{name}.sock")));
    fs::rename(&new.0, &control.0)?;
    let (services, store) = (Arc::clone(services), Arc::clone(store));
    thread::Builder::new().name("gwm-control".into()).stack_size(STACK_BYTES).spawn(move || {
        for stream in listener.incoming() {
            match stream {
                // A client of this user that keeps the thread waiting delays only other commands.
                Ok(stream) => drop(serve(&stream, &services, &store)),
                Err(_) => thread::sleep(Duration::from_millis(100)), // no file descriptor is free
            }
        }
    })?;
    Ok(control)
}

const STACK_BYTES: usize = 256 << 10;

fn serve(stream: &UnixStream, services: &Services, store: &Store) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let line = read_line(stream, QUESTION_BYTES)?;
    let answer = match parse(&line) {
        Ok(question) => serde_json::to_string(&answer(&question, services, store)),
        Err(error) => serde_json::to_string(&serde_json::json!({ "error": error })),
    };
    let mut writer = stream;
    writer.write_all(format!("{}\n", answer.map_err(io::Error::other)?).as_bytes())
}

/// A question from its line.
pub fn parse(line: &str) -> Result<Question, String> {
    serde_json::from_str(line).map_err(|error| format!("not a question: {error}"))
}

fn read_line(stream: &UnixStream, max_bytes: u64) -> io::Result<String> {
    let mut line = Vec::new();
    BufReader::new(stream.take(max_bytes)).read_until(b'\n', &mut line)?;
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Asks the agent behind one socket.
pub fn ask(socket: &Path, question: &Question) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE * 4))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{}\n", serde_json::to_string(question)?).as_bytes())?;
    Ok(serde_json::from_str(&read_line(&stream, ANSWER_BYTES)?)?)
}

fn sockets(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut sockets: Vec<_> = fs::read_dir(directory)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "sock"))
        .take(SOCKETS)
        .collect();
    sockets.sort();
    Ok(sockets)
}

/// Asks all agents that listen in a directory. A socket that nobody listens on is left by a killed agent, and skipped; so
/// is one that an agent has removed at its end since the directory was read.
pub fn ask_all(directory: &Path, question: &Question) -> io::Result<Vec<Answer>> {
    match claims::check_directory(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        checked => checked?,
    }
    let mut answers = Vec::new();
    for socket in sockets(directory)? {
        match ask(&socket, question) {
            Ok(answer) => answers.push(answer),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let _ = fs::remove_file(&socket);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", socket.display()))),
        }
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_has_just_ended_is_skipped() {
        let directory = std::env::temp_dir().join(format!("gwm-agent-control-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        // As a socket that is removed after the directory was read: it is listed, and nothing is there.
        std::os::unix::fs::symlink("nothing", directory.join("1.sock")).unwrap();
        assert_eq!(ask_all(&directory, &Question::Status { service: None }).unwrap(), []);
        let link = directory.join("link");
        std::os::unix::fs::symlink(&directory, &link).unwrap();
        let error = ask_all(&link, &Question::Status { service: None }).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn agents_with_the_same_process_number_do_not_take_each_others_socket() {
        let directory = std::env::temp_dir().join(format!("gwm-agent-sockets-{}", std::process::id()));
        let services = Arc::new(Services::new(Vec::new(), Arc::default()));
        let start = || start(&directory, &services, &Arc::new(Store::new(&directory))).unwrap();
        let agents = [start(), start()];
        // One that was killed has left this.
        drop(UnixListener::bind(directory.join("1.sock")).unwrap());
        let third = start();
        assert_eq!(ask_all(&directory, &Question::Status { service: None }).unwrap().len(), 3);
        drop((agents, third));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        fs::remove_dir_all(&directory).unwrap();
    }
}
