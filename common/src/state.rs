//! Records that the kernel programs and the agent share through maps. None has implicit padding; their sizes are
//! checked when this crate is compiled.

use crate::grant::DnsCounts;
use crate::limits::{
    INTERFACE_ADDRESSES, INTERFACE_WORKLOADS, NAME_ROOM, NOTE_NS, NOTES, UDP_FLOW_NS, UDP_FLOW_SETS,
    UDP_FLOW_WAYS, WINDOW_PLACES,
};
use crate::reason::{Protocol, REASON_SLOTS};

/// Length of a task's name in the kernel, with the closing zero.
pub const COMM_LEN: usize = 16;

/// What the agent tells of a workload: written by the agent, read by the programs. Indexed by the workload's slot.
///
/// Ruleset and generation are one aligned word, which the agent replaces in one store and a program loads once: no packet
/// is judged by a mixture of two rulesets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Binding {
    /// Index of the ruleset's first word in the array of words.
    pub ruleset: u32,
    /// Counts the rulesets that this workload was given; a verdict remembered under another number is not used.
    pub generation: u32,
    /// Cookie of the workload's own network namespace; flows are learnt only there. 0 learns nothing.
    pub netns_cookie: u64,
    /// [`BINDING_ACTIVE`], [`BINDING_HOST_NAMESPACE`].
    pub flags: u32,
    /// How often the slot was given to a workload; a socket remembered under another number is not this workload's.
    pub serial: u32,
    /// How many of the grants that [`State::grants`] counts were removed since.
    pub grants_ended: u64,
}

impl Binding {
    /// Ruleset and generation as the word that is replaced in one store.
    #[must_use]
    pub const fn word(ruleset: u32, generation: u32) -> u64 {
        let (r, g) = (ruleset.to_ne_bytes(), generation.to_ne_bytes());
        u64::from_ne_bytes([r[0], r[1], r[2], r[3], g[0], g[1], g[2], g[3]])
    }
}

/// The slot is in use.
pub const BINDING_ACTIVE: u32 = 1;
/// The workload's network namespace is the host's.
pub const BINDING_HOST_NAMESPACE: u32 = 2;

/// What the programs count and remember of a workload. Indexed by its slot.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct State {
    /// Boot time in nanoseconds when it was quarantined; 0 when it is not.
    pub quarantined_at: u64,
    /// Audit: boot time in nanoseconds when it would have been; 0 when it would not.
    pub would_quarantine_at: u64,
    /// Index of the quarantine rule that fired.
    pub quarantine_rule: u64,
    /// Violations so far; the window's position.
    pub violations: u64,
    /// Violations that a release has forgiven.
    pub forgiven: u64,
    /// Token bucket of the records: the boot time at which it is full again.
    pub record_full_at: u64,
    /// Records not written: bucket empty or ring full.
    pub records_lost: u64,
    /// Refused attempts whose destination found no place in the table of refused destinations.
    pub destinations_lost: u64,
    /// Flows that began and were allowed, by protocol: a socket's first packet toward a destination.
    pub allowed: [u64; Protocol::ALL.len()],
    /// Answers to inbound flows that quarantine refused.
    pub replies_refused: u64,
    /// Packets dropped on arrival because they claim to come from outside and did not come by an uplink.
    pub forged_dropped: u64,
    /// Inbound UDP flows that pushed another one out of their socket's table, or found no place in it.
    pub udp_flows_evicted: u64,
    /// Sockets whose storage could not be allocated; they are judged in full at each packet.
    pub storage_failed: u64,
    /// Grants that were written, ended ones included.
    pub grants: u64,
    /// Queries and answers.
    pub dns: DnsCounts,
    /// Violations by reason and protocol.
    pub counts: [[u64; Protocol::ALL.len()]; REASON_SLOTS],
    /// Boot times in nanoseconds of the last violations, by number modulo the length.
    pub window: [u64; WINDOW_PLACES],
}

impl State {
    /// Of a workload that nothing happened to.
    pub const EMPTY: Self = Self {
        quarantined_at: 0,
        would_quarantine_at: 0,
        quarantine_rule: 0,
        violations: 0,
        forgiven: 0,
        record_full_at: 0,
        records_lost: 0,
        destinations_lost: 0,
        allowed: [0; Protocol::ALL.len()],
        replies_refused: 0,
        forged_dropped: 0,
        udp_flows_evicted: 0,
        storage_failed: 0,
        grants: 0,
        dns: DnsCounts::EMPTY,
        counts: [[0; Protocol::ALL.len()]; REASON_SLOTS],
        window: [0; WINDOW_PLACES],
    };
}

