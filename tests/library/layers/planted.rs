//! Planted violations: each form that Rust allows is found, and innocent text is not.

use super::{forms_that_hide, glommio_elsewhere, house::House, impurities, map::Map, unsafe_elsewhere};

const LIB: &str = "//! | module | what | may know | pure |
//! | --- | --- | --- | --- |
//! | [`time`] | | | yes |
//! | [`sasp`] | | `time` | yes |
//! | [`coordinator`] | | `time`, `sasp` | no |
//! | [`runtime`] | | `coordinator` | no |
//! | `main.rs` | | `runtime` | no |
pub mod coordinator;
pub mod runtime;
pub mod sasp;
pub mod time;
";

/// A small house that keeps to its table; each plant replaces or adds a file.
const FILES: &[(&str, &str)] = &[
    ("lib.rs", LIB),
    ("main.rs", "fn main() { gwm::runtime::run() }"),
    ("time.rs", "pub struct Time;"),
    ("sasp/mod.rs", "pub mod reader; use crate::time::Time; pub use reader::Reader;"),
    ("sasp/reader.rs", "pub struct Reader;"),
    (
        "coordinator/mod.rs",
        "mod tables; pub use crate::time::Time; pub use tables::Table; pub use crate::sasp as wire;",
    ),
    ("coordinator/tables.rs", "pub struct Table;"),
    ("runtime.rs", "use crate::coordinator::Table; pub fn run() { glommio::spawn() }"),
];

fn planted(plants: &[(&str, &str)]) -> House {
    let files: Vec<_> = plants.iter().chain(FILES).collect();
    House::new(&|file| files.iter().find(|(name, _)| *name == file).map(|(_, text)| (*text).to_owned()))
}

fn violations(plants: &[(&str, &str)]) -> Vec<String> {
    let house = planted(plants);
    Map::of(&house, &[]).violations(&house, &[])
}

const READER: &str = "sasp/reader.rs";
const FOUND: &str = "`sasp` must not know `runtime`";

#[test]
fn the_small_house_keeps_to_its_table() {
    assert_eq!(violations(&[]), [""; 0]);
    let house = planted(&[]);
    assert_eq!(forms_that_hide(&house), [""; 0]);
    assert_eq!(impurities(&house, &Map::of(&house, &[])), [""; 0]);
    assert_eq!(glommio_elsewhere(&house), [""; 0]);
    assert_eq!(unsafe_elsewhere(&house), [""; 0]);
}

