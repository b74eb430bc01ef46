//! TSIG keys in the files that BIND's `tsig-keygen` and Knot's `keymgr -t` write.

use std::path::Path;

pub use domain::tsig::Key;
use domain::{base::Name, tsig::Algorithm, utils::base64};

use crate::files;

/// The most bytes of a key file.
const FILE_BYTES: u64 = 64 << 10;

/// Reads a key. An error does not repeat the secret.
pub fn read_key(path: &Path) -> Result<Key, String> {
    let text = files::read(path, "TSIG key", FILE_BYTES).map_err(|error| error.to_string())?;
    parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// `key "NAME" { algorithm NAME; secret "BASE64"; };`, or a line `[ALGORITHM:]NAME:BASE64` that may begin with `#`.
pub(crate) fn parse(text: &str) -> Result<Key, String> {
    let first = text.lines().map(|line| line.trim_start_matches(['#', ' '])).find(|line| !line.trim().is_empty());
    let first = first.ok_or("the file is empty")?.trim();
    let parts: Vec<&str> = first.split(':').collect();
    match &parts[..] {
        _ if first.starts_with("key ") || first.starts_with("key\t") => parse_block(text),
        [name, secret] => key("hmac-sha256", name, secret),
        [algorithm, name, secret] => key(algorithm, name, secret),
        _ => Err("it is not a TSIG key: write `key \"NAME\" { algorithm hmac-sha256; secret \"BASE64\"; };`".into()),
    }
}

fn parse_block(text: &str) -> Result<Key, String> {
    let spaced: String = text.chars().map(|c| if matches!(c, '{' | '}' | ';' | '"') { ' ' } else { c }).collect();
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let after = |word: &str| {
        let at = words.iter().position(|other| *other == word);
        at.and_then(|at| words.get(at + 1)).copied().ok_or_else(|| format!("the key has no `{word}`"))
    };
    key(after("algorithm")?, after("key")?, after("secret")?)
}

fn key(algorithm: &str, name: &str, secret: &str) -> Result<Key, String> {
    let algorithm: Algorithm = algorithm.to_ascii_lowercase().trim_end_matches('.').parse().map_err(|_| {
        format!("`{algorithm}` is not an algorithm: hmac-sha1, hmac-sha256, hmac-sha384 or hmac-sha512")
    })?;
    let mut name: Name<_> = name.parse().map_err(|_| format!("`{name}` is not the name of a key"))?;
    name.make_canonical();
    let secret: Vec<u8> = base64::decode(secret).map_err(|_| "the secret is not base64".to_owned())?;
    if secret.is_empty() {
        return Err("the secret is empty".into());
    }
    Key::new(algorithm, &secret, name, None, None).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_others_are_read() {
        let same = |text: &str| {
            let key = parse(text).unwrap();
            (key.name().to_string(), key.algorithm().to_string())
        };
        let expected = ("gwm.example".to_owned(), "hmac-sha512".to_owned());
        let bind = "key \"GWM.example\" {\n\talgorithm hmac-sha512;\n\tsecret \"AAECAwQFBgc=\";\n};\n";
        assert_eq!(same(bind), expected);
        let knot = "# hmac-sha512:gwm.example.:AAECAwQFBgc=\nkey:\n  - id: gwm.example.\n    algorithm: hmac-sha512\n";
        assert_eq!(same(knot), expected);
        assert_eq!(same("\ngwm:AAECAwQFBgc=\n"), ("gwm".into(), "hmac-sha256".into()));
    }

    #[test]
    fn mistakes_are_told_without_the_secret() {
        for (text, says) in [
            ("", "empty"),
            ("\n \n", "empty"),
            ("nonsense", "not a TSIG key"),
            ("hmac-md5:gwm:SECRET==", "not an algorithm"),
            ("gwm:SECRET!", "not base64"),
            ("gwm:", "the secret is empty"),
            ("a..b:AAECAwQFBgc=", "not the name of a key"),
            ("key \"gwm\" { algorithm hmac-sha256; };", "no `secret`"),
            ("key gwm { secret \"SECRET\"; };", "no `algorithm`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says) && !error.contains("SECRET"), "{text}: {error}");
        }
    }
}
