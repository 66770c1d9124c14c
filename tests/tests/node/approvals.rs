//! What root inside tries with the approval of a service: to take it elsewhere. Every attempt is made behind a load
//! balancer that is followed, under a policy that opens the service and nothing else.

use anyhow::{Result, ensure};
use egress_warden_common::backend::backend_set;
use egress_warden_common::{Address, Reason};
use egress_warden_tests::probe::Attempt;

use super::loadbalancer::{Balanced, NEITHER, SERVICE, at, counted, service};
use super::support::{words, words_with};

/// Names for both families, and an error's number instead of an exception.
const NAMES: &str = "
import threading
FAMILIES=[(socket.AF_INET,('10.96.0.10',80),('10.77.2.2',8080),('10.77.3.2',8080)),
          (socket.AF_INET6,('fdaa::10',80),('fd77:2::2',8080),('fd77:3::2',8080))]
def attempt(action):
    try: action(); return 0
    except OSError as error: return error.errno
";

fn program(text: &str) -> String {
    format!("{NAMES}\n{text}")
}

#[test]
fn threads_that_connect_one_socket_at_once_reach_the_service_only() -> Result<()> {
    let balanced = Balanced::new()?;
    balanced.enforced(SERVICE, |_, _| {
        // Whoever connects last has the socket, whichever of the two was looked at last.
        let sent = balanced.run(&program(
            "
sent=0
for family,service,backend,forbidden in FAMILIES:
    s=socket.socket(family,socket.SOCK_DGRAM)
    stop=threading.Event()
    def again(to):
        while not stop.is_set(): attempt(lambda: s.connect(to))
    threads=[threading.Thread(target=again,args=(to,)) for to in (service,forbidden,service,forbidden)]
    for thread in threads: thread.start()
    for _ in range(5000): sent+=attempt(lambda: s.send(b'x'))==0
    stop.set()
    for thread in threads: thread.join()
print(sent)",
        ))?;
        let (backend, forbidden) = balanced.arrived()?;
        assert_eq!(forbidden, 0, "{sent} sent, {backend} at the backend");
        ensure!(backend > 0, "the control: nothing arrived of {sent}");
        Ok(())
    })
}

/// From sockets that were approved to other places: prints how often it was refused, and fails when it was not.
const ELSEWHERE: &str = "
import errno
refused=0
def no(action):
    global refused
    error=attempt(action)
    assert error==errno.EPERM, error
    refused+=1
for family,service,backend,forbidden in FAMILIES:
    # Connected to the service, then freed, then connected elsewhere.
    s=socket.socket(family,socket.SOCK_STREAM); s.settimeout(5)
    s.connect(service); assert s.recv(9)
    disconnect(s)
    no(lambda: s.connect(forbidden))
    d=socket.socket(family,socket.SOCK_DGRAM); d.settimeout(5)
    d.connect(service); d.send(b'x'); assert d.recv(9)
    # Past the peer of a connected socket, and to other ports of the backend.
    no(lambda: d.sendto(b'x',forbidden))
    for port in PORTS[family]: no(lambda: d.sendto(b'x',(backend[0],port)))
    disconnect(d)
    d.connect(forbidden)
    no(lambda: d.send(b'x'))
    disconnect(d)
    # The hook sees only the first part of a datagram in parts.
    MORE=0x8000
    d.sendto(b'x',MORE,service)
    assert attempt(lambda: d.sendto(b'y',0,forbidden))==0, 'it goes where the first part does'
    no(lambda: d.sendto(b'x',MORE,forbidden))
    d.sendto(b'x',service)
    # From a fresh one, from a raw one, and from one that was only connected before.
    no(lambda: socket.socket(family,socket.SOCK_DGRAM).sendto(b'x',forbidden))
    datagram=struct.pack('!HHHH',4000,8080,9,0)+b'x'
    no(lambda: socket.socket(family,socket.SOCK_RAW,17).sendto(datagram,(forbidden[0],0)))
    d.connect(service)
    disconnect(d)
    no(lambda: d.sendto(b'x',forbidden))
print(refused)";

#[test]
fn a_socket_that_was_approved_leads_nowhere_else() -> Result<()> {
    let balanced = Balanced::new()?;
    balanced.enforced(SERVICE, |node, id| {
        // The next port, and one that stands in the same set of the table as the backend's.
        let ports = [false, true].map(|v6| {
            let address = Address::from(at(&balanced.world, "backend", v6).ip());
            let set = backend_set(address, 8080);
            (8081_u16..).find(|port| backend_set(address, *port) == set).unwrap_or_default()
        });
        let known =
            format!("PORTS={{socket.AF_INET:[8081,{}],socket.AF_INET6:[8081,{}]}}", ports[0], ports[1]);
        let refused = balanced.run(&program(&format!("{known}\n{ELSEWHERE}")))?;
        assert_eq!(balanced.arrived()?.1, 0);
        assert_eq!(counted(node, id, Reason::NotAllowlisted)?, refused.parse::<u64>()?);
        Ok(())
    })
}

