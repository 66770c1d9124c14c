//! Egress Warden: decides, in the kernel, where a workload may send packets.
//!
//! The modules in the order in which a rule travels: [`allowlist`] reads what an operator wrote, [`policy`] is its
//! canonical form, [`ruleset`] what the kernel reads, [`kernel`] brings it there and brings counters and records back,
//! [`exec`] runs a command under it, [`cli`] is what people type, [`text`] what they read.

pub mod allowlist;
pub mod cli;
pub mod enforce;
pub mod exec;
pub mod kernel;
pub mod policy;
pub mod quarantine;
pub mod records;
pub mod ruleset;
pub mod text;
pub mod workload;
