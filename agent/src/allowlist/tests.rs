//! The pieces against simple models, and the reader against anything.

use ipnet::{IpNet, Ipv4Net};
use proptest::prelude::*;

use super::network::{AddressSet, parse_cidr};
use super::render::{Format, render};
use super::source::{Sources, Span};
use super::{Context, diagnostic, tree};

fn net(text: &str) -> IpNet {
    parse_cidr(text).unwrap_or_else(|bad| panic!("{text}: {}", bad.message))
}

#[test]
fn a_cidr_has_one_spelling() {
    for text in ["0.0.0.0/0", "::/0", "10.0.0.0/8", "fd00::/8", "192.0.2.1/32", "::fffe:0:0/95", "FD00::/8"] {
        assert!(parse_cidr(text).is_ok(), "{text}");
    }
    for text in [
        "",
        "/",
        "10.0.0.0",
        "10.0.0.0/",
        "10.0.0.0/+8",
        "10.0.0.0/08",
        "10.0.0.0/33",
        "10.0.0.0/8/8",
        "10.0.0.1/8",
        "010.0.0.0/8",
        "10.0.0/8",
        "0x0a.0.0.0/8",
        "::ffff:10.0.0.0/104",
        "::ffff:0:0/96",
        " 10.0.0.0/8",
        "fe80::%1/64",
        "[fd00::]/8",
        "10.0.0.0/ 8",
        "١0.0.0.0/8",
    ] {
        assert!(parse_cidr(text).is_err(), "{text}");
    }
}

#[test]
fn sets_count_the_fewest_prefixes() {
    for (nets, without, expected) in [
        (vec!["10.0.0.0/9", "10.128.0.0/9"], vec![], (1, 0)),
        (vec!["10.0.0.0/8", "10.1.0.0/16"], vec![], (1, 0)),
        (vec!["10.0.0.0/8"], vec!["10.0.0.0/32"], (24, 0)),
        (vec!["0.0.0.0/0", "::/0"], vec![], (1, 1)),
        (vec!["::/0"], vec!["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"], (0, 128)),
        (vec!["10.0.0.0/8"], vec!["10.0.0.0/8"], (0, 0)),
    ] {
        let set = |texts: &[&str]| AddressSet::of(&texts.iter().map(|text| net(text)).collect::<Vec<_>>());
        assert_eq!(set(&nets).minus(&set(&without)).prefixes(), expected, "{nets:?} without {without:?}");
    }
}

/// Networks in 10.0.0.0/24, so that a model can look at every address.
fn small_nets() -> impl Strategy<Value = Vec<IpNet>> {
    let one = (0_u32..256, 24_u8..=32).prop_map(|(host, length)| {
        let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 | host);
        IpNet::V4(Ipv4Net::new(address, length).unwrap().trunc())
    });
    proptest::collection::vec(one, 0..6)
}

fn model(nets: &[IpNet]) -> Vec<bool> {
    (0..256_u32)
        .map(|host| {
            let address = std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 | host));
            nets.iter().any(|net| net.contains(&address))
        })
        .collect()
}

/// Words that lead deep into the reader, and fragments that lead astray.
fn fragments() -> impl Strategy<Value = String> {
    let words = proptest::sample::select(vec![
        "apiVersion: egress-warden.dev/v1\n",
        "kind: Destinations\n",
        "kind: EgressPolicy\n",
        "metadata: {name: a}\n",
        "metadata:\n",
        "  name: a\n",
        "spec:\n",
        "  to:\n",
        "    - ",
        "cidrs: [10.0.0.0/8]\n",
        "      ",
        "ports: [443, 53/udp]\n",
        "why: x\n",
        "except: [10.1.0.0/16]\n",
        "domains: [\"*.a.example\"]\n",
        "cidrsFrom: /dev/zero\n",
        "expires: 2030-01-01T00:00:00Z\n",
        "  select: {all: true}\n",
        "  mode: enforce\n",
        "  allow: [a]\n",
        "  quarantine: {violations: 1, within: 1s, keep: [a]}\n",
        "  dns: {ttl: {min: 1s}}\n",
        "---\n",
        "...\n",
        "&a ",
        "*a",
        "!!str ",
        "<<: ",
        "? ",
        ": ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "|\n",
        ">-\n",
        "\"",
        "'",
        "#",
        "%YAML 1.2\n",
        "\t",
        "\n",
        "\r\n",
        "\\",
        "\u{85}",
        "\u{2028}",
        "é",
        "𝟘",
        "@",
        "`",
        ",",
        "\0",
    ]);
    proptest::collection::vec(words.prop_map(str::to_owned), 0..40).prop_map(|parts| parts.concat())
}

