//! The opaque state of SASP: one byte that a member says and that its GWM passes on.

use std::{fmt, path::PathBuf, time::Duration};

use super::{check::head, children::Children, load::memory::Class};

/// Where the byte comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opaque {
    /// It is always this one.
    Number(u8),
    /// The number at the begin of this file.
    File(PathBuf),
    /// The number that this shell command prints.
    Exec(String),
    /// The class of the service's pressure, 0 (calm) to 3 (stalled).
    Pressure,
}

/// The most bytes that are read: a number and white space.
const BYTES: usize = 64;

impl Opaque {
    /// A number (0 to 255, or 0x00 to 0xFF), `file:PATH`, `exec:COMMAND` or `pressure`.
    pub fn parse(text: &str) -> Result<Opaque, String> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Opaque::File(path.into())),
            Some(("exec", command)) if !command.trim().is_empty() => Ok(Opaque::Exec(command.into())),
            None if text == "pressure" => Ok(Opaque::Pressure),
            _ => byte(text).map(Opaque::Number).map_err(|why| format!("{why}, file:PATH, exec:COMMAND or pressure")),
        }
    }

    /// The byte now. An error is why there is none, in one line. `pressure` tells the class of the service's pressure.
    pub fn read(
        &self,
        timeout: Duration,
        children: &Children,
        pressure: impl FnOnce() -> Option<Class>,
    ) -> Result<u8, String> {
        let text = match self {
            Opaque::Number(number) => return Ok(*number),
            Opaque::Pressure => {
                return pressure().map(Class::byte).ok_or_else(|| "the kernel tells no pressure (PSI)".into());
            }
            Opaque::File(path) => head(path, BYTES as u64),
            Opaque::Exec(command) => {
                let output = children.run(command, timeout, BYTES);
                output.map(|output| String::from_utf8_lossy(&output).into_owned())
            }
        };
        let found = text.and_then(|text| byte(text.split_whitespace().next().unwrap_or_default()));
        found.map_err(|why| format!("opaque state {self}: {why}"))
    }
}

impl fmt::Display for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Opaque::Number(number) => write!(f, "{number}"),
            Opaque::File(path) => write!(f, "file:{}", path.display()),
            Opaque::Exec(command) => write!(f, "exec:{command}"),
            Opaque::Pressure => f.write_str("pressure"),
        }
    }
}

/// A byte: decimal, or hexadecimal with `0x`.
fn byte(text: &str) -> Result<u8, String> {
    match text.strip_prefix("0x") {
        Some(digits) => u8::from_str_radix(digits, 16),
        None => text.parse(),
    }
    .map_err(|_| format!("`{}` is not a byte: 0 to 255, 0x00 to 0xFF", text.escape_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_is_a_number_or_is_read() {
        let read = |text: &str| {
            let pressure = || Some(Class::High);
            Opaque::parse(text).and_then(|opaque| opaque.read(Duration::from_secs(60), &Children::default(), pressure))
        };
        assert_eq!((read("pressure"), Opaque::parse("pressure").unwrap().to_string()), (Ok(2), "pressure".into()));
        assert_eq!((read("7"), read("0xFF")), (Ok(7), Ok(255)));
        assert_eq!((read("exec:echo 0x10 x"), read("exec:printf 9")), (Ok(16), Ok(9)));
        let file = std::env::temp_dir().join(format!("gwm-agent-opaque-{}", std::process::id()));
        std::fs::write(&file, " 12\n").unwrap();
        assert_eq!(read(&format!("file:{}", file.display())), Ok(12));
        std::fs::remove_file(&file).unwrap();
        for bad in ["", "256", "file:", "exec:", "x:1", "exec:true", "exec:echo -1", "file:/nonexistent"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
