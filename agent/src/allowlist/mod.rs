//! allowlist