fn read_all(bytes: &[u8]) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("set.yaml");
    std::fs::write(&path, bytes).unwrap();
    match super::load(std::slice::from_ref(&path)) {
        Ok(set) => {
            for name in set.policies() {
                let policy = set.policy(name).unwrap();
                assert!(super::prefixes(&policy).0 < 1_000);
            }
        }
        Err(diagnostics) => {
            assert!(diagnostics.iter().any(|diagnostic| diagnostic.severity == diagnostic::Severity::Error));
            for diagnostic in &diagnostics {
                assert!(diagnostic.origin.line > 0 && diagnostic.origin.column > 0);
            }
            for format in [Format::Text, Format::Github, Format::Sarif] {
                assert!(!render(&diagnostics, format).is_empty());
            }
        }
    }
}

const GOOD: &str = include_str!("../../../tests/golden/allowlists/good.yaml");

proptest! {
    #[test]
    fn sets_behave_like_sets(a in small_nets(), b in small_nets()) {
        let (x, y) = (AddressSet::of(&a), AddressSet::of(&b));
        let (in_a, in_b) = (model(&a), model(&b));
        let both = in_a.iter().zip(&in_b);
        prop_assert_eq!(x.covers(&y), both.clone().all(|(&a, &b)| a || !b));
        prop_assert_eq!(x.meets(&y), both.clone().any(|(&a, &b)| a && b));
        let (minus, union) = (x.minus(&y), AddressSet::union([x.clone(), y.clone()]));
        for (host, (&a, &b)) in both.enumerate() {
            let one = net(&format!("10.0.0.{host}/32"));
            prop_assert_eq!(minus.contains(&one), a && !b);
            prop_assert_eq!(union.contains(&one), a || b);
        }
    }

    #[test]
    fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        read_all(&bytes);
    }

    #[test]
    fn any_fragments_are_judged(text in fragments()) {
        read_all(text.as_bytes());
    }

    #[test]
    fn a_good_file_with_an_accident_is_judged(
        cut in 0..GOOD.len(), length in 0..20_usize, put in fragments(), end in any::<bool>(),
    ) {
        let mut bytes = GOOD.as_bytes()[..cut].to_vec();
        bytes.extend_from_slice(put.as_bytes());
        if !end {
            bytes.extend_from_slice(&GOOD.as_bytes()[(cut + length).min(GOOD.len())..]);
        }
        read_all(&bytes);
    }
}

#[test]
fn places_count_characters_not_bytes() {
    let mut context = Context::default();
    let parsed = tree::parse(0, "grüße: \"ä\" # ö\nß: {é: 𝟘, x: y}\n", &mut context.report);
    let tree::Value::Mapping(pairs) = &parsed.roots[0].value else { panic!("a mapping was written") };
    assert_eq!(pairs[0].value.at, Span { file: 0, line: 1, column: 8, length: 3 });
    let tree::Value::Mapping(inner) = &pairs[1].value.value else { panic!("a mapping was written") };
    assert_eq!(inner[1].value.at, Span { file: 0, line: 2, column: 14, length: 1 });
    assert_eq!(context.report.into_diagnostics(&Sources::default()), []);
}