#[test]
fn a_translation_inside_takes_no_approval_along() -> Result<()> {
    let balanced = Balanced::new()?;
    let job = balanced.world.host("job");
    for (family, from, to) in [("ip", "10.77.2.2", "10.77.3.2"), ("ip6", "fd77:2::2", "fd77:3::2")] {
        let rules = format!(
            "table {family} inside {{ chain out {{ type nat hook output priority -100; \
             {family} daddr {from} dnat to {to}; }}; }}"
        );
        job.run(["nft", &rules])?;
    }
    balanced.enforced(SERVICE, |node, id| {
        for v6 in [false, true] {
            for attempt in [Attempt::Tcp, Attempt::UdpConnected, Attempt::Udp] {
                for _ in 0..3 {
                    let outcome = balanced.attempt(attempt, service(v6))?;
                    ensure!(!outcome.is_ok(), "{attempt:?} {v6}: {outcome:?}");
                }
            }
        }
        assert_eq!(balanced.arrived()?, (0, 0));
        assert_eq!(counted(node, id, Reason::NotAllowlisted)?, 18);
        Ok(())
    })
}

/// Sends on sockets that stay open whenever it is told to: connected and not, of both families.
const SENDER: &str = "
made=[]
for family,service,backend,forbidden in FAMILIES:
    c=socket.socket(family,socket.SOCK_DGRAM); c.connect(service)
    d=socket.socket(family,socket.SOCK_DGRAM)
    made+=[lambda c=c: c.send(b'x'), lambda d=d,service=service: d.sendto(b'x',service)]
for line in sys.stdin: say(*[attempt(action) for action in made])
";

#[test]
fn an_approval_ends_with_the_rule_and_in_quarantine_unless_it_is_kept() -> Result<()> {
    let balanced = Balanced::new()?;
    balanced.enforced(SERVICE, |node, id| {
        let mut sender = balanced.start(&program(SENDER))?;
        assert_eq!(sender.ask()?, "0 0 0 0", "open");
        let before = balanced.arrived()?;
        node.swap(id, &words(NEITHER)?)?;
        assert_eq!(sender.ask()?, "1 1 1 1", "without the rule");
        node.swap(id, &words(SERVICE)?)?;
        node.quarantine(id)?;
        assert_eq!(sender.ask()?, "1 1 1 1", "in quarantine");
        assert_eq!(balanced.arrived()?, before);
        let keep = "  quarantine: {violations: 99, within: 60s, action: isolate, keep: [open]}\n";
        node.swap(id, &words_with(SERVICE, keep)?)?;
        assert_eq!(sender.ask()?, "0 0 0 0", "kept");
        for v6 in [false, true] {
            for attempt in [Attempt::Tcp, Attempt::UdpConnected, Attempt::Udp] {
                let outcome = balanced.attempt(attempt, service(v6))?;
                ensure!(outcome.is_ok(), "kept: {attempt:?} {v6}: {outcome:?}");
            }
        }
        assert_eq!(balanced.arrived()?.1, 0);
        Ok(())
    })
}

/// A long way on one connection, and a further bit of it when it is told to.
const STREAM: &str = "
out=socket.socket(FAMILIES[int(sys.stdin.readline())][0]); out.settimeout(5)
out.connect(FAMILIES[0 if out.family==socket.AF_INET else 1][1][:1]+(81,))
out.sendall(bytes(16<<20))
say(out.recv(9).decode())
sys.stdin.readline()
out.settimeout(1)
say(how(lambda: out.sendall(bytes(16<<20))))
";

#[test]
fn a_stream_that_arrives_without_its_socket_passes_as_long_as_its_service_is_allowed() -> Result<()> {
    for v6 in [false, true] {
        let balanced = Balanced::new()?;
        balanced.merge_segments()?;
        balanced.sink(81, v6)?;
        balanced.enforced(&SERVICE.replace("80,", "80, 81,"), |node, id| {
            let mut stream = balanced.start(&program(STREAM))?;
            assert_eq!(stream.tell(&u8::from(v6).to_string())?, "enough");
            assert_eq!(node.state(id)?.violations, 0, "{:?}", node.state(id)?.counts);
            node.swap(id, &words(NEITHER)?)?;
            assert_eq!(stream.ask()?, "ETIMEDOUT");
            // Retransmissions are one attempt.
            assert_eq!(node.state(id)?.violations, 1, "{:?}", node.state(id)?.counts);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn in_audit_a_service_is_no_violation_and_what_is_none_counts_once() -> Result<()> {
    for (open, violations) in [(SERVICE, 0), (NEITHER, 6)] {
        let balanced = Balanced::new()?;
        balanced.enforced(open, |node, id| {
            node.swap(id, &words_with(open, "  mode: audit\n")?)?;
            for v6 in [false, true] {
                for attempt in [Attempt::Tcp, Attempt::UdpConnected, Attempt::Udp] {
                    let outcome = balanced.attempt(attempt, service(v6))?;
                    ensure!(outcome.is_ok(), "{attempt:?} {v6}: {outcome:?}");
                }
            }
            let state = node.state(id)?;
            assert_eq!(state.violations, violations, "{:?}", state.counts);
            Ok(())
        })?;
    }
    Ok(())
}
