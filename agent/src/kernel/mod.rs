//! kernel
pub mod sys;
