use clap::Parser;

use super::*;
use crate::policy::{Deny, Dns, PortRange};
use crate::ruleset::testing::{name_rule, policy, rule};

struct FixedClock(Option<u64>);

impl Clock for FixedClock {
    fn unix_seconds(&self) -> u64 {
        self.0.unwrap_or(UNSYNCHRONISED)
    }
}

const DEADLINE: u64 = 1_798_675_200;

fn lists() -> Policy {
    let mut brief = rule("brief", 30, &["10.9.0.0/16"], &[22]);
    brief.expires = Some(DEADLINE);
    let mut policy = policy(vec![rule("internal", 12, &["10.0.0.0/16"], &[443, 8080]), brief]);
    policy.deny.push(Deny {
        origin: None,
        cidr: "169.254.169.254/32".parse().unwrap(),
        why: "instance metadata".to_owned(),
    });
    policy
}

fn others() -> Vec<Rule> {
    vec![rule("mirror", 40, &["192.0.2.0/24"], &[443])]
}

impl Allowlists for Policy {
    fn policy(&self, name: &str) -> Option<Policy> {
        (self.name == name).then(|| self.clone())
    }

    fn policies(&self) -> Vec<String> {
        vec![self.name.clone()]
    }

    fn destinations(&self) -> Vec<Rule> {
        others()
    }

    fn names(&self) -> Vec<NameRule> {
        let others = [name_rule("mirror", 60, &["files.index.example"], &[443])];
        self.names.iter().cloned().chain(others).collect()
    }
}

