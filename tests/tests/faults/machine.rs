//! Machines that cannot enforce.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::Result;
use egress_warden_tests::bpf::forbid_bpf;
use egress_warden_tests::{agent_binary, cgroup2_mount};

use super::Bench;

#[test]
fn a_machine_that_can() -> Result<()> {
    let bench = Bench::new()?;
    bench.succeeds(bench.exec(&bench.arguments())?)?;
    Ok(())
}

#[test]
fn not_root() -> Result<()> {
    let bench = Bench::new()?;
    // The build directory may be closed to that user.
    let copy = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir()?;
    let binary = copy.path().join("egress-warden");
    std::fs::copy(agent_binary()?, &binary)?;
    let mut command = bench.namespace.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(binary);
    command.args(bench.arguments());
    bench.refused_with(command, &["root", "sudo"])
}

/// The command in a mount namespace of its own, after `setup`.
fn among_mounts(bench: &Bench, setup: &str) -> Result<Command> {
    let mut command = bench.namespace.command("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.arg(format!("set -e; {setup}; exec \"$0\" \"$@\"")).arg(agent_binary()?).args(bench.arguments());
    Ok(command)
}

#[test]
fn no_cgroup2_in_sight() -> Result<()> {
    let bench = Bench::new()?;
    let mount = cgroup2_mount()?;
    bench.refused_with(among_mounts(&bench, &format!("umount -l {}", mount.display()))?, &["cgroup"])?;
    bench.refused_with(
        among_mounts(&bench, "umount -R -l /sys/fs/cgroup")?,
        &["no cgroup2 is mounted", "mount -t cgroup2 none /sys/fs/cgroup"],
    )?;
    bench.succeeds(among_mounts(&bench, "true")?).map(drop)
}

#[test]
fn bpf_is_not_there_or_not_permitted() -> Result<()> {
    let bench = Bench::new()?;
    for (errno, needles) in [
        (libc::ENOSYS, ["no eBPF", "cannot be enforced"]),
        (libc::EPERM, ["not permitted to load eBPF programs", "CAP_BPF"]),
    ] {
        let mut command = bench.exec(&bench.arguments())?;
        forbid_bpf(&mut command, errno.cast_unsigned());
        bench.refused_with(command, &needles)?;
    }
    Ok(())
}

#[test]
fn root_without_the_capabilities() -> Result<()> {
    let bench = Bench::new()?;
    for (dropped, needle) in [("-bpf,-sys_admin", "CAP_BPF"), ("-net_admin,-sys_admin", "CAP_NET_ADMIN")] {
        let mut command = bench.namespace.command("setpriv");
        command.args(["--bounding-set", dropped, "--"]).arg(agent_binary()?).args(bench.arguments());
        bench.refused_with(command, &["not permitted", needle])?;
    }
    Ok(())
}

#[test]
fn no_more_descriptors_or_processes() -> Result<()> {
    let bench = Bench::new()?;
    for limit in ["--nofile=12", "--nofile=16"] {
        let mut command = bench.namespace.command("prlimit");
        command.arg(limit).arg(agent_binary()?).args(bench.arguments());
        let text = bench.refused(command)?;
        assert!(text.starts_with("egress-warden: "), "{text}");
    }
    Ok(())
}
