//! The steps in which things work: the allowlists, and what the job needs.

use anyhow::Result;

use super::screen::{Screen, plural};
use super::stage::Stage;
use super::wire::Wire;

/// How the job's commands begin.
pub(super) const EXEC: [&str; 7] =
    ["egress-warden", "exec", "--allowlists", "allowlists", "--policy", "training", "--"];

/// What installs the package.
pub(super) const PIP: [&str; 11] = [
    "python3",
    "-m",
    "pip",
    "install",
    "--retries",
    "0",
    "--index-url",
    "https://index.packages.test/simple",
    "-t",
    "site",
    "demo-package",
];
/// What it says then.
pub(super) const INSTALLED: &str = "Successfully installed demo-package-1.0";

/// The allowlists are valid, and a mistake would have been found.
pub(super) fn allowlists(stage: &Stage, screen: &mut Screen) -> Result<()> {
    screen
        .step("The allowlists are checked before anything runs, and a mistake is shown where it stands.")?;
    let text = stage.read("allowlists/demo.yaml")?;
    screen.output(&text)?;
    let good = check(stage, screen, "allowlists")?;
    screen.prove(good.code == Some(0), "the allowlists are valid (exit code 0)")?;
    stage.write("mistake.yaml", &text.replace("allow: [proxy, index,", "allow: [proxy, indx,"))?;
    let bad = check(stage, screen, "mistake.yaml")?;
    let placed = bad.stderr.contains("mistake.yaml:") && bad.stderr.contains("indx");
    screen.prove(
        bad.code == Some(1) && placed,
        "the same with `indx` for `index` is refused (exit code 1), with its place",
    )
}

fn check(stage: &Stage, screen: &Screen, path: &str) -> Result<super::Ran> {
    let line = ["egress-warden", "check", path];
    screen.command(&line.join(" "))?;
    let ran = stage.run(&line)?;
    screen.output(&format!("{}{}", ran.stdout, ran.stderr))?;
    Ok(ran)
}

/// What the job needs works.
pub(super) fn work(stage: &Stage, screen: &mut Screen) -> Result<()> {
    screen.step(
        "Under the policy the job gets what it needs: a package, a page through the proxy, its service.",
    )?;
    screen.prose(
        "   Each command runs under `egress-warden exec --allowlists allowlists --policy training --`.",
    )?;
    let world = stage.world();
    let (internal, outside) = (Wire::of(stage, "internal")?, Wire::of(stage, "outside")?);
    install(stage, screen)?;

    let fetch = "curl -sS --proxy http://proxy.test:3128 http://outside.test/";
    let (is_clean, printed) = work_on(stage, screen, fetch)?;
    outside.settle()?;
    let (direct, proxied) = (outside.job_frames(), outside.frames_of(world.host("proxy"), |_| true));
    screen.prove(
        is_clean && printed.contains("hello from outside") && proxied > 0 && direct == 0,
        format!("the page came through the proxy, nothing was refused: {proxied} frames from the proxy, {direct} from the job"),
    )?;

    let (is_clean, printed) = work_on(stage, screen, "curl -sS http://internal.test:8080/")?;
    internal.settle()?;
    let frames = internal.job_frames();
    screen.prove(
        is_clean && printed.contains("checkpoint stored") && frames > 0,
        format!("the internal service answered, nothing was refused: {frames} frames from the job"),
    )
}

/// pip, without a second try: the page names another host, which the wildcard covers and nobody resolved before.
fn install(stage: &Stage, screen: &mut Screen) -> Result<()> {
    let (index, files) = (Wire::of(stage, "index")?, Wire::of(stage, "files")?);
    let resolver = Wire::of(stage, "resolver")?;
    let (is_clean, printed) = work_on(stage, screen, &PIP.join(" "))?;
    index.settle()?;
    files.settle()?;
    resolver.settle()?;
    let (pages, packages, queries) = (index.job_frames(), files.job_frames(), resolver.queries());
    screen.prove(
        is_clean && printed.contains(INSTALLED) && pages > 0 && packages > 0 && queries > 0,
        format!(
            "pip installed the package over TLS at its first try, nothing was refused: {} at the resolver, {pages} \
             frames at the index, {packages} at the host of its files",
            plural(queries, "query")
        ),
    )
}

/// Runs a command under the policy: whether it ended well and nothing was refused, and what it printed.
fn work_on(stage: &Stage, screen: &Screen, line: &str) -> Result<(bool, String)> {
    let line: Vec<&str> = EXEC.into_iter().chain(line.split(' ')).collect();
    screen.command(&format!("… {}", line[EXEC.len()..].join(" ")))?;
    let ran = stage.run(&line)?;
    screen.output(ran.stdout.lines().last().unwrap_or(""))?;
    let is_clean = ran.code == Some(0) && ran.summary("refused") == "refused      nothing";
    if !is_clean {
        screen.output(&ran.stderr)?;
    }
    Ok((is_clean, ran.stdout))
}