/// A policy that allows by name as well.
fn by_name() -> Policy {
    let mut policy = lists();
    let mut private = name_rule("models", 54, &["registry.corp.example"], &[5000]);
    private.resolves_to = Some(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
    let mut brief = name_rule("models", 56, &["brief.corp.example"], &[443]);
    brief.expires = Some(DEADLINE);
    let wild = name_rule("models", 50, &["*.corp.example", "registry.corp.example"], &[443]);
    policy.names = vec![wild, private, brief];
    let resolvers = Some(vec!["10.96.0.10/32".parse().unwrap()]);
    policy.dns = Dns { judged: true, resolvers, ..Dns::default() };
    policy
}

fn asked(policy: &Policy, name: &str, to: &str, clock: Option<u64>) -> (u8, String) {
    let args = ExplainArgs { allowlists: Vec::new(), policy: name.to_owned(), to: to.to_owned() };
    match run(&args, policy, &FixedClock(clock)) {
        Ok(explanation) => (explanation.exit_code(), explanation.to_string()),
        Err(error) => (1, error.to_string()),
    }
}

fn answer(policy: &Policy, to: &str) -> (u8, String) {
    asked(policy, "training", to, Some(DEADLINE - 1))
}

fn expected(code: u8, text: &str) -> (u8, String) {
    (code, text.to_owned())
}

#[test]
fn an_allowed_destination_names_its_entry() {
    let line = "allowed  10.0.0.5:443/tcp  by lists.yaml:12:5 (internal): object store";
    assert_eq!(answer(&lists(), "10.0.0.5:443"), expected(0, line));
    assert_eq!(answer(&lists(), "[::ffff:10.0.0.5]:443"), expected(0, line));
}

#[test]
fn a_refused_destination_names_the_reason_and_the_nearest_miss() {
    assert_eq!(
        answer(&lists(), "198.51.100.1:443"),
        expected(3, "refused  198.51.100.1:443/tcp  not_allowlisted: no entry covers the destination")
    );
    assert_eq!(
        answer(&lists(), "10.0.0.5:80"),
        expected(
            3,
            "refused  10.0.0.5:80/tcp  port_not_allowed: the destination is allowed, on other ports\n         \
             nearest: lists.yaml:12:5 (internal) covers 10.0.0.5 on 443, 8080"
        )
    );
    assert_eq!(
        answer(&lists(), "192.0.2.9:443"),
        expected(
            3,
            "refused  192.0.2.9:443/tcp  not_allowlisted: no entry covers the destination\n         \
             nearest: lists.yaml:40:5 (mirror) covers it; add mirror to allow of policy training at policy.yaml:7"
        )
    );
    assert_eq!(
        answer(&lists(), "169.254.169.254:80"),
        expected(3, "refused  169.254.169.254:80/tcp  denied: by built-in: instance metadata")
    );
}

#[test]
fn a_deadline_is_told_before_and_after_and_without_a_clock() {
    assert_eq!(
        answer(&lists(), "10.9.0.1:22"),
        expected(
            0,
            "allowed  10.9.0.1:22/tcp  by lists.yaml:30:5 (brief): object store\n         until 2026-12-31T00:00:00Z"
        )
    );
    let (code, text) = asked(&lists(), "training", "10.9.0.1:22", Some(DEADLINE));
    assert_eq!(code, 3);
    assert!(text.ends_with("lists.yaml:30:5 (brief) expired at 2026-12-31T00:00:00Z"), "{text}");
    let (code, text) = asked(&lists(), "training", "10.9.0.1:22", None);
    assert_eq!(code, 3);
    assert!(text.contains("the clock of this host is not synchronised"), "{text}");
}

#[test]
fn audit_says_that_it_would_be_let_through() {
    let audit = Policy { mode: Mode::Audit, ..lists() };
    let (code, text) = answer(&audit, "198.51.100.1:443");
    assert_eq!(code, 3);
    assert!(
        text.ends_with(
            "policy training is in audit mode: it would be let through and counted as a violation"
        )
    );
    assert!(!answer(&audit, "10.0.0.5:443").1.contains("audit"));
}

#[test]
fn loopback_depends_on_the_namespace() {
    let (code, text) = answer(&lists(), "127.0.0.1:80");
    assert_eq!(code, 3);
    assert!(text.contains("loopback_denied: ") && text.contains("workload's own it is allowed"), "{text}");
    assert!(text.contains("nearest: to open the loopback interface"), "{text}");
    let open = Policy { loopback: crate::policy::Loopback::Allow, ..lists() };
    let (code, text) = answer(&open, "0.0.0.0:80");
    assert_eq!(code, 0);
    assert!(
        text.starts_with("allowed  0.0.0.0:80/tcp  loopback: it stays on the loopback interface"),
        "{text}"
    );
    assert!(text.ends_with("0.0.0.0 reaches the own host: judged as loopback"), "{text}");
    // As in the kernel: an entry that names 127.0.0.1 does not name 0.0.0.0.
    let named = policy(vec![rule("local", 7, &["127.0.0.1/32"], &[81])]);
    assert_eq!((answer(&named, "127.0.0.1:81").0, answer(&named, "0.0.0.0:81").0), (0, 3));
}

#[test]
fn an_allowed_name_names_its_entry_and_what_is_still_open() {
    let global =
        "at the addresses that a resolver of the policy answers for it, where they are global unicast";
    let line = |name: &str| {
        format!("allowed  {name}:443/tcp  by lists.yaml:50:5 (models): registry\n         {global}")
    };
    assert_eq!(answer(&by_name(), "A.Corp.Example:443"), expected(0, &line("a.corp.example")));
    assert_eq!(answer(&by_name(), "x.y.corp.example:443/tcp"), expected(0, &line("x.y.corp.example")));
    let inside = global.replace("global unicast", "inside resolvesTo: [10.0.0.0/8, fd00::/8]");
    assert_eq!(
        answer(&by_name(), "registry.corp.example:5000"),
        expected(
            0,
            &format!(
                "allowed  registry.corp.example:5000/tcp  by lists.yaml:54:5 (models): registry\n         {inside}"
            )
        )
    );
    let mut denying = by_name();
    denying.deny[0].origin = Some(denying.origin.clone());
    assert!(answer(&denying, "a.corp.example:443").1.ends_with("global unicast and not in `deny`"));
}

#[test]
fn a_name_that_several_entries_open_names_each() {
    let mut policy = by_name();
    policy.names[1].ports = policy.names[0].ports.clone();
    let (code, text) = answer(&policy, "registry.corp.example:443");
    assert_eq!(code, 0);
    assert!(text.contains("by lists.yaml:50:5 (models): registry\n"), "{text}");
    assert!(text.ends_with("fd00::/8]; by lists.yaml:54:5 (models): registry"), "{text}");
}

#[test]
fn a_refused_name_names_the_reason_and_the_nearest_miss() {
    for (to, reason, near) in [
        ("corp.example:443", "dns_name", "*.corp.example of lists.yaml:50:5 (models) is for what is below"),
        ("files.index.example:443", "dns_name", "lists.yaml:60:5 (mirror) covers it; add mirror to allow"),
        ("xcorp.example:443", "dns_name", ""),
        ("a.corp.example:80", "port_not_allowed", "covers a.corp.example on 443"),
        ("registry.corp.example:5001", "port_not_allowed", "lists.yaml:54:5 (models) covers"),
        ("a.corp.example:443/udp", "protocol_not_allowed", "covers a.corp.example on 443"),
        ("a.corp.example:echo-request/icmp", "protocol_not_allowed", "covers a.corp.example on 443"),
        ("a.corp.example:53/udp", "dns_server", ""),
        ("a.corp.example:53", "dns_tcp", ""),
    ] {
        let (code, text) = answer(&by_name(), to);
        assert_eq!(code, 3, "{to}: {text}");
        assert!(text.contains(&format!("  {reason}: ")), "{to}: {text}");
        assert_eq!(text.contains("nearest: "), !near.is_empty(), "{to}: {text}");
        assert!(text.contains(near), "{to}: {text}");
    }
    assert!(answer(&lists(), "a.corp.example:443").1.contains("does not judge DNS"));
    let long = format!("{}.corp.example:443", "a.".repeat(120).trim_end_matches('.'));
    assert!(answer(&by_name(), &long).1.contains("dns_malformed: "));
    let mut few = by_name();
    few.dns.types = [65].into();
    let (code, text) = answer(&few, "a.corp.example:443");
    assert_eq!(code, 3);
    assert!(
        text.contains("  dns_type: ") && text.ends_with("`dns.types` of policy training are HTTPS"),
        "{text}"
    );
}

#[test]
fn a_deadline_of_a_name_is_told_before_and_after() {
    let mut policy = by_name();
    policy.names.remove(0);
    let (code, text) = answer(&policy, "brief.corp.example:443");
    assert_eq!(code, 0);
    assert!(text.contains("\n         until 2026-12-31T00:00:00Z\n"), "{text}");
    let (code, text) = asked(&policy, "training", "brief.corp.example:443", Some(DEADLINE));
    assert_eq!(code, 3);
    assert!(text.contains("  expired: "), "{text}");
    assert!(text.ends_with("lists.yaml:56:5 (models) expired at 2026-12-31T00:00:00Z"), "{text}");
}

#[test]
fn icmp_at_a_name_is_that_of_either_family() {
    let mut policy = by_name();
    policy.names[0].ports = vec![PortRange { protocol: 58, first: 128, last: 128 }];
    assert_eq!(answer(&policy, "a.corp.example:echo-request/icmp").0, 0);
    assert_eq!(answer(&policy, "a.corp.example:timestamp-request/icmp").0, 3);
    policy.names[0].ports = vec![PortRange { protocol: 1, first: 13, last: 13 }];
    assert_eq!(answer(&policy, "a.corp.example:timestamp-request/icmp").0, 0);
}

#[test]
fn a_resolver_is_told_apart_from_other_servers() {
    assert_eq!(
        answer(&by_name(), "10.96.0.10:53/udp"),
        expected(
            0,
            "allowed  10.96.0.10:53/udp  by `dns.resolvers` of policy training at policy.yaml:7:1\n         \
             for queries of type A, AAAA, SVCB, HTTPS, for names that the policy allows"
        )
    );
    assert_eq!(
        answer(&by_name(), "10.0.0.5:53/udp"),
        expected(
            3,
            "refused  10.0.0.5:53/udp  dns_server: a query to an address that is no resolver of the policy\n         \
             the resolvers of policy training are 10.96.0.10/32"
        )
    );
    assert!(answer(&by_name(), "10.96.0.10:53").1.contains("  dns_tcp: "));
    let mut own = by_name();
    own.dns.resolvers = None;
    assert!(answer(&own, "10.96.0.10:53/udp").1.contains("resolvers of its own resolv.conf"));
    assert!(answer(&by_name(), "198.51.100.1:443").1.ends_with("answered for it: ask with the name"));
}

#[test]
fn an_unknown_policy_or_target_is_one_clear_error() {
    let (code, text) = asked(&lists(), "trainin", "10.0.0.5:443", None);
    assert_eq!((code, text.as_str()), (1, "--policy trainin: no such policy; the allowlists have: training"));
    let (code, text) = answer(&lists(), "10.0.0.5");
    assert_eq!(code, 1);
    assert!(text.starts_with("--to 10.0.0.5: no port; "), "{text}");
}

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    args: ExplainArgs,
}

#[test]
fn several_paths_may_follow_one_flag() {
    let line = ["explain", "--allowlists", "a.yaml", "b", "--policy", "training", "--to", "10.0.0.5:443"];
    let args = CommandLine::try_parse_from(line).unwrap().args;
    assert_eq!(args.allowlists, [PathBuf::from("a.yaml"), PathBuf::from("b")]);
    assert!(CommandLine::try_parse_from(["explain", "--policy", "p", "--to", "10.0.0.5:443"]).is_err());
}

#[test]
fn an_allowed_icmp_message_says_what_a_raw_socket_needs() {
    let mut lists = lists();
    lists.rules[0].ports.push(PortRange { protocol: 1, first: 8, last: 8 });
    let allowed = "allowed  10.0.0.5:echo-request/icmp  by lists.yaml:12:5 (internal): object store";
    let note = "\n         by a ping socket; a raw one, as ping uses as root, is refused until the policy says raw: [icmp]";
    assert_eq!(answer(&lists, "10.0.0.5:echo-request/icmp"), expected(0, &format!("{allowed}{note}")));
    lists.raw.insert(1);
    assert_eq!(answer(&lists, "10.0.0.5:echo-request/icmp"), expected(0, allowed));
}
