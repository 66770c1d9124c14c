//! Forged packets on loopback under a policy that only watches: they come in, and are counted.

use std::fs;

use anyhow::Result;
use egress_warden_tests::job::{Allowlists, outsider};

use super::world;

const RECEIVES: &str = r#"
listener = listen("0.0.0.0", 80)
server = udp("0.0.0.0", 70)
say("ready")
wait()
server.settimeout(0.5)
for _ in range(2):
    say(how(lambda: server.recv(100)))
"#;

/// Sent by somebody under no policy, so that only the arrival is judged.
const SENDS: &str = r#"
for own in ["10.77.1.2", "127.0.0.1"]:
    raw4().sendto(ipv4("10.77.3.2", own, 6, segment("10.77.3.2", own, 4000, 80, 2)), (own, 0))
    raw4().sendto(ipv4("10.77.3.2", own, 17, datagram(4000, 70)), (own, 0))
say("sent")
"#;

/// What the two receipts say, and the number of the note.
fn received(mode: &str) -> Result<([String; 2], u64)> {
    let world = world()?;
    let job = world.host("job");
    let lists = Allowlists::new(&[], &[])?;
    let file = lists.path().join("list.yaml");
    fs::write(&file, fs::read_to_string(&file)?.replace("mode: enforce", &format!("mode: {mode}")))?;
    let mut program = lists.start(job, &[], RECEIVES)?;
    program.expect("ready")?;
    let mut neighbour = outsider(job, SENDS)?;
    neighbour.expect("sent")?;
    neighbour.finish()?;
    let said = [program.ask("go")?, program.line()?];
    Ok((said, program.finish()?.note("claimed to come from outside")))
}

#[test]
fn audit_lets_them_in_and_counts_them() -> Result<()> {
    let both = |text: &str| [text.to_owned(), text.to_owned()];
    assert_eq!(received("audit")?, (both("ok"), 4));
    assert_eq!(received("enforce")?, (both("ETIMEDOUT"), 4));
    Ok(())
}
