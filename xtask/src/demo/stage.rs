//! The world of the demo: hosts, servers, files, and a place to run programs in.
//!
//! Everything in it hangs on this process, so that nothing stays whatever ends it: namespaces are held by descriptors,
//! programs run in one cgroup that has a keeper, and files lie in memory, mounted in a mount namespace of the demo's
//! own, where `/etc/hosts` is the demo's as well.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use egress_warden_tests::server::Server;
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{Host, TestCgroup, World};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::{Ran, interrupt};
use crate::run::typed;

/// Where the files may be mounted: the first of these that is empty, so that nothing of this machine is hidden.
const PLACES: [&str; 5] = ["/mnt", "/srv", "/media", "/var/local", "/var/opt"];
/// Where nginx keeps bodies of requests, whatever its configuration says about the rest.
const NGINX_STATE: &str = "/var/lib/nginx";

/// The files, by their path below the directory of the demo.
const FILES: [(&str, &str); 8] = [
    ("allowlists/demo.yaml", include_str!("files/allowlists.yaml")),
    ("hosts", include_str!("files/hosts")),
    ("nsswitch.conf", include_str!("files/nsswitch.conf")),
    ("openssl.cnf", include_str!("files/openssl.cnf")),
    ("tinyproxy.conf", include_str!("files/tinyproxy.conf")),
    ("wheel.py", include_str!("files/wheel.py")),
    ("internal/index.html", "checkpoint stored\n"),
    ("outside/index.html", "hello from outside\n"),
];
/// The programs of the job. A script under its own name, because that name is what the records show.
const PROGRAMS: [(&str, &str); 2] =
    [("stealer", include_str!("files/stealer.py")), ("noisy", include_str!("files/noisy.py"))];

/// The world.
pub(super) struct Stage {
    // Dropped in this order: first everything that runs, then where it ran.
    cgroup: TestCgroup,
    _echoes: [Server; 2],
    world: World,
    directory: PathBuf,
    agent: PathBuf,
    /// Directory of the interpreter itself: a shim in the search path would want more of its environment.
    python: PathBuf,
}

impl Stage {
    pub(super) fn build(agent: &Path) -> Result<Stage> {
        let cgroup = TestCgroup::named("egress-warden-demo")?;
        interrupt::watch(cgroup.path().to_owned())?;
        let python = interpreter()?;
        let directory = private_files()?;
        write_files(&directory, &python)?;
        let world = World::new(&["job", "proxy", "index", "internal", "outside"])?;
        let outside = world.host("outside");
        let echoes =
            [Server::udp_echo(outside, outside.at(53))?, Server::udp_echo(outside, outside.at_v6(53))?];
        let python = python.parent().context("the interpreter has no directory")?.to_owned();
        let stage = Stage { cgroup, _echoes: echoes, world, directory, agent: agent.to_owned(), python };
        stage.make_index()?;
        stage.start_servers()?;
        Ok(stage)
    }

    /// Ends it, and looks whether it is gone. The namespaces follow with their last descriptor.
    pub(super) fn take_down(self) -> Result<()> {
        let cgroup = self.cgroup.path().to_owned();
        drop(self);
        if cgroup.exists() {
            bail!("{} is still there", cgroup.display());
        }
        Ok(())
    }

    pub(super) fn world(&self) -> &World {
        &self.world
    }

