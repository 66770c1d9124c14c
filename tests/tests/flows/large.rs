//! What honest stacks send in one piece, larger than a device takes or a length field can say.

use anyhow::Result;
use egress_warden_tests::job::{Allowlists, outsider};

use super::world;

const PLACES: &str = r#"
PLACES = [(socket.AF_INET, "10.77.1.1"), (socket.AF_INET6, "fd77:1::1")]
"#;

/// Reads datagrams, then streams, and says how many bytes came.
const RECEIVES: &str = r#"
def total(made, wanted):
    made.settimeout(5)
    count = 0
    while count < wanted:
        count += len(made.recv(1 << 20))
    return count
datagrams = [udp(here, 90, family) for family, here in PLACES]
for made in datagrams:
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
listeners = [listen(here, 80, family) for family, here in PLACES]
say("ready")
for made in datagrams:
    say(total(made, 90_000))
for made in listeners:
    say(total(made.accept()[0], 1 << 24))
"#;

/// Datagrams that the stack cuts into fragments, or into smaller datagrams (`UDP_SEGMENT`); streams that are cut by the
/// device.
const SENDS: &str = r#"
for family, there in PLACES:
    wait()
    out = socket.socket(family, socket.SOCK_DGRAM)
    out.sendto(bytes(40_000), (there, 90))
    out.setsockopt(17, 103, 1000)
    out.sendto(bytes(50_000), (there, 90))
for family, there in PLACES:
    wait()
    tcp(there, 80, family).sendall(bytes(1 << 24))
say("sent")
"#;

#[test]
fn pass_whole() -> Result<()> {
    let world = world()?;
    let job = world.host("job");
    let mut receiver = outsider(world.router(), &format!("{PLACES}{RECEIVES}"))?;
    receiver.expect("ready")?;
    let lists = Allowlists::new(&["cidrs: [10.77.1.1/32, \"fd77:1::1/128\"]"], &[])?;
    let mut program = lists.start(job, &[], &format!("{PLACES}{SENDS}"))?;
    for _ in 0..2 {
        program.tell("go")?;
        receiver.expect("90000")?;
    }
    // From now on TCP over IPv6 hands over more at once than its length field can say. (To the next hop: a router does not
    // forward what is that large.)
    for (namespace, device) in [(&**job, "eth0"), (world.router(), "job")] {
        let large = ["ip", "link", "set", "dev", device, "gso_max_size", "200000", "gro_max_size", "200000"];
        namespace.run(large)?;
    }
    for _ in 0..2 {
        program.tell("go")?;
        receiver.expect("16777216")?;
    }
    program.expect("sent")?;
    program.finish()?.assert_refused(&[]);
    receiver.finish()?;
    Ok(())
}
