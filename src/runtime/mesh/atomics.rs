//! What the mesh is built on. `tests/mesh_model.rs` has others of the same names, whose every order of events it goes
//! through.

pub(crate) use std::sync::atomic::{AtomicBool, fence};

pub(crate) use atomic_waker::AtomicWaker;
pub(crate) use crossbeam_queue::ArrayQueue;
