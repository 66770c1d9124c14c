//! What the kernel programs and the agent share.
//!
//! Everything here is `no_std`, free of allocation and of `unsafe`, and compiled twice: into the eBPF object that the
//! kernel verifies, and into the agent, where the same functions answer `explain` and stand in the property tests.
//! The way of the data: [`packet`] finds the outermost destination, [`decide`](fn@decide::decide) looks it up in a
//! [`ruleset`], by address or by [`names`], and gives a [`Reason`]; [`socket`] says which sockets may be made at all; [`state`] holds the records that both sides read and write.
#![no_std]
#![forbid(unsafe_code)]

pub mod address;
pub mod backend;
pub mod decide;
pub mod dns;
pub mod grant;
pub mod limits;
pub mod link;
pub mod names;
pub mod packet;
pub mod reason;
pub mod ruleset;
pub mod socket;
pub mod state;

pub use address::Address;
pub use decide::{Facts, Route, Verdict, decide};
pub use reason::{Protocol, Reason};

/// Version of everything that user space and kernel exchange through maps. A change of any layout in this crate
/// changes this number; [`state`] asserts the sizes that belong to it.
pub const ABI_VERSION: u32 = 6;
