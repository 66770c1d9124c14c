//! Which of the backends that were learnt still count.

use egress_warden_common::Address;
use egress_warden_common::backend::{backend_counts, backend_set};
use egress_warden_common::limits::{BACKEND_NS, BACKEND_REFRESH_NS, BACKEND_SETS};

#[test]
fn for_a_minute_after_it_was_last_seen() {
    assert_eq!(BACKEND_NS, 60_000_000_000);
    assert!(backend_counts(5, 5) && backend_counts(5, 4 + BACKEND_NS));
    assert!(!backend_counts(5, 5 + BACKEND_NS));
    assert!(!backend_counts(0, 1), "a free place");
    // What is in use is written anew long before it ends.
    const { assert!(BACKEND_REFRESH_NS < BACKEND_NS / 2) };
}

#[test]
fn every_backend_has_a_set_and_ports_spread_over_them() {
    let address = Address::v4(0x0a4d_0202);
    let mut seen = [false; BACKEND_SETS];
    for port in 0..=u16::MAX {
        seen[backend_set(address, port)] = true;
    }
    assert!(seen.iter().all(|seen| *seen));
}
