//! What the mesh is built on. `tests/mesh_model.rs` has others of the same names, whose every order of events it goes
//! through.

pub(super) use std::sync::atomic::{AtomicBool, fence};

pub(super) use atomic_waker::AtomicWaker;
pub(super) use crossbeam_queue::ArrayQueue;
