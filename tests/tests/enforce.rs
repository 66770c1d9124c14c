//! What the programs do in the kernel, proven by what arrives on the far side of a wire and by exact numbers.
//!
//! Each test runs the agent that ships, `egress-warden exec`, in a namespace of its own [`World`], or loads the programs
//! itself where time has to be set. "Refused" means here: no frame arrived, the caller saw EPERM, and one violation with
//! the right reason was counted. In every test something that is allowed does arrive, the same way.
//!
//! [`World`]: egress_warden_tests::World

#[path = "enforce/support.rs"]
mod support;

#[path = "enforce/loaded.rs"]
mod loaded;

#[path = "enforce/audit.rs"]
mod audit;
#[path = "enforce/begun_inside.rs"]
mod begun_inside;
#[path = "enforce/descendants.rs"]
mod descendants;
#[path = "enforce/expiry.rs"]
mod expiry;
#[path = "enforce/figures.rs"]
mod figures;
#[path = "enforce/mapped.rs"]
mod mapped;
#[path = "enforce/quarantine.rs"]
mod quarantine;
#[path = "enforce/records.rs"]
mod records;
#[path = "enforce/refusals.rs"]
mod refusals;
