//! The layers of the library: each names only those that the table in `lib.rs` lets it know, and only the runtime names
//! glommio.
//!
//! The test reads the table from the documentation of `lib.rs` and every path from the code, so both are always true.
//! Tables of the same form in `coordinator/mod.rs` and `runtime/shard/mod.rs` give the order inside these rooms.
//! A path counts wherever it stands, and means what Rust makes of it: `self`, `super`, renames and globs are resolved.
//! A re-export counts as its original: who names `b::Item` where `b` has `pub use a::Item` must be allowed to know `a`
//! and `b`. An alias (`type`), a function or a field of `b` is `b`'s own, whatever its type. Forms that would hide a
//! path (`extern crate`, `#[path]`, `include!`, `#[macro_use]`, another name for the crate's root, a macro's argument
//! inside a path) are refused. Code for tests only may name everything.

mod house;
mod map;
mod names;
mod planted;

use std::{fs, path::Path, sync::LazyLock};

use house::{House, Source, Target};
use map::Map;

/// What a pure layer may use of other crates; all of it works on values alone.
const PURE: &[&str] = &[
    "std::array",
    "std::borrow",
    "std::cmp",
    "std::collections::BTreeMap",
    "std::collections::BTreeSet",
    "std::collections::BinaryHeap",
    "std::collections::HashMap", // its random seed shows in its order only
    "std::collections::VecDeque",
    "std::error",
    "std::fmt",
    "std::hash::BuildHasher",
    "std::hash::Hash",
    "std::hash::Hasher",
    "std::iter",
    "std::marker",
    "std::mem",
    "std::net::AddrParseError",
    "std::net::IpAddr",
    "std::net::Ipv4Addr",
    "std::net::Ipv6Addr",
    "std::net::SocketAddr",
    "std::num",
    "std::ops",
    "std::result",
    "std::slice",
    "std::str",
    "std::string",
    "std::sync::Arc",
    "std::time::Duration",
    "std::vec",
    "aws_lc_rs::digest",
    "bytes",
    "foldhash::fast::FixedState",
    "hashbrown",
    "lz4_flex::block",
    "percent_encoding",
    "regex::bytes::Regex",  // bounded where it is made
    "rustls::ClientConfig", // kept for the runtime
    "serde",
    "serde_json::from_str",
    "slab",
    "smallvec",
    "x509_parser",
];

/// Macros that a pure layer must not call.
const IMPURE_MACROS: &[&str] = &["dbg", "eprint", "eprintln", "print", "println", "thread_local"];

/// Lower-case names that paths start with, without being a crate's.
const PRIMITIVES: &[&str] = &[
    "bool", "char", "f32", "f64", "i8", "i16", "i32", "i64", "i128", "isize", "str", "u8", "u16", "u32", "u64", "u128",
    "usize",
];

const SRC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// The library as it stands.
static HOUSE: LazyLock<House> = LazyLock::new(|| House::new(&|file| fs::read_to_string(format!("{SRC}/{file}")).ok()));

fn forms_that_hide(house: &House) -> Vec<String> {
    let of = |source: &Source| {
        let line = |(line, form): &(usize, &str)| format!("src/{}:{line}: {form}", source.file);
        source.names.refused.iter().map(line).collect::<Vec<_>>()
    };
    house.sources.iter().flat_map(of).collect()
}

/// Every name of a pure layer that is not on the list.
fn impurities(house: &House, map: &Map) -> Vec<String> {
    let mut found = Vec::new();
    for source in house.sources.iter().filter(|source| map.is_pure(&source.module)) {
        for path in &source.names.paths {
            for target in house.targets(path) {
                let Target::Elsewhere(mut target) = target else { continue };
                if path.call && target.len() == 1 && IMPURE_MACROS.contains(&target[0].as_str()) {
                    found.push(format!("src/{}:{}: {}!", source.file, path.line, target[0]));
                }
                let outside = target[0].starts_with(char::is_lowercase)
                    && !PRIMITIVES.contains(&target[0].as_str())
                    && (target.len() > 1 || path.import);
                if matches!(target[0].as_str(), "core" | "alloc") {
                    "std".clone_into(&mut target[0]);
                }
                let target = target.join("::");
                let below = |name: &str| {
                    target.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
                };
                if outside && !PURE.iter().any(|name| below(name)) {
                    found.push(format!("src/{}:{}: {target}", source.file, path.line));
                }
            }
        }
    }
    found
}

