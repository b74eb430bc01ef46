//! A real systemd, with a unit of `Type=notify`: after SIGUSR2 the new process is the unit's main one, whose watchdog counts, and
//! no connection was refused.

use crate::container::{self, GWM, unit, write};

/// Hands the unit over twice, and stops it.
const DRIVER: &str = r#"
import json, os, socket, subprocess, threading, time
def until(condition):
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end: raise SystemExit("never came true")
        time.sleep(0.02)
def systemctl(*words): return subprocess.run(["systemctl", *words], capture_output=True, text=True).stdout.strip()
def show(name): return systemctl("show", "-P", name, "gwm.service")
def lb(*words):
    command = ["/run/gwm/gwm", "lb", "--gwm", "127.0.0.1:3860", "--uid=LB1", "--take-over", *words]
    return subprocess.run(command, capture_output=True, text=True)
until(lambda: show("ActiveState") == "active")
registered = lb("register", "--group=web=10.0.0.1:80")
weights = lambda: lb("weights").stdout
before = weights()
refused, tried, stop = [], [0], False
def clients():
    while not stop:
        try: socket.create_connection(("127.0.0.1", 3860), timeout=30).close()
        except ConnectionRefusedError as error: refused.append(repr(error))
        tried[0] += 1
        time.sleep(0.001)
thread = threading.Thread(target=clients)
thread.start()
mains, heard = [show("MainPID")], []
for hand_over in range(2):
    systemctl("kill", "--kill-whom=main", "--signal=USR2", "gwm.service")
    until(lambda: show("MainPID") not in mains + ["0"])
    until(lambda: not os.path.exists("/proc/" + mains[-1]))
    mains.append(show("MainPID"))
    # The new process is the one that is heard.
    alive = show("WatchdogTimestampMonotonic")
    until(lambda: show("WatchdogTimestampMonotonic") != alive)
    heard.append([show("ActiveState"), show("SubState"), show("NRestarts"), show("MainPID") == mains[-1]])
stop = True
thread.join()
after = weights()
systemctl("stop", "gwm.service")
result = {
    "registered": registered.returncode, "same": before == after, "weights": after, "mains": len(set(mains)),
    "heard": heard, "refused": refused[:5], "tried": tried[0],
    "end": [show("ActiveState"), show("Result"), os.path.exists("/proc/" + mains[-1])],
}
open("/run/shared/result.new", "w").write(json.dumps(result))
os.rename("/run/shared/result.new", "/run/shared/result")
"#;

#[test]
fn systemd_follows_a_takeover() {
    let result = container::run("gwm.service driver.service", |path| {
        write(path, "driver.py", DRIVER);
        let flags = "--listen 127.0.0.1:3860 --shards 1 --probe off --state /run/state";
        let gwm = format!(
            "Type=notify\nNotifyAccess=main\nWatchdogSec=2s\nRestart=on-failure\nLimitMEMLOCK=infinity\n\
             ExecStart={GWM} serve {flags}"
        );
        unit(path, "gwm", "", &gwm);
        unit(path, "driver", "", &format!("ExecStart={} /run/shared/driver.py", container::python()));
    });
    let Some(result) = result else { return };
    assert_eq!((&result["registered"], &result["same"], &result["mains"]), (&0.into(), &true.into(), &3.into()));
    assert!(result["weights"].as_str().is_some_and(|weights| weights.contains("10.0.0.1")), "{result}");
    for heard in result["heard"].as_array().expect("a list") {
        assert_eq!(*heard, serde_json::json!(["active", "running", "0", true]), "{result}");
    }
    assert_eq!(result["refused"], serde_json::json!([]), "{result}");
    assert!(result["tried"].as_u64().is_some_and(|tried| tried > 100), "{result}");
    assert_eq!(result["end"], serde_json::json!(["inactive", "success", false]), "{result}");
}
