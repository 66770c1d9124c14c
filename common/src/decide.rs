//! The verdict: the only place where one is made.

use crate::Address;
use crate::reason::{IPPROTO_TCP, IPPROTO_UDP, Reason};
use crate::ruleset::{
    CLASS_DENY, CLASS_INTERVALS, Class, Covering, FLAG_DNS, FLAG_LOOPBACK_ALLOW, FLAG_LOOPBACK_DENY, FOREVER,
    NO_RULE, Ruleset, Words,
};

/// What a clock that is not synchronised says: so late that every deadline has passed. (A number and not an `Option`:
/// the verifier refuses the code that the compiler makes of the comparison inside one.)
pub const UNSYNCHRONISED: u64 = u64::MAX;

/// What the verdict needs beside the ruleset.
pub trait Clock {
    /// Unix time in seconds, or [`UNSYNCHRONISED`]. Asked only where a deadline exists.
    fn unix_seconds(&self) -> u64;
}

/// By which way a packet leaves, or would leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// An interface that leads out of the network namespace.
    Uplink,
    /// The loopback interface.
    Loopback,
}

/// What is known of one attempt to send.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Facts {
    /// The outermost destination.
    pub destination: Address,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port; the type for ICMP; 0 for protocols without either.
    pub port: u16,
    /// The way it leaves.
    pub route: Route,
    /// Is this the host's network namespace, in which loopback reaches the node's own services?
    pub host_namespace: bool,
    /// Does it answer a flow that began outside?
    pub reply: bool,
    /// Does it go to the node itself, whose probes are answered in quarantine as well?
    pub to_node: bool,
    /// Is the workload in quarantine?
    pub quarantined: bool,
    /// Is the destination one of the workload's own resolvers, and does the policy let it ask those?
    pub own_resolver: bool,
}

/// The port at which resolvers are asked.
pub const DNS_PORT: u16 = 53;

impl Facts {
    /// What of them a class is asked.
    #[inline(always)]
    pub(crate) const fn asked(&self) -> Asked {
        Asked {
            protocol: self.protocol,
            port: self.port,
            quarantined: self.quarantined,
            on_loopback: matches!(self.route, Route::Loopback),
        }
    }

    /// Is it a query, or another use of a resolver's port?
    #[inline(always)]
    const fn is_dns(&self) -> bool {
        self.port == DNS_PORT && (self.protocol == IPPROTO_UDP || self.protocol == IPPROTO_TCP)
    }
}

/// What was decided, why, by which rule, and for how long it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Verdict {
    /// Why; [`Reason::allows`] says which way.
    pub reason: Reason,
    /// The rule that allowed or refused, or the one that came nearest; [`NO_RULE`] where there is none.
    pub rule: u32,
    /// Unix time in seconds up to which an `allowed` holds, or [`FOREVER`].
    pub until: u64,
}

impl Verdict {
    #[inline(always)]
    pub(crate) const fn new(reason: Reason, rule: u32) -> Self {
        Self { reason, rule, until: FOREVER }
    }
}

