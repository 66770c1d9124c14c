//! Drafts of allowlists: from what workloads tried ([`events`]), and from what a package index says of itself ([`index`]).
//!
//! A draft is text for a reviewer: each entry stands below its evidence. It is read back by [`crate::allowlist`] before
//! anybody sees it, so that what is printed passes `check`.
#![forbid(unsafe_code)]

pub(crate) mod addresses;
pub(crate) mod document;
pub mod events;
mod evidence;
mod gather;
pub mod index;
mod judge;
mod records;

pub use document::Unfit;
