//! The kernel's side of the agent: loads the programs, writes the maps, attaches, and reads counters and records back.
//! The only module that knows aya, and the only one in which `unsafe` is allowed.

mod attach;
mod bpf;
pub mod clock;
pub mod diag;
mod error;
mod grants;
mod interface;
pub mod links;
mod maps;
mod memory;
mod namespace;
mod netlink;
pub mod node;
mod object;
mod others;
pub mod packet;
mod probe;
mod resolvers;
pub mod sys;
mod tables;
pub(crate) mod tree;
mod wait;

pub use attach::{Ancestor, HOOKS, Hook};
pub use error::KernelError;
pub use grants::OpenAddress;
pub use interface::{NetworkInterface, OtherEnd};
pub use namespace::OwnNamespace;
pub use node::{Adopted, Backstop, Node, NodeOptions};
pub use object::{Enforcer, Preparation, Sizes};
pub use others::OtherProgram;
pub use probe::{MINIMUM_KERNEL, Probe};
pub use wait::readable;
