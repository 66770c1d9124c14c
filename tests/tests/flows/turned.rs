//! A socket that served a caller and is then turned into a client.

use anyhow::Result;
use egress_warden_tests::job::Allowlists;
use egress_warden_tests::wait::DEADLINE;

use super::{is_to, settle, wire, world};

/// Takes one caller, then uses the accepted socket and the listener to call out: to a refused place, then to an allowed
/// one.
const TURNS: &str = r#"
listener = listen("0.0.0.0", 80)
say("ready")
made, _ = listener.accept()
made.sendall(b"hello")
say("accepted")
wait()
for turned in [made, listener]:
    turned.settimeout(2)
    say(how(lambda: disconnect(turned)), how(lambda: turned.connect(("10.77.3.2", 90))))
    say(how(lambda: turned.sendto(MARK, 0x20000000, ("10.77.3.2", 90))))
    say(how(lambda: disconnect(turned)), how(lambda: turned.connect(("10.77.2.2", 90))))
    say(turned.recv(9).decode())
"#;

#[test]
fn what_served_a_caller_is_judged_when_it_calls() -> Result<()> {
    let world = world()?;
    let (job, caller, outside) = (world.host("job"), world.host("caller"), world.host("outside"));
    let wire = wire(&world)?;
    let lists = Allowlists::new(&["cidrs: [10.77.2.2/32], ports: [90]"], &[])?;
    let _allowed = egress_warden_tests::server::Server::tcp_greeter(caller, caller.at(90), b"welcome")?;
    let _refused = egress_warden_tests::server::Server::tcp_greeter(outside, outside.at(90), b"never")?;
    let mut program = lists.start(job, &[], TURNS)?;
    program.expect("ready")?;
    // The caller is the refused host itself, so that a mark that survives would open exactly it.
    let _stream = outside.enter(|| std::net::TcpStream::connect_timeout(&job.at(80), DEADLINE))?;
    program.expect("accepted")?;
    program.tell("go")?;
    for _ in 0..2 {
        program.expect("ok EPERM")?;
        program.expect("EPERM")?;
        program.expect("ok ok")?;
        program.expect("welcome")?;
    }
    program.finish()?.assert_refused(&[("not_allowlisted", 4)]);
    settle(&wire, &world)?;
    assert_eq!(wire.count(|frame| is_to(frame, outside) && frame.destination_port == Some(90)), 0);
    Ok(())
}
