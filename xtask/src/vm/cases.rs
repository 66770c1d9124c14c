//! The cases. Each has a name, and returns what it saw, or why it failed.

mod allowed;
mod jail;
mod node;
mod refused;
mod too_old;

use anyhow::{Result, bail};

use super::kernel::Expectation;
use super::scenario::Scenario;

/// One case.
pub(super) struct Case {
    /// Its name, without spaces.
    pub(super) name: &'static str,
    /// Runs it.
    pub(super) run: fn(&Scenario) -> Result<String>,
}

const fn case(name: &'static str, run: fn(&Scenario) -> Result<String>) -> Case {
    Case { name, run }
}

/// On every kernel from 6.1 on, without exception: a feature that is missing there is a failure.
const WORKS: &[Case] = &[
    case("shipped-allowlists", too_old::shipped_allowlists),
    case("programs-load", allowed::programs_load),
    case("kernel-log", allowed::kernel_log),
    case("tcp-allowed", allowed::tcp),
    case("udp-allowed", allowed::udp),
    case("many-prefixes", allowed::many_prefixes),
    case("loopback", allowed::loopback),
    case("replies", allowed::replies),
    case("audit", allowed::audit),
    case("tcp-refused", refused::tcp),
    case("udp-refused", refused::udp),
    case("udp-connected-refused", refused::udp_connected),
    case("mapped-refused", refused::mapped),
    case("port-refused", refused::port),
    case("socket-types", refused::socket_types),
    case("events", refused::events),
    case("quarantine", refused::quarantine),
    case("exit-codes", jail::exit_codes),
    case("jail", jail::stays_inside),
    case("janitor", jail::janitor),
    case("agent-starts", node::starts),
    case("agent-allowed", node::allowed),
    case("agent-refused", node::refused),
    case("backstop-frame", node::frame),
    case("backstop-spoof", node::spoof),
    case("backstop-replies", node::replies),
    case("backstop-fragments", node::fragments),
    case("agent-restart", node::restart),
    case("agent-service", node::service),
    case("agent-new-wire", node::new_wire),
    case("agent-detach", node::detach),
];

const REFUSES: &[Case] = &[
    case("shipped-allowlists", too_old::shipped_allowlists),
    case("exec-refuses", too_old::exec_refuses),
    case("nothing-left", too_old::nothing_left),
    case("agent-refuses", node::refuses),
];

/// The cases for a kernel.
pub(super) fn of(expectation: Expectation) -> &'static [Case] {
    match expectation {
        Expectation::Works => WORKS,
        Expectation::Refuses => REFUSES,
    }
}

/// Their names, all of which have to come back.
pub(super) fn expected(expectation: Expectation) -> Vec<&'static str> {
    of(expectation).iter().map(|case| case.name).collect()
}

/// Fails unless two values are the same.
fn expect<T: PartialEq + std::fmt::Debug>(what: &str, seen: &T, wanted: &T) -> Result<()> {
    if seen != wanted {
        bail!("{what}: {seen:?} instead of {wanted:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_one_word() {
        for expectation in [Expectation::Works, Expectation::Refuses] {
            let mut names = expected(expectation);
            assert!(names.iter().all(|name| !name.contains(' ')));
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), of(expectation).len());
        }
    }
}
