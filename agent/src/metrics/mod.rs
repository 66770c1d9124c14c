//! Metrics: what the agent knows at one moment, as Prometheus reads it.
//!
//! [`catalogue`] declares every metric once; [`mod@render`] can write no other, and [`docs`] writes docs/metrics.md from it.
#![forbid(unsafe_code)]

pub mod catalogue;
pub mod docs;
pub mod render;
#[cfg(test)]
pub(crate) mod testing;

pub use render::{CONTENT_TYPE, render};