/// Decides. The order is the contract: loopback, replies, deny, DNS, quarantine, allowed CIDRs with ports, else refused.
/// (What is malformed or hides its destination was refused by [`crate::packet`] before there were facts; what is allowed by
/// name is asked of [`crate::names`] after this refused it, and a query's name after this allowed its server.)
///
/// Loopback that the policy does not open can still be allowed by an entry that names the loopback address, and by none
/// that covers another address of the host; a packet that stays on the loopback interface is never a reply, because
/// replies are learnt on uplinks only.
#[inline(always)]
pub fn decide<W, C>(ruleset: &Ruleset<'_, W>, clock: &C, facts: &Facts) -> Verdict
where
    W: Words + ?Sized,
    C: Clock + ?Sized,
{
    let Some(flags) = ruleset.flags() else { return Verdict::new(Reason::NoRuleset, NO_RULE) };
    let judges_names = ruleset.words.may_name() && flags & FLAG_DNS != 0;
    let on_loopback = matches!(facts.route, Route::Loopback);
    if on_loopback {
        let open = if facts.host_namespace {
            flags & FLAG_LOOPBACK_ALLOW != 0
        } else {
            flags & FLAG_LOOPBACK_DENY == 0
        };
        // What a resolver on the node is asked goes on from there, so it is judged as if it went there itself.
        let asks_resolver = judges_names && facts.is_dns() && is_resolver(ruleset, facts);
        if open && !asks_resolver {
            return Verdict::new(Reason::Loopback, NO_RULE);
        }
        if asks_resolver {
            return dns(ruleset, facts);
        }
        // The node's other addresses reach the same services: an entry for a wide range was not written for them.
        if !(facts.destination.is_loopback() || facts.destination.is_unspecified()) {
            return refused(facts.asked(), Reason::NotAllowlisted, NO_RULE);
        }
    } else if facts.reply && (!facts.quarantined || facts.to_node) {
        return Verdict::new(Reason::Reply, NO_RULE);
    }
    let Some(class) = ruleset.class(facts.destination) else {
        return Verdict::new(Reason::NoRuleset, NO_RULE);
    };
    if judges_names && facts.is_dns() && class.kind() != CLASS_DENY {
        return dns(ruleset, facts);
    }
    by_class(ruleset, clock, facts.asked(), class)
}

/// May this server be asked? In quarantine as well: there the name decides.
#[inline(always)]
fn dns<W: Words + ?Sized>(ruleset: &Ruleset<'_, W>, facts: &Facts) -> Verdict {
    if facts.protocol == IPPROTO_TCP {
        return Verdict::new(Reason::DnsTcp, NO_RULE);
    }
    if is_resolver(ruleset, facts) {
        return Verdict::new(Reason::Allowed, NO_RULE);
    }
    Verdict::new(Reason::DnsServer, NO_RULE)
}

#[inline(always)]
fn is_resolver<W: Words + ?Sized>(ruleset: &Ruleset<'_, W>, facts: &Facts) -> bool {
    facts.own_resolver || ruleset.is_resolver(facts.destination)
}

/// What is asked of a class.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    pub(crate) quarantined: bool,
    pub(crate) on_loopback: bool,
}

/// What a class says of protocol and port.
#[inline(always)]
pub(crate) fn by_class<W, C>(ruleset: &Ruleset<'_, W>, clock: &C, asked: Asked, class: Class) -> Verdict
where
    W: Words + ?Sized,
    C: Clock + ?Sized,
{
    let found = match class.kind() {
        CLASS_DENY => return refused(asked, Reason::Denied, class.rule()),
        CLASS_INTERVALS => ruleset.covering(class, asked.protocol, asked.port),
        _ => return refused(asked, Reason::NotAllowlisted, NO_RULE),
    };
    match found {
        None => Verdict::new(Reason::NoRuleset, NO_RULE),
        Some(Covering::OtherPort(rule)) => refused(asked, Reason::PortNotAllowed, rule),
        Some(Covering::OtherProtocol(rule)) => refused(asked, Reason::ProtocolNotAllowed, rule),
        Some(Covering::Interval { rule, allow_until, keep_until }) => {
            let until = if asked.quarantined { keep_until } else { allow_until };
            if asked.quarantined && until == 0 {
                return Verdict::new(Reason::Quarantined, rule);
            }
            if until == FOREVER || clock.unix_seconds() < until {
                return Verdict { reason: Reason::Allowed, rule, until };
            }
            refused(asked, Reason::Expired, rule)
        }
    }
}

// A workload in quarantine is told so for everything but an explicit refusal: the operator asks "why can it not reach
// its index", and the answer is the quarantine, not the list.
#[inline(always)]
fn refused(asked: Asked, reason: Reason, rule: u32) -> Verdict {
    if asked.quarantined && !matches!(reason, Reason::Denied) {
        return Verdict::new(Reason::Quarantined, rule);
    }
    if asked.on_loopback && matches!(reason, Reason::NotAllowlisted) {
        return Verdict::new(Reason::LoopbackDenied, rule);
    }
    Verdict::new(reason, rule)
}
