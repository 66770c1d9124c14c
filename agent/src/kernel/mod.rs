//! kernel
pub mod clock;
