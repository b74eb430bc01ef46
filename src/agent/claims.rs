//! Which memberships the agents of this user have registered, in files that outlive an agent that was killed. A file is
//! about one endpoint. Each agent that keeps the endpoint registered has a shared lock on the file, which the kernel takes
//! back when the agent ends in any way: so an agent that leaves knows whether another one goes on. It has the lock alone
//! while it deregisters; an agent that comes then waits for its own lock, and confirms its registrations when it has it.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::sasp::{Endpoint, Escaped};

/// The most bytes of a claim file that are read: some hundreds of memberships.
const FILE_BYTES: u64 = 256 << 10;

/// How often a file is opened that another agent removes meanwhile.
const TRIES: usize = 16;

/// What the agents of this user have registered.
pub struct Claims {
    directory: PathBuf,
    claims: Mutex<HashMap<Endpoint, Claim>>,
}

#[derive(Default)]
struct Claim {
    /// How many services of this agent have the endpoint.
    services: usize,
    /// The locked file; `None` if the system does not give one: then the claim lasts as long as the agent.
    file: Option<File>,
    /// Another agent deregisters the endpoint: the lock is not to be had yet.
    waits: bool,
    lines: BTreeSet<String>,
}

/// A membership as a line.
pub fn line(gwm: &str, lb: &[u8], group: &[u8]) -> String {
    format!("{gwm} {} {}", Escaped(lb), Escaped(group))
}

/// Where agents of this user have their files: `/run/gwm-agent` of root, `$XDG_RUNTIME_DIR/gwm-agent`, or else
/// `/tmp/gwm-agent-UID`.
pub fn default_directory() -> PathBuf {
    let user = rustix::process::geteuid();
    match std::env::var_os("XDG_RUNTIME_DIR") {
        _ if user.is_root() => "/run/gwm-agent".into(),
        Some(directory) if !directory.is_empty() => Path::new(&directory).join("gwm-agent"),
        _ => format!("/tmp/gwm-agent-{}", user.as_raw()).into(),
    }
}

/// Makes the directory, for this user only. One that someone else made is refused: `/tmp` is everyone's.
pub fn make_directory(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if owner(directory)? == rustix::process::geteuid().as_raw() { Ok(()) } else { Err(someone_elses()) }
}

/// Whether this user may believe what agents there say: it is the user's own directory. Root may ask each user's agents.
pub fn check_directory(directory: &Path) -> io::Result<()> {
    let (owner, user) = (owner(directory)?, rustix::process::geteuid());
    if owner == user.as_raw() || user.is_root() { Ok(()) } else { Err(someone_elses()) }
}

fn owner(directory: &Path) -> io::Result<u32> {
    let found = directory.symlink_metadata()?;
    // A link is someone's who wants another directory to be used.
    if found.is_dir() { Ok(found.uid()) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

fn someone_elses() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "someone else's")
}

