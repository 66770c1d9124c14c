//! Which sockets may be made: asked of every type and protocol that a call can name.

use egress_warden_common::Reason;
use egress_warden_common::ruleset::{FLAGS, FLAGS_MARK, HEADER_WORDS, RAW, Ruleset, VERSION};
use egress_warden_common::socket::{
    AF_INET, AF_INET6, IPPROTO_MPTCP, IPPROTO_RAW, NewSocket, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM, judge_socket,
};

const ICMP: u32 = 1;
const TCP: u32 = 6;
const UDP: u32 = 17;
const GRE: u32 = 47;
const ICMPV6: u32 = 58;

/// A ruleset that opens raw sockets of these protocols and nothing else.
fn opening(raw: &[u32]) -> Vec<u64> {
    let mut words = vec![0; HEADER_WORDS as usize];
    words[0] = VERSION;
    words[FLAGS as usize] = FLAGS_MARK;
    words[RAW as usize] = (words.len() as u64) << 32 | 4;
    words.extend((0..4).map(|word| {
        let here = raw.iter().filter(|protocol| *protocol / 64 == word);
        here.fold(0, |set, protocol| set | 1 << (protocol % 64))
    }));
    words
}

/// Every socket that passes: family, type, protocol.
fn passing(words: &[u64]) -> Vec<(u32, u32, u32)> {
    let ruleset = Ruleset::new(words, 0);
    let mut passing = Vec::new();
    for family in [AF_INET, AF_INET6] {
        for kind in 0..16 {
            for protocol in 0..0x1_0200 {
                let made = NewSocket { family, kind, protocol };
                match judge_socket(&ruleset, &made) {
                    Reason::Allowed => passing.push((family, kind, protocol)),
                    reason => assert_eq!(reason, Reason::SocketType, "{made:?}"),
                }
            }
        }
    }
    passing
}

const JUDGED: [(u32, u32, u32); 8] = [
    (AF_INET, SOCK_STREAM, TCP),
    (AF_INET, SOCK_STREAM, IPPROTO_MPTCP),
    (AF_INET, SOCK_DGRAM, ICMP),
    (AF_INET, SOCK_DGRAM, UDP),
    (AF_INET6, SOCK_STREAM, TCP),
    (AF_INET6, SOCK_STREAM, IPPROTO_MPTCP),
    (AF_INET6, SOCK_DGRAM, UDP),
    (AF_INET6, SOCK_DGRAM, ICMPV6),
];

#[test]
fn nothing_passes_but_tcp_udp_and_ping() {
    assert_eq!(passing(&opening(&[])), JUDGED);
    // As every ruleset was before there was a part for raw sockets.
    let mut without_the_part = opening(&[]);
    without_the_part[RAW as usize] = 0;
    assert_eq!(passing(&without_the_part), JUDGED);
}

#[test]
fn raw_sockets_are_open_for_the_protocols_named_and_never_for_all() {
    let named = [ICMP, GRE, ICMPV6, 64, 127, 254];
    // 255 cannot be written by an operator; should it stand there, it opens nothing.
    let found = passing(&opening(&[named.as_slice(), &[IPPROTO_RAW]].concat()));
    let raw: Vec<_> = found.iter().filter(|(_, kind, _)| *kind == SOCK_RAW).copied().collect();
    let wanted: Vec<_> = [AF_INET, AF_INET6]
        .into_iter()
        .flat_map(|family| named.map(|number| (family, SOCK_RAW, number)))
        .collect();
    let mut wanted = wanted;
    wanted.sort_unstable();
    assert_eq!(raw, wanted);
    assert_eq!(found.len(), JUDGED.len() + raw.len());
}

#[test]
fn a_ruleset_cut_short_opens_no_raw_socket() {
    let whole = opening(&(1..255).collect::<Vec<_>>());
    let made = NewSocket { family: AF_INET, kind: SOCK_RAW, protocol: 254 };
    assert_eq!(judge_socket(&Ruleset::new(whole.as_slice(), 0), &made), Reason::Allowed);
    for length in 0..whole.len() {
        assert!(!judge_socket(&Ruleset::new(&whole[..length], 0), &made).allows(), "{length} words");
    }
    let mut short = whole;
    short[RAW as usize] -= 1;
    assert_eq!(judge_socket(&Ruleset::new(short.as_slice(), 0), &made), Reason::SocketType);
}

#[test]
fn without_a_ruleset_no_socket_is_made() {
    for kind in [SOCK_STREAM, SOCK_DGRAM, SOCK_RAW] {
        let made = NewSocket { family: AF_INET, kind, protocol: TCP };
        assert_eq!(judge_socket(&Ruleset::new([0; 32].as_slice(), 0), &made), Reason::NoRuleset);
    }
}

#[test]
fn a_protocol_that_no_packet_carries_is_told_as_none() {
    for (protocol, told) in [(1, 1), (255, 255), (256, 255), (262, 255), (u32::MAX, 255)] {
        assert_eq!(NewSocket { family: AF_INET, kind: SOCK_RAW, protocol }.ip_protocol(), told);
    }
}
