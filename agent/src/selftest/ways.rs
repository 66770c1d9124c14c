//! The ways out that are tried, and what each finding means.

use egress_warden_common::Reason;

use super::attempt::{self, Tried};
use super::place::Token;
use super::report::Verdict;

/// Where a way ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// By the programs on the cgroup: the call fails with this number, and no frame leaves.
    Call(i32),
    /// By the backstop: the frame leaves the workload and goes no further.
    Wire,
}

/// A way out.
#[derive(Debug)]
pub(super) struct Way {
    /// For programs.
    pub(super) name: &'static str,
    /// For people.
    pub(super) means: &'static str,
    pub(super) held: Held,
    /// The reason that the kernel counts.
    pub(super) reason: Reason,
    pub(super) attempt: fn(Token) -> Tried,
    /// The same to where it is allowed, or as nearly the same as can be allowed. Sent after the attempt by the same
    /// processor, so that once it has arrived the attempt would have as well.
    pub(super) control: fn(Token) -> Tried,
}

const DENIED: Held = Held::Call(libc::EPERM);

macro_rules! ways {
    ($($name:literal, $means:literal, $held:expr, $reason:ident, $attempt:ident, $control:ident;)+) => {
        /// All of them.
        pub(super) const WAYS: &[Way] = &[$(Way {
            name: $name,
            means: $means,
            held: $held,
            reason: Reason::$reason,
            attempt: attempt::$attempt,
            control: attempt::$control,
        },)+];
    };
}

ways! {
    "tcp", "TCP connection", DENIED, NotAllowlisted, tcp, tcp_control;
    "tcp-v6", "TCP connection over IPv6", DENIED, NotAllowlisted, tcp_v6, tcp_control_v6;
    "tcp-mapped", "TCP connection to a mapped address", DENIED, NotAllowlisted, tcp_mapped, tcp_control_mapped;
    "tcp-turned", "TCP connection after connect(AF_UNSPEC)", DENIED, NotAllowlisted, tcp_turned, tcp_control;
    "udp", "UDP datagram", DENIED, NotAllowlisted, udp, udp_control;
    "udp-connected", "UDP datagram of a connected socket", DENIED, NotAllowlisted, udp_connected, udp_control;
    "udp-v6", "UDP datagram over IPv6", DENIED, NotAllowlisted, udp_v6, udp_control_v6;
    "udp-mapped", "UDP datagram to a mapped address", DENIED, NotAllowlisted, udp_mapped, udp_control_mapped;
    "other-port", "another port of what is allowed", DENIED, PortNotAllowed, other_port, udp_control;
    "udp-lite", "UDP-Lite socket", Held::Call(libc::EPROTONOSUPPORT), SocketType, udp_lite, udp_control;
    "raw-icmp", "raw socket of ICMP", DENIED, SocketType, raw_icmp, udp_control;
    "raw-any", "raw socket of any protocol", DENIED, SocketType, raw_any, udp_control;
    "raw", "packet of a raw socket", DENIED, NotAllowlisted, raw_refused, raw_control;
    "forged-source", "packet with a forged source", Held::Wire, SourceSpoofed, forged_source, raw_control;
    "ip-options", "packet with IPv4 options", DENIED, IpOptions, ip_options, raw_control;
    "fragment", "fragment with an offset", DENIED, Fragment, later_fragment, raw_control;
    "routing-header", "packet with an IPv6 routing header", DENIED, RoutingHeader, routing_header, raw_control_v6;
    "frame", "frame of a packet socket", Held::Wire, SocketType, frame, udp_control;
    "frame-bypass", "frame with PACKET_QDISC_BYPASS", Held::Wire, SocketType, frame_past_qdisc, udp_control;
    "frame-vlan", "frame in a VLAN", Held::Wire, SocketType, frame_in_vlan, udp_control;
    "frame-other", "frame of another ethertype", Held::Wire, SocketType, frame_of_another_kind, udp_control;
    "nested", "user and network namespace of its own", DENIED, NotAllowlisted, nested_namespace, control_was_first;
}

