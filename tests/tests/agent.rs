//! The whole agent, as `egress-warden run` starts it, on a real kernel.
//!
//! Each test has a BPF file system, cgroups, a state directory and a port of its own.

#[path = "agent/support.rs"]
mod support;

#[path = "agent/backstop.rs"]
mod backstop;
#[path = "agent/bad_edits.rs"]
mod bad_edits;
#[path = "agent/churn.rs"]
mod churn;
#[path = "agent/contained.rs"]
mod contained;
#[path = "agent/existing.rs"]
mod existing;
#[path = "agent/figures.rs"]
mod figures;
#[path = "agent/hostile.rs"]
mod hostile;
#[path = "agent/json_log.rs"]
mod json_log;
#[path = "agent/killed.rs"]
mod killed;
#[path = "agent/many_sockets.rs"]
mod many_sockets;
#[path = "agent/others.rs"]
mod others;
#[path = "agent/overflow.rs"]
mod overflow;
#[path = "agent/quarantined.rs"]
mod quarantined;
#[path = "agent/raw.rs"]
mod raw;
#[path = "agent/reach.rs"]
mod reach;
#[path = "agent/reload.rs"]
mod reload;
#[path = "agent/selftest.rs"]
mod selftest;
#[path = "agent/workloads.rs"]
mod workloads;
