//! Nobody gets away by being somebody else's child, user, cgroup or namespace, nor by the end of whoever watches.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{Namespace, cgroup2_mount};

use crate::loaded::Enforced;
use crate::support::{Allowlists, PRELUDE, Scene};

const ENTRIES: &str = r#"
- cidrs: [10.77.2.2/32, "fd77:2::2/128"]
  ports: [53/udp]
  why: services
"#;

#[test]
fn grandchildren_daemons_and_other_users_are_refused() -> Result<()> {
    let scene = Scene::new()?;
    let allowlists = Allowlists::enforce(ENTRIES)?;
    // Each makes the same attempts and shows that it was there by a datagram that is allowed.
    let program = r#"
def attempts(who):
    refused = [errno_of(kind, address, 80) for kind in (tcp, udp, udp_connected) for address in ("10.88.0.9", "fd88::9")]
    errno_of(udp, "10.77.2.2", 53, ("%s %d" % (who, refused.count(1))).encode())

def child(body):
    pid = os.fork()
    if pid == 0:
        try:
            body()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)

def daemon():
    os.setsid()
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.read(reader, 1)
        attempts("daemon")
        os._exit(0)
    # The daemon goes on when its parent is gone.
    os.write(writer, b"x")
    os._exit(0)

def somebody_else():
    os.setgid(65534)
    os.setuid(65534)
    attempts("uid %d" % os.getuid())

child(lambda: child(lambda: attempts("grandchild")))
child(somebody_else)
child(daemon)
child(lambda: os.execvp("setpriv", ["setpriv", "--reuid", "1000", "--clear-groups", "python3", "-c", PROGRAM]))
"#;
    let again =
        format!("{PRELUDE}\n{}\nattempts('setpriv')", program.split("\n\n").next().unwrap_or_default());
    let program = format!("PROGRAM = '''{again}'''\n{program}");
    let report = allowlists.python(scene.job(), &program)?;
    scene.settle()?;
    let mut seen = scene.payloads("10.77.2.2:53".parse()?);
    seen.sort_unstable();
    assert_eq!(seen, ["daemon 6", "grandchild 6", "setpriv 6", "uid 65534 6"], "{}", report.summary);
    for place in ["10.88.0.9:80", "[fd88::9]:80"] {
        let place = place.parse()?;
        assert_eq!(scene.arrived(6, place) + scene.arrived(17, place), 0);
    }
    assert_eq!(report.refused().0, 4 * 6, "{}", report.summary);
    Ok(())
}

/// Every kind of attempt from a process that [`Enforced::python`] started there; `from` is its namespace.
fn refused_there(scene: &Scene, enforced: &Enforced, from: &Namespace, nest: Option<&str>) -> Result<()> {
    let mut python = enforced.python(from)?;
    if let Some(nested) = nest {
        let directory = enforced.cgroup.path().join(nested);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("cgroup.procs"), python.id().to_string())?;
    }
    let before = enforced.total()?;
    for kind in ["tcp", "udp", "udp_connected"] {
        for address in ["10.88.0.9", "fd88::9"] {
            let refused = python.errno_of(&format!("{kind}, '{address}', 80"))?;
            assert_eq!(refused, libc::EPERM, "{kind} {address}");
        }
    }
    assert_eq!(enforced.total()? - before, 6);
    for address in ["10.77.2.2", "fd77:2::2"] {
        assert_eq!(python.errno_of(&format!("udp, '{address}', 53"))?, 0);
    }
    scene.capture.settle(from, scene.outside().at(9))?;
    for (refused, allowed) in [("10.88.0.9:80", "10.77.2.2:53"), ("[fd88::9]:80", "[fd77:2::2]:53")] {
        let refused = refused.parse()?;
        assert_eq!(scene.arrived(6, refused) + scene.arrived(17, refused), 0);
        assert!(scene.arrived(17, allowed.parse()?) > 0);
    }
    Ok(())
}

#[test]
fn nested_cgroups_and_namespaces_are_refused() -> Result<()> {
    let scene = Scene::new()?;
    let allowlists = Allowlists::enforce(ENTRIES)?;
    let enforced = Enforced::new(allowlists.path(), scene.job())?;
    refused_there(&scene, &enforced, scene.job(), None)?;
    refused_there(&scene, &enforced, scene.job(), Some("nested/deeper"))?;
    refused_there(&scene, &enforced, scene.other(), None)?;
    refused_there(&scene, &enforced, scene.other(), Some("nested/elsewhere"))
}

#[test]
fn what_is_attached_stays_when_nobody_holds_it() -> Result<()> {
    let scene = Scene::new()?;
    let allowlists = Allowlists::enforce(ENTRIES)?;
    let enforced = Enforced::new(allowlists.path(), scene.job())?;
    let mut python = enforced.python(scene.job())?;
    let many = "sum(errno_of(kind, address, 80) == 1 for _ in range(500) for kind in (tcp, udp_connected) \
                for address in ('10.88.0.9', 'fd88::9'))";
    assert_eq!(python.tell(many)?, "2000");
    let _cgroup = enforced.let_go();
    assert_eq!(python.tell(many)?, "2000", "with every descriptor of the programs and maps closed");
    assert_eq!(python.errno_of("udp, '10.77.2.2', 53")?, 0);
    scene.settle()?;
    assert_eq!(scene.arrived(17, "10.77.2.2:53".parse()?), 1);
    for place in ["10.88.0.9:80", "[fd88::9]:80"] {
        let place = place.parse()?;
        assert_eq!(scene.arrived(6, place) + scene.arrived(17, place), 0);
    }
    Ok(())
}

/// The cgroup of a running `exec`.
fn cgroup_of(wrapper: u32) -> Result<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).context("no cgroup2 membership")?;
    Ok(cgroup2_mount()?.join(own).join(format!("egress-warden-exec.{wrapper}")))
}

#[test]
fn a_killed_wrapper_opens_nothing() -> Result<()> {
    const ENOUGH: u64 = 2_000;
    let scene = Scene::new()?;
    let allowlists = Allowlists::enforce(ENTRIES)?;
    // Tries without end, in a session of its own, and says over the allowed way how often it did.
    let program = r#"
if os.fork():
    sys.stdin.readline()
os.setsid()
number = 0
while True:
    errno_of(tcp, "10.88.0.9", 80)
    errno_of(udp_connected, "fd88::9", 80)
    number += 2
    errno_of(udp, "10.77.2.2", 53, str(number).encode())
"#;
    let program = format!("{PRELUDE}\n{program}");
    let mut exec = allowlists.start(scene.job(), &["python3", "-c", &program])?;
    let cgroup = cgroup_of(exec.id())?;
    until("exec makes its cgroup", DEADLINE, || cgroup.exists().then_some(()))?;
    let allowed = "10.77.2.2:53".parse()?;
    let tried = || -> u64 {
        scene.payloads(allowed).iter().filter_map(|number| number.parse().ok()).max().unwrap_or_default()
    };
    until("many attempts", DEADLINE, || (tried() >= ENOUGH).then_some(()))?;
    let status = Command::new("sh").args(["-c", &format!("kill -KILL {}", exec.id())]).status()?;
    ensure!(status.success(), "cannot kill the wrapper");
    exec.wait()?;
    until("the cgroup goes away", DEADLINE, || (!cgroup.exists()).then_some(()))?;
    scene.settle()?;
    assert!(tried() >= ENOUGH);
    assert_eq!(scene.arrived(6, "10.88.0.9:80".parse()?), 0);
    assert_eq!(scene.arrived(17, "[fd88::9]:80".parse()?), 0);
    Ok(())
}
