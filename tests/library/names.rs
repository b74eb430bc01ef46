//! UIDs, names and labels are bytes: what `gwm` prints means the same bytes wherever a person pastes it. And two spellings
//! of an address.

use std::path::Path;

use gwm::{
    access::{Identity, Peer},
    client::spec,
    config::{
        access::{self, Rules},
        members::{self, Defaults},
    },
    judgement::Policy,
    pattern::Pattern,
    sasp::{Dump, Endpoint, Escaped, Health, LbFlags, Message, unescape, writer},
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, RngSeed},
};

/// Bytes of every kind, with those that have a meaning somewhere more often.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let special = prop::sample::select(b"\\\\\\'\"=*?- xX7FfuU{}n0\n\r\t\0\x7F\xFF\xC3\xBC".to_vec());
    let characters = vec(any::<char>(), 1..=16).prop_map(|characters| String::from_iter(characters).into_bytes());
    prop_oneof![vec(any::<u8>(), 1..=64), vec(special, 1..=64), characters]
}

proptest! {
    #![proptest_config(Config { cases: 1000, rng_seed: RngSeed::Fixed(4678), failure_persistence: None, ..Config::default() })]

    #[test]
    fn what_is_printed_can_be_pasted(name in name()) {
        let shown = Escaped(&name).to_string();
        // Between ' and ' in a shell and in TOML, as one word, and not as a flag.
        prop_assert!(!shown.contains(|character: char| character.is_control() || character == '\''), "{}", shown);
        prop_assert!(shown.trim_end() == shown && !shown.starts_with('-'), "{}", shown);
        prop_assert_eq!(unescape(&shown), Ok(name.clone()));

        // On the command line.
        prop_assert_eq!(&*spec::lb_uid(&shown).unwrap(), &name[..]);
        prop_assert_eq!(&*spec::group_name(&shown).unwrap(), &name[..]);
        prop_assert_eq!(&*spec::label(&shown).unwrap(), &name[..]);
        let alone = spec::group(&shown).unwrap();
        prop_assert_eq!((&*alone.name, alone.members.len()), (&name[..], 0));
        let group = spec::group(&format!("{shown}=10.0.0.1:80")).unwrap();
        prop_assert_eq!((&*group.name, group.members.len()), (&name[..], 1));

        // As a pattern: this name and no other.
        let pattern = Pattern::parse(&shown).unwrap();
        prop_assert_eq!(Pattern::parse(&pattern.to_string()), Ok(pattern.clone()));
        prop_assert!(pattern.fits(&name));
        for at in 0..name.len() {
            let mut other = name.clone();
            other[at] ^= 1;
            prop_assert!(!pattern.fits(&other), "{} fits {}", pattern, Escaped(&other));
        }
        prop_assert!(!pattern.fits(&name[1..]) && !pattern.fits(&[&name[..], b"x"].concat()));

        // In files: as a literal string, and as it stands in JSON.
        for written in [format!("'{shown}'"), serde_json::to_string(&shown).unwrap()] {
            let rules = Rules { lb_identity: Identity::SourceIp, member_identity: Identity::Any, common_name: false };
            let file = format!("[[lb]]\nuid = {written}\naddresses = ['10.0.0.1']\n");
            let access = access::parse(&file, &rules).unwrap();
            prop_assert!(access.is_lb(&Peer::from(std::net::IpAddr::from([10, 0, 0, 1])), &name), "{}", file);
            let file = format!("[[group]]\nname = {written}\npolicy = 'static'\n");
            let roster = members::parse(&file, Path::new(""), &Defaults::unwatched(100)).unwrap();
            prop_assert_eq!(roster.policy(&name), Policy::Static);
        }

        // `gwm decode`.
        let mut bytes = Vec::new();
        writer::set_lb_state_request(&mut bytes, 1, &name, Health::BEST, LbFlags::NONE).unwrap();
        let (header, message) = Message::decode(&bytes).unwrap();
        let dump = Dump(&header, &message);
        let line = format!("\n  LB UID: \"{shown}\"\n");
        prop_assert!(dump.to_string().contains(&line), "{}", dump);
        let json = serde_json::to_value(dump).unwrap();
        prop_assert_eq!(json["lb_uid"].as_str(), Some(&shown[..]));
    }

    #[test]
    fn every_text_means_bytes_or_is_refused(text in vec(prop::sample::select("\\\\\\xu{}0Ff9nü'=".chars().collect::<Vec<_>>()), 0..12)) {
        let text = String::from_iter(text);
        if let Ok(bytes) = unescape(&text) {
            prop_assert_eq!(unescape(&Escaped(&bytes).to_string()), Ok(bytes));
        } else {
            prop_assert!(text.contains('\\'));
        }
    }
}

#[test]
fn an_endpoint_has_one_spelling_for_its_operator() {
    let endpoint = |address: &str| Endpoint::new(address.parse().unwrap(), 6, 80);
    let ipv4 = endpoint("10.0.0.1");
    assert_eq!(ipv4, endpoint("::10.0.0.1"), "the bytes on the wire are the same");
    assert_ne!(ipv4, endpoint("::ffff:10.0.0.1"), "on the wire they differ");
    assert_eq!(endpoint("::ffff:10.0.0.1").to_string(), "[::ffff:10.0.0.1]:80", "and so they do for people");
    for address in ["10.0.0.1", "::10.0.0.1", "::ffff:10.0.0.1", "::ffff:a00:1"] {
        assert_eq!(endpoint(address).canonical(), ipv4, "{address}");
    }
    for address in
        ["::", "::1", "2001:db8::1", "::fffe:10.0.0.1", "::ffff:0:10.0.0.1", "::ffff:0.0.0.0", "::ffff:0.0.0.1"]
    {
        assert_eq!(endpoint(address).canonical(), endpoint(address), "{address}");
    }
}
