//! The daemon: the only module that knows glommio.
