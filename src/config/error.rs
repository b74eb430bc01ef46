//! Why a configuration is refused.

use std::fmt;

use crate::files::FileError;

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// Flags that are impossible together: exit status 2.
    Usage(String),
    /// A file can not be used, or the machine does not allow it: exit status 1.
    Failure(String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ConfigError::Usage(text) | ConfigError::Failure(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for ConfigError {}

impl From<FileError> for ConfigError {
    fn from(error: FileError) -> ConfigError {
        ConfigError::Failure(error.to_string())
    }
}
