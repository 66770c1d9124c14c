//! One way out, tried by every pod over both IP versions.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use egress_warden_tests::{Direction, Frame, Host};

use super::ground::{Counts, Ground, OPEN, PODS, Pod, Wiring};

/// What every program begins with. `V` is the IP version, the addresses are of that version; every packet that a way sends
/// carries `MARK`, which tells pod and version.
const SETUP: &str = r#"
import fcntl, mmap, threading
FAMILY = socket.AF_INET if V == 4 else socket.AF_INET6
ETHERTYPE = b"\x08\x00" if V == 4 else b"\x86\xdd"

def mac(device):
    shown = os.popen(f"ip -o link show dev {device}").read()
    return bytes.fromhex(shown.split("ether ")[1].split()[0].replace(":", ""))

LINK = mac("eth0")

def sysctl(**values):
    """Of a version of IP: `all__forwarding=1`."""
    for key, value in values.items():
        open(f"/proc/sys/net/ipv{V}/conf/{key.replace('__', '/')}", "w").write(str(value))

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

def tap(wire=True, flags=0):
    """A tap device; with `wire`, every frame written to it leaves by eth0."""
    opened = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(opened, 0x400454ca, struct.pack("16sH22x", b"tap%d" % V, 0x1002 | flags))
    shell(f"ip link set dev tap{V} up", f"tc qdisc add dev tap{V} clsact")
    if wire:
        redirect("egress", "eth0")
    return opened

def redirect(way, device):
    """Whereto every frame goes that is written to the tap device."""
    shell(f"tc filter replace dev tap{V} ingress prio 1 handle 800::1 protocol all u32 match u32 0 0 "
          f"action mirred {way} redirect dev {device}")

def tun():
    """A tun device. What is written to it the pod forwards, and no socket tells whose it is."""
    opened = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(opened, 0x400454ca, struct.pack("16sH22x", b"tun%d" % V, 0x1001))
    shell(f"ip link set dev tun{V} up")
    sysctl(all__forwarding=1)
    if V == 4:
        for name in ["all", f"tun{V}"]:
            sysctl(**{f"{name}__rp_filter": 0, f"{name}__accept_local": 1})
    return opened

def in_a_nested_namespace(body):
    """Forks a child with a user and a network namespace of its own. It goes on with `body` when it is told."""
    made, told = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        if libc.unshare(0x10000000 | 0x40000000) != 0:
            os._exit(5)
        os.write(made[1], b"x")
        os.read(told[0], 1)
        body()
        os._exit(0)
    os.read(made[0], 1)
    open(f"/proc/{child}/setgroups", "w").write("deny")
    for kind in ["uid", "gid"]:
        open(f"/proc/{child}/{kind}_map", "w").write("0 0 1")
    return child, lambda: os.write(told[1], b"x")

def ended(child):
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 0:
        sys.exit(f"the child ended with {status}")
"#;

/// A way out, and what becomes of it.
pub(crate) struct Way<'a> {
    pub(crate) wiring: Wiring,
    /// What the policies open.
    pub(crate) open: &'a str,
    pub(crate) versions: &'a [u8],
    /// A Python program.
    pub(crate) program: &'a str,
    /// Whether it runs in no cgroup of the pod until it joins `CGROUP` by itself.
    pub(crate) outside: bool,
    /// How many frames arrive from the audited pod at the far host that is allowed, and at the one that is not.
    pub(crate) frames: [usize; 2],
    /// How many of them arrive from the enforced pod as well, because they are approved.
    pub(crate) approved: [usize; 2],
    /// And how many from the one in quarantine.
    pub(crate) from_quarantine: [usize; 2],
    /// What is counted for the enforced pod, and, with `audit`, for the audited one.
    pub(crate) counted: &'a [(&'a str, u64)],
    pub(crate) audited: Option<&'a [(&'a str, u64)]>,
    /// What is counted in quarantine, where it is something else.
    pub(crate) quarantined: Option<&'a [(&'a str, u64)]>,
    /// Reasons that are counted besides, as often as it takes.
    pub(crate) besides: &'a [&'a str],
    /// What the program says in the pod that is enforced.
    pub(crate) says: Option<&'a str>,
    /// Which frames are the way's, where they carry no mark.
    pub(crate) unmarked: Option<fn(&Frame) -> bool>,
}

