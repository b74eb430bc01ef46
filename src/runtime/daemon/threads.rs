//! The running threads, and how they end.

use std::thread::{self, JoinHandle};

#[cfg(feature = "fleet")]
use super::fleet;
use super::keeper::Keeper;
#[cfg(feature = "admin")]
use crate::runtime::admin_thread::AdminThread;
use crate::runtime::{Error, agent_thread::AgentThread, takeover::Giving};

/// A thread.
pub(super) type Handle = JoinHandle<Result<(), Error>>;

/// The running threads.
pub(super) struct Threads {
    pub(super) coordinator: Handle,
    pub(super) keeper: Option<Keeper>,
    #[cfg(feature = "fleet")]
    pub(super) member: Option<fleet::Member>,
    pub(super) shards: Vec<Handle>,
    #[cfg(feature = "admin")]
    pub(super) admin: Option<AdminThread>,
    pub(super) agent: Option<AgentThread>,
    /// Not one of those whose end is an event.
    pub(super) giving: Option<Giving>,
}

impl Threads {
    pub(super) fn into_handles(self) -> impl Iterator<Item = JoinHandle<Result<(), Error>>> {
        let handles = self.shards.into_iter().chain([self.coordinator]).chain(self.keeper.map(|keeper| keeper.handle));
        #[cfg(feature = "fleet")]
        let handles = handles.chain(self.member.map(|member| member.handle));
        #[cfg(feature = "admin")]
        let handles = handles.chain(self.admin.map(|admin| admin.thread.handle));
        handles.chain(self.agent.map(|agent| agent.handle))
    }

    /// Why a thread has ended that should run: the first one found.
    pub(super) fn cause_of_end(self) -> Error {
        cause_of_end(self.into_handles().collect())
    }
}

/// Why one of these threads has ended that should run: the first one found. The others run on, and end with the process.
pub(super) fn cause_of_end(mut threads: Vec<Handle>) -> Error {
    loop {
        // A thread reports its end a moment before its handle shows the end.
        thread::yield_now();
        if let Some(at) = threads.iter().position(JoinHandle::is_finished) {
            let thread = threads.swap_remove(at);
            let name = name(&thread);
            return joined(thread).err().unwrap_or(Error::Ended { thread: name });
        }
    }
}

fn name<T>(thread: &JoinHandle<T>) -> String {
    thread.thread().name().unwrap_or("a thread").to_owned()
}

/// A thread's result; a panic becomes an error.
pub(super) fn joined<T>(thread: JoinHandle<Result<T, Error>>) -> Result<T, Error> {
    let name = name(&thread);
    thread.join().unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(Error::Panicked { thread: name, text })
    })
}
