//! The control socket: how people and their scripts talk to the running agent.
//!
//! `server` answers, with `peer` as its porter; [`client`] asks, for the command line; [`protocol`] is what goes over
//! the socket, and `answer` makes it out of what the reconciler tells.
#![forbid(unsafe_code)]

mod answer;
pub mod client;
mod peer;
pub mod protocol;
mod server;
mod session;
mod status;
mod target;
#[cfg(test)]
mod testing;

pub use client::Client;
pub use server::{ServeError, Server};
pub use session::History;

/// Where the socket is unless somebody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/egress-warden/control.sock";
/// The variable of the environment that says otherwise.
pub const SOCKET_VARIABLE: &str = "EGRESS_WARDEN_SOCKET";
