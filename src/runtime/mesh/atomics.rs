//! The building blocks of the mesh. `tests/mesh_model.rs` replaces them by loom's, to try every order of events.

pub(crate) use std::sync::atomic::{AtomicBool, fence};

pub(crate) use atomic_waker::AtomicWaker;
pub(crate) use crossbeam_queue::ArrayQueue;
