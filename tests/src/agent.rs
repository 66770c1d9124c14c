//! The agent that ships.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

/// The path of the release binary: `EGRESS_WARDEN_BIN` where it is set (`cargo xtask test` builds once and sets it),
/// else cargo is asked to build it, which takes a moment when it is up to date.
///
/// # Errors
/// When it does not build.
pub fn agent_binary() -> Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match BINARY.get_or_init(|| find().map_err(|error| format!("{error:#}"))) {
        Ok(path) => Ok(path),
        Err(message) => bail!("there is no agent to test: {message}"),
    }
}

fn find() -> Result<PathBuf> {
    if let Some(path) = env::var_os("EGRESS_WARDEN_BIN").map(PathBuf::from) {
        if !path.is_file() {
            bail!("EGRESS_WARDEN_BIN is {}, which is no file", path.display());
        }
        return Ok(path);
    }
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--package", "egress-warden", "--message-format", "json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo build --release --package egress-warden: {}", output.status);
    }
    executable_in(&String::from_utf8_lossy(&output.stdout)).context("cargo named no executable")
}

/// The executable in cargo's messages. The only binary of that package is the agent.
fn executable_in(messages: &str) -> Option<PathBuf> {
    let (_, rest) = messages.rsplit_once("\"executable\":\"")?;
    Some(rest.split_once('"')?.0.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_the_one_that_is_not_null() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":\"/out/release/egress-warden\",\"fresh\":true}\n\
                        {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executable_in(messages), Some("/out/release/egress-warden".into()));
        assert_eq!(executable_in("{\"executable\":null}"), None);
    }
}
