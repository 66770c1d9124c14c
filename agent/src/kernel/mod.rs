//! The kernel's side of the agent: loads the programs, writes the maps, attaches, and reads counters and records back.
//! The only module that knows aya, and the only one in which `unsafe` is allowed.

mod attach;
pub mod clock;
pub mod diag;
mod error;
mod maps;
mod namespace;
mod object;
mod probe;
pub mod sys;
pub(crate) mod tree;

pub use attach::{Ancestor, HOOKS, Hook};
pub use error::KernelError;
pub use namespace::OwnNamespace;
pub use object::{Enforcer, Preparation, Sizes};
pub use probe::{MINIMUM_KERNEL, Probe};