/// Every file outside the runtime that names glommio.
fn glommio_elsewhere(house: &House) -> Vec<String> {
    let others = house.sources.iter().filter(|source| source.module.first().is_none_or(|first| first != "runtime"));
    let mut found = Vec::new();
    for source in others {
        let words = source.names.words.iter().filter(|(_, word)| word == "glommio");
        found.extend(words.map(|(line, _)| format!("src/{}:{line}", source.file)));
        for path in &source.names.paths {
            let is_glommio = |target: &Target| matches!(target, Target::Elsewhere(path) if path[0] == "glommio");
            if house.targets(path).iter().any(is_glommio) {
                found.push(format!("src/{}:{}", source.file, path.line));
            }
        }
    }
    found
}

/// Files with unsafe code that do not say so at their head.
fn unsafe_elsewhere(house: &House) -> Vec<String> {
    let others = house.sources.iter().filter(|source| !source.allows_unsafe);
    let found = others.filter(|source| source.names.words.iter().any(|(_, word)| word == "unsafe"));
    found.map(|source| source.file.clone()).collect()
}

#[track_caller]
fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn layers_name_only_those_they_may_know() {
    none("the code and the table in src/lib.rs differ", &Map::of(&HOUSE, &[]).violations(&HOUSE, &[]));
}

#[test]
fn rooms_keep_to_their_own_tables() {
    for room in [&["coordinator"][..], &["runtime", "shard"]] {
        let what = format!("the code and the table in src/{}/mod.rs differ", room.join("/"));
        none(&what, &Map::of(&HOUSE, room).violations(&HOUSE, room));
    }
}

#[test]
fn no_form_hides_a_path() {
    none("forms that this test does not see through", &forms_that_hide(&HOUSE));
}

#[test]
fn every_file_belongs_to_a_module() {
    fn files(folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).expect("the source folder can be read") {
            let path = entry.expect("a folder entry can be read").path();
            if path.is_dir() {
                files(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = path.strip_prefix(SRC).expect("a file below src");
                found.push(file.to_str().expect("a name in UTF-8").to_owned());
            }
        }
    }
    let mut found = Vec::new();
    files(Path::new(SRC), &mut found);
    found.retain(|file| {
        // Cargo's build script is no part of the library.
        if file == "package/version.rs" {
            return false;
        }
        let module = file.trim_end_matches(".rs").trim_end_matches("/mod");
        let module: Vec<String> = module.split('/').map(str::to_owned).collect();
        !HOUSE.sources.iter().any(|source| source.file == *file)
            && !HOUSE.tests.iter().any(|tests| module.starts_with(tests))
    });
    none("files that no module names", &found);
}

#[test]
fn only_the_runtime_names_glommio() {
    none("glommio is named outside the runtime", &glommio_elsewhere(&HOUSE));
    let mut words = HOUSE.sources.iter().flat_map(|source| &source.names.words);
    assert!(words.any(|(_, word)| word == "glommio"), "no file names glommio: this test reads the wrong files");
}

#[test]
fn the_pure_layers_do_no_io_and_read_no_clock() {
    none("a pure layer names something that is not on the list", &impurities(&HOUSE, &Map::of(&HOUSE, &[])));
}

#[test]
fn unsafe_code_stands_only_in_modules_that_allow_it() {
    none("unsafe code outside a module of its own", &unsafe_elsewhere(&HOUSE));
}
