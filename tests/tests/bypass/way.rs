//! One way out, tried by every pod over both IP versions.

use anyhow::{Context, Result, ensure};
use egress_warden_tests::{Direction, Frame, Host};

use super::ground::{Counts, Ground, PODS, Pod, Wiring};

/// What every program begins with. `V` is the IP version, the addresses are of that version; every packet that a way sends
/// carries `MARK`, which tells pod and version.
const SETUP: &str = r#"
import fcntl, mmap, threading
FAMILY = socket.AF_INET if V == 4 else socket.AF_INET6
ETHERTYPE = b"\x08\x00" if V == 4 else b"\x86\xdd"
LINK = bytes.fromhex(os.popen("ip -o link show dev eth0").read().split("ether ")[1].split()[0].replace(":", ""))

def udp_packet(source, destination, port=80, payload=None):
    body = datagram(4000, port, MARK if payload is None else payload)
    return ipv4(source, destination, 17, body) if V == 4 else ipv6(source, destination, 17, body)

def frame(packet, ethertype=None, to=None):
    return (to or GATEWAY) + LINK + (ethertype or ETHERTYPE) + packet

def shell(*lines):
    for line in lines:
        if os.system(line) != 0:
            sys.exit("failed: " + line)

def hand_made(*packets):
    """Sends packets whose IP header is made here."""
    made = socket.socket(FAMILY, socket.SOCK_RAW, 17)
    made.setsockopt(*(socket.IPPROTO_IP, 3, 1) if V == 4 else (41, 36, 1))
    for packet, destination in packets:
        how(lambda: made.sendto(packet, (destination, 0)))

def tap(wire=True):
    """A tap device; with `wire`, every frame written to it leaves by eth0."""
    opened = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(opened, 0x400454ca, struct.pack("16sH22x", b"tap%d" % V, 0x1002))
    shell(f"ip link set dev tap{V} up")
    if wire:
        shell(f"tc qdisc add dev tap{V} clsact",
              f"tc filter add dev tap{V} ingress protocol all u32 match u32 0 0 action mirred egress redirect dev eth0")
    return opened
"#;

/// A way out, and what becomes of it.
pub(crate) struct Way<'a> {
    pub(crate) wiring: Wiring,
    pub(crate) versions: &'a [u8],
    /// A Python program.
    pub(crate) program: &'a str,
    /// Whether it runs in no cgroup of the pod until it joins `CGROUP` by itself.
    pub(crate) outside: bool,
    /// How many frames arrive from the audited pod at the far host that is allowed, and at the one that is not.
    pub(crate) frames: [usize; 2],
    /// How many of them arrive from the enforced pod as well, because they are approved.
    pub(crate) approved: [usize; 2],
    /// What is counted for the enforced pod, and, with `audit`, for the audited one.
    pub(crate) counted: &'a [(&'a str, u64)],
    pub(crate) audited: Option<&'a [(&'a str, u64)]>,
    /// What is counted in quarantine, where it is something else.
    pub(crate) quarantined: Option<&'a [(&'a str, u64)]>,
    /// Which frames are the way's, where they carry no mark.
    pub(crate) unmarked: Option<fn(&Frame) -> bool>,
}

impl Way<'_> {
    pub(crate) const DEFAULT: Way<'static> = Way {
        wiring: Wiring::Routed,
        versions: &[4, 6],
        program: "",
        outside: false,
        frames: [0, 0],
        approved: [0, 0],
        counted: &[],
        audited: None,
        quarantined: None,
        unmarked: None,
    };

    /// Tries it, and asserts the frames on the far side, the reason and the exact change of the counters.
    pub(crate) fn try_out(&self) -> Result<()> {
        self.try_on(&Ground::new(self.wiring)?)
    }

    pub(crate) fn try_on(&self, ground: &Ground) -> Result<()> {
        for version in self.versions {
            for pod in PODS {
                self.try_as(ground, pod, *version).with_context(|| format!("{pod:?}, IPv{version}"))?;
            }
        }
        Ok(())
    }

    fn try_as(&self, ground: &Ground, pod: Pod, version: u8) -> Result<()> {
        let before = ground.counts(pod)?;
        let mark = format!("way out: {}, IPv{version}", pod.name());
        let program = self.program(ground, pod, version, &mark)?;
        let said = if self.outside { ground.run_outside(pod, &program) } else { ground.run(pod, &program) }?;
        let own = own(ground.host(pod), version);
        // What goes out at the far host is its error about what came in, and quotes the mark.
        let fits = |frame: &Frame| {
            frame.direction == Direction::In
                && match self.unmarked {
                    Some(fits) => frame.source == Some(own) && fits(frame),
                    None => frame.bytes.windows(mark.len()).any(|bytes| bytes == mark.as_bytes()),
                }
        };
        let (frames, counted) = match pod {
            Pod::Enforced => (self.approved, self.counted),
            Pod::Quarantined => ([0, 0], self.quarantined.unwrap_or(self.counted)),
            Pod::Audited => (self.frames, self.audited.unwrap_or(self.counted)),
        };
        if frames != [0, 0] {
            ground.wait_arrived(frames, fits).with_context(|| said.clone())?;
        }
        ground.settle()?;
        let arrived = ground.arrived(fits);
        ensure!(arrived == frames, "{arrived:?} frames instead of {frames:?}; it said: {said}");
        let change = change(&before, &ground.counts(pod)?);
        let counted = counted.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        ensure!(change == counted, "counted {change:?} instead of {counted:?}; it said: {said}");
        Ok(())
    }

    fn program(&self, ground: &Ground, pod: Pod, version: u8, mark: &str) -> Result<String> {
        let address = |name: &str| own(ground.world.host(name), version);
        let (own, allowed, refused) = (address(pod.name()), address("allowed"), address("refused"));
        let (gateway, cgroup) = (ground.gateway(pod)?, ground.cgroup(pod));
        Ok(format!(
            "V, MARK = {version}, b\"{mark}\"\nOWN, ALLOWED, REFUSED = '{own}', '{allowed}', '{refused}'\n\
             GATEWAY, CGROUP = bytes.fromhex('{}'), '{}'\n{SETUP}\n{}",
            gateway.replace(':', ""),
            cgroup.display(),
            self.program
        ))
    }
}

fn own(host: &Host, version: u8) -> std::net::IpAddr {
    if version == 4 { host.v4.into() } else { host.v6.into() }
}

fn change(before: &Counts, after: &Counts) -> Counts {
    let grown =
        after.iter().map(|(reason, count)| (reason.clone(), count - before.get(reason).unwrap_or(&0)));
    grown.filter(|(_, count)| *count != 0).collect()
}
