//! Egress Warden: decides, in the kernel, where a workload may send packets.
//!
//! The modules in the order in which a rule travels: [`allowlist`] reads what an operator wrote, [`policy`] is its
//! canonical form, [`ruleset`] what the kernel reads, [`kernel`] brings it there and brings counters and records back,
//! [`exec`] runs a command under it, [`cli`] is what people type, [`text`] what they read. [`config`] is how the agent of a
//! node is told about it, [`reload`] hears of allowlists that change, [`reach`] looks for what
//! workloads have in reach beside the network, [`logging`] writes what it has to say,
//! [`suggest`] drafts allowlists.

pub mod allowlist;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod enforce;
pub mod exec;
pub mod http;
pub mod kernel;
pub mod logging;
pub mod metrics;
mod mountinfo;
pub mod policy;
pub mod quarantine;
pub mod reach;
pub mod records;
pub mod reload;
pub mod ruleset;
pub mod selftest;
mod state_file;
pub mod suggest;
pub mod text;
pub mod workload;
