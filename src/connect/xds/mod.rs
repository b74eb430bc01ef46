//! A control plane for Envoy and gRPC (xDS v3): groups are clusters, and clients ask for their endpoints.
//!
//! The engine's thread publishes snapshots; the server's thread sends each stream what has changed for it.

mod clients;
mod codec;
pub mod json;
mod lines;
pub mod loads;
pub mod messages;
pub mod server;
pub mod snapshot;
pub mod stream;

use std::{
    convert::Infallible,
    fmt, fs, io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::SystemTime,
};

use rustls::ServerConfig;
use tokio::sync::{mpsc, watch};

use super::{
    Applied, Connector, Fault, Observed, Pool, Wanted,
    figures::{Figure, XDS_REPORTS},
    file,
    scale::share,
};
use crate::sasp::{Endpoint, Escaped, component::UDP};
use clients::Clients;
use loads::Loads;
use snapshot::{Group, Snapshot, Target};

/// A control plane.
pub struct XdsConnector {
    pools: Vec<Pool>,
    files: Option<Files>,
    last: Option<Arc<Snapshot>>,
    publish: watch::Sender<Option<Arc<Snapshot>>>,
    server: Option<Server>,
    clients: Clients,
    loads: Loads,
}

/// The thread that serves. It ends when `stop` is dropped.
struct Server {
    stop: mpsc::Sender<Infallible>,
    thread: JoinHandle<io::Result<()>>,
}

/// The TLS settings for new connections; all clones are one.
#[derive(Clone)]
pub struct TlsSettings(Arc<Mutex<Arc<ServerConfig>>>);

impl TlsSettings {
    /// These settings, with the protocols of xDS.
    pub fn new(config: &ServerConfig) -> TlsSettings {
        TlsSettings(Arc::new(Mutex::new(with_protocols(config))))
    }

    /// Replaces the settings, for new connections.
    pub fn replace(&self, config: &ServerConfig) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = with_protocols(config);
    }
}

fn with_protocols(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// A file for each group, beside what is served.
pub struct Files {
    before: String,
    after: String,
    /// Groups whose file is not as it should be.
    stale: Vec<String>,
}

impl Files {
    /// The files' path; its one `*` stands for the group's name.
    pub fn parse(path: &str) -> Result<Files, String> {
        match path.split('*').collect::<Vec<_>>()[..] {
            [before, after] if !after.contains('/') => {
                Ok(Files { before: before.into(), after: after.into(), stale: Vec::new() })
            }
            _ => Err("the file's name needs one `*`, for the group's name".into()),
        }
    }

    fn path(&self, group: &str) -> PathBuf {
        format!("{}{group}{}", self.before, self.after).into()
    }

    /// Whether the group's file can be written.
    fn check(&self, group: &str) -> Result<(), String> {
        if group.contains('/') {
            return Err(format!("the group {group} can have no file: its name has a `/`"));
        }
        let path = self.path(group);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        match folder.map(fs::metadata) {
            Some(Err(error)) => Err(format!("can not write {}: {error}", path.display())),
            _ => Ok(()),
        }
    }
}

/// A group gets other endpoints or weights.
pub struct Step(Group);

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "publish {}:", self.0.name)?;
        if self.0.targets.is_empty() {
            return write!(f, " no endpoint");
        }
        self.0
            .targets
            .iter()
            .try_for_each(|target| write!(f, " {} weight {}", SocketAddr::new(target.ip, target.port), target.weight))
    }
}

impl XdsConnector {
    /// A control plane that does not serve yet. An error says which group can have no file, or which member no port.
    pub fn new(pools: Vec<Pool>, files: Option<Files>) -> Result<XdsConnector, String> {
        if let Some(files) = &files {
            let checked = pools.iter().try_for_each(|pool| files.check(&Escaped(&pool.name).to_string()));
            checked.map_err(|error| format!("--file: {error}"))?;
        }
        for pool in &pools {
            if let Some(member) = pool.members.iter().find(|member| member.endpoint.port == 0) {
                let (member, group) = (member.endpoint, Escaped(&pool.name));
                return Err(format!("the member {member} of the group {group} has no port, which xDS needs"));
            }
        }
        Ok(XdsConnector {
            pools,
            files,
            last: None,
            publish: watch::Sender::new(None),
            server: None,
            clients: Clients::default(),
            loads: Loads::default(),
        })
    }

