use std::{collections::BTreeMap, env, fmt::Write, fs};

use super::{
    super::{Given, Source},
    *,
};

/// Values for the flags without a default, in the example.
const VALUES: [(&str, &str); 27] = [
    ("listen", r#"["127.0.0.1:3860"]"#),
    ("tls-listen", r#"["[::]:3861", "0.0.0.0:3861"]"#),
    ("tls-cert", r#""chain.pem""#),
    ("tls-key", r#""key.pem""#),
    ("tls-client-ca", r#""clients.pem""#),
    ("tls-allow-expired", "false"),
    ("require-tls", "false"),
    ("lb-identity-common-name", "false"),
    ("access", r#""access.toml""#),
    ("shards", "1"),
    ("cpus", r#""0,1""#),
    ("state", r#""/var/lib/gwm""#),
    ("state-reset", "false"),
    ("max-connections", "16384"),
    ("max-connections-per-source", "8192"),
    ("max-memberships-per-lb", "500000"),
    ("members", r#""members.toml""#),
    ("probe-fast-interval", r#""2s""#),
    ("probe-timeout", r#""2s""#),
    ("max-probes", "4096"),
    ("witness", r#"["192.0.2.1", "192.0.2.53:53"]"#),
    ("report-lifetime", r#""3m""#),
    ("admin-listen", r#"["unix:/run/gwm/admin.sock", "127.0.0.1:9860"]"#),
    ("admin-tls-cert", r#""admin-chain.pem""#),
    ("admin-tls-key", r#""admin-key.pem""#),
    ("admin-tls-client-ca", r#""operators.pem""#),
    ("admin-token-file", r#""admin-token""#),
];

/// The same, for those that are not in a row with them.
const MORE_VALUES: [(&str, &str); 8] = [
    ("agent-listen", r#"["127.0.0.1:3862"]"#),
    ("agent-lb", r#""LB1""#),
    ("fleet", r#""etcd://10.0.0.11:2379,10.0.0.12:2379,10.0.0.13:2379""#),
    ("node", r#""a""#),
    ("fleet-credentials", r#""etcd-user""#),
    ("fleet-tls-ca", r#""etcd-ca.pem""#),
    ("fleet-tls-cert", r#""etcd-chain.pem""#),
    ("fleet-tls-key", r#""etcd-key.pem""#),
];

/// The flags that have a key, as they are defined.
fn defined() -> Vec<Arg> {
    let has_key = |flag: &&Arg| !WITHOUT_KEY.contains(&flag.get_long().unwrap());
    bare().get_arguments().filter(has_key).cloned().collect()
}

/// The same under the headings of the help; those without one come first.
fn flags() -> Vec<Arg> {
    let mut flags = defined();
    let mut headings = vec![None];
    for heading in flags.iter().map(Arg::get_help_heading) {
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    let headings: Vec<Option<String>> = headings.into_iter().map(|heading| heading.map(str::to_owned)).collect();
    flags.sort_by_key(|flag| headings.iter().position(|heading| heading.as_deref() == flag.get_help_heading()));
    flags
}

fn name(flag: &Arg) -> String {
    flag.get_long().expect("a flag of `gwm serve` has a long name").to_owned()
}

/// The example's value of a flag.
fn value(flag: &Arg) -> String {
    let value = VALUES.iter().chain(&MORE_VALUES).find(|(name, _)| flag.get_long() == Some(name));
    match (value, flag.get_default_values()) {
        (Some((_, value)), _) => (*value).to_owned(),
        (None, [default]) if default.to_str().unwrap().parse::<u64>().is_ok() => default.to_str().unwrap().to_owned(),
        (None, [default]) => format!("{default:?}"),
        (None, _) => panic!("{flag} has no default, and no value in `VALUES`"),
    }
}

/// Adds a text as comments.
fn comment(page: &mut String, text: &str, indent: &str) {
    let mut line = format!("#{indent}");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > 110 {
            writeln!(page, "{line}").unwrap();
            line = format!("#{indent}");
        }
        line += " ";
        line += word;
    }
    writeln!(page, "{line}").unwrap();
}

/// The example: all flags, by their definitions.
fn example() -> String {
    let mut page = String::from(
        "# The flags of `gwm serve`, for --config. This file is an example: each line that is commented out shows the\n\
         # default, or a value for a setting that has none. Names of files are relative to this file's directory. An\n\
         # argument counts before the environment, and the environment before this file. What is changed here counts after\n\
         # a restart; `gwm serve --config FILE --check` looks for mistakes first, and --print-config shows what is in force.\n",
    );
    let mut part = None;
    for flag in flags() {
        let heading = flag.get_help_heading().map(str::to_owned);
        if let Some(begins) = heading.as_ref().filter(|_| heading != part) {
            write!(page, "\n\n# ---- {begins} ----\n").unwrap();
        }
        part = heading;
        page.push('\n');
        comment(&mut page, &flag.get_help().expect("each flag has a help text").to_string(), "");
        for choice in flag.get_possible_values().iter().filter(|_| flag.get_action().takes_values()) {
            let help = choice.get_help().map(|help| format!(": {help}")).unwrap_or_default();
            comment(&mut page, &format!("\"{}\"{help}", choice.get_name()), "  ");
        }
        writeln!(page, "#{} = {}", name(&flag), value(&flag)).unwrap();
    }
    page
}

/// The file without the marks that comment its settings out.
fn uncommented(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(|first: char| first.is_ascii_lowercase()) => format!("{setting}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn the_example_has_every_flag() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/package/serve.toml");
    let example = example();
    if env::var_os("GWM_WRITE_EXAMPLE").is_some() {
        fs::write(path, &example).unwrap();
    }
    let file = fs::read_to_string(path).unwrap();
    assert!(file == example, "write {path} again: set GWM_WRITE_EXAMPLE for this test");
    assert_eq!(parse(&file, Path::new("")), Ok(Vec::new()), "all is commented out");
    let entries = parse(&uncommented(&file), Path::new("/etc/gwm")).unwrap();
    let keys: Vec<String> = entries.iter().map(|entry| entry.flag.clone()).collect();
    assert_eq!(keys, flags().iter().map(name).collect::<Vec<_>>());
}

/// The sources and values of all settings, if a file is all that says something.
fn settings(text: &str) -> BTreeMap<String, (Option<String>, Source)> {
    let file = ConfigFile { path: "serve.toml".into(), entries: parse(text, Path::new("")).unwrap() };
    let words: Vec<OsString> = file.entries.iter().flat_map(Entry::arguments).collect();
    let matches = bare().try_get_matches_from(words).unwrap();
    let given = Given::of(&matches, Some(file));
    given.settings(None).into_iter().map(|setting| (setting.flag, (setting.value, setting.source))).collect()
}

#[test]
fn each_flag_says_the_same_in_a_file_and_as_an_argument() {
    for flag in flags() {
        let (name, value) = (name(&flag), value(&flag));
        let said = settings(&format!("\n{name} = {value}\n"));
        let (of_file, source) = &said[&format!("--{name}")];
        assert_eq!(*source, Source::File(Place { path: "serve.toml".into(), line: 2 }), "{name}");
        let values: Vec<String> =
            value.trim_matches(['[', ']']).split(", ").map(|one| one.trim_matches('"').into()).collect();
        let words = match flag.get_action() {
            ArgAction::SetTrue => Vec::new(),
            _ => values.iter().map(|value| format!("--{name}={value}")).collect(),
        };
        let given = Given::of(&bare().try_get_matches_from(words).unwrap(), None);
        let of_argument = given.settings(None).into_iter().find(|setting| setting.flag == format!("--{name}")).unwrap();
        assert_eq!(*of_file, of_argument.value, "{name}");
    }
    for switch in flags().iter().filter(|flag| matches!(flag.get_action(), ArgAction::SetTrue)).map(name) {
        assert_eq!(settings(&format!("{switch} = true"))[&format!("--{switch}")].0.as_deref(), Some("true"));
    }
}

#[test]
fn what_is_printed_is_a_file_that_says_the_same() {
    let all = uncommented(&example());
    for text in
        [String::new(), all.replace("= false", "= true"), "agent-lb = 'a\"\\\\\\u{1f}'\nmembers = \"x\\ty\"".into()]
    {
        let file = ConfigFile { path: "serve.toml".into(), entries: parse(&text, Path::new("")).unwrap() };
        let words: Vec<OsString> = file.entries.iter().flat_map(Entry::arguments).collect();
        let printed = Given::of(&bare().try_get_matches_from(words).unwrap(), Some(file)).toml(None);
        let values =
            |text: &str| settings(text).into_iter().map(|(flag, (value, _))| (flag, value)).collect::<Vec<_>>();
        assert_eq!(values(&printed), values(&text), "{printed}");
        for (line, flag) in printed.lines().skip(1).zip(defined()) {
            assert!(line.trim_start_matches(['#', ' ']).starts_with(&name(&flag)), "{line}");
        }
    }
}

#[test]
fn a_mistake_is_told_with_its_line() {
    for (text, line, words) in [
        (
            "hold-tim = \"10m\"",
            1,
            "unknown key \"hold-tim\": the keys are the names of the flags of `gwm serve`; is hold-time meant?",
        ),
        ("\nhold_time = \"10m\"", 2, "is hold-time meant?"),
        ("[serve]\nhold-time = \"10m\"", 1, "unknown key \"serve\""),
        ("check = true", 1, "--check concerns one call"),
        ("config = \"x\"", 1, "--config concerns one call"),
        ("print-config = true", 1, "--print-config concerns one call"),
        ("help = true", 1, "unknown key \"help\""),
        ("# x\n\nhold-time = 600", 3, "hold-time: invalid value '600': `600` has no unit; a duration reads like 5ms"),
        ("shards = 0", 1, "shards: invalid value '0': 0 is not in 1..=256"),
        ("shards = 1.5", 1, "shards: invalid value '1.5'"),
        ("shards = 0x10", 1, "shards: invalid value '0x10'"),
        ("shards = [1]", 1, "shards is a text or a number, not array"),
        ("shards = true", 1, "shards is a text or a number, not boolean"),
        ("probe = \"ftp\"", 1, "probe: invalid value 'ftp' [possible values: off, tcp, icmp, http, auto]"),
        (
            "listen = [\n\"127.0.0.1:1\",\n\"localhost:2\"]",
            3,
            "listen: invalid value 'localhost:2': write an IP address and a port",
        ),
        ("listen = [[]]", 1, "listen is a text or a number, or a list of them, not array"),
        ("listen = {}", 1, "listen is a text or a number, or a list of them, not a table"),
        ("require-tls = \"yes\"", 1, "require-tls is true or false"),
        ("members = \"\"", 1, "members: a value is required"),
        ("shards = 1\nshards = 2", 2, "duplicate key"),
        ("shards = ", 1, ""),
    ] {
        let mistake = parse(text, Path::new("")).unwrap_err();
        assert_eq!(mistake.line, line, "{text}: {mistake}");
        assert!(mistake.text.contains(words) && !mistake.text.contains('\n'), "{text}: {mistake}");
    }
}

#[test]
fn values_are_read_as_a_person_writes_them() {
    let words = |text: &str| arguments(text, Path::new("/etc/gwm")).unwrap();
    assert_eq!(words("max-groups = 1_000\ntls-min-version = 1.3"), ["--max-groups=1000", "--tls-min-version=1.3"]);
    assert_eq!(words("witness = \"192.0.2.1\"\nrequire-tls = true"), ["--witness=192.0.2.1", "--require-tls"]);
    assert_eq!(words("listen = []\nrequire-tls = false"), [""; 0]);
    assert_eq!(words("state = \"/x\"\nmembers = \"m.toml\""), ["--state=/x", "--members=/etc/gwm/m.toml"]);
}

#[test]
fn the_places_of_flags_that_an_error_names() {
    let entries = parse("push-window = \"2s\"\npush-refresh = \"1s\"\nprobe = \"off\"", Path::new("")).unwrap();
    let file = ConfigFile { path: "f".into(), entries };
    let named = file.places_in("--push-refresh 1s is shorter than --push-window; --probe-interval is fine");
    let named: Vec<String> = named.iter().map(|(flag, place)| format!("{flag} {place}")).collect();
    assert_eq!(named, ["--push-window f:1", "--push-refresh f:2"]);
}
