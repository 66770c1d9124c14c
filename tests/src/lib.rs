//! What the tests on a real kernel, and the demo, stand on.
//!
//! [`World`] is a handful of hosts in network namespaces of their own around one router; [`TestCgroup`] is where a
//! command under test runs; [`Capture`] counts what really came out on a wire; [`server`] and [`probe`] are the two
//! ends of a connection; [`agent_binary`] is the agent that ships.
//!
//! Nothing touches the host's own network namespace or a cgroup that was there before, and nothing outlives the process
//! that made it, however that ends: namespaces are held by descriptors alone, a cgroup has a keeper that survives us.

mod agent;
pub mod bench;
pub mod bpf;
mod capture;
mod cgroup;
pub mod dns;
pub mod flood;
pub mod forge;
mod frame;
pub mod job;
mod maps;
mod netns;
pub mod probe;
pub mod prober;
pub mod rewriter;
pub mod server;
mod sys;
pub mod wait;
mod world;

pub use agent::agent_binary;
pub use capture::Capture;
pub use cgroup::{TestCgroup, cgroup2_mount, spawn_in};
pub use frame::{Direction, Frame};
pub use maps::ProgramMap;
pub use netns::Namespace;
pub use sys::{cut_datagrams, pin, processors, take_descriptor};
pub use world::{Host, World};
