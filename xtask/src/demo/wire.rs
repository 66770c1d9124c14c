//! What arrives at a host.

use std::net::IpAddr;

use anyhow::Result;
use egress_warden_tests::{Capture, Direction, Frame, Host};

use super::stage::Stage;

/// A port that nobody listens on, for what [`Capture::settle`] sends.
const DISCARD: u16 = 9;

/// A capture on the wire of one host.
pub(super) struct Wire<'a> {
    job: &'a Host,
    host: &'a Host,
    capture: Capture,
}

impl<'a> Wire<'a> {
    /// Begins to listen at this host.
    pub(super) fn of(stage: &'a Stage, host: &str) -> Result<Wire<'a>> {
        let host = stage.world().host(host);
        Ok(Wire { job: stage.world().host("job"), host, capture: Capture::start(host, "eth0")? })
    }

    /// Waits until everything is counted that the job sent before: a count of 0 proves something only after this.
    pub(super) fn settle(&self) -> Result<()> {
        self.capture.settle(self.job, self.host.at(DISCARD))?;
        self.capture.settle(self.job, self.host.at_v6(DISCARD))
    }

    /// The same for a job whose own sentinel a backstop would refuse: what it sent last has already had its effect here.
    pub(super) fn settle_from(&self, host: &Host) -> Result<()> {
        self.capture.settle(host, self.host.at(DISCARD))
    }

    /// How many frames from the job came in.
    pub(super) fn job_frames(&self) -> usize {
        self.frames_of(self.job, |_| true)
    }

    /// How many frames from a host came in that fit.
    pub(super) fn frames_of(&self, host: &Host, fits: impl Fn(&Frame) -> bool) -> usize {
        let (v4, v6) = (IpAddr::V4(host.v4), IpAddr::V6(host.v6));
        self.capture.count(|frame| {
            frame.direction == Direction::In
                && frame.source.is_some_and(|source| source == v4 || source == v6)
                && fits(frame)
        })
    }

    /// How many questions of the job came in.
    pub(super) fn queries(&self) -> usize {
        self.frames_of(self.job, |frame| frame.destination_port == Some(53))
    }

    /// How many of them are for names below this one, which is written as in a question: each label after its length.
    pub(super) fn queries_below(&self, name: &[u8]) -> usize {
        self.frames_of(self.job, |frame| {
            frame.destination_port == Some(53) && frame.payload.windows(name.len()).any(|part| part == name)
        })
    }

    /// How many frames of one stealer's attempt came in.
    pub(super) fn attempt_frames(&self, is_tcp: bool, is_v4: bool) -> usize {
        self.frames_of(self.job, |frame| {
            let version = frame.destination.is_some_and(|to| to.is_ipv4() == is_v4);
            version && if is_tcp { frame.is_tcp() } else { frame.is_udp() }
        })
    }
}
