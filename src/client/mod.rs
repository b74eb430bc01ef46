//! Blocking SASP client.