/// What was seen of one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// How the attempt ended: the kernel's number, 0 where it let it go; or why it could not be made.
    pub(super) attempt: Result<i32, String>,
    /// A frame of it left the workload.
    pub(super) left: bool,
    /// A frame of it reached the far end.
    pub(super) arrived: bool,
    /// Its control reached the far end; else what went wrong.
    pub(super) control: Result<(), String>,
    /// The kernel counted the refusal with the right reason.
    pub(super) counted: bool,
}

impl Way {
    /// Closed is only what was tried, did not arrive while its control did, and was refused by us and nobody else.
    pub(super) fn judge(&self, seen: &Seen) -> (Verdict, Option<String>) {
        let open = |why: String| (Verdict::Open, Some(why));
        let untested = |why: String| (Verdict::NotTestable, Some(why));
        if seen.arrived {
            return open("it arrived".into());
        }
        let errno = match &seen.attempt {
            Ok(errno) => *errno,
            Err(why) => return untested(why.clone()),
        };
        if let Err(why) = &seen.control {
            return untested(format!("what is allowed did not arrive either: {why}"));
        }
        match self.held {
            Held::Call(_) if seen.left => {
                return open("it left the workload; only the backstop held it".into());
            }
            Held::Call(_) if errno == 0 => return open("it was not refused".into()),
            Held::Call(expected) if errno != expected => return untested(told(errno)),
            Held::Wire if !seen.left => {
                return untested(format!("it did not leave the workload: {}", told(errno)));
            }
            Held::Call(_) | Held::Wire => {}
        }
        if !seen.counted {
            return untested(format!("it was refused, but not as {} by the programs", self.reason.name()));
        }
        (Verdict::Closed, None)
    }
}

pub(super) fn told(errno: i32) -> String {
    if errno == 0 { "no error".to_owned() } else { std::io::Error::from_raw_os_error(errno).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(name: &str) -> &'static Way {
        WAYS.iter().find(|way| way.name == name).unwrap()
    }

    const REFUSED: Seen =
        Seen { attempt: Ok(libc::EPERM), left: false, arrived: false, control: Ok(()), counted: true };
    const DROPPED: Seen = Seen { attempt: Ok(0), left: true, ..REFUSED };

    #[test]
    fn closed_is_what_was_tried_and_refused_by_us() {
        assert_eq!(way("udp").judge(&REFUSED).0, Verdict::Closed);
        assert_eq!(way("frame").judge(&DROPPED).0, Verdict::Closed);
    }

    #[test]
    fn what_arrives_is_open_whatever_else_was_seen() {
        for way in WAYS {
            let seen = Seen { arrived: true, control: Err("lost".into()), counted: false, ..REFUSED };
            assert_eq!(way.judge(&seen).0, Verdict::Open, "{}", way.name);
        }
    }

    #[test]
    fn what_only_the_backstop_holds_is_open() {
        assert_eq!(way("udp").judge(&DROPPED).0, Verdict::Open);
        assert_eq!(way("raw-icmp").judge(&Seen { attempt: Ok(0), ..REFUSED }).0, Verdict::Open);
    }

    #[test]
    fn what_proves_nothing_is_not_testable() {
        let control_lost = Seen { control: Err("no answer".into()), ..REFUSED };
        let not_counted = Seen { counted: false, ..REFUSED };
        let other_errno = Seen { attempt: Ok(libc::ENETUNREACH), ..REFUSED };
        let impossible = Seen { attempt: Err("no capability".into()), ..REFUSED };
        for seen in [control_lost, not_counted, other_errno, impossible] {
            assert_eq!(way("udp").judge(&seen).0, Verdict::NotTestable, "{seen:?}");
        }
        assert_eq!(way("frame").judge(&Seen { left: false, ..DROPPED }).0, Verdict::NotTestable);
        assert_eq!(way("frame").judge(&Seen { counted: false, ..DROPPED }).0, Verdict::NotTestable);
    }
}
