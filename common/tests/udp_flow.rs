//! How long an inbound UDP flow may be answered.

use egress_warden_common::limits::UDP_FLOW_NS;
use egress_warden_common::state::{UDP_FLOW_BUSY, udp_flow_is_open};

#[test]
fn open_for_a_minute_after_the_last_datagram() {
    assert_eq!(UDP_FLOW_NS, 60_000_000_000);
    assert!(udp_flow_is_open(5, 5) && udp_flow_is_open(5, 5 + UDP_FLOW_NS - 1));
    assert!(!udp_flow_is_open(5, 5 + UDP_FLOW_NS));
    // Another processor may have read the clock a moment earlier.
    assert!(udp_flow_is_open(5, 4));
}

#[test]
fn a_place_that_is_free_or_being_written_is_nobodys() {
    assert!(!udp_flow_is_open(0, 1));
    assert!(!udp_flow_is_open(UDP_FLOW_BUSY, 1) && !udp_flow_is_open(UDP_FLOW_BUSY, u64::MAX));
}
