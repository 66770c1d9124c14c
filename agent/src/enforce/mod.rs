//! The reconciler: desired state (policies and workloads) against actual state (what is pinned in the kernel). The only
//! writer to the kernel, and one task: whoever wants something of it sends a [`Request`].
#![forbid(unsafe_code)]

mod apply;
pub mod dns;
mod existing;
mod follow;
mod grants;
mod handle;
mod member;
mod network;
mod observe;
mod others;
mod reach;
pub mod reconciler;
pub mod rules;
pub mod saved;
pub mod snapshot;
pub mod totals;
pub mod trial;

pub use handle::{Handle, Refusal, Request};
pub use snapshot::Snapshot;
