//! Signals to the wrapper at any moment of its start: never a command that runs unenforced, never a rest.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;
use egress_warden_tests::job::{Allowlists, python};
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{Capture, TestCgroup, World};

use super::Bench;

/// Sends without end, to a refused place and to an allowed one.
const SENDS: &str = r#"
out = udp("0.0.0.0", 0)
while True:
    how(lambda: out.sendto(MARK, ("10.77.2.2", 9)))
    how(lambda: out.sendto(MARK, ("10.77.3.2", 9)))
"#;

#[test]
fn no_frame_leaves_and_nothing_stays() -> Result<()> {
    let world = World::new(&["job", "outside", "allowed"])?;
    let (job, outside, allowed) = (world.host("job"), world.host("outside"), world.host("allowed"));
    let wire = Capture::start(world.router(), "job")?;
    let lists = Allowlists::new(&["cidrs: [10.77.3.2/32], ports: [\"9/udp\"]"], &[])?;
    let bench = Bench { namespace: (**job).clone(), cgroup: TestCgroup::new()?, lists };
    let sent = |to| wire.count(|frame| frame.is_udp() && frame.is_to(to));
    let is_sending =
        || until("frames to the allowed place", DEADLINE, || (sent(allowed.at(9)) > 0).then_some(()));
    for run in 0..24_u64 {
        let signal = [libc::SIGINT, libc::SIGTERM, libc::SIGKILL][usize::try_from(run)? % 3];
        let mut command = bench.lists.exec(&bench.namespace, &[])?;
        command.args(python(SENDS)).stdout(Stdio::null()).stderr(Stdio::null());
        let mut wrapper = bench.cgroup.spawn(command)?;
        // The control: at least one run gets as far as sending.
        if run == 0 {
            is_sending()?;
        }
        // Nothing is waited for; the moment is what is tried.
        std::thread::sleep(Duration::from_millis(run * 4));
        let pid = i32::try_from(wrapper.id())?;
        // SAFETY: takes no pointers; the wrapper is a child that is not reaped yet.
        unsafe { libc::kill(pid, signal) };
        wrapper.wait()?;
        bench.assert_nothing_stays()?;
    }
    wire.settle(job, allowed.at(10))?;
    assert!(sent(allowed.at(9)) > 0);
    assert_eq!(sent(outside.at(9)), 0);
    Ok(())
}
