//! `explain` says of the same attempts what the kernel did.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::slice;

use anyhow::{Context, Result, anyhow};
use egress_warden::allowlist;
use egress_warden::cli::explain::{Allowlists, EXIT_ALLOWED, EXIT_REFUSED, explain};
use egress_warden::kernel::clock::HostClock;
use egress_warden::policy::{Policy, merge};
use egress_warden::ruleset::attempt::Attempt;
use egress_warden_tests::agent_binary;
use egress_warden_tests::prober::{Kind, echo_request};

use super::ground::Ground;
use super::model::Lists;
use super::oracle::{OWN_HOST, Probe, Workload};
use super::table::{Row, Table};

/// How many of them the command line is asked as well.
const ASKED: usize = 24;

/// Asks about every probe that `explain` has words for, and gives how many there were.
pub(crate) fn compare(lists: &Lists, ground: &Ground, table: &mut Table) -> Result<usize> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("list.yaml");
    fs::write(&path, lists.yaml("parent"))?;
    let set = allowlist::load(slice::from_ref(&path)).map_err(|found| anyhow!("{found:?}"))?;
    let destinations = Allowlists::destinations(&set);
    let mut policies: BTreeMap<&str, Policy> = BTreeMap::new();
    for workload in &ground.workloads {
        let own: Option<Vec<Policy>> =
            lists.of(workload.name).map(|policy| set.policy(&policy.name)).collect();
        let own = own.and_then(merge).with_context(|| format!("no policy for {}", workload.name))?;
        policies.insert(workload.name, own);
    }
    let (mut explained, mut wrong) = (0, Vec::new());
    for row in &table.rows {
        let workload = &ground.workloads[row.workload];
        let Some((attempt, reason)) = question(row, workload) else { continue };
        let said = explain(&policies[workload.name], &destinations, attempt, &HostClock)?;
        explained += 1;
        if said.verdict.reason.name() != reason {
            wrong.push(format!("{}; explain said: {said}", row.told(workload)));
        }
    }
    wrong.extend(ask(lists, ground, table, &path)?);
    table.wrong.extend(wrong);
    Ok(explained)
}

/// The same by the command line, of workloads with one policy, which is all that it can be asked about. Gives what is wrong.
fn ask(lists: &Lists, ground: &Ground, table: &Table, path: &Path) -> Result<Vec<String>> {
    let questions = table.rows.iter().filter_map(|row| {
        let workload = &ground.workloads[row.workload];
        let (attempt, reason) = question(row, workload)?;
        let mut policies = lists.of(workload.name);
        let (only, None) = (policies.next()?, policies.next()) else { return None };
        Some((only.name.as_str(), attempt, reason))
    });
    let mut wrong = Vec::new();
    for (policy, attempt, reason) in questions.take(ASKED) {
        let mut command = Command::new(agent_binary()?);
        command.arg("explain").arg("--allowlists").arg(path).args(["--policy", policy, "--to"]);
        let output = command.arg(attempt.to_string()).stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let code = if reason == "allowed" { EXIT_ALLOWED } else { EXIT_REFUSED };
        if output.status.code() != Some(code.into()) || !said.contains(reason) {
            wrong.push(format!(
                "explain --policy {policy} --to {attempt}: {}, not {reason}: {said}",
                output.status
            ));
        }
    }
    Ok(wrong)
}

/// The question, and the answer that is expected. It has no word for sockets, for quarantine, and for what is an address of
/// the own host only there.
fn question(row: &Row, workload: &Workload) -> Option<(Attempt, &'static str)> {
    let Probe { kind, to, port, .. } = row.probe;
    let is_own = workload.addresses.contains(&to) || OWN_HOST.contains(&to);
    if workload.quarantined || is_own {
        return None;
    }
    let reason = row.expected.reason?;
    let icmp = if to.is_ipv4() { 1 } else { 58 };
    let (protocol, port) = match kind {
        Kind::Tcp | Kind::Mptcp => (6, port),
        Kind::Udp | Kind::UdpConnected | Kind::UdpShared | Kind::UdpConnectedShared => (17, port),
        Kind::Ping => (icmp, echo_request(to).into()),
        Kind::Raw => (icmp, port),
        Kind::UdpLite => return None,
    };
    Some((Attempt { address: to, protocol, port }, reason))
}
