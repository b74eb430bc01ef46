//! `gwm connect ipvs`, with a real kernel: Debian's in QEMU, since this machine's kernel may have no IPVS. The script
//! `ipvs/guest.sh` does all that a person would do there, and `ipvsadm` tells what became of it.

use std::{
    env, fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use super::real::installed;
use crate::{
    harness::{Permit, run, until},
    manual::Page,
};

const MODULES: [&str; 6] = ["libcrc32c", "nf_defrag_ipv4", "nf_defrag_ipv6", "nf_conntrack", "ip_vs", "ip_vs_wrr"];

/// A virtual machine, ended when this value is dropped; its files go, too.
struct Guest {
    machine: Child,
    console: Arc<Mutex<String>>,
    directory: PathBuf,
}

/// Where `tests/run` puts the kernel and its modules. In CI they must be there.
fn kernel() -> Option<PathBuf> {
    let kernel = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("kernel");
    let is_there = kernel.join("ready").exists();
    assert!(is_there || env::var_os("CI").is_none(), "{} is missing: tests/run makes it", kernel.display());
    let programs = [("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox"), ("ipvsadm", "ipvsadm")];
    if !is_there {
        eprintln!("left out: {} is missing (tests/run makes it)", kernel.display());
    }
    (is_there && programs.iter().all(|(program, package)| installed(program, package))).then_some(kernel)
}

/// Runs a line of shell with these arguments, and gives its output.
fn shell(line: &str, arguments: &[&str]) -> String {
    let output = Command::new("sh").args(["-euc", line, "sh"]).args(arguments).output().expect("a shell");
    assert!(output.status.success(), "{line} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

impl Guest {
    /// With a script as its first process, and these programs and files besides.
    fn boot(kernel: &Path, init: &str, programs: &[&str], files: &[(&str, &str)]) -> Guest {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ipvs-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let root = directory.join("root");
        for name in ["bin", "modules", "dev", "proc", "sys"] {
            fs::create_dir_all(root.join(name)).expect("a new directory");
        }
        let (at, from) = (root.display().to_string(), kernel.display().to_string());
        for (name, content) in [("init", init)].iter().chain(files) {
            fs::write(root.join(name), content).expect("it is written");
        }
        shell("chmod +x $1/init", &[&at]);
        for module in MODULES {
            shell("find $1 -name $3.ko -exec cp {} $2/modules/ ';'", &[&from, &at, module]);
        }
        let path = env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        let copy = "PATH=$3; cp -L $(command -v $1) $2/bin/\n\
                    for library in $(ldd $(command -v $1) | grep -o '/[^ ]*'); do\n\
                    mkdir -p $2$(dirname $library); cp -L $library $2$library; done";
        for program in ["busybox", "ipvsadm", env!("CARGO_BIN_EXE_gwm")].iter().chain(programs) {
            shell(copy, &[program, &at, &path]);
        }
        shell("cd $1; find . | busybox cpio -o -H newc >../initrd", &[&at]);
        let kernel = shell("echo $1/boot/vmlinuz-*", &[&from]);
        let mut machine = Command::new("qemu-system-x86_64")
            .args(["-nographic", "-no-reboot", "-m", "1024", "-smp", "2", "-net", "none", "-append"])
            .args(["console=ttyS0 quiet panic=1", "-kernel", &kernel, "-initrd"])
            .arg(directory.join("initrd"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("QEMU starts");
        let console = Arc::new(Mutex::new(String::new()));
        let (mut output, shared) = (machine.stdout.take().expect("it is piped"), Arc::clone(&console));
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut chunk) {
                shared.lock().expect("no panic under the lock").push_str(&String::from_utf8_lossy(&chunk[..count]));
            }
        });
        Guest { machine, console, directory }
    }

    fn console(&self) -> String {
        self.console.lock().expect("no panic under the lock").clone()
    }

    /// Waits until the guest tells what it saw, and gives it.
    fn saw(&self, what: &str) -> String {
        let mark = format!("= {what}: ");
        let find = || {
            let console = self.console();
            let line = console.split_inclusive('\n').find(|line| line.contains(&mark) && line.ends_with('\n'))?;
            line.split_once(&mark).map(|(_, seen)| seen.trim().to_owned())
        };
        until(&format!("the guest tells `{what}`"), || find().is_some());
        find().expect("it was there")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.machine.kill();
        let _ = self.machine.wait();
        let _ = fs::remove_dir_all(&self.directory);
        if thread::panicking() {
            eprintln!("--- the guest's console ---\n{}---", self.console());
        }
    }
}

#[test]
fn the_kernel_uses_the_weights() {
    let Some(kernel) = kernel() else { return };
    // The machine is emulated, which keeps a core busy.
    let _permit = Permit::take(1);
    let guest = Guest::boot(&kernel, include_str!("ipvs/guest.sh"), &[], &[]);
    let saw = |what: &str, expected: &str| assert_eq!(guest.saw(what), expected, "{what}");

    assert!(guest.saw("without the module").contains("is the module ip_vs loaded?"));
    saw("without a service", "pool web: group web");
    assert!(guest.saw("without the right").contains("this needs root, or the capability CAP_NET_ADMIN"));
    saw("the check", "pool web: group web   10.9.1.3:8080   10.9.1.2:8080   10.9.1.1:8080");

    saw("a dry run", "0 1=5 2=6 3=7");
    saw("weights", "1=3 2=1 3=0");
    saw("shares", "1=30 2=10");
    saw("the mark's weights", "1=3 2=1");
    saw("another service", "1=99");
    saw("thresholds", "1000 10");
    saw("methods", "Tunnel Route");
    saw("new weights", "1=1 2=1 3=2");
    saw("new shares", "1=10 2=10 3=20");
    saw("connections so far", "1=40 2=20 3=20");
    saw("after a change by hand", "1=1 2=1 3=2");
    saw("after all services were made again", "1=1 2=1 3=2");

    saw("drained", "1=0 2=1 3=2");
    // Other requests take turns, too, so the shares of these are not exact.
    let shares = guest.saw("under load");
    assert!(shares.starts_with("2=") && shares.contains("3=") && !shares.contains("failed"), "{shares}");
    // 40 requests are 13 rounds and one more.
    let shares = guest.saw("shares without the first");
    assert!(["2=13 3=27", "2=14 3=26"].contains(&shares.as_str()), "{shares}");
    saw("failed requests", "0");

    saw("without a GWM", "1=0 2=1 3=2");
    saw("of a new GWM", "1=0 2=1 3=5");
    saw("of a new connector", "1=0 2=3 3=1");
    saw("all serve", "1=1 2=3 3=1");
    saw("with a GWM that flaps", "1=1 2=6 3=1");
    // The weights that this connector has found.
    saw("restored", "0 1=0 2=1 3=5");
    saw("before the third joins", "1=1 2=3");
    saw("with the third", "1=1 2=3 3=1");
    saw("joined", "2000000000 0");
    assert!(guest.saw("shares of three").contains("3="));
    saw("drained by a new connector", "1=1 2=3 3=0");
    saw("after the third left", "1=1 2=3");
    saw("the others' thresholds", "0 0");
    for round in 1..=3 {
        saw(&format!("round {round}"), "100");
    }
}

#[test]
fn the_page_of_the_manual_holds() {
    let Some(kernel) = kernel() else { return };
    let _permit = Permit::take(1);
    let page = Page::read("src/manual/gwm-connect-ipvs.8.md");
    let script = page.script();
    let guest = Guest::boot(&kernel, include_str!("ipvs/page.sh"), &["bash"], &[("typed.sh", &script)]);
    guest.saw("the end");
    let console = guest.console().replace('\r', "");
    let (_, after) = console.split_once("= printed: \n").expect("it was told before the end");
    let (printed, _) = after.split_once("= the end: ").expect("it was seen");
    page.judge(printed, &console);
}

#[test]
fn services_that_do_not_fit_are_refused() {
    let refused = |services: &[&str], why: &str| {
        let flags = services.iter().flat_map(|service| ["--service", service]);
        let flags: Vec<&str> = ["connect", "--uid", "L", "ipvs"].into_iter().chain(flags).collect();
        let output = run(&flags);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && error.contains(why), "{services:?}: {output:?}");
    };
    for bad in ["10.0.0.1:80=web", "tcp 10.0.0.1=web", "fwmark 0=web", "sctp 10.0.0.1:80=web", "tcp 10.0.0.1:80"] {
        refused(&[bad], "`tcp ADDRESS:PORT=GROUP`");
    }
    refused(&["tcp 10.0.0.1:80=web", "tcp 10.0.0.1:80=api"], "is given twice");
    refused(&["tcp 10.0.0.1:80=web", "fwmark 7=web"], "use --map");
    refused(&[], "--service");
    let output = run(&["connect", "--uid", "L", "ipvs", "--service", "tcp 10.0.0.1:80=web", "--dynamic"]);
    assert!(
        output.status.code() == Some(2) && String::from_utf8_lossy(&output.stderr).contains("--trust"),
        "{output:?}"
    );
}
