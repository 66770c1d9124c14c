//! The world of the demo: hosts, servers, files, and a place to run programs in.
//!
//! Everything in it hangs on this process, so that nothing stays whatever ends it: namespaces are held by descriptors,
//! programs run in one cgroup that has a keeper, and files lie in memory, mounted in a mount namespace of the demo's
//! own, where `/etc/resolv.conf` is the demo's as well.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use egress_warden_tests::server::Server;
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{Namespace, TestCgroup, World};

use super::{Ran, files, interrupt};

/// A program that runs beside the demo. Dropping it waits for its end, so that no zombie is left to somebody else; who
/// drops it has ended it.
pub(super) struct Program(pub(super) Child);

impl Drop for Program {
    fn drop(&mut self) {
        self.0.wait().ok();
    }
}

/// The world.
pub(super) struct Stage {
    // Dropped in this order: first everything that runs, then where it ran.
    cgroup: TestCgroup,
    servers: Vec<Program>,
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
        let directory = files::mount_private()?;
        files::write_all(&directory, &python)?;
        let world = World::new(&["job", "proxy", "index", "internal", "outside", "resolver", "files"])?;
        let outside = world.host("outside");
        let echoes =
            [Server::udp_echo(outside, outside.at(53))?, Server::udp_echo(outside, outside.at_v6(53))?];
        let python = python.parent().context("the interpreter has no directory")?.to_owned();
        let mut stage = Stage {
            cgroup,
            servers: Vec::new(),
            _echoes: echoes,
            world,
            directory,
            agent: agent.to_owned(),
            python,
        };
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

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where everything runs.
    pub(super) fn cgroup(&self) -> &TestCgroup {
        &self.cgroup
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
        files::write(&self.directory.join(name), text)
    }

    /// A new file, for what a program prints.
    pub(super) fn create(&self, name: &str) -> Result<File> {
        let path = self.directory.join(name);
        File::create(&path).with_context(|| format!("cannot write {}", path.display()))
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
    pub(super) fn converse(&self, line: &[&str]) -> Result<Program> {
        let mut command = self.command(self.world.host("job"), line)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Program(self.spawn(command)?))
    }

    /// A command on a host. `egress-warden` is the one that was built.
    pub(super) fn command(&self, host: &Namespace, line: &[&str]) -> Result<Command> {
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
            ("TMPDIR", self.directory.to_str().unwrap_or("/")),
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

    pub(super) fn spawn(&self, command: Command) -> Result<Child> {
        interrupt::check()?;
        self.cgroup.spawn(command)
    }

    fn make_index(&self) -> Result<()> {
        const KEY: [&str; 8] =
            ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-x509", "-days", "1"];
        let authority = ["-extensions", "authority", "-keyout", "authority.key", "-out", "authority.pem"];
        let index = [
            "-subj",
            "/CN=packages.test",
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

    fn start_servers(&mut self) -> Result<()> {
        let at = |(name, port)| self.world.host(name).at(port);
        let [index, files] = [("index", 443), ("files", 443)].map(at);
        let [internal, outside] = [("internal", 8080), ("outside", 80)].map(at);
        let [proxy, resolver] = [("proxy", 3128), ("resolver", 53)].map(at);
        let tls = "ssl; ssl_certificate index.pem; ssl_certificate_key index.key";
        let outside_v6 = self.world.host("outside").at_v6(outside.port());
        for (name, at, listen) in [
            ("index", index, format!("{index} {tls}")),
            ("files", files, format!("{files} {tls}")),
            ("internal", internal, internal.to_string()),
            ("outside", outside, format!("{outside}; listen {outside_v6}")),
        ] {
            let file = format!("{name}.conf");
            let configuration = format!(
                "daemon off; master_process off; pid {name}.pid; error_log stderr; events {{}}\n\
                 http {{ access_log off; default_type text/html; server {{ root {name}; listen {listen}; }} }}\n"
            );
            self.write(&file, &configuration)?;
            let directory = self.directory.to_string_lossy().into_owned();
            self.serve(name, at, &["nginx", "-e", "stderr", "-p", &directory, "-c", &file])?;
        }
        let dnsmasq = ["dnsmasq", "--keep-in-foreground", "--conf-file=dnsmasq.conf", "--pid-file="];
        self.serve("resolver", resolver, &dnsmasq)?;
        self.serve("proxy", proxy, &["tinyproxy", "-d", "-c", "tinyproxy.conf"])
    }

    /// Starts the server of a host, and waits until it answers there.
    fn serve(&mut self, name: &str, at: SocketAddr, line: &[&str]) -> Result<()> {
        let host = self.world.host(name);
        let mut command = self.command(host, line)?;
        let log = format!("{name}.log");
        let file = self.create(&log)?;
        command.stdout(file.try_clone()?).stderr(file);
        let mut program = Program(self.spawn(command)?);
        let answers = || host.enter(|| TcpStream::connect(at).is_ok());
        let ended = until(&line.join(" "), DEADLINE, || match program.0.try_wait() {
            Ok(None) => answers().then_some(false),
            _ => Some(true),
        });
        // Kept before anything is decided: dropping it here would wait for a server that runs.
        self.servers.push(program);
        interrupt::check()?;
        if ended? {
            bail!("`{}` ended: {}", line.join(" "), self.read(&log)?.trim_end());
        }
        Ok(())
    }
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
