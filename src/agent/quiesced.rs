//! Which services a person has quiesced, in files that outlive the agent: an agent that is started again goes on with the
//! quiesce. A file is about the services of one name. Only the user of the directory, and root, can write there.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::{claims::make_directory, service::ByHand};

/// The most bytes of a file: a name and a reason, in which each byte may be six.
const FILE_BYTES: u64 = 8 << 10;

/// The longest reason, in bytes; a longer one is cut.
const REASON_BYTES: usize = 512;

/// The longest part of a file's name that is the service's; file systems have 255 bytes in all.
const NAME_BYTES: usize = 200;

/// The files of a directory.
pub struct Store(PathBuf);

/// What a file says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    pub(crate) service: String,
    pub(crate) reason: String,
    /// In seconds since 1970.
    since: u64,
}

impl Row {
    /// From the text of a file.
    pub(crate) fn parse(text: &str) -> Result<Row, String> {
        let row: Row = serde_json::from_str(text).map_err(|error| error.to_string())?;
        Ok(Row { reason: line(&row.reason), ..row })
    }
}

/// A reason goes into logs and answers of one line.
pub fn line(reason: &str) -> String {
    let reason: String = reason.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    reason.get(..reason.floor_char_boundary(REASON_BYTES)).unwrap_or_default().to_owned()
}

impl Store {
    /// The files of this directory.
    pub fn new(directory: &Path) -> Store {
        Store(directory.into())
    }

    fn path(&self, service: &str) -> PathBuf {
        let mut name = utf8_percent_encode(service, NON_ALPHANUMERIC).to_string();
        if name.len() > NAME_BYTES {
            // FNV-1a: long names that begin alike differ in it, and the file has the whole name.
            let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
            let hash = service.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step);
            name.truncate(NAME_BYTES);
            name.push_str(&format!("-{hash:016x}"));
        }
        self.0.join(format!("{name}.quiesced"))
    }

    /// Whether a person has quiesced the service. A file that says nothing is told in the log.
    pub fn find(&self, service: &str) -> Option<ByHand> {
        let path = self.path(service);
        let mut text = String::new();
        let read = File::open(&path).and_then(|file| file.take(FILE_BYTES).read_to_string(&mut text));
        let row = match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => Err(error.to_string()),
            Ok(_) => Row::parse(&text),
        };
        match row {
            Ok(row) => (row.service == service).then(|| ByHand {
                reason: row.reason,
                // A time that the clock can not have counts as now.
                since: UNIX_EPOCH.checked_add(Duration::from_secs(row.since)).unwrap_or_else(SystemTime::now),
            }),
            Err(why) => {
                tracing::warn!(service, "{}: {why}: nobody knows whether it was quiesced by hand", path.display());
                None
            }
        }
    }

    /// Keeps that a person has quiesced the service, or no longer. What can not be kept is told in the log.
    pub fn keep(&self, service: &str, by_hand: Option<&ByHand>) {
        let path = self.path(service);
        let kept = match by_hand {
            Some(by_hand) => self.write(&path, service, by_hand),
            None => match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        if let Err(error) = kept {
            let path = path.display();
            tracing::warn!(service, "{path}: {error}: an agent that is started again does not know of this");
        }
    }

    fn write(&self, path: &Path, service: &str, by_hand: &ByHand) -> io::Result<()> {
        make_directory(&self.0)?;
        let since = by_hand.since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let row = Row { service: service.into(), reason: by_hand.reason.clone(), since };
        let new = path.with_extension(format!("{}.new", std::process::id()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(format!("{}\n", serde_json::to_string(&row)?).as_bytes())?;
        fs::rename(new, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiesce_is_known_to_the_next_agent_until_it_is_resumed() {
        let directory = std::env::temp_dir().join(format!("gwm-agent-quiesced-{}", std::process::id()));
        let since = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let (long, other) = ("ü/".repeat(80), format!("{}x", "ü/".repeat(80)));
        let names = ["web", "..", &long, &other];
        for name in names {
            assert_eq!(Store::new(&directory).find(name), None);
            Store::new(&directory).keep(name, None);
            Store::new(&directory).keep(name, Some(&ByHand { reason: format!("of {name}"), since }));
        }
        for name in names {
            let found = Store::new(&directory).find(name);
            assert_eq!(found, Some(ByHand { reason: format!("of {name}"), since }));
            assert_eq!(fs::read_dir(&directory).unwrap().count(), names.len());
        }
        names.iter().for_each(|name| Store::new(&directory).keep(name, None));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        fs::write(directory.join("web.quiesced"), "{}").unwrap();
        assert_eq!(Store::new(&directory).find("web"), None);
        fs::write(directory.join("web.quiesced"), r#"{"service":"api","reason":"","since":0}"#).unwrap();
        assert_eq!(Store::new(&directory).find("web"), None, "it is about another service");
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_file_is_read_with_care() {
        let row = Row::parse(r#"{"service":"web","reason":"a\nb","since":18446744073709551615}"#).unwrap();
        assert_eq!((&row.service[..], &row.reason[..]), ("web", "a b"));
        let long = format!(r#"{{"service":"web","reason":"{}","since":1}}"#, "é".repeat(1000));
        assert_eq!(Row::parse(&long).unwrap().reason.len(), REASON_BYTES);
        for bad in [
            "",
            "{}",
            r#"{"service":"web","reason":"","since":-1}"#,
            r#"{"service":"web","reason":"","since":1,"x":1}"#,
        ] {
            assert!(Row::parse(bad).is_err(), "{bad}");
        }
    }
}
