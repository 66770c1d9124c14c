//! pip, whose index is on one name and whose files are on another.

use std::process::Command;

use anyhow::{Result, ensure};
use egress_warden_tests::dns::{Family, Lab, Resolver, Surroundings, packages};

#[test]
fn pip_installs_by_name() -> Result<()> {
    let lab = Lab::new()?;
    packages::put_up(&lab)?;
    for (family, resolver) in [(Family::V4, Resolver::Unbound), (Family::V6, Resolver::Dnsmasq)] {
        let target = tempfile::tempdir()?;
        let surroundings = Surroundings::of_a_pod(&[resolver.address(family)])?;
        let spawn = |mut command: Command| Ok(command.spawn()?);
        let output = lab.run_by(&packages::install(target.path()), &surroundings, spawn)?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        ensure!(target.path().join("lab_package.py").is_file());
    }
    Ok(())
}