    /// A file of the demo.
    pub(super) fn read(&self, name: &str) -> Result<String> {
        let path = self.directory.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<()> {
        write(&self.directory.join(name), text)
    }

    /// Runs a command of the job to its end.
    pub(super) fn run(&self, line: &[&str]) -> Result<Ran> {
        let mut command = self.command(self.world.host("job"), line)?;
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = self.spawn(command)?.wait_with_output()?;
        interrupt::check()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Ran { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) })
    }

    /// Starts a command of the job, to talk with while it runs.
    pub(super) fn converse(&self, line: &[&str]) -> Result<Child> {
        let mut command = self.command(self.world.host("job"), line)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.spawn(command)
    }

    /// A command on a host. `egress-warden` is the one that was built.
    fn command(&self, host: &Host, line: &[&str]) -> Result<Command> {
        let [program, arguments @ ..] = line else { bail!("an empty command") };
        let mut command = match *program {
            "egress-warden" => host.command(&self.agent),
            program => host.command(program),
        };
        let inherited = std::env::var("PATH").unwrap_or_default();
        // Clean, because settings of pip, curl and TLS libraries on this machine must not decide what is shown.
        command.env_clear().envs([
            ("PATH", format!("{}:{inherited}:/usr/sbin", self.python.display()).as_str()),
            ("HOME", self.directory.to_str().unwrap_or("/")),
            ("LANG", "C.UTF-8"),
            ("PIP_CONFIG_FILE", "/dev/null"),
            ("PIP_CERT", "authority.pem"),
            ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
            ("PIP_ROOT_USER_ACTION", "ignore"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
        ]);
        command.args(arguments).current_dir(&self.directory).stdin(Stdio::null());
        Ok(command)
    }

    fn spawn(&self, command: Command) -> Result<Child> {
        interrupt::check()?;
        self.cgroup.spawn(command)
    }

    fn make_index(&self) -> Result<()> {
        const KEY: [&str; 8] =
            ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-x509", "-days", "1"];
        let authority = ["-extensions", "authority", "-keyout", "authority.key", "-out", "authority.pem"];
        let index = [
            "-subj",
            "/CN=index.test",
            "-extensions",
            "index",
            "-keyout",
            "index.key",
            "-out",
            "index.pem",
            "-CA",
            "authority.pem",
            "-CAkey",
            "authority.key",
        ];
        for certificate in [&authority[..], &index[..]] {
            let line = [&["openssl", "req", "-config", "openssl.cnf"], &KEY[..], certificate].concat();
            self.run(&line)?.expect_success("making a certificate")?;
        }
        self.run(&["python3", "wheel.py"])?.expect_success("building the package")?;
        Ok(())
    }

    fn start_servers(&self) -> Result<()> {
        let host = |name| self.world.host(name);
        let tls = " ssl; ssl_certificate index.pem; ssl_certificate_key index.key";
        let outside = format!("{}; listen {}", host("outside").at(80), host("outside").at_v6(80));
        for (name, listen) in [
            ("index", format!("{}{tls}", host("index").at(443))),
            ("internal", host("internal").at(8080).to_string()),
            ("outside", outside),
        ] {
            let file = format!("{name}.conf");
            let configuration = format!(
                "daemon off; master_process off; pid {name}.pid; error_log stderr; events {{}}\n\
                 http {{ access_log off; default_type text/html; server {{ root {name}; listen {listen}; }} }}\n"
            );
            self.write(&file, &configuration)?;
            let directory = self.directory.to_string_lossy();
            self.serve(name, &["nginx", "-e", "stderr", "-p", &directory, "-c", &file])?;
        }
        self.serve("proxy", &["tinyproxy", "-d", "-c", "tinyproxy.conf"])?;
        Ok(())
    }

    /// Starts the server of a host, and waits until it answers.
    fn serve(&self, name: &str, line: &[&str]) -> Result<()> {
        let host = self.world.host(name);
        let port = match name {
            "index" => 443,
            "internal" => 8080,
            "outside" => 80,
            _ => 3128,
        };
        let mut command = self.command(host, line)?;
        let log = self.directory.join(format!("{name}.log"));
        let file = fs::File::create(&log)?;
        command.stdout(file.try_clone()?).stderr(file);
        let what = typed(&command);
        let mut child = self.spawn(command)?;
        let ended = until(&what, DEADLINE, || match child.try_wait() {
            Ok(None) => answers(host, host.at(port)).then_some(false),
            _ => Some(true),
        })?;
        interrupt::check()?;
        if ended {
            bail!("`{what}` ended: {}", self.read(&format!("{name}.log"))?.trim_end());
        }
        Ok(())
    }
}

fn answers(host: &Host, at: SocketAddr) -> bool {
    host.enter(|| TcpStream::connect(at).is_ok())
}

/// Gives this process a mount namespace of its own with a directory of files in memory. Returns the directory.
fn private_files() -> Result<PathBuf> {
    let is_empty = |place: &&&str| fs::read_dir(place).is_ok_and(|mut entries| entries.next().is_none());
    let Some(place) = PLACES.iter().find(is_empty).map(|place| PathBuf::from(*place)) else {
        bail!("the demo mounts its files on an empty directory, and none of {} is one", PLACES.join(", "));
    };
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .context("cannot make the mounts private")?;
    in_memory(&place)?;
    if Path::new(NGINX_STATE).is_dir() {
        in_memory(Path::new(NGINX_STATE))?;
    }
    Ok(place)
}

fn in_memory(place: &Path) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("egress-warden-demo"), place, Some("tmpfs"), flags, Some("mode=0755,size=64m"))
        .with_context(|| format!("cannot mount a tmpfs on {}", place.display()))
}

fn write_files(directory: &Path, python: &Path) -> Result<()> {
    for (name, text) in FILES {
        write(&directory.join(name), text)?;
    }
    for (name, script) in PROGRAMS {
        let path = directory.join(name);
        write(&path, &format!("#!{} -I\n{script}", python.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    // Names come from here alone: `.test` is nobody's to ask for.
    for name in ["hosts", "nsswitch.conf"] {
        let place = Path::new("/etc").join(name);
        match mount(Some(&directory.join(name)), &place, None::<&str>, MsFlags::MS_BIND, None::<&str>) {
            Err(errno) if name == "hosts" || std::io::Error::from(errno).kind() != ErrorKind::NotFound => {
                bail!("cannot put the demo's own file on {}: {errno}", place.display())
            }
            _ => {}
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    let parent = path.parent().context("a file lies in a directory")?;
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(path, text))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn interpreter() -> Result<PathBuf> {
    let output = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output()
        .context("cannot start python3")?;
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if !path.is_file() {
        bail!("python3 does not say where it is");
    }
    Ok(path)
}