#[test]
fn every_form_of_a_forbidden_path_is_found() {
    let forms = [
        // `use` in every form.
        "use crate::runtime;",
        "use crate::runtime::Shard;",
        "pub use crate::runtime::Shard;",
        "pub(crate) use crate::runtime::Shard as Other;",
        "use crate::runtime as other;",
        "use crate::runtime::*;",
        "use crate::{\n    coordinator::Table,\n    runtime::{self, Shard},\n};",
        "use {crate::{time::Time, runtime::{shard::{Shard}}}};",
        "use {std::fmt, crate::{self as _, runtime}};",
        "use super::super::runtime::Shard;",
        "use super::super::{time::Time, runtime};",
        "use self::super::super::runtime::Shard;",
        "use super::{super::runtime, Reader};",
        "use gwm::runtime::Shard;",
        "use ::gwm::runtime::Shard;",
        "use ::{gwm::runtime};",
        "use crate::r#runtime::Shard;",
        "use crate /* so */ :: // and so\n runtime::Shard;",
        "fn f() { use crate::runtime::Shard; }",
        "mod inner { use super::super::super::runtime; }",
        "mod inner { mod more { fn f() { super::super::super::super::runtime::run() } } }",
        "fn f() { mod inner { use super::super::super::runtime; } }",
        // Paths without `use`.
        "fn f() { crate::runtime::run() }",
        "fn f() { super::super::runtime::run::<u8>() }",
        "fn f(shard: &crate::runtime::Shard) {}",
        "fn f() -> ::gwm::runtime::Shard { loop {} }",
        "fn f() { return ::gwm::runtime::run(); }",
        "fn f(x: &dyn ::gwm::runtime::Port) {}",
        "type Other = Vec<Option<crate::runtime::Shard>>;",
        "struct S { shard: crate::runtime::Shard }",
        "fn f(x: u8) { match x { crate::runtime::ONE => {} _ => {} } }",
        "fn f(x: S) { let crate::runtime::Shard { .. } = x else { return }; }",
        "impl crate::runtime::Port for S {}",
        "impl<T: crate::runtime::Port> S<T> where T: crate::runtime::Port {}",
        "fn f() { <S as crate::runtime::Port>::open() }",
        "fn f() { <crate::runtime::Shard>::open() }",
        "const N: usize = crate::runtime::N;",
        "static A: [u8; crate::runtime::N] = [0; 1];",
        "fn f() { let x = |y: crate::runtime::Shard| y; }",
        "enum E { A = crate::runtime::A as isize }",
        "fn f() -> impl Fn(crate::runtime::Shard) { |_| {} }",
        // Renames and globs on the way.
        "use crate::coordinator as c; use crate::runtime as r; fn f() { r::run() }",
        // In macros.
        "fn f() { println!(\"{}\", crate::runtime::N) }",
        "fn f() { assert!(matches!(1, crate::runtime::ONE)) }",
        "macro_rules! m { () => { $crate::runtime::run() } }",
        "macro_rules! m { () => { use $crate::{time::Time, runtime::Shard}; } }",
        "m! { use crate::{time::Time, runtime::*}; }",
        "m! { crate::{runtime} }",
        // In attributes.
        "#[derive(crate::runtime::Port)] struct S;",
        "#[serde(with = \"crate::runtime::format\")] struct S;",
        "#[cfg_attr(unix, doc(alias = \"x\"), serde(default = \"super::super::runtime::format\"))] struct S;",
        // Tests of another kind are no unit tests.
        "#[cfg(any(test, unix))] use crate::runtime::Shard;",
        "#[cfg(not(test))] use crate::runtime::Shard;",
    ];
    for form in forms {
        let found = violations(&[(READER, form)]);
        assert!(found.iter().any(|line| line.contains(FOUND) && line.contains(READER)), "{form}\n{found:#?}");
    }
    let inner =
        violations(&[("sasp/reader.rs", "mod inner;"), ("sasp/reader/inner.rs", "use super::super::super::runtime;")]);
    assert!(inner.iter().any(|line| line.contains(FOUND)), "{inner:?}");
}

#[test]
fn a_re_export_counts_as_its_original() {
    let bridges = [
        // `coordinator` may know `sasp` and `time`; `runtime` may know `coordinator` alone.
        ("use crate::coordinator::Time;", "time"),
        ("use crate::coordinator::*;", "time"),
        ("use crate::coordinator::{self as c}; fn f(_: c::Time) {}", "time"),
        ("use crate::coordinator as c; fn f(_: c::Time) {}", "time"),
        ("fn f(_: crate::coordinator::Time) {}", "time"),
        ("use crate::coordinator::wire::Reader;", "sasp"),
        ("use crate::coordinator::wire; fn f(_: wire::Reader) {}", "sasp"),
        ("mod a { pub use crate::coordinator as c; } use a::c; fn f(_: c::Time) {}", "time"),
        ("mod a { pub use crate::coordinator as c; } mod b { use super::a::*; fn f(_: c::Time) {} }", "time"),
    ];
    for (text, layer) in bridges {
        let text = format!("use crate::coordinator::Table; {text}");
        let (found, expected) = (violations(&[("runtime.rs", &text)]), format!("`runtime` must not know `{layer}`"));
        assert!(found.iter().any(|line| line.contains(&expected)), "{text}\n{found:#?}");
    }
    // Through a glob of the module's own, and a second step.
    let files = [
        (
            "coordinator/mod.rs",
            "mod tables; pub use tables::*; pub use crate::time::Time; pub use crate::sasp as wire;",
        ),
        ("coordinator/tables.rs", "pub struct Table; pub use super::Time as Moment;"),
        ("runtime.rs", "use crate::coordinator::{Moment, Table};"),
    ];
    assert!(violations(&files)[0].contains("`runtime` must not know `time`"), "{:#?}", violations(&files));
}

