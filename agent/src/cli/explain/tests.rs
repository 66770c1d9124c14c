use clap::Parser;

use super::*;
use crate::policy::Deny;
use crate::ruleset::testing::{policy, rule};

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

    fn domains(&self, _: &str) -> Vec<DomainEntry> {
        let entry = |line, pattern: &str| DomainEntry {
            origin: Origin { file: "lists.yaml".into(), line, column: 5 },
            destinations: "models".to_owned(),
            pattern: pattern.to_owned(),
        };
        vec![entry(50, "*.example"), entry(51, "*.corp.example"), entry(52, "a.corp.example")]
    }
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
fn a_name_is_an_error_that_says_what_it_would_be() {
    let (code, text) = answer(&lists(), "A.Corp.Example:443");
    assert_eq!(code, 1);
    assert!(text.contains("names are not enforced yet; give its address"), "{text}");
    assert!(text.contains("a.corp.example of lists.yaml:52:5 (models)"), "{text}");
    assert!(answer(&lists(), "x.y.corp.example:443").1.contains("*.corp.example of lists.yaml:51:5"));
    assert!(answer(&lists(), "corp.example:443").1.contains("*.example of lists.yaml:50:5"));
    assert!(answer(&lists(), "xexample:443").1.contains("No `domains` entry"));
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
    lists.rules[0].ports.push(crate::policy::PortRange { protocol: 1, first: 8, last: 8 });
    let allowed = "allowed  10.0.0.5:echo-request/icmp  by lists.yaml:12:5 (internal): object store";
    let note = "\n         by a ping socket; a raw one, as ping uses as root, is refused until the policy says raw: [icmp]";
    assert_eq!(answer(&lists, "10.0.0.5:echo-request/icmp"), expected(0, &format!("{allowed}{note}")));
    lists.raw.insert(1);
    assert_eq!(answer(&lists, "10.0.0.5:echo-request/icmp"), expected(0, allowed));
}
