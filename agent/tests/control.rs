//! The control socket: what the commands print, who is served, and what a client cannot do. As root, with cgroup2.

#[path = "control/commands.rs"]
mod commands;
#[path = "control/misuse.rs"]
mod misuse;
#[path = "control/peers.rs"]
mod peers;
#[path = "control/place.rs"]
mod place;
#[path = "control/support.rs"]
mod support;
#[path = "control/watching.rs"]
mod watching;
