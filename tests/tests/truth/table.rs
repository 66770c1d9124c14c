//! The table: what was tried, what came of it, and where that is not what the allowlists say.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use egress_warden_tests::prober::{Attempt, Kind, echo_request, mapped};
use egress_warden_tests::{Direction, Frame};

use super::generate::Generator;
use super::ground::{Counts, Ground};
use super::model::Lists;
use super::oracle::{Expected, Probe, Workload, is_audit, judge};

/// Numbers of probes: above the ports that are listened on, below those that sockets of others choose.
const FIRST: u16 = 10_000;
const LAST: u16 = 32_767;

/// What probes come to.
const REACHED: [&str; 11] = [
    "allowed",
    "loopback",
    "not_allowlisted",
    "port_not_allowed",
    "protocol_not_allowed",
    "denied",
    "expired",
    "quarantined",
    "kept",
    "loopback_denied",
    "socket_type",
];

/// One line of the table.
pub(crate) struct Row {
    /// Index of the workload.
    pub(crate) workload: usize,
    pub(crate) number: u16,
    pub(crate) probe: Probe,
    pub(crate) expected: Expected,
}

/// How a destination is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    V4,
    Mapped,
    V6,
}

#[derive(Default)]
pub(crate) struct Table {
    pub(crate) rows: Vec<Row>,
    /// How often a probe came to what.
    pub(crate) reached: BTreeMap<&'static str, usize>,
    /// Which kinds of sockets were seen to reach the far side and not to.
    covered: BTreeSet<(Kind, Form, bool)>,
    pub(crate) wrong: Vec<String>,
    pub(crate) frames: usize,
    pub(crate) unexplained: usize,
    /// The counters that there should be, and those that there are.
    expected: Counts,
    counted: Counts,
}

impl Table {
    pub(crate) fn probes(&self) -> usize {
        self.rows.len()
    }

    /// The first of what is wrong.
    pub(crate) fn told(&self) -> String {
        let shown = self.wrong.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("\n");
        format!("{} of {} are wrong:\n{shown}", self.wrong.len(), self.rows.len())
    }

    /// One probe of every workload.
    pub(crate) fn round(
        &mut self,
        generator: &mut Generator,
        lists: &Lists,
        ground: &mut Ground,
    ) -> Result<()> {
        let first = self.rows.len();
        let mut attempts = Vec::new();
        for (index, workload) in ground.workloads.iter().enumerate() {
            let probe = generator.probe(lists, workload);
            let number = FIRST + u16::try_from(self.rows.len())?;
            assert!(number <= LAST, "a run has room for {} probes", LAST - FIRST);
            let expected = judge(lists, workload, &probe);
            // On the machine itself a port may be somebody's, and no frame is looked for.
            let known_by = if workload.host_namespace { 0 } else { number };
            attempts.push(probe.attempt(known_by, expected.arrives));
            self.note(lists, workload, &expected);
            self.covered.insert((probe.kind, probe.form(), expected.arrives));
            self.rows.push(Row { workload: index, number, probe, expected });
        }
        let said = ground.attempt(&attempts)?;
        let counted = ground.counts()?;
        for (row, said) in self.rows[first..].iter().zip(said) {
            let workload = &ground.workloads[row.workload];
            let expected = row.expected.counted.iter().fold(BTreeMap::new(), |mut all, one| {
                *all.entry(*one).or_default() += 1;
                all
            });
            let change = change(workload, &self.counted, &counted);
            if said != row.expected.said || change != expected {
                self.wrong.push(format!("{}; it said `{said}`, counted {change:?}", row.told(workload)));
            }
        }
        self.counted = counted;
        Ok(())
    }

    fn note(&mut self, lists: &Lists, workload: &Workload, expected: &Expected) {
        let mut names: Vec<&str> = lists.of(workload.name).map(|policy| policy.name.as_str()).collect();
        names.sort_unstable();
        let mode = if is_audit(lists.of(workload.name)) { "audit" } else { "enforce" };
        for (reason, protocol) in &expected.counted {
            let labels = [workload.name, &names.join("+"), mode, reason, protocol];
            *self.expected.entry(labels.map(str::to_owned)).or_default() += 1;
            *self.reached.entry(reason).or_default() += 1;
        }
        if let Some(reason) = expected.reason.filter(|reason| matches!(*reason, "allowed" | "loopback")) {
            *self.reached.entry(reason).or_default() += 1;
            if workload.quarantined && reason == "allowed" {
                *self.reached.entry("kept").or_default() += 1;
            }
        }
    }

    /// What no probe has tried yet.
    pub(crate) fn missing(&self) -> Vec<String> {
        let mut missing: Vec<String> = REACHED
            .iter()
            .filter(|reason| !self.reached.contains_key(*reason))
            .map(|reason| (*reason).to_owned())
            .collect();
        for kind in Kind::ALL {
            for form in [Form::V4, Form::Mapped, Form::V6] {
                let is_written = form != Form::Mapped || kind.has_mapped();
                let untried = [true, false]
                    .into_iter()
                    .filter(|arrives| is_written && !self.covered.contains(&(kind, form, *arrives)));
                missing.extend(untried.map(|arrives| format!("{kind:?} {form:?}, arrives: {arrives}")));
            }
        }
        missing
    }

