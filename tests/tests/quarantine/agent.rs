//! The agent that ships, with a directory of its own for everything that it keeps.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{TestCgroup, agent_binary};
use serde_json::Value;
use tempfile::TempDir;

/// An agent, running or not. What it enforces ends with this.
pub(crate) struct Agent {
    room: TempDir,
    /// What is selected, by the path of its cgroup.
    workload: PathBuf,
    /// A capability that it is started without.
    without: Option<&'static str>,
    running: Option<Child>,
}

impl Agent {
    /// Starts one that enforces this cgroup, whose policy has this quarantine rule.
    pub(crate) fn start(cgroup: &TestCgroup, quarantine: &str) -> Result<Agent> {
        Self::start_without(None, cgroup, quarantine)
    }

    /// The same without a capability.
    pub(crate) fn start_without(
        without: Option<&'static str>,
        cgroup: &TestCgroup,
        quarantine: &str,
    ) -> Result<Agent> {
        let workload = Path::new("/").join(cgroup.path().file_name().context("a name")?);
        let room = tempfile::tempdir()?;
        for directory in ["bpf", "allowlists", "state"] {
            fs::create_dir(room.path().join(directory))?;
        }
        let mut agent = Agent { room, workload, without, running: None };
        agent.write_policy(&agent.workload, quarantine)?;
        // Nobody scrapes it; a port that is free now is free in a moment.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let config = format!(
            "allowlists: [allowlists]\nmetrics: {{listen: \"127.0.0.1:{port}\"}}\nstate_dir: state\n\
             control_socket: control.sock\naudit_log: audit.jsonl\nselftest: {{every: off}}\n"
        );
        fs::write(agent.path("config.yaml"), config)?;
        agent.start_again()?;
        Ok(agent)
    }

    pub(crate) fn start_again(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.path("log"))?;
        let mut command = Command::new(agent_binary()?);
        if let Some(capability) = self.without {
            command = Command::new("setpriv");
            command.args(["--bounding-set", capability, "--inh-caps", capability]).arg(agent_binary()?);
        }
        command.arg("run").arg("--config").arg(self.path("config.yaml"));
        command.arg("--pin-directory").arg(self.path("bpf/egress-warden"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.running = Some(command.spawn()?);
        until("the agent enforces it", DEADLINE, || self.status().ok().filter(is_enforced))
            .with_context(|| self.log())?;
        Ok(())
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let mut child = self.running.take().context("it runs")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// The only policy: everything on port 80 of two hosts, of which quarantine keeps one.
    fn write_policy(&self, select: &Path, quarantine: &str) -> Result<()> {
        let text = super::connections::ALLOWLISTS
            .replace("{all: true}", &format!("{{cgroups: [\"{}\"]}}", select.display()))
            .replace("{violations: 1, within: 60s, keep: [kept]}", quarantine);
        // In one step: the agent reads what it sees.
        let new = self.path("test.yaml.new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, self.path("allowlists/test.yaml"))?)
    }

    /// Has the policy select something else.
    pub(crate) fn deselect(&self) -> Result<()> {
        self.write_policy(&self.workload.join("no-such-cgroup"), "{violations: 1, within: 60s, keep: [kept]}")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.room.path().join(name)
    }

    /// What the agent said, for a test that fails.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Runs a command of the control socket.
    pub(crate) fn ask(&self, words: &[&str]) -> Result<String> {
        let output = Command::new(agent_binary()?)
            .args(words)
            .arg("--socket")
            .arg(self.path("control.sock"))
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{words:?}: {said}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// `quarantine add` or `release` of the workload.
    pub(crate) fn order(&self, words: &[&str]) -> Result<String> {
        let workload = self.workload.display().to_string();
        self.ask(&[&["quarantine"], words, &[&workload, "--who", "ann", "--why", "a test"]].concat())
    }

    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.ask(&["status", "--json"])?)?)
    }

    /// Has it take enforcement out of the kernel.
    pub(crate) fn detach(&self) -> Result<String> {
        // Should it not answer, its own pins are to be removed and no other's.
        self.ask(&["detach", "--pin-directory", &self.path("bpf/egress-warden").display().to_string()])
    }

    /// The workload's quarantine; null where it is in none.
    pub(crate) fn quarantine(&self) -> Result<Value> {
        Ok(self.status()?["workloads"][0]["quarantine"].clone())
    }

    /// What happened, each as `what action who`.
    pub(crate) fn history(&self) -> Result<Vec<String>> {
        let list: Value = serde_json::from_str(&self.ask(&["quarantine", "list", "--history", "--json"])?)?;
        let entries = list["history"].as_array().context("a history")?;
        let word = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let line = |entry| ["what", "action", "who"].map(|key| word(entry, key)).join(" ");
        Ok(entries.iter().map(line).collect())
    }
}

fn is_enforced(status: &Value) -> bool {
    status["workloads"][0]["enforced_since"].is_string()
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            child.kill().ok();
            child.wait().ok();
        }
        // The pins are gone with the file system, and with them what is attached.
        Command::new("umount").arg("-l").arg(self.path("bpf")).stderr(Stdio::null()).status().ok();
    }
}