#[test]
fn forms_that_hide_a_path_are_refused() {
    let forms = [
        "extern crate gwm as g;",
        "extern crate self as g;",
        "pub extern crate std as s;",
        "include!(\"../runtime.rs\");",
        "fn f() { std::include!(\"x\") }",
        "use std::include as i; i!(\"x\");",
        "#[macro_use] mod inner {}",
        "#[macro_export] macro_rules! m { () => {} }",
        "#[cfg_attr(unix, macro_use)] mod inner {}",
        "mod inner { #[path = \"../runtime.rs\"] mod other {} }",
        "#[cfg_attr(unix, path = \"../runtime.rs\")] mod other {}",
        "macro_rules! m { ($m:ident) => { crate::$m::run() } }",
        "macro_rules! m { ($m:ident) => { use crate::{time::Time, $m::Shard}; } }",
        "macro_rules! m { ($m:ident) => { use super::super::$m; } }",
    ];
    for form in forms {
        assert!(!forms_that_hide(&planted(&[(READER, form)])).is_empty(), "{form}");
    }
    // Another name for the root would be a way around the table.
    let forms = [
        "use crate as c; fn f() { c::runtime::run() }",
        "use crate::*;",
        "use crate::{self as c};",
        "use super::super as c;",
        "use super::super::*;",
        "use super::{super as c};",
        "use gwm as c;",
        "use ::gwm as c;",
        "use gwm::*;",
        "use {gwm as c, std::fmt};",
        "m!(crate, runtime);",
        "m!(super::super, runtime);",
    ];
    for form in forms {
        let found = violations(&[(READER, form)]);
        assert!(found.iter().any(|line| line.contains("the crate as a whole")), "{form}\n{found:#?}");
    }
}

#[test]
fn innocent_text_is_not_found() {
    let innocent = [
        "//! Not crate::runtime.\n/// [`crate::runtime`]\nfn f() { /* crate::runtime */ } // crate::runtime",
        "#[doc = \"crate::runtime\"] fn f() { let x = \"crate::runtime::run(); unsafe glommio\"; }",
        "fn f(runtime: u8) -> u8 { let gwm = runtime; gwm + runtime.runtime.glommia }",
        "mod runtime { pub fn run() {} } fn f() { runtime::run(); self::runtime::run(); super::reader::runtime::run() }",
        "use super::Reader; use self::inner::X; mod inner { pub struct X; use super::super::reader; use super::X as Y; }",
        "pub(crate) fn f() {} pub(super) struct S(pub(in crate::sasp) u8);",
        "struct S<'runtime>(&'runtime u8); fn f() { 'runtime: loop { break 'runtime } }",
        "fn f() { crate::sasp::Reader; gwm::time::Time; crate::time::Time::runtime() }",
        "fn f() { let x = self.runtime::<u8>(); Reader::runtime(); <u8 as From<u8>>::from(1) }",
        "#[cfg(test)] use crate::runtime::Shard;",
        "#[cfg(test)] mod tests { use crate::runtime::Shard; use std::fs; extern crate std; unsafe fn f() {} }",
        "#[cfg(test)] mod tests; // a file that is not read",
        "impl S { #[cfg(test)] fn f() { crate::runtime::run() } }",
        "fn f() { #[cfg(test)] let x = crate::runtime::run(); }",
        "use std::fmt; fn f() -> std::fmt::Result { core::mem::take(&mut 1u8); u8::try_from(1); write!(f, \"\") }",
    ];
    for text in innocent {
        assert_eq!(violations(&[(READER, text)]), [""; 0], "{text}");
        let house = planted(&[(READER, text)]);
        assert_eq!(forms_that_hide(&house), [""; 0], "{text}");
        assert_eq!(impurities(&house, &Map::of(&house, &[])), [""; 0], "{text}");
        assert_eq!(glommio_elsewhere(&house), [""; 0], "{text}");
        assert_eq!(unsafe_elsewhere(&house), [""; 0], "{text}");
    }
}

