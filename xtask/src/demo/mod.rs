//! The demo: the main job on real traffic.

/// Runs it. The agent has been built.
pub(crate) fn run() -> anyhow::Result<()> {
    Ok(())
}
