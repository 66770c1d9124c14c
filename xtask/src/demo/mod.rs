//! The demo: the main job on real traffic, each claim proven by what was counted.
//!
//! A [`stage::Stage`] is the small world in which it happens; the steps run real programs on it and tell a
//! [`screen::Screen`] what was measured. A proof that does not hold makes the demo fail.

mod draft;
mod files;
mod interrupt;
mod names;
mod node;
mod quarantine;
mod screen;
mod stage;
mod stealer;
mod welcome;
mod wire;

use std::path::Path;
use std::process;
use std::time::Instant;

use anyhow::{Result, bail};

use screen::Screen;
use stage::Stage;

/// Runs it with this agent.
pub(crate) fn run(agent: &Path) -> Result<()> {
    // Before any thread starts: a thread without the block would take the signal and end the process at once.
    interrupt::block()?;
    let mut screen = Screen::new();
    let result = Stage::build(agent).and_then(|stage| {
        play(&stage, &mut screen)?;
        stage.take_down()
    });
    // The stage is gone by now, however that ended.
    if let Some(signal) = interrupt::received() {
        eprintln!("\ninterrupted; nothing of the demo is left on this machine");
        process::exit(128 + signal);
    }
    result?;
    screen.finish()
}

fn play(stage: &Stage, screen: &mut Screen) -> Result<()> {
    let start = Instant::now();
    screen.title("Egress Warden: what a training job may reach, and what happens to the rest")?;
    screen.prose(
        "Seven hosts around a router, each in a network namespace of its own: training job 10.77.1.2, egress proxy \
         10.77.2.2, package index 10.77.3.2, internal service 10.77.4.2, an outside host 10.77.5.2, which no \
         allowlist names, resolver 10.77.6.2 (dnsmasq, for names that end in .test), and the host of the index's \
         files 10.77.7.2. Nothing touches this machine's own network. A frame counts when a packet capture on the \
         receiving host's wire has seen it.",
    )?;
    welcome::allowlists(stage, screen)?;
    welcome::work(stage, screen)?;
    let refused = stealer::enforced(stage, screen)?;
    stealer::audited(stage, screen)?;
    stealer::who(stage, screen, &refused)?;
    names::tunnel(stage, screen)?;
    names::unanswered(stage, screen)?;
    node::run(stage, screen)?;
    draft::run(stage, screen)?;
    quarantine::run(stage, screen)?;
    screen.took(start.elapsed())
}

/// A program that ran to its end.
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    /// Fails with what it said, where the demo cannot go on without its success.
    fn expect_success(self, what: &str) -> Result<Ran> {
        if self.code != Some(0) {
            bail!("{what} failed (exit code {:?}):\n{}{}", self.code, self.stdout, self.stderr);
        }
        Ok(self)
    }

    /// The line of the agent's summary that begins with this word.
    fn summary(&self, word: &str) -> &str {
        self.stderr.lines().map(str::trim).find(|line| line.starts_with(word)).unwrap_or("")
    }
}
