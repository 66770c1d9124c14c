//! The reconciler: desired state (policies and workloads) against actual state (what is pinned in the kernel). The only
//! writer to the kernel, and one task: whoever wants something of it sends a [`Request`].
#![forbid(unsafe_code)]

mod handle;
pub mod snapshot;

pub use handle::{Handle, Refusal, Request};
pub use snapshot::Snapshot;
