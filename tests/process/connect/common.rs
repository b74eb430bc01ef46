//! What all connectors have in common, with the one that needs no load balancer: TLS to the GWM, and the file of rules.

use std::fs;

use super::{Connector, Gwm, Member};
use crate::{
    authority::{Authority, Folder},
    harness::{TempFile, run, until},
};

#[test]
fn a_connector_follows_a_gwm_over_tls_with_a_certificate() {
    let (authority, folder) = (Authority::new("root"), Folder::new());
    let (chain, key) = folder.identity("server", &authority.server());
    let (client, client_key) = folder.identity("client", &authority.client("lb"));
    let ca = folder.write("ca.pem", authority.pem());
    let one = Member::start().address;
    let flags = ["--tls-listen", "127.0.0.1:0", "--tls-cert", &chain, "--tls-key", &key, "--tls-client-ca", &ca];
    let gwm = Gwm::start_with(&[(one, Some(40))], &flags);
    let port = gwm.daemon.addresses().last().expect("it listens").port();
    let (address, group) = (format!("localhost:{port}"), format!("web={one}"));
    let (template, output) = (folder.write("template", "{{ groups[0].members[0].state }}"), folder.path("output"));
    let file = ["file", "--group", &group, "--template", &template, "--output", &output];
    let tls = ["--gwm", &address, "--tls", "--tls-ca", &ca];
    let stranger = Connector::start(&[&tls[..], &file].concat());
    stranger.wait_for_log(&["WARN", &address, "certificate"]);
    drop(stranger);
    let proof = ["--tls-cert", &client, "--tls-key", &client_key];
    let _connector = Connector::start(&[&tls[..], &proof, &file].concat());
    until("the weights come over TLS", || fs::read_to_string(&output).is_ok_and(|text| text == "serving"));
}

#[test]
fn a_file_of_rules_maps_pools_to_groups() {
    let (folder, map) =
        (Folder::new(), "[[map]]\npool = \"web-*\"\ngroup = \"edge-*\"\n\n[[map]]\npool = \"st?ts\"\nignore = true\n");
    let (rules, template) = (folder.write("map.toml", map), folder.write("template", ""));
    let groups = ["web-1", "stats", "api"].map(|group| format!("{group}=10.0.0.1:80"));
    let check = |rules: &str| {
        let flags = ["connect", "--uid", "LB1", "--check", "--map", "api=back", "--map-file", rules, "file"];
        let output = folder.path("output");
        let groups = groups.iter().flat_map(|group| ["--group", group]);
        let file = ["--template", &template, "--output", &output];
        run(&flags.into_iter().chain(groups).chain(file).collect::<Vec<_>>())
    };
    let output = check(&rules);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in ["pool web-1: group edge-web-1", "pool stats: left alone", "pool api: group back"] {
        assert!(text.lines().any(|printed| printed == line), "{line}: {output:?}");
    }
    let wrong = TempFile::new("map.toml", "[[map]]\npool = \"x\"\n");
    let output = check(wrong.path());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && text.contains("either `group` or `ignore = true`"), "{output:?}");
}