/// The process that opened a socket or tried to connect it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Process {
    /// Thread id in the initial PID namespace; 0 where unknown.
    pub pid: u32,
    /// Process id in the initial PID namespace; 0 where unknown.
    pub tgid: u32,
    /// Name, padded with zeros.
    pub comm: [u8; COMM_LEN],
}

/// What is remembered with a socket. Cloned to the sockets that a listener accepts.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct SocketState {
    /// Slot of the workload plus 1; 0 where not yet known.
    pub slot: u32,
    /// [`SOCKET_INBOUND`], [`SOCKET_TCP`].
    pub flags: u32,
    /// Cookie of the network namespace that it was made in; 0 where not known.
    pub netns_cookie: u64,
    /// Who opened or connected it last.
    pub process: Process,
    /// The destination last counted as a violation, with its port and protocol; see `counted_reason`.
    pub counted: [u8; 16],
    /// The destination last allowed.
    pub approved: Approved,
    /// Port of the destination last counted.
    pub counted_port: u16,
    /// Protocol of the destination last counted.
    pub counted_protocol: u8,
    /// 1 when a destination was counted, 2 when it was by sendmsg and the datagram itself may still come.
    pub counted_valid: u8,
    /// [`Binding::serial`] of the slot when this was noted.
    pub serial: u32,
}

/// A verdict that stands with a socket: this destination is allowed. Several processors may send from one socket at once, so
/// whoever writes claims it first, and whoever reads looks whether it was left alone meanwhile: the address of one
/// destination with the port of another is allowed to nobody.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Approved {
    /// Grows by one when somebody begins to write, and by one when it is written: odd in between.
    pub turn: u64,
    /// The destination, in network byte order.
    pub destination: [u8; 16],
    /// Unix time in seconds up to which it holds.
    pub until: u64,
    /// Generation of the ruleset that allowed it; 0 when none did.
    pub generation: u32,
    /// [`Binding::serial`] of the workload whose ruleset that was.
    pub serial: u32,
    /// Slot of that workload.
    pub slot: u32,
    /// Destination port, or ICMP type.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// By which way: [`WAY_UPLINK`], [`WAY_LOOPBACK`], [`WAY_SERVICE`].
    pub way: u8,
}

/// [`Approved::way`]: out of the network namespace.
pub const WAY_UPLINK: u8 = 0;
/// [`Approved::way`]: over the loopback interface.
pub const WAY_LOOPBACK: u8 = 1;
/// [`Approved::way`]: to what stands behind a service's address. Each packet is judged anew then: the backstop looks at the
/// table of such pairs, which has to learn that this one is still in use.
pub const WAY_SERVICE: u8 = 2;

/// [`SocketState::counted_valid`]: a flow to the destination was counted.
pub const COUNTED_FLOW: u8 = 1;
/// [`SocketState::counted_valid`]: a datagram to it was refused and counted by sendmsg, whose refusal an ancestor's
/// program can undo.
pub const COUNTED_DATAGRAM: u8 = 2;

/// A listener that took a SYN from outside, or a socket that it accepted.
pub const SOCKET_INBOUND: u32 = 1;
/// A TCP socket: what it sends after a first packet belongs to the flow that this one began.
pub const SOCKET_TCP: u32 = 2;

/// connect was called on it since its workload is enforced: whatever it was connected with before, it chose anew.
pub const SOCKET_CONNECTED: u32 = 4;

/// A UDP flow that began outside.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct UdpFlow {
    /// The peer's address, in network byte order.
    pub peer: [u8; 16],
    /// Boot time in nanoseconds of the last datagram from it; 0 when the place is free, [`UDP_FLOW_BUSY`] while it is
    /// being written.
    pub seen: u64,
    /// The peer's port.
    pub peer_port: u16,
    /// The own port.
    pub local_port: u16,
    /// Zero.
    pub reserved: u32,
}

/// Stands for the time of a flow that a processor is writing: datagrams of one socket arrive on several at once.
pub const UDP_FLOW_BUSY: u64 = u64::MAX;

