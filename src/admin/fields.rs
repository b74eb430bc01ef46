//! The fields of the JSON object that a write has, each given once.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::{Map, Value};

/// The fields by name. JSON itself allows a name twice, and readers disagree which of the two counts.
#[derive(Debug)]
pub(super) struct Fields(pub(super) Map<String, Value>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fields, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Fields, A::Error> {
                let mut fields = Map::new();
                while let Some((name, value)) = entries.next_entry::<String, Value>()? {
                    if fields.contains_key(&name) {
                        let name: String = name.chars().take(64).collect();
                        return Err(A::Error::custom(format_args!("{name:?} is given twice: give it once")));
                    }
                    fields.insert(name, value);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_once() {
        let read = |text| serde_json::from_str::<Fields>(text);
        assert_eq!(read(r#"{"a":1,"b":"x"}"#).expect("two names").0.len(), 2);
        for twice in [r#"{"a":1,"a":1}"#, r#"{"a":1,"b":2,"\u0061":3}"#] {
            let error = read(twice).expect_err("twice").to_string();
            assert!(error.starts_with("\"a\" is given twice: give it once"), "{error}");
        }
        assert!(read("[]").is_err() && read("1").is_err());
    }
}