impl Claims {
    /// The claims of this directory; none yet.
    pub fn new(directory: &Path) -> Claims {
        Claims { directory: directory.into(), claims: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Endpoint, Claim>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Opens and locks the files of a service's endpoints. What the system does not give is not kept; the error says so
    /// once.
    pub fn add(&self, endpoints: impl IntoIterator<Item = Endpoint>) -> io::Result<()> {
        let mut claims = self.lock();
        let made = make_directory(&self.directory);
        let has_directory = made.is_ok();
        let mut result = made;
        for endpoint in endpoints {
            let claim = claims.entry(endpoint).or_default();
            claim.services += 1;
            if has_directory && claim.file.is_none() {
                // The file of one endpoint may be locked by an agent that leaves; the others are not.
                result = result.and(claim.open(&self.directory, endpoint));
            }
        }
        result
    }

    /// Tries again to get the locks that another agent had; gives the endpoints whose lock is there now.
    pub fn retry(&self) -> Vec<Endpoint> {
        let mut claims = self.lock();
        let waiting = claims.iter_mut().filter(|(_, claim)| claim.waits);
        let got = |(endpoint, claim): (&Endpoint, &mut Claim)| {
            // An error is none that a further try could mend.
            let _ = claim.open(&self.directory, *endpoint);
            (!claim.waits).then_some(*endpoint)
        };
        waiting.filter_map(got).collect()
    }

    /// Whether a lock is waited for.
    pub fn waits(&self) -> bool {
        self.lock().values().any(|claim| claim.waits)
    }

    /// Whether an agent of this user has registered the endpoint so.
    pub fn has(&self, endpoint: Endpoint, line: &str) -> bool {
        self.lock().get(&endpoint).is_some_and(|claim| claim.lines.contains(line))
    }

    /// Says that this agent has registered the endpoint so, or has it no longer.
    pub fn set(&self, endpoint: Endpoint, line: String, own: bool) {
        let mut claims = self.lock();
        let claim = claims.entry(endpoint).or_default();
        let changed = if own { claim.lines.insert(line) } else { claim.lines.remove(&line) };
        if changed && let Err(error) = claim.write() {
            tracing::debug!("the claim of {endpoint} is not kept: {error}");
        }
    }

    /// Whether no other agent keeps the endpoint registered. Of several agents that ask at a time, one is told so; who is
    /// told otherwise has given up the lock.
    pub fn is_alone(&self, endpoint: Endpoint) -> bool {
        // Shared again at once: an agent that comes now goes on with the endpoint.
        self.take(endpoint) && self.change(endpoint, |file| file.try_lock_shared().is_ok())
    }

    /// The same, and keeps other agents out until [`Claims::release`]: the endpoint is about to be deregistered.
    pub fn take(&self, endpoint: Endpoint) -> bool {
        // A lock that the system refuses to change is given up first (flock(2)): the last one to ask gets it.
        self.change(endpoint, |file| file.try_lock().is_ok())
    }

    fn change(&self, endpoint: Endpoint, change: impl FnOnce(&File) -> bool) -> bool {
        self.lock().get(&endpoint).and_then(|claim| claim.file.as_ref()).is_none_or(change)
    }

    /// A service of this agent no longer has the endpoint. Its file stays if other agents have the endpoint, or if the GWM
    /// has not said that it is deregistered.
    pub fn release(&self, endpoint: Endpoint) {
        let mut claims = self.lock();
        let Some(claim) = claims.get_mut(&endpoint) else { return };
        claim.services = claim.services.saturating_sub(1);
        if claim.services > 0 {
            if let Some(file) = &claim.file {
                let _ = file.try_lock_shared(); // nobody else has it
            }
        } else if let Some(claim) = claims.remove(&endpoint)
            && claim.lines.is_empty()
            && claim.file.as_ref().is_some_and(|file| file.try_lock().is_ok())
        {
            let _ = fs::remove_file(path(&self.directory, endpoint)); // it may be gone with its directory
        }
    }
}

fn path(directory: &Path, endpoint: Endpoint) -> PathBuf {
    directory.join(format!("{}.claim", endpoint.to_string().replace('/', "-")))
}

impl Claim {
    /// Opens and locks the file, and takes what stands there. That another agent has the lock alone is no error.
    fn open(&mut self, directory: &Path, endpoint: Endpoint) -> io::Result<()> {
        self.waits = false;
        let path = path(directory, endpoint);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        for _ in 0..TRIES {
            let mut file = options.open(&path)?;
            match file.try_lock_shared() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    self.waits = true;
                    return Ok(());
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            let (own, there) = (file.metadata()?, path.symlink_metadata());
            if there.is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino())) {
                let mut bytes = Vec::new();
                (&mut file).take(FILE_BYTES).read_to_end(&mut bytes)?;
                let mut lines: BTreeSet<_> = String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect();
                let found = lines.len();
                lines.append(&mut self.lines);
                (self.file, self.lines) = (Some(file), lines);
                return if self.lines.len() > found { self.write() } else { Ok(()) };
            }
            // The last agent has removed the file before the lock was had.
        }
        Err(io::Error::other("another agent removes the claim again and again"))
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let text: String = self.lines.iter().map(|line| format!("{line}\n")).collect();
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Directory {
            Directory(std::env::temp_dir().join(format!("gwm-agent-claims-{name}-{}", std::process::id())))
        }

        fn agent(&self, endpoints: &[Endpoint]) -> Claims {
            let claims = Claims::new(&self.0);
            claims.add(endpoints.iter().copied()).unwrap();
            claims
        }

        fn files(&self) -> usize {
            fs::read_dir(&self.0).unwrap().count()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn endpoint(last: u8) -> Endpoint {
        Endpoint::new([10, 0, 0, last].into(), 17, 80)
    }

    #[test]
    fn what_was_registered_is_known_to_the_next_life_and_the_last_agent_is_alone() {
        let (directory, endpoint) = (Directory::new("life"), endpoint(1));
        let line = line("127.0.0.1:3860", b"LB\xFF", b"we b");
        let first = directory.agent(&[endpoint]);
        assert!(!first.has(endpoint, &line));
        first.set(endpoint, line.clone(), true);
        assert!(first.has(endpoint, &line));
        drop(first);
        let second = directory.agent(&[endpoint]);
        assert!(second.has(endpoint, &line) && second.is_alone(endpoint));
        let third = directory.agent(&[endpoint]);
        assert!(!third.is_alone(endpoint), "the second one is there");
        assert!(second.is_alone(endpoint), "the third one gave up its lock");
        let fourth = directory.agent(&[endpoint]);
        assert!(!fourth.waits() && !second.take(endpoint), "it came while the second one drained");
        drop((second, third));
        assert!(fourth.take(endpoint));
        fourth.set(endpoint, line, false);
        fourth.release(endpoint);
        assert_eq!(directory.files(), 0);
    }

    #[test]
    fn an_agent_that_comes_while_another_one_deregisters_gets_its_lock_later() {
        let (directory, one, two) = (Directory::new("later"), endpoint(1), endpoint(2));
        let leaves = directory.agent(&[one, two]);
        leaves.set(one, "a".into(), true);
        leaves.set(two, "a".into(), true);
        assert!(leaves.take(one), "its lock is exclusive from now on");
        let comes = directory.agent(&[one, two]);
        assert!(!comes.has(one, "a") && comes.has(two, "a"), "one file that is locked costs one claim");
        assert!(comes.waits() && comes.retry().is_empty());
        comes.set(one, "b".into(), true);
        leaves.set(one, "a".into(), false);
        leaves.release(one);
        assert_eq!((comes.retry(), comes.waits()), (vec![one], false));
        drop(comes);
        let next = directory.agent(&[one]);
        assert!(next.has(one, "b") && !next.has(one, "a"));
    }

    #[test]
    fn an_endpoint_of_two_services_is_claimed_until_the_last_one_leaves() {
        let (directory, endpoint) = (Directory::new("two"), endpoint(1));
        let agent = directory.agent(&[endpoint, endpoint]);
        assert!(agent.take(endpoint));
        agent.release(endpoint);
        let other = directory.agent(&[endpoint]);
        assert!(!other.waits(), "the lock is shared again");
        agent.release(endpoint);
        assert_eq!(directory.files(), 1, "another agent has it");
        assert!(other.is_alone(endpoint));
    }

    #[test]
    fn without_a_directory_claims_last_as_long_as_the_agent() {
        let (endpoint, claims) = (endpoint(1), Claims::new(Path::new("/proc/nothing")));
        assert!(claims.add([endpoint]).is_err());
        claims.set(endpoint, "a".into(), true);
        assert!(claims.has(endpoint, "a") && claims.is_alone(endpoint) && !claims.waits());
    }
}
