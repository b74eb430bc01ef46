//! `gwm connect file`, with a real nginx that is reloaded after each change.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    Connector, Gwm, Member,
    proxy::get,
    real::{free_address, installed, without_right},
    scenarios::{Real, Weights, drains, outlives},
};
use crate::{
    authority::Folder,
    harness::{run, until},
};

const TEMPLATE: &str = "{% for group in groups %}upstream {{ group.name }} {
{% for m in group.members %}    server {{ m.address }}:{{ m.port }} \
{% if m.weight %}weight={{ m.weight }}{% else %}down{% endif %};
{% endfor %}}
{% endfor %}";

/// A master and a worker of nginx, until the value is dropped. Its upstreams are the connector's file.
struct Nginx {
    folder: Folder,
    listen: SocketAddr,
    members: Vec<SocketAddr>,
    groups: usize,
    child: Option<Child>,
}

impl Nginx {
    /// With so many groups, g0 and so on, all of the same members.
    fn start(members: &[SocketAddr], groups: usize) -> Nginx {
        let (folder, listen, members) = (Folder::new(), free_address(), members.to_vec());
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {};\n", folder.path(&format!("{name}.tmp"))));
        let (pid, log, upstreams) = (folder.path("pid"), folder.path("error.log"), folder.path("groups.conf"));
        folder.write(
            "nginx.conf",
            &format!(
                "user root;\ndaemon off;\nworker_processes 1;\npid {pid};\nerror_log {log};\nevents {{}}\nhttp {{\n\
                 access_log off;\n{}include {upstreams};\nserver {{\nlisten {listen};\n\
                 location ~ ^/(g[0-9]+)$ {{ proxy_pass http://$1; }}\n}}\n}}\n",
                temporary.concat()
            ),
        );
        folder.write("template", TEMPLATE);
        // What it has without a GWM.
        let servers: String = members.iter().map(|member| format!("server {member};")).collect();
        let own = (0..groups).map(|at| format!("upstream g{at} {{ {servers} }}\n"));
        folder.write("groups.conf", &own.collect::<String>());
        let mut nginx = Nginx { folder, listen, members, groups, child: None };
        nginx.run();
        nginx
    }

    fn run(&mut self) {
        let mut command = Command::new("nginx");
        command.args(["-p", &self.folder.path(""), "-c", &self.folder.path("nginx.conf")]);
        command.args(["-e", &self.folder.path("error.log")]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.child = Some(child.expect("nginx starts"));
        let log = || fs::read_to_string(self.folder.path("error.log")).unwrap_or_default();
        until(&format!("nginx listens: {}", log()), || TcpStream::connect(self.listen).is_ok());
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The master ends its workers, too.
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
            let _ = child.wait();
        }
    }

    /// The workers; while nginx is reloaded there are two, which take turns each by itself.
    fn workers(&self) -> usize {
        let Some(child) = &self.child else { return 0 };
        let master = child.id();
        let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap_or_default();
        children.split_whitespace().count()
    }

    /// A request to a group; the port of the member that answers.
    fn ask(&self, group: usize) -> Result<u16, String> {
        let body = get(self.listen, &format!("/g{group}"))?;
        body.parse().map_err(|_| body)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.end();
    }
}

impl Real for Nginx {
    fn connect(&self, gwm: &str) -> Connector {
        let list: Vec<String> = self.members.iter().map(SocketAddr::to_string).collect();
        let groups: Vec<String> = (0..self.groups).map(|at| format!("g{at}={}", list.join(","))).collect();
        let [template, output, configuration] =
            ["template", "groups.conf", "nginx.conf"].map(|name| self.folder.path(name));
        let exec = format!("nginx -p {} -e stderr -c {configuration} -s reload", self.folder.path(""));
        let mut flags = vec!["--gwm", gwm, "file", "--template", &template, "--output", &output, "--exec", &exec];
        // Few weights, so that a few requests show the shares.
        flags.extend(["--max-weight", "6", "--min-interval", "0s"]);
        groups.iter().for_each(|group| flags.extend(["--group", group]));
        Connector::start(&flags)
    }

    fn has(&mut self, (first, second): Weights) -> bool {
        let scaled = |weight: u16| weight * 6 / first.max(second);
        let line = |at: usize, weight| format!("server {} weight={};", self.members[at], scaled(weight));
        let file = fs::read_to_string(self.folder.path("groups.conf")).unwrap_or_default();
        let written = [line(0, first), line(1, second)].iter().all(|line| file.matches(line).count() == self.groups);
        // nginx takes turns: 12 requests are whole rounds.
        let parts = usize::from(12 * first / (first + second));
        let of_first = |group: usize| (0..12).filter(|_| self.ask(group) == Ok(self.members[0].port())).count();
        let shares = || [0, self.groups / 2, self.groups - 1].into_iter().all(|group| of_first(group) == parts);
        // A reload may begin after the first look.
        written
            && (0..3).any(|_| {
                until("one worker serves", || self.workers() == 1);
                shares()
            })
    }

    fn restart(&mut self) {
        self.end();
        self.run();
    }
}

#[test]
fn a_hundred_upstreams_of_nginx_outlive_all() {
    if !installed("nginx", "nginx") {
        return;
    }
    let members = [(); 2].map(|()| Member::start().address);
    outlives(&mut Nginx::start(&members, 100), members);
}

#[test]
fn no_request_fails_while_a_member_drains_and_leaves() {
    if !installed("nginx", "nginx") {
        return;
    }
    let members = [(); 3].map(|()| Member::start());
    let addresses = members.each_ref().map(|member| member.address);
    let gwm = Gwm::start(&addresses.map(|address| (address, Some(20))));
    let nginx = Nginx::start(&addresses, 1);
    let _connector = nginx.connect(&gwm.address());
    drains(|| nginx.ask(0).map(drop), &gwm, &members);
}

#[test]
fn a_folder_that_is_missing_or_of_others_is_told() {
    let folder = Folder::new();
    let (template, output) = (folder.write("template", TEMPLATE), folder.path("none/groups.conf"));
    let check = ["connect", "--uid", "L", "--check", "file", "--group", "web=10.0.0.1:80", "--template", &template];
    let missing = run(&[&check[..], &["--output", &output]].concat());
    let text = String::from_utf8_lossy(&missing.stderr);
    assert!(missing.status.code() == Some(1) && text.contains("No such file or directory"), "{missing:?}");
    let closed = folder.path("closed");
    fs::create_dir(&closed).expect("a new folder");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).expect("it is mine");
    let output = format!("{closed}/groups.conf");
    let Some((status, text)) = without_right("dac_override", &[&check[..], &["--output", &output]].concat()) else {
        return;
    };
    assert!(status == Some(1) && text.contains(&format!("can not write {output}: Permission denied")), "{text}");
}
