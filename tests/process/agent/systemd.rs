//! A real systemd as process 1 of a container: `systemctl restart web` and `stop web` lose no request, with the units of
//! gwm-agent(8): an agent for each service, or one for all.

use std::path::Path;

use crate::{
    connect::real::installed,
    container::{self, GWM, unit, write},
};

/// Restarts and stops services under load, and writes what came of it. Arguments: of each service, the unit of its agent
/// and its name there.
const DRIVER: &str = r#"
import json, subprocess, sys, threading, time, urllib.request
def ask():
    try:
        with urllib.request.urlopen("http://127.0.0.1:8000/", timeout=10) as answer:
            return answer.read().decode()
    except Exception as error:
        return "failed: %r" % error
def until(condition):
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end: raise SystemExit("never came true")
        time.sleep(0.05)
def used(): return {ask() for _ in range(8)}
both = {"9001", "9002"}
def systemctl(*words): return subprocess.run(["systemctl", *words], capture_output=True, text=True).stdout.strip()
services = [argument.split("=") for argument in sys.argv[1:]]
def status(at): return systemctl("show", "-P", "StatusText", services[at][0])
def is_up(at): return services[at][1] + ": up, registered at 1 of 1 GWMs" in status(at)
# HAProxy uses both from the start on. An agent that has not reached its GWM yet can not tell of an end.
def ready(): return used() == both and is_up(0) and is_up(1)
until(ready)
asked, failed, stop = [0], [], False
def load():
    while not stop:
        answer = ask()
        asked[0] += 1
        if answer not in both: failed.append(answer)
threads = [threading.Thread(target=load) for _ in range(3)]
for thread in threads: thread.start()
for number in "12":
    systemctl("restart", "web@%s.service" % number)
    until(ready)
systemctl("stop", "web@1.service")
state = systemctl("show", "-P", "ActiveState", services[0][0])
until(lambda: used() == {"9002"})
told = status(1)
if len(services[0][1]) > len("web"):
    open("/run/shared/services.toml", "a").write("[[service]]\nname = 'more'\nmember = '127.0.0.1:9003'\ncheck = 'none'\n")
    systemctl("reload", services[0][0])
    until(lambda: "more: up, registered at 1 of 1 GWMs" in status(0))
stop = True
for thread in threads: thread.join()
result = {"asked": asked[0], "failed": failed[:5], "state": state, "status": told}
open("/run/shared/result.new", "w").write(json.dumps(result))
import os
os.rename("/run/shared/result.new", "/run/shared/result")
"#;

/// A web server that says its port, and ends at SIGTERM without a further word.
const SERVER: &str = r#"
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(sys.argv[1].encode())
    def log_message(self, *words): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

const HAPROXY: &str = "\
global
 stats socket /run/haproxy.sock level admin
defaults
 mode http
 timeout connect 5s
 timeout client 5s
 timeout server 5s
frontend all
 bind 127.0.0.1:8000
 default_backend web
backend web
 server s1 127.0.0.1:9001
 server s2 127.0.0.1:9002
";

#[test]
fn systemctl_restart_and_stop_lose_no_request() {
    let units = |path: &Path| {
        write(path, "units/web@.service.d/gwm.conf", "[Unit]\nWants=gwm-agent@%i.service\n");
        let agent = format!(
            "Type=notify\nWatchdogSec=5s\nRestart=on-failure\n\
             ExecStart={GWM} agent --lb LB1 --group web --member 127.0.0.1:900%i --retry 1s --quiesce-time 3s"
        );
        unit(path, "gwm-agent@", "BindsTo=web@%i.service\nAfter=web@%i.service", &agent);
    };
    let Some(result) = in_systemd(units, "gwm-agent@1.service=web gwm-agent@2.service=web") else { return };
    assert_eq!(result["state"], "inactive", "the agent has ended with its service");
    assert_eq!(result["status"], "web: up, registered at 1 of 1 GWMs");
}

#[test]
fn with_one_agent_for_all_services_systemctl_restart_and_stop_lose_no_request() {
    let units = |path: &Path| {
        let hooks = format!(
            "ExecStop=-{GWM} agent quiesce web%i --wait 40s\nExecStartPost=-{GWM} agent resume web%i --wait 40s"
        );
        let drop_in = format!("[Unit]\nWants=gwm-agent.service\nAfter=gwm-agent.service\n[Service]\n{hooks}\n");
        write(path, "units/web@.service.d/gwm.conf", &drop_in);
        let service = |n: u8| format!("[[service]]\nname = 'web{n}'\nmember = '127.0.0.1:900{n}'\n");
        write(path, "services.toml", &(service(1) + &service(2)));
        let agent = format!(
            "Type=notify\nWatchdogSec=5s\nRestart=on-failure\n\
             ExecReload=/bin/kill -HUP $MAINPID\n\
             ExecStart={GWM} agent --lb LB1 --group web --config /run/shared/services.toml --retry 1s --quiesce-time 3s"
        );
        unit(path, "gwm-agent", "", &agent);
    };
    let Some(result) = in_systemd(units, "gwm-agent.service=web1 gwm-agent.service=web2") else { return };
    assert_eq!(result["state"], "active");
    assert_eq!(result["status"], "web1: maint, registered at 1 of 1 GWMs; web2: up, registered at 1 of 1 GWMs");
}

/// Runs the driver with these units of agents and these arguments; `None` where that is not possible. No request fails.
fn in_systemd(agents: impl FnOnce(&Path), services: &str) -> Option<serde_json::Value> {
    if !installed("haproxy", "haproxy") {
        return None;
    }
    let wants = "gwm.service haproxy.service connector.service web@1.service web@2.service driver.service";
    let result = container::run(wants, |path| {
        let python = container::python();
        write(path, "server.py", SERVER);
        write(path, "driver.py", DRIVER);
        write(path, "haproxy.cfg", HAPROXY);
        let checks = "--probe tcp --probe-interval 100ms --probe-timeout 2s --slow-start 0s --push-window 10ms";
        unit(path, "gwm", "", &format!("LimitMEMLOCK=infinity\nExecStart={GWM} serve --shards 1 {checks}"));
        unit(path, "haproxy", "", "ExecStart=/usr/sbin/haproxy -W -db -f /run/shared/haproxy.cfg");
        unit(
            path,
            "connector",
            "After=gwm.service",
            &format!(
                "Restart=always\nExecStart={GWM} connect --uid LB1 --trust --retry 1s haproxy --socket /run/haproxy.sock"
            ),
        );
        unit(path, "web@", "", &format!("ExecStart={python} /run/shared/server.py 900%i"));
        agents(path);
        unit(path, "driver", "", &format!("ExecStart={python} /run/shared/driver.py {services}"));
    })?;
    assert_eq!(result["failed"], serde_json::json!([]), "{result}");
    assert!(result["asked"].as_u64().is_some_and(|asked| asked > 100), "{result}");
    Some(result)
}
