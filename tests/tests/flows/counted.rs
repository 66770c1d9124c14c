//! What counts of the datagrams of a connected socket.

use anyhow::Result;
use egress_warden_tests::job::Allowlists;

use super::world;

/// The same refused place in turn by address, which sendmsg sees, and by the connection, which it does not.
const IN_TURN: &str = r#"
shared = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
shared.connect(("10.77.3.2", 90))
for _ in range(5):
    say(how(lambda: shared.sendto(MARK, ("10.77.3.2", 90))), how(lambda: shared.send(MARK)))
"#;

#[test]
fn each_refused_datagram_of_a_connected_socket_counts() -> Result<()> {
    let world = world()?;
    let lists = Allowlists::new(&["cidrs: [10.77.2.2/32], ports: [90]"], &[])?;
    let mut program = lists.start(world.host("job"), &[], IN_TURN)?;
    for _ in 0..5 {
        program.expect("EPERM EPERM")?;
    }
    program.finish()?.assert_refused(&[("not_allowlisted", 10)]);
    Ok(())
}