    /// Every frame on the far side has to belong to a probe that may arrive, and every such probe has to have arrived.
    pub(crate) fn look_at_frames(&mut self, ground: &Ground) -> Result<()> {
        ground.settle()?;
        let frames = ground.far.frames(|frame| frame.direction == Direction::In && !is_neighbour_talk(frame));
        self.frames = frames.len();
        let mut arrived: HashMap<u16, usize> = HashMap::new();
        for frame in &frames {
            match number_of(frame)
                .and_then(|number| self.row(number))
                .filter(|row| row.explains(ground, frame))
            {
                Some(row) => *arrived.entry(row.number).or_default() += 1,
                None => {
                    self.unexplained += 1;
                    self.wrong.push(format!("a frame that nothing explains: {frame:?}"));
                }
            }
        }
        for row in &self.rows {
            let count = arrived.get(&row.number).copied().unwrap_or_default();
            let is_stream = matches!(row.probe.kind, Kind::Tcp | Kind::Mptcp);
            let right = match (row.expected.arrives, is_stream) {
                (false, _) => count == 0,
                (true, false) => count == row.probe.kind.datagrams(),
                (true, true) => count >= 1,
            };
            if !right {
                let workload = &ground.workloads[row.workload];
                self.wrong.push(format!("{}; {count} frames arrived", row.told(workload)));
            }
        }
        Ok(())
    }

    /// Every counter is what the probes add up to, by policy and mode as well, and there is no other.
    pub(crate) fn look_at_totals(&mut self, ground: &Ground) -> Result<()> {
        let counted = ground.counts()?;
        if counted != self.expected {
            self.wrong.push(format!("the counters are {counted:?} instead of {:?}", self.expected));
        }
        Ok(())
    }

    fn row(&self, number: u16) -> Option<&Row> {
        self.rows.get(usize::from(number.checked_sub(FIRST)?))
    }
}

impl Probe {
    fn form(&self) -> Form {
        match (self.to, self.mapped) {
            (IpAddr::V4(_), false) => Form::V4,
            (IpAddr::V4(_), true) => Form::Mapped,
            (IpAddr::V6(_), _) => Form::V6,
        }
    }

    fn attempt(&self, number: u16, waits: bool) -> Attempt {
        let to = match self.to {
            IpAddr::V4(v4) if self.mapped => mapped(v4),
            to => to,
        };
        Attempt { kind: self.kind, number, to: SocketAddr::new(to, self.port), waits }
    }

    /// The number of the protocol of its frames.
    fn protocol(&self) -> u8 {
        match self.kind {
            Kind::Tcp | Kind::Mptcp => 6,
            Kind::Udp | Kind::UdpConnected | Kind::UdpShared | Kind::UdpConnectedShared => 17,
            Kind::UdpLite => 136,
            Kind::Ping | Kind::Raw if self.to.is_ipv4() => 1,
            Kind::Ping | Kind::Raw => 58,
        }
    }
}

impl Row {
    /// Whether this frame is one that this probe may send: every field that tells where it goes.
    fn explains(&self, ground: &Ground, frame: &Frame) -> bool {
        let workload = &ground.workloads[self.workload];
        let port = match self.probe.kind {
            Kind::Ping | Kind::Raw => frame.payload.first().map(|kind| u16::from(*kind)),
            Kind::UdpLite => frame.payload.get(2..4).map(|port| u16::from_be_bytes([port[0], port[1]])),
            _ => frame.destination_port,
        };
        let wanted = match self.probe.kind {
            Kind::Ping => echo_request(self.probe.to).into(),
            _ => self.probe.port,
        };
        self.expected.arrives
            && frame.source.is_some_and(|source| workload.addresses.contains(&source))
            && frame.destination == Some(self.probe.to)
            && frame.protocol == Some(self.probe.protocol())
            && port == Some(wanted)
            && (self.probe.kind.datagrams() > 1 || frame.source_port.is_none_or(|port| port == self.number))
    }

    pub(crate) fn told(&self, workload: &Workload) -> String {
        let Probe { kind, to, port, mapped } = self.probe;
        let form = if mapped { ", mapped" } else { "" };
        let Expected { reason, said, arrives, counted } = &self.expected;
        format!(
            "{}: {} {} to {to} port or type {port}{form}: expected {reason:?}, `{said}`, arrives: {arrives}, counted {counted:?}",
            workload.name,
            kind.name(),
            self.number
        )
    }
}

/// By how much the violations of a workload have grown.
fn change<'a>(workload: &Workload, before: &Counts, after: &'a Counts) -> BTreeMap<(&'a str, &'a str), u64> {
    let own = after.iter().filter(|(key, _)| key[0] == workload.name);
    own.filter_map(|(key, count)| {
        let grown = count - before.get(key).unwrap_or(&0);
        (grown > 0).then_some(((key[3].as_str(), key[4].as_str()), grown))
    })
    .collect()
}

/// The number that a probe's frame carries.
fn number_of(frame: &Frame) -> Option<u16> {
    let at = |from: usize| frame.payload.get(from..from + 2).map(|two| u16::from_be_bytes([two[0], two[1]]));
    match frame.protocol? {
        1 | 58 => at(4),
        17 => at(0),
        136 => at(8),
        _ => frame.source_port,
    }
}

/// What the router says to its neighbours on the wire, and to nobody else: ARP, and what comes from a link-local address or
/// solicits one.
fn is_neighbour_talk(frame: &Frame) -> bool {
    const ARP: u16 = 0x0806;
    let discovers = || frame.payload.first().is_some_and(|kind| (133..=137).contains(kind));
    match frame.source {
        None => frame.ethertype == ARP,
        Some(IpAddr::V4(_)) => false,
        Some(IpAddr::V6(source)) => {
            source.is_unicast_link_local()
                || source.is_unspecified()
                || frame.protocol == Some(58) && discovers()
        }
    }
}
