//! Packets that are approved when they are judged at first, and changed or wrapped inside the pod afterwards.

use anyhow::Result;
use egress_warden_tests::job::outsider;

use super::ground::{CALLS, Ground, OPEN, Wiring};
use super::way::Way;

/// Sends one datagram to the allowed host, after `before`.
fn sends(before: &str, after: &str) -> String {
    format!(
        "
{before}
made = socket.socket(FAMILY, socket.SOCK_DGRAM)
say(how(lambda: made.sendto(MARK, (ALLOWED, 80))))
{after}"
    )
}

/// A rule in a table of its own, through which the datagram goes.
fn rewritten_by(chain: &str, rule: &str) -> String {
    sends(
        &format!(
            "IP = 'ip' if V == 4 else 'ip6'\nFOREIGN = '10.77.9.9' if V == 4 else 'fd77:9::9'\n\
             shell(f\"nft '{chain}'\".replace('RULE', f\"{rule}\"))"
        ),
        "shell('nft flush ruleset')",
    )
}

const EGRESS: &str =
    "table netdev t {{ chain c {{ type filter hook egress device eth0 priority 0; RULE; }}; }}";

#[test]
fn a_destination_rewritten_behind_the_ip_stack() -> Result<()> {
    Way {
        program: &rewritten_by(EGRESS, "{IP} daddr {ALLOWED} {IP} daddr set {REFUSED}"),
        frames: [0, 1],
        counted: &[("not_allowlisted", 1)],
        quarantined: Some(&[("quarantined", 1)]),
        ..Way::DEFAULT
    }
    .try_out()
}

#[test]
fn a_source_rewritten_behind_the_ip_stack() -> Result<()> {
    Way {
        program: &rewritten_by(EGRESS, "{IP} daddr {ALLOWED} {IP} saddr set {FOREIGN}"),
        frames: [1, 0],
        counted: &[("source_spoofed", 1)],
        quarantined: Some(&[("quarantined", 1)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// A caller's own connection, whose answers are led elsewhere: the mark of the socket is for the caller alone.
#[test]
fn an_answer_rewritten_behind_the_ip_stack() -> Result<()> {
    let ground = Ground::with(Wiring::Routed, OPEN)?;
    let _caller = outsider(ground.world.host("allowed"), CALLS)?;
    let chain = EGRESS.replace(
        "RULE",
        "tcp sport 7000 tcp flags & psh == psh {IP} daddr {ALLOWED} {IP} daddr set {REFUSED}",
    );
    Way {
        program: &format!(
            "
server = listen('', 7000, FAMILY)
server.settimeout(1)
open('/proc/sys/net/ipv4/tcp_early_retrans', 'w').write('0')
taken = []
if how(lambda: taken.append(server.accept()[0])) == 'ok':
    IP = 'ip' if V == 4 else 'ip6'
    shell(f\"nft '{chain}'\")
    say(how(lambda: taken[0].send(MARK)))
    # Cut off, so that nothing is sent once more when the rule is gone.
    taken[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    taken[0].close()
    server.close()
    shell('nft flush ruleset')"
        ),
        says: Some("ok"),
        frames: [0, 1],
        counted: &[("not_allowlisted", 1)],
        quarantined: Some(&[]),
        ..Way::DEFAULT
    }
    .try_on(&ground)
}

#[test]
fn a_destination_translated() -> Result<()> {
    let chain = "table {IP} t {{ chain c {{ type nat hook output priority 0; RULE; }}; }}";
    Way {
        program: &rewritten_by(chain, "{IP} daddr {ALLOWED} dnat to {REFUSED}"),
        frames: [0, 1],
        counted: &[("not_allowlisted", 1)],
        quarantined: Some(&[("quarantined", 1)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// The header of the copy names the allowed host, and that is where the router sends it.
#[test]
fn a_copy_for_another_next_hop() -> Result<()> {
    let chain = "table {IP} t {{ chain c {{ type filter hook output priority 0; RULE; }}; }}";
    Way {
        program: &rewritten_by(chain, "{IP} daddr {ALLOWED} dup to {REFUSED}"),
        frames: [2, 0],
        approved: [2, 0],
        quarantined: Some(&[("quarantined", 1)]),
        ..Way::DEFAULT
    }
    .try_out()
}

/// What is inside is approved; what is around it goes elsewhere.
#[test]
fn a_tunnel() -> Result<()> {
    let before = "
shell(f'ip link add name tunnel type vxlan id 7 remote {REFUSED} dstport 4789 dev eth0')
open('/proc/sys/net/ipv6/conf/tunnel/disable_ipv6', 'w').write('1')
shell('ip link set dev tunnel up', 'ip route add 10.77.4.2/32 dev tunnel src ' + os.popen(\"ip -o -4 addr show dev eth0\").read().split('inet ')[1].split('/')[0],
      'ip neigh add 10.77.4.2 lladdr 02:00:00:00:00:01 dev tunnel')
FAMILY, ALLOWED = socket.AF_INET, '10.77.4.2'";
    Way {
        program: &sends(before, "shell('ip link del dev tunnel')"),
        frames: [0, 1],
        counted: &[("not_allowlisted", 1)],
        quarantined: Some(&[("quarantined", 1)]),
        ..Way::DEFAULT
    }
    .try_out()
}
