//! A workload in the laboratory under a policy, with the agent at the host end of its uplink, so that there is a
//! backstop; and what the resolvers and the places behind the names saw of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use egress_warden_tests::dns::{Client, Insider, Lab, Lookup, Surroundings, Target, asks_for};
use egress_warden_tests::wait::{DEADLINE, until};
use egress_warden_tests::{Capture, Namespace, spawn_in};

use super::support::{Agent, policy};

/// The resolvers of the laboratory, the scripted one included.
pub(crate) const RESOLVERS: &str = "dns: {resolvers: [10.77.2.0/24, \"fd77:2::/64\"]}";
/// One name, on the port of a package index.
pub(crate) const FILES: &str = "domains: [files.index.test], ports: [443]";

/// Where a case is tried.
pub(crate) struct Ground {
    // The programs in the workload end before the agent's cgroups go, and those before the laboratory.
    _holder: Insider,
    pub(crate) agent: Agent,
    cgroup: PathBuf,
    asked: Capture,
    reached: Capture,
    pub(crate) lab: Lab,
    entries: Vec<String>,
    more: Vec<String>,
}

impl Ground {
    /// A workload under a policy with these entries and further keys.
    pub(crate) fn new(entries: &[&str], more: &[&str]) -> Result<Ground> {
        let lab = Lab::new()?;
        let mut agent = Agent::new()?;
        let with_backstop: Vec<&str> = more.iter().copied().chain(["require: [backstop]"]).collect();
        agent.write(&policy(agent.parent(), entries, &with_backstop))?;
        agent.start_within(lab.world().router())?;
        let cgroup = agent.workload_made("job")?;
        // The agent finds a workload's wire by the processes in it.
        let holder = Insider::start(lab.job(), |command| spawn_in(&cgroup, command))?;
        agent.wait_metric("workload_tier", &["tier=\"backstop\""], 1.0)?;
        agent.wait_enforced("job")?;
        let (asked, reached) = (lab.watch_resolvers()?, lab.watch_served()?);
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let (entries, more) = (owned(entries), owned(&with_backstop));
        Ok(Ground { _holder: holder, agent, cgroup, asked, reached, lab, entries, more })
    }

    /// Has other entries from now on; returns once the new policy is in force.
    pub(crate) fn reload(&mut self, entries: &[&str]) -> Result<()> {
        let ruleset = |agent: &Agent| -> Option<String> {
            Some(agent.status().ok()?["workloads"][0]["ruleset"].as_str()?.to_owned())
        };
        let before = ruleset(&self.agent);
        let more: Vec<&str> = self.more.iter().map(String::as_str).collect();
        self.agent.write(&policy(self.agent.parent(), entries, &more))?;
        until("another ruleset", DEADLINE, || {
            ruleset(&self.agent).filter(|now| Some(now) != before.as_ref())
        })?;
        self.entries = entries.iter().map(|entry| (*entry).to_owned()).collect();
        Ok(())
    }

    /// Ends the agent as hard as can be, and starts another in its place.
    pub(crate) fn restart_agent(&mut self) -> Result<()> {
        self.agent.kill()?;
        self.agent.start_within(self.lab.world().router())?;
        self.agent.wait_enforced("job")
    }

    /// A client in the workload.
    pub(crate) fn lookup(&self, client: Client, target: &Target, resolver: IpAddr) -> Result<Lookup> {
        let surroundings = Surroundings::new(&[resolver], &[], &[])?;
        self.lookup_with(client, target, resolver, &surroundings)
    }

    /// The same with a `resolv.conf` of the case's own.
    pub(crate) fn lookup_with(
        &self,
        client: Client,
        target: &Target,
        resolver: IpAddr,
        surroundings: &Surroundings,
    ) -> Result<Lookup> {
        self.lab.lookup_by(client, target, resolver, surroundings, |command| spawn_in(&self.cgroup, command))
    }

    /// Where the workload's programs are started.
    pub(crate) fn cgroup(&self) -> &PathBuf {
        &self.cgroup
    }

    /// A program in the workload that does what the case says.
    pub(crate) fn insider(&self) -> Result<Insider> {
        self.insider_in(self.lab.job())
    }

    /// The same in a network namespace that the workload made.
    pub(crate) fn insider_in(&self, namespace: &Namespace) -> Result<Insider> {
        Insider::start(namespace, |command| spawn_in(&self.cgroup, command))
    }

    /// Proves by the frames on the far side that no question for a name came out.
    pub(crate) fn assert_never_asked(&self, name: &str) -> Result<()> {
        self.settle()?;
        let questions = self.asked.frames(|frame| asks_for(frame, name));
        ensure!(questions.is_empty(), "{} questions for {name} came out", questions.len());
        Ok(())
    }

    /// Proves by the frames on the far side that no packet with this in it came to a resolver.
    pub(crate) fn assert_never_carried(&self, what: &[u8]) -> Result<()> {
        self.settle()?;
        let carries = |bytes: &[u8]| bytes.windows(what.len()).any(|window| window == what);
        let frames = self.asked.count(|frame| carries(&frame.bytes));
        ensure!(frames == 0, "{frames} frames carried it");
        Ok(())
    }

    /// Proves by the frames on the far side that nothing reached an address.
    pub(crate) fn assert_never_reached(&self, address: IpAddr) -> Result<()> {
        self.settle()?;
        let frames = self.reached.count(|frame| frame.is_to_host(address));
        ensure!(frames == 0, "{frames} frames reached {address}");
        Ok(())
    }

    /// Tries to connect, which must be refused, by the error and by the frames.
    pub(crate) fn assert_refused(&self, insider: &mut Insider, to: SocketAddr) -> Result<()> {
        let said = insider.connect(to)?;
        ensure!(said == "EPERM", "connecting to {to}: {said}");
        self.assert_never_reached(to.ip())
    }

    /// How many questions for a name came out.
    pub(crate) fn times_asked(&self, name: &str) -> Result<usize> {
        self.settle()?;
        Ok(self.asked.count(|frame| asks_for(frame, name)))
    }

    /// How many TCP segments came out to port 53.
    pub(crate) fn segments_to_resolvers(&self) -> Result<usize> {
        self.settle()?;
        Ok(self.asked.count(|frame| frame.is_tcp() && frame.destination_port == Some(53)))
    }

    fn settle(&self) -> Result<()> {
        // From the neighbour, who is not judged and whose datagrams go as far as the workload's.
        let from = self.lab.world().host("neighbour");
        self.asked.settle(from, self.lab.world().host("resolver").at(9))?;
        self.reached.settle(from, self.lab.world().host("served").at(9))
    }

    /// The violations so far, by reason.
    pub(crate) fn violations(&self) -> Result<BTreeMap<String, u64>> {
        let (_, page) = self.agent.get("/metrics")?;
        let mut found = BTreeMap::new();
        for line in page.lines().filter(|line| line.starts_with("egress_warden_node_violations_total{")) {
            let reason = line.split("reason=\"").nth(1).and_then(|rest| rest.split('"').next());
            let count: u64 = line.rsplit(' ').next().context("no value")?.parse()?;
            if count > 0 {
                *found.entry(reason.context("no reason")?.to_owned()).or_default() += count;
            }
        }
        Ok(found)
    }

    /// Asserts the exact counters.
    pub(crate) fn assert_counted(&self, expected: &[(&str, u64)]) -> Result<()> {
        let expected: BTreeMap<String, u64> =
            expected.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        let counted = self.violations()?;
        ensure!(counted == expected, "counted {counted:?} instead of {expected:?}");
        Ok(())
    }
}