/// May a flow still be answered, whose last datagram came at `seen`? Both are boot times in nanoseconds.
#[inline(always)]
#[must_use]
pub const fn udp_flow_is_open(seen: u64, now: u64) -> bool {
    seen != 0 && seen != UDP_FLOW_BUSY && now.saturating_sub(seen) < UDP_FLOW_NS
}

/// The UDP flows of one socket. A table of the socket's own, so that no workload can push out another's flows.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct UdpFlows {
    /// Sets of ways; the set is chosen by the peer's address and port.
    pub sets: [[UdpFlow; UDP_FLOW_WAYS]; UDP_FLOW_SETS],
}

/// The set of a UDP flow table in which this peer stands.
#[inline(always)]
#[must_use]
pub const fn udp_flow_set(address: crate::Address, port: u16) -> usize {
    let mixed = (address.high ^ address.low ^ (port as u64) << 17).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 48) as usize % UDP_FLOW_SETS
}

/// Stands for the slot where an address is the node's own.
pub const NODE_SLOT: u32 = u32::MAX;
/// Stands for the interface where an address is one of the workload's own resolvers.
pub const RESOLVER_INTERFACE: u32 = u32::MAX;
/// Of an uplink in the table of addresses: the far end has no backstop.
pub const UPLINK_BARE: u8 = 1;
/// Of an uplink in the table of addresses: its far end has a backstop, which answers what it refuses.
pub const UPLINK_BACKSTOP: u8 = 2;

/// Key of an address of the workload's own, with `interface` of an uplink, or of a resolver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct LocalKey {
    /// The address in network byte order; zero for an uplink.
    pub address: [u8; 16],
    /// Slot of the workload.
    pub slot: u32,
    /// Index of the interface for an uplink; 0 for an address.
    pub interface: u32,
}

/// The host's end of a wire that leads into workloads' network namespace. Keyed by the interface's index.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Interface {
    /// Slots plus 1 of the workloads behind it; 0 where there is none. The first one's policy applies to what no socket
    /// tells whose it is, then the others'.
    pub slots: [u32; INTERFACE_WORKLOADS],
    /// The kernel's number for the namespace behind it, as seen from this end; -1 where there is none.
    pub namespace: i32,
    /// How many of the addresses are in use.
    pub count: u32,
    /// The addresses behind it, in network byte order. Those that find no place stand in the table of addresses alone.
    pub addresses: [[u8; 16]; INTERFACE_ADDRESSES],
    /// What was seen a moment ago and has to be remembered for a moment.
    pub notes: [Note; NOTES],
}

/// A packet that was seen on a wire, so that one which belongs to it may pass without a socket.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Note {
    /// The far end's address, in network byte order.
    pub peer: [u8; 16],
    /// Which packet, as [`note_key`] makes it.
    pub key: u64,
    /// Boot time in nanoseconds when it was seen; 0 when the place is free, [`NOTE_BUSY`] while it is being written.
    pub seen: u64,
}

/// Stands for the time of a note that a processor is writing.
pub const NOTE_BUSY: u64 = u64::MAX;
/// Stands for the protocol in [`note_key`]: the first fragment of a packet.
pub const NOTE_FRAGMENT: u32 = 1 << 8;

/// What a note is about: a protocol and, with it, the two ports, the identification of an echo, or that of a fragment.
#[inline(always)]
#[must_use]
pub const fn note_key(kind: u32, number: u32) -> u64 {
    (kind as u64) << 32 | number as u64
}

/// The place of a note.
#[inline(always)]
#[must_use]
pub const fn note_place(peer: crate::Address, key: u64) -> usize {
    let mixed = (peer.high ^ peer.low ^ key.rotate_left(24)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 48) as usize % NOTES
}

/// Does a note still count, that was made at `seen`? Both are boot times in nanoseconds.
#[inline(always)]
#[must_use]
pub const fn note_counts(seen: u64, now: u64) -> bool {
    seen != 0 && seen != NOTE_BUSY && now.saturating_sub(seen) < NOTE_NS
}

/// Key of a flow that is older than the enforcement of its workload. By its addresses and not by its socket, because a
/// packet has none any more where it was merged with others on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct KeptKey {
    /// The workload's address, in network byte order.
    pub local: [u8; 16],
    /// The far end's address, in network byte order.
    pub remote: [u8; 16],
    /// Slot of the workload.
    pub slot: u32,
    /// The workload's port.
    pub local_port: u16,
    /// The far end's port.
    pub remote_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// What is known of such a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Kept {
    /// The kernel's number for its socket, never used twice.
    pub cookie: u64,
    /// [`KEPT_GOES_ON`] or [`KEPT_ENDS`].
    pub how: u64,
}