    /// Starts to serve; gives the address. Until the first weights come, clients wait.
    pub fn serve(&mut self, listen: SocketAddr, tls: Option<TlsSettings>) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(listen)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = mpsc::channel(1);
        let tls = tls.map(|TlsSettings(settings)| settings);
        let latest = self.publish.subscribe();
        let told = (self.clients.clone(), self.loads.clone());
        let serve = move || server::serve(listener, tls, latest, told, stopped);
        self.server = Some(Server { stop, thread: thread::Builder::new().name("xds".into()).spawn(serve)? });
        Ok(address)
    }

    /// A group of the last snapshot.
    fn published(&self, name: &str) -> Option<&Group> {
        let last = self.last.as_ref()?;
        Some(&last.groups()[last.place(name)?])
    }

    fn steps(&self, groups: impl Iterator<Item = Group>) -> Vec<Step> {
        let stale = |name: &String| self.files.as_ref().is_some_and(|files| files.stale.contains(name));
        groups.filter(|group| self.published(&group.name) != Some(group) || stale(&group.name)).map(Step).collect()
    }
}

impl Connector for XdsConnector {
    type Step = Step;

    fn look(&mut self) -> Result<Vec<Pool>, Fault> {
        if self.server.as_ref().is_some_and(|server| server.thread.is_finished()) {
            return Err(Fault::Answer("the xDS server has ended: start the connector again".into()));
        }
        if let (Some(files), Some(last)) = (&mut self.files, &self.last) {
            let is_right = |group: &&Group| {
                fs::read_to_string(files.path(&group.name)).is_ok_and(|text| text == json::file(group))
            };
            files.stale =
                last.groups().iter().filter(|group| !is_right(group)).map(|group| group.name.clone()).collect();
        }
        Ok(self.pools.clone())
    }

    fn plan(&self, wanted: &[Wanted]) -> Vec<Step> {
        self.steps(wanted.iter().map(|pool| {
            let members = pool.members.iter();
            group(&pool.pool, members.map(|member| (member.endpoint, share(member.standing))))
        }))
    }

    fn restore(&self, pools: &[Box<[u8]>]) -> Vec<Step> {
        let own = self.pools.iter().filter(|pool| pools.contains(&pool.name));
        self.steps(own.map(|pool| group(&pool.name, pool.members.iter().map(|member| (member.endpoint, 1)))))
    }

    fn apply(&mut self, steps: Vec<Step>, applied: &mut Applied) -> Result<(), Fault> {
        let mut groups = self.last.as_ref().map(|last| last.groups().to_vec()).unwrap_or_default();
        let mut changed = self.last.is_none();
        for step in steps {
            let written = self.files.as_ref().map(|files| {
                let path = files.path(&step.0.name);
                file::replace(&path, &json::file(&step.0))
                    .map_err(|error| format!("can not write {}: {error}", path.display()))
            });
            match written {
                Some(Err(why)) => applied.refused.push(why),
                _ => applied.done += 1,
            }
            let Step(group) = step;
            match groups.iter_mut().find(|old| old.name == group.name) {
                Some(old) if *old == group => continue, // only its file was written
                Some(old) => *old = group,
                None => groups.push(group),
            }
            changed = true;
        }
        if !changed {
            return Ok(());
        }
        let first = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let first = u64::try_from(first).unwrap_or(1);
        let snapshot = Arc::new(Snapshot::after(self.last.as_deref(), first, groups));
        self.last = Some(snapshot.clone());
        self.publish.send_replace(Some(snapshot));
        Ok(())
    }

    fn observe(&mut self) -> Result<Observed, Fault> {
        let of_pool = |pool: &Pool| self.loads.of(&pool.name, &Escaped(&pool.name).to_string());
        let members = self.pools.iter().flat_map(of_pool).collect();
        let mut observed = Observed { members, ..self.clients.observed() };
        observed.figures.push(Figure::new(&XDS_REPORTS, self.loads.reports()));
        Ok(observed)
    }
}

impl Drop for XdsConnector {
    fn drop(&mut self) {
        let Some(Server { stop, thread }) = self.server.take() else { return };
        drop(stop);
        match thread.join() {
            Ok(Err(error)) => tracing::error!("the xDS server: {error}"),
            Err(_) => tracing::error!("the xDS server has panicked"),
            Ok(Ok(())) => (),
        }
    }
}

/// A group without the members that have no share or no port: clients refuse weight 0 and port 0.
fn group(name: &[u8], members: impl Iterator<Item = (Endpoint, u32)>) -> Group {
    let members = members.filter(|(endpoint, share)| *share > 0 && endpoint.port > 0);
    let target = |(endpoint, weight): (Endpoint, u32)| Target {
        ip: endpoint.ip(),
        port: endpoint.port,
        udp: endpoint.protocol == UDP,
        weight,
    };
    Group { name: Escaped(name).to_string(), targets: members.map(target).collect() }
}

#[cfg(test)]
mod tests;
