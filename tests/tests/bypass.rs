//! Every way out that is known, tried on a real kernel by root with every capability.
//!
//! The attacker is a process in a plain cgroup under the agent, in a network namespace as a pod has it. Each way is tried by
//! three workloads: one that is enforced, one in quarantine, and one in audit, whose frames have to arrive. That is the
//! positive control: the way exists on this kernel, nothing lacks a capability, and only the verdict makes the difference.
//!
//! A way that is open is tried as well, and its test says so: it fails when the way is closed, or has become wider.
//!
//! `docs/threat-model.md` has a row for each and names the test; ways that other tests prove are not repeated here.

#[path = "agent/support.rs"]
#[expect(dead_code, reason = "of what the tests of the agent need, this needs a part")]
mod agent;
#[path = "bypass/ground.rs"]
mod ground;
#[path = "bypass/way.rs"]
mod way;

#[path = "bypass/answers.rs"]
mod answers;
#[path = "bypass/callers.rs"]
mod callers;
#[path = "bypass/destinations.rs"]
mod destinations;
#[path = "bypass/devices.rs"]
mod devices;
#[path = "bypass/forwarded.rs"]
mod forwarded;
#[path = "bypass/frames.rs"]
mod frames;
#[path = "bypass/headers.rs"]
mod headers;
#[path = "bypass/interfaces.rs"]
mod interfaces;
#[path = "bypass/kinds.rs"]
mod kinds;
#[path = "bypass/link.rs"]
mod link;
#[path = "bypass/rewritten.rs"]
mod rewritten;
#[path = "bypass/sockets.rs"]
mod sockets;