impl Way<'_> {
    pub(crate) const DEFAULT: Way<'static> = Way {
        wiring: Wiring::Routed,
        open: OPEN,
        versions: &[4, 6],
        program: "",
        outside: false,
        frames: [0, 0],
        approved: [0, 0],
        from_quarantine: [0, 0],
        counted: &[],
        audited: None,
        quarantined: None,
        besides: &[],
        says: None,
        unmarked: None,
    };

    /// Tries it, and asserts the frames on the far side, the reason and the exact change of the counters.
    pub(crate) fn try_out(&self) -> Result<()> {
        self.try_on(&Ground::with(self.wiring, self.open)?)
    }

    /// The same on a ground that there is already.
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
        // Another one each time: the far hosts remember every frame.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mark = format!("way out {number:03}: {}, IPv{version}", pod.name());
        let program = self.program(ground, pod, version, &mark)?;
        let said = if self.outside { ground.run_outside(pod, &program) } else { ground.run(pod, &program) }?;
        if let Some(expected) = self.says.filter(|_| pod == Pod::Enforced) {
            ensure!(said == expected, "it said `{said}` instead of `{expected}`");
        }
        // Some frames have no room for the whole mark.
        let mark = said.lines().find_map(|line| line.strip_prefix("mark ")).map_or(mark.into_bytes(), unhex);
        self.judge(ground, pod, &mark, version, &before).with_context(|| format!("it said: {said}"))
    }

    /// Asserts the frames that have arrived with this mark, and what was counted since.
    pub(crate) fn judge(
        &self,
        ground: &Ground,
        pod: Pod,
        mark: &[u8],
        version: u8,
        before: &Counts,
    ) -> Result<()> {
        let own = own(ground.host(pod), version);
        // What goes out at the far host is its error about what came in, and quotes the mark.
        let fits = |frame: &Frame| {
            frame.direction == Direction::In
                && match self.unmarked {
                    Some(fits) => frame.source == Some(own) && fits(frame),
                    None => frame.bytes.windows(mark.len()).any(|bytes| bytes == mark),
                }
        };
        let (frames, counted) = match pod {
            Pod::Enforced => (self.approved, self.counted),
            Pod::Quarantined => (self.from_quarantine, self.quarantined.unwrap_or(self.counted)),
            Pod::Audited => (self.frames, self.audited.unwrap_or(self.counted)),
        };
        if frames != [0, 0] {
            ground.wait_arrived(frames, fits)?;
        }
        ground.settle()?;
        let arrived = ground.arrived(fits);
        ensure!(arrived == frames, "{arrived:?} frames instead of {frames:?}");
        let mut change = change(before, &ground.counts(pod)?);
        change.retain(|reason, _| !self.besides.contains(&reason.as_str()));
        let counted = counted.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        ensure!(change == counted, "counted {change:?} instead of {counted:?}");
        Ok(())
    }

    pub(crate) fn program(&self, ground: &Ground, pod: Pod, version: u8, mark: &str) -> Result<String> {
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

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(text.get(at..at + 2).unwrap_or("00"), 16).unwrap_or_default();
    (0..text.len()).step_by(2).map(digit).collect()
}

fn own(host: &Host, version: u8) -> std::net::IpAddr {
    if version == 4 { host.v4.into() } else { host.v6.into() }
}

pub(crate) fn change(before: &Counts, after: &Counts) -> Counts {
    let grown =
        after.iter().map(|(reason, count)| (reason.clone(), count - before.get(reason).unwrap_or(&0)));
    grown.filter(|(_, count)| *count != 0).collect()
}