/// [`Kept::how`]: it goes on although its destination is not allowed.
pub const KEPT_GOES_ON: u64 = 0;
/// [`Kept::how`]: it is about to be ended, and may tell its far end so.
pub const KEPT_ENDS: u64 = 1;

/// Key of the table of refused destinations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct RefusedKey {
    /// The destination in network byte order.
    pub destination: [u8; 16],
    /// Slot of the workload.
    pub slot: u32,
    /// The rule that refused or came nearest.
    pub rule: u32,
    /// Destination port, ICMP type, or the type of a socket that was refused.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// [`crate::Reason`] as a number.
    pub reason: u8,
    /// Zero.
    pub reserved: u32,
}

/// One violation, as written into the ring buffer.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Record {
    /// Boot time in nanoseconds.
    pub time: u64,
    /// Source in network byte order; zeros where unknown.
    pub source: [u8; 16],
    /// Destination in network byte order.
    pub destination: [u8; 16],
    /// Who did it.
    pub process: Process,
    /// Slot of the workload.
    pub slot: u32,
    /// Generation of the ruleset by which `rule` counts.
    pub generation: u32,
    /// The rule that refused or came nearest.
    pub rule: u32,
    /// Source port; 0 where unknown.
    pub source_port: u16,
    /// Destination port, ICMP type, or the type of a socket that was refused.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// [`crate::Reason`] as a number.
    pub reason: u8,
    /// 1 in audit, 0 in enforce.
    pub audit: u8,
    /// 1 when this violation crossed the quarantine threshold.
    pub crossed: u8,
    /// Characters of the name in a [`NamedRecord`]; 0 where there is none.
    pub name_length: u32,
}

/// A [`Record`] of a query, with the name that was asked for. The two are told apart by their sizes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct NamedRecord {
    /// What happened.
    pub record: Record,
    /// Lower case, without a closing dot; zeros behind it.
    pub name: [u8; NAME_ROOM],
}

/// A cgroup was made or removed.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CgroupEvent {
    /// Boot time in nanoseconds.
    pub time: u64,
    /// [`CGROUP_MADE`] or [`CGROUP_REMOVED`].
    pub kind: u32,
    /// Bytes of the path, without a closing zero.
    pub length: u32,
    /// Its path from the root of its hierarchy.
    pub path: [u8; CGROUP_PATH],
}

/// Bytes of a path in a [`CgroupEvent`]. A longer one is told as lost, and the agent looks for itself.
pub const CGROUP_PATH: usize = 512;
/// [`CgroupEvent::kind`].
pub const CGROUP_MADE: u32 = 1;
/// [`CgroupEvent::kind`].
pub const CGROUP_REMOVED: u32 = 2;

/// The wall clock, as the agent tells it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct WallClock {
    /// Unix time minus boot time, in nanoseconds.
    pub offset: i64,
    /// 1 while the clock is synchronised; deadlines are closed otherwise.
    pub synchronised: u64,
}

// The layout belongs to the ABI version: whoever changes a record changes both, or nothing builds.
const _: () = {
    assert!(crate::ABI_VERSION == 6);
    assert!(size_of::<Binding>() == 32);
    assert!(size_of::<State>() == 5352);
    assert!(size_of::<Process>() == 24);
    assert!(size_of::<SocketState>() == 112);
    assert!(size_of::<Approved>() == 48);
    assert!(size_of::<UdpFlow>() == 32);
    assert!(size_of::<UdpFlows>() == 16384);
    assert!(size_of::<CgroupEvent>() == 528);
    assert!(size_of::<LocalKey>() == 24);
    assert!(size_of::<Note>() == 32);
    assert!(size_of::<Interface>() == 8344);
    assert!(size_of::<KeptKey>() == 48);
    assert!(size_of::<Kept>() == 16);
    assert!(size_of::<RefusedKey>() == 32);
    assert!(size_of::<Record>() == 88);
    assert!(size_of::<NamedRecord>() == 88 + NAME_ROOM);
    assert!(size_of::<WallClock>() == 16);
};
