//! The operator's way: audit, suggest, check, enforce.

use anyhow::Result;

use super::Ran;
use super::screen::Screen;
use super::stage::Stage;
use super::welcome::{INSTALLED, PIP};

/// The policy that `suggest from-events` writes.
const DRAFT: &str = "suggested";

/// Begins with a policy that allows nothing, and ends with one that allows what pip needs.
pub(super) fn run(stage: &Stage, screen: &mut Screen) -> Result<()> {
    screen.step("The operator's way: audit a run, have an allowlist suggested, check it, enforce it.")?;
    let audit = ["--allowlists", "unknown.yaml", "--policy", "unknown", "--mode", "audit", "--events"];
    let audited = exec(stage, screen, &[&audit[..], &["audit.jsonl"]].concat())?;
    screen.prove(
        audited.code == Some(0) && audited.stdout.contains(INSTALLED),
        format!("a policy that allows nothing yet let it through: {}", audited.summary("would refuse")),
    )?;

    let suggested = command(stage, screen, &["egress-warden", "suggest", "from-events", "audit.jsonl"])?;
    stage.write("draft.yaml", &suggested.stdout)?;
    screen.output(&suggested.stdout)?;
    let names = ["index.packages.test", "files.packages.test"];
    let told = &suggested.stdout;
    let by_address = told.contains("- cidrs:") || told.contains("port not seen");
    screen.prove(
        suggested.code == Some(0) && names.iter().all(|name| told.contains(name)) && !by_address,
        "the draft has both names, with the ports that were tried and where they led, and nothing by its address",
    )?;
    let checked = command(stage, screen, &["egress-warden", "check", "draft.yaml"])?;
    screen.output(&checked.stdout)?;
    screen.prove(
        checked.code == Some(0),
        "it is valid as it stands; a person reviews it and writes each `why`",
    )?;

    let enforce = ["--allowlists", "draft.yaml", "--policy", DRAFT, "--mode", "enforce"];
    let enforced = exec(stage, screen, &enforce)?;
    let refused = enforced.summary("refused");
    screen.prove(
        enforced.code == Some(0) && enforced.stdout.contains(INSTALLED) && refused == "refused      nothing",
        format!("enforced, pip installs as before: {refused}"),
    )
}

/// pip under a policy.
fn exec(stage: &Stage, screen: &Screen, options: &[&str]) -> Result<Ran> {
    let words = [&["egress-warden", "exec"], options, &["--"]].concat();
    screen.command(&format!("{} python3 -m pip install … demo-package", words.join(" ")))?;
    let ran = stage.run(&[&words[..], &PIP[..], &["--upgrade"]].concat())?;
    if ran.code != Some(0) {
        screen.output(&ran.stderr)?;
    }
    Ok(ran)
}

fn command(stage: &Stage, screen: &Screen, line: &[&str]) -> Result<Ran> {
    screen.command(&line.join(" "))?;
    let ran = stage.run(line)?;
    if ran.code != Some(0) {
        screen.output(&ran.stderr)?;
    }
    Ok(ran)
}
