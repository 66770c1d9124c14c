//! Names: queries are judged as they leave, answers are learnt from before the application can read them, and what they
//! opened has a say in the verdict.
//!
//! [`query`] and [`answer`] drive the walkers of [`egress_warden_common::dns`], whose memory [`scratch`] lends; [`pending`]
//! holds the queries on their way, [`grants`] the addresses that answers opened, [`reply`] tells a client what was refused.

mod answer;
mod grants;
mod pending;
mod query;
mod reply;
mod scratch;

pub(crate) use answer::{DROPPED, READ, Way, believes_loopback, learn, may_answer};
pub(crate) use grants::by_grant;
pub(crate) use query::{Asked, is_query, judge_query};
pub(crate) use reply::{REDIRECT, answer_refused, is_answered};
pub(crate) use scratch::{SCRATCHES, Scratch};

use egress_warden_common::ruleset::{FLAG_DNS, Ruleset};

use crate::rules::KernelWords;
use crate::workload::Workload;

/// 1 in the programs of policies that say something of names, 0 in those of one command without. A constant to the verifier,
/// so that such a command does not wait until it has walked through what has no meaning there.
#[unsafe(no_mangle)]
static KNOWS_NAMES: u32 = 0;

/// Do these programs judge names at all?
#[inline(always)]
pub(crate) fn knows_names() -> bool {
    // SAFETY: a live constant. The loader sets it, so the compiler must not take it for what stands here.
    unsafe { core::ptr::read_volatile(&raw const KNOWS_NAMES) != 0 }
}

/// Does the workload's policy say something of names?
#[inline(always)]
pub(crate) fn judges_names(workload: &Workload) -> bool {
    knows_names() && Ruleset::new(&KernelWords, workload.ruleset).flags().unwrap_or(0) & FLAG_DNS != 0
}
