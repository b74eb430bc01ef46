//! Raw flags → validated configuration.
