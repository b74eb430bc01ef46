//! Rows of the state on disk, and lines of its export.

/// Any bytes are read or refused as each kind of row, and what is read is the same after it is written.
pub fn journal_row(bytes: &[u8]) {
    crate::journal::read_any(bytes);
}

/// Any text is read or refused as a line of an export, and what is read is the same after it is written.
pub fn journal_line(bytes: &[u8]) {
    crate::journal::read_any_line(&String::from_utf8_lossy(bytes));
}
