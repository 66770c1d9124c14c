//! An IPv4-mapped IPv6 destination is the IPv4 one that it means; no address at all means the job itself.

use anyhow::Result;

use crate::support::{Allowlists, Scene};

const ENTRIES: &str = "\
- cidrs: [10.77.2.2/32]
  ports: [80, 53/udp]
  why: services
";

#[test]
fn a_mapped_destination_is_judged_as_the_ipv4_that_it_means() -> Result<()> {
    let scene = Scene::new()?;
    let allowlists = Allowlists::enforce(ENTRIES)?;
    let program = r#"
for kind, port in (("tcp", 80), ("udp", 53), ("udp_connected", 53)):
    for _ in range(3):
        attempt(kind, "::ffff:10.77.2.2", port)
        attempt(kind, "::ffff:10.88.0.9", port)
"#;
    let report = allowlists.python(scene.job(), program)?;
    scene.settle()?;
    let attempts = report.attempts();
    assert_eq!(attempts.len(), 18);
    for attempt in &attempts {
        assert_eq!(attempt.is_refused(), attempt.what.contains("10.88.0.9"), "{attempt:?}");
    }
    assert!(scene.arrived(6, "10.77.2.2:80".parse()?) > 0);
    assert_eq!(scene.arrived(17, "10.77.2.2:53".parse()?), 6);
    assert_eq!(scene.arrived(6, "10.88.0.9:80".parse()?), 0);
    assert_eq!(scene.arrived(17, "10.88.0.9:53".parse()?), 0);
    let kinds = report.kinds();
    assert_eq!(kinds.get("not_allowlisted tcp 10.88.0.9 80"), Some(&3), "{kinds:?}");
    assert_eq!(kinds.get("not_allowlisted udp 10.88.0.9 53"), Some(&6), "{kinds:?}");
    assert_eq!(report.refused().0, 9, "{}", report.summary);
    Ok(())
}

#[test]
fn no_address_at_all_is_loopback() -> Result<()> {
    let scene = Scene::new()?;
    let program = r#"
servers = []
for f, any in ((AF_INET, "0.0.0.0"), (AF_INET6, "::1")):
    s = socket.socket(f, SOCK_STREAM)
    s.bind((any, 0))
    s.listen()
    servers.append(s)
for address, server in (("0.0.0.0", servers[0]), ("::", servers[1]), ("127.0.0.1", servers[0]), ("::1", servers[1])):
    attempt("tcp", address, server.getsockname()[1])
attempt("tcp", "10.88.0.9", 80)
"#;
    for (policy, open) in [("mode: enforce", true), ("mode: enforce\nloopback: deny", false)] {
        let allowlists = Allowlists::new(ENTRIES, policy)?;
        let report = allowlists.python(scene.job(), program)?;
        let attempts = report.attempts();
        assert_eq!(attempts.len(), 5);
        for attempt in &attempts[..4] {
            assert_eq!(attempt.errno, if open { 0 } else { libc::EPERM }, "{policy}: {attempt:?}");
        }
        assert!(attempts[4].is_refused());
        let denied = report.events.iter().filter(|event| event["reason"] == "loopback_denied").count();
        assert_eq!(denied, if open { 0 } else { 4 }, "{policy}: {:?}", report.events);
        assert_eq!(report.refused().0, if open { 1 } else { 5 }, "{}", report.summary);
    }
    Ok(())
}
