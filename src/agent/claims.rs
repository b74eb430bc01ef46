//! Which memberships the agents of this user have registered, in files that outlive an agent that was killed. A file is
//! about one endpoint. Each agent that keeps the endpoint registered has a shared lock on the file, which the kernel takes
//! back when the agent ends in any way: so an agent knows at its end whether another one goes on.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::sasp::{Endpoint, Escaped};

/// The most bytes of a claim file that are read: some hundreds of memberships.
const FILE_BYTES: u64 = 256 << 10;

/// What the agents of this user have registered.
pub struct Claims(Mutex<HashMap<Endpoint, Claim>>);

#[derive(Default)]
struct Claim {
    /// The locked file; `None` if the system does not give one: then the claim lasts as long as the agent.
    file: Option<File>,
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
    let found = directory.symlink_metadata()?;
    let own = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
    if own { Ok(()) } else { Err(io::Error::new(io::ErrorKind::PermissionDenied, "someone else's")) }
}

impl Claims {
    /// Opens and locks the file of each endpoint. What the system does not give is logged once, and not kept.
    pub fn open(directory: &Path, endpoints: impl IntoIterator<Item = Endpoint>) -> Claims {
        let mut claims = HashMap::new();
        let mut fault = make_directory(directory).err();
        let has_directory = fault.is_none();
        for endpoint in endpoints {
            let mut claim = Claim::default();
            if has_directory {
                // The file of one endpoint may be locked by an agent that leaves; the others are not.
                match Claim::open(directory, endpoint) {
                    Ok(opened) => claim = opened,
                    Err(error) => fault = fault.or(Some(error)),
                }
            }
            claims.insert(endpoint, claim);
        }
        if let Some(error) = fault {
            let directory = directory.display();
            tracing::warn!("--run-dir {directory}: {error}: an agent that is killed does not know what it registered");
        }
        Claims(Mutex::new(claims))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Endpoint, Claim>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Whether no other agent keeps the endpoint registered. Of several agents that ask at a time, one is told so.
    pub fn is_alone(&self, endpoint: Endpoint) -> bool {
        let claims = self.lock();
        // A lock that the system refuses to change is given up first (flock(2)): the last one to ask gets it.
        claims.get(&endpoint).and_then(|claim| claim.file.as_ref()).is_none_or(|file| file.try_lock().is_ok())
    }
}

impl Claim {
    fn open(directory: &Path, endpoint: Endpoint) -> io::Result<Claim> {
        let name = format!("{}.claim", endpoint.to_string().replace('/', "-"));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(directory.join(name))?;
        file.try_lock_shared()?;
        let mut bytes = Vec::new();
        (&mut file).take(FILE_BYTES).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Claim { file: Some(file), lines: text.lines().map(str::to_owned).collect() })
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

    #[test]
    fn what_was_registered_is_known_to_the_next_life_and_the_last_agent_is_alone() {
        let directory = std::env::temp_dir().join(format!("gwm-agent-claims-{}", std::process::id()));
        let endpoint = Endpoint::new([10, 0, 0, 1].into(), 17, 80);
        let line = line("127.0.0.1:3860", b"LB\xFF", b"we b");
        let first = Claims::open(&directory, [endpoint]);
        assert!(!first.has(endpoint, &line));
        first.set(endpoint, line.clone(), true);
        assert!(first.has(endpoint, &line));
        drop(first);
        let second = Claims::open(&directory, [endpoint]);
        assert!(second.has(endpoint, &line));
        let third = Claims::open(&directory, [endpoint]);
        assert!(!third.is_alone(endpoint), "the second one is there");
        assert!(second.is_alone(endpoint), "the third one gave up its lock");
        second.set(endpoint, line.clone(), false);
        drop((second, third));
        assert!(!Claims::open(&directory, [endpoint]).has(endpoint, &line));
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_file_that_another_agent_holds_costs_one_claim_only() {
        let directory = std::env::temp_dir().join(format!("gwm-agent-claims-held-{}", std::process::id()));
        let [one, two] = [1, 2].map(|last| Endpoint::new([10, 0, 0, last].into(), 6, 80));
        let leaves = Claims::open(&directory, [one, two]);
        leaves.set(two, "a".into(), true);
        assert!(leaves.is_alone(one), "its lock is exclusive from now on");
        let comes = Claims::open(&directory, [one, two]);
        assert!(comes.has(two, "a") && !leaves.is_alone(two));
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn without_a_directory_claims_last_as_long_as_the_agent() {
        let endpoint = Endpoint::new([10, 0, 0, 1].into(), 6, 80);
        let claims = Claims::open(Path::new("/proc/nothing"), [endpoint]);
        claims.set(endpoint, "a".into(), true);
        assert!(claims.has(endpoint, "a") && claims.is_alone(endpoint));
    }
}