#[test]
fn the_table_and_the_modules_are_the_same() {
    let lib = |from: &str, to: &str| {
        assert!(LIB.contains(from), "{from}");
        violations(&[("lib.rs", &LIB.replace(from, to))])
    };
    assert_eq!(
        lib("//! | [`time`] | | | yes |\n", "//! | [`time`] | | | yes |\n//! | [`tls`] | | | no |\n"),
        ["row `tls` has no module"]
    );
    let found = violations(&[("lib.rs", &format!("{LIB}pub mod tls;")), ("tls.rs", "")]);
    assert_eq!(found, ["module `tls` has no row"]);
    let found = violations(&[("lib.rs", &format!("{LIB}mod tls {{ use crate::runtime::run; }}"))]);
    assert!(found.contains(&"module `tls` has no row".to_owned()), "{found:?}");
    assert_eq!(lib("`time`, `sasp` |", "`time`, `sasp`, `runtime` |").len(), 2, "not above, and not used");
    let found = lib("[`sasp`]", "[`sasp`], [`time`]");
    assert!(found.iter().any(|line| line.contains("a row is about one module")), "{found:?}");
    let found = lib("| may know |", "| knows |");
    assert!(found.iter().any(|line| line.contains("has no table with a column \"may know\"")), "{found:?}");
    let found = violations(&[("sasp/mod.rs", "pub mod reader; pub use reader::Reader;")]);
    assert_eq!(found, ["`sasp` may know `time` and does not: take the permission away"]);
    // An item of lib.rs belongs to no module, so that others could be reached through it.
    let found = violations(&[("lib.rs", &format!("{LIB}pub use runtime::run;")), (READER, "use crate::run;")]);
    assert!(found.iter().any(|line| line.contains("`run` is no module with a row")), "{found:?}");
    let bridge = "macro_rules! run { () => { $crate::runtime::run() } }\n";
    let found = violations(&[("lib.rs", &LIB.replace("pub mod sasp;", &format!("{bridge}pub mod sasp;")))]);
    assert!(found[0].contains("lib.rs declares modules and nothing else"), "{found:?}");
}

#[test]
fn a_room_has_a_table_of_its_own() {
    let room = "//! | module | may know |
//! | --- | --- |
//! | `ids` | |
//! | `tables` | `ids` |
//! | `check` | all |
//! | `coordinator` | all |
mod check; mod ids; mod tables; pub use ids::Id; use crate::time::Time; use crate::sasp as wire;
struct Coordinator;";
    let files = [
        ("coordinator/mod.rs", room),
        ("coordinator/ids.rs", "pub struct Id;"),
        ("coordinator/tables.rs", "use super::Id; pub struct Table;"),
        ("coordinator/check.rs", "use super::{Coordinator, tables::Table}; use crate::time::Time;"),
    ];
    let violations = |plant: (&str, &str)| {
        let house = planted(&[&[plant], &files[..]].concat());
        Map::of(&house, &["coordinator"]).violations(&house, &["coordinator"])
    };
    assert_eq!(violations(files[0]), [""; 0]);
    for (text, known) in [
        ("use super::Id; use super::Coordinator;", "coordinator"),
        ("use super::Id; use crate::coordinator::check;", "check"),
        ("use super::{Id, *};", "coordinator"),
        ("use super::Id; mod inner { use super::super::check::f; }", "check"),
    ] {
        let (found, expected) = (violations((files[2].0, text)), format!("`tables` must not know `{known}`"));
        assert!(found.iter().any(|line| line.contains(&expected)), "{text}\n{found:#?}");
    }
    assert_eq!(violations((files[2].0, "")), ["`tables` may know `ids` and does not: take the permission away"]);
    assert_eq!(
        violations((files[0].0, &room.replace("mod ids;", "mod ids; mod group {}"))),
        ["module `group` has no row"]
    );
}

