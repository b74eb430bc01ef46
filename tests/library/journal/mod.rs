//! State on disk: what is written is read, a crash at any point loses nothing that was acknowledged, and a damaged file is
//! refused.

mod anew;
mod crash;
mod disk;
mod history;
mod own;
mod rows;
mod verdicts;