#[test]
fn impure_names_are_found_in_pure_layers_only() {
    let impure = [
        "use std::fs;",
        "use std::{fmt, io::{self, Read}};",
        "use std::net::{IpAddr, TcpStream};",
        "use std::net::*;",
        "use std::*;",
        "use std as s; fn f() { s::fs::read(\"\") }",
        "use ::std::time::Instant;",
        "fn f() { std::time::SystemTime::now() }",
        "fn f() -> ::std::sync::Mutex<u8> { loop {} }",
        "fn f() { core::sync::atomic::fence(x) }",
        "use alloc::sync::Weak;",
        "use std::{sync as s}; fn f() { s::RwLock::new(1) }",
        "use std::thread;",
        "use std::env; use std::process;",
        "use std::hash::RandomState;",
        "use std::cell::RefCell;",
        "fn f() { println!(\"x\") }",
        "fn f() { std::eprintln!(\"x\") }",
        "thread_local! { static X: u8 = 1; }",
        "use rustix::net;",
        "fn f() { socket2::Socket::new() }",
        "fn f() { fastrand::u8(..) }",
        "use aws_lc_rs::rand;",
        "use aws_lc_rs::{digest, rand::SystemRandom};",
        "use crate::coordinator::Clock; fn f() {}",
        "#[serde(with = \"std::fs\")] struct S;",
        "macro_rules! m { () => { ::std::fs::read(\"\") } }",
    ];
    let plant = |file, text| {
        let bridge = ("coordinator/mod.rs", "mod tables; pub use std::time::Instant as Clock;");
        let house = planted(&[(file, text), bridge]);
        impurities(&house, &Map::of(&house, &[]))
    };
    for text in impure {
        assert!(plant(READER, text).iter().any(|line| line.contains(READER)), "{text}");
        assert_eq!(plant("coordinator/tables.rs", text), [""; 0], "{text}");
    }
}

#[test]
fn glommio_is_found_outside_the_runtime_only() {
    let forms = [
        "use glommio::Task;",
        "use {std::fmt, glommio as g};",
        "fn f() { ::glommio::spawn_local(x) }",
        "fn f() { m!(glommio) }",
        "extern crate glommio;",
        "use crate::runtime::g; fn f() { g::spawn_local(x) }",
        "fn f() { crate::runtime::g::spawn_local(x) }",
    ];
    for form in forms {
        for file in [READER, "main.rs", "coordinator/tables.rs"] {
            let runtime = ("runtime.rs", "pub use glommio as g;");
            let found = glommio_elsewhere(&planted(&[(file, form), runtime]));
            assert!(found.iter().any(|line| line.contains(file)), "{form}");
            assert!(!found.iter().any(|line| line.contains("runtime.rs")), "{form}");
        }
    }
}

#[test]
fn unsafe_code_is_found_in_files_that_do_not_allow_it() {
    let forms = [
        "fn f() { unsafe { g() } }",
        "unsafe fn f() {}",
        "unsafe impl Send for S {}",
        "fn f() { m!(unsafe { g() }) }",
        "#[allow(unsafe_code)] mod inner { unsafe fn f() {} }",
        "#[unsafe(no_mangle)] fn f() {}",
    ];
    for form in forms {
        assert_eq!(unsafe_elsewhere(&planted(&[(READER, form)])), [READER], "{form}");
        let allowed = format!("#![allow(unsafe_code)]\n{form}");
        assert_eq!(unsafe_elsewhere(&planted(&[(READER, &allowed)])), [""; 0], "{form}");
    }
}
