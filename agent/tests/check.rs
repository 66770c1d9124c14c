//! `check` against golden files: every kind of error, as an operator sees it.
//!
//! In `tests/golden/allowlists` each `NAME.yaml`, and each directory `NAME`, is one set; `NAME.txt` holds what `check`
//! prints. `UPDATE_GOLDEN=1 cargo test -p egress-warden --test check` writes the expectations anew: read the diff.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use egress_warden::allowlist::{self, Action, Existing, Format, Scope};
use egress_warden::cli::check::{CheckArgs, Outcome, check};
use egress_warden::policy::{Beyond, Loopback, Mode, Origin, PortRange, merge, metadata};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in a workspace").to_owned()
}

fn golden() -> PathBuf {
    repository().join("tests/golden/allowlists")
}

fn run(paths: &[PathBuf], format: Format) -> Outcome {
    check(&CheckArgs { paths: paths.to_vec(), format }, &|_| Ok("-".to_owned()))
}

/// What is printed, with paths as they would be beside the set.
fn printed(set: &Path, format: Format) -> String {
    let outcome = run(&[set.to_owned()], format);
    let exit = if outcome.good { 0 } else { 1 };
    let text =
        format!("exit {exit}\n--- standard error\n{}--- standard output\n{}", outcome.errors, outcome.output);
    text.replace(&format!("{}/", golden().display()), "")
}

#[test]
fn every_set_is_judged_as_recorded() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let (mut sets, mut expectations, mut wrong) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for entry in fs::read_dir(golden()).unwrap() {
        let path = entry.unwrap().path();
        let kind = if path.extension().is_some_and(|extension| extension == "txt") {
            &mut expectations
        } else {
            &mut sets
        };
        kind.insert(path);
    }
    assert!(sets.len() > 50, "the golden files are missing");
    for set in &sets {
        let expectation = set.with_extension("txt");
        let actual = printed(set, Format::Text);
        if update {
            fs::write(&expectation, &actual).unwrap();
        } else if fs::read_to_string(&expectation).unwrap_or_default() != actual {
            wrong.push(format!("{}:\n{actual}", set.display()));
        }
        expectations.remove(&expectation);
    }
    assert!(wrong.is_empty(), "not as recorded:\n{}", wrong.join("\n"));
    assert!(update || expectations.is_empty(), "expectations without a set: {expectations:?}");
}

#[test]
fn github_and_sarif_say_the_same() {
    let set = golden().join("cidr-unquoted-colon.yaml");
    assert_eq!(
        run(std::slice::from_ref(&set), Format::Github).errors,
        format!(
            "::error file={},line=6,col=27,endColumn=28::`cidrs`: expected a text with a CIDR, found a mapping%0A\
             help: if this was meant as one text, quote it\n",
            set.display()
        )
    );
    let outcome = run(&[golden().join("all-errors-at-once")], Format::Sarif);
    let sarif: serde_json::Value = serde_json::from_str(&outcome.errors).unwrap();
    assert_eq!(sarif["version"], "2.1.0");
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    assert_eq!(results.len(), 4);
    let place = &results[3]["locations"][0]["physicalLocation"];
    assert!(place["artifactLocation"]["uri"].as_str().unwrap().ends_with("all-errors-at-once/b.yaml"));
    assert_eq!(place["region"], serde_json::json!({"startLine": 15, "startColumn": 21, "endColumn": 25}));
    assert_eq!(results[3]["level"], "error");
    assert_eq!(
        results[3]["message"]["text"],
        "`allow`: there are no Destinations named othr\nhelp: did you mean other?"
    );
}

#[test]
fn a_good_set_is_a_whole_sarif_document_and_no_text() {
    let set = [golden().join("good.yaml")];
    let sarif: serde_json::Value = serde_json::from_str(&run(&set, Format::Sarif).errors).unwrap();
    assert_eq!(sarif["runs"][0]["results"], serde_json::json!([]));
    assert_eq!(run(&set, Format::Text).errors, "");
    assert_eq!(run(&set, Format::Github).errors, "");
}

#[test]
fn github_properties_are_escaped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("100%, a:b.yaml");
    fs::write(&path, "").unwrap();
    let errors = run(&[path], Format::Github).errors;
    assert!(errors.contains("100%25%2C a%3Ab.yaml,line=1,col=1"), "{errors}");
}

#[test]
fn what_ships_is_good_and_can_be_enforced() {
    let set = allowlist::load(&[repository().join("allowlists")]).unwrap();
    assert_eq!(set.warnings, []);
    assert_eq!(set.policies(), ["training"]);
    let policy = set.policy("training").unwrap();
    assert_eq!(policy.beyond_exec, []);
    assert_eq!(policy.mode, Mode::Enforce);
    assert_eq!((policy.quarantine[0].violations, policy.quarantine[0].within_ns), (20, 60_000_000_000));
    let kept: BTreeSet<_> =
        policy.rules.iter().filter(|rule| rule.keep).map(|rule| &rule.destinations).collect();
    assert_eq!(kept.into_iter().collect::<Vec<_>>(), ["internal"]);
}

#[test]
fn a_policy_is_canonical() {
    let file = golden().join("good.yaml");
    let set = allowlist::load(std::slice::from_ref(&file)).unwrap();
    assert_eq!(set.policies(), ["training", "batch"]);
    let policy = set.policy("training").unwrap();
    assert_eq!(policy.origin, Origin { file: file.clone(), line: 24, column: 1 });
    let rule = &policy.rules[0];
    assert_eq!(rule.origin, Origin { file: file.clone(), line: 6, column: 7 });
    assert_eq!(
        (rule.destinations.as_str(), rule.why.as_str()),
        ("internal", "object store and experiment tracker")
    );
    assert_eq!(rule.cidrs, ["10.0.0.0/8", "10.1.0.0/16", "fd00::/8"].map(|net| net.parse().unwrap()));
    assert_eq!(rule.except, ["10.0.99.0/24".parse().unwrap()]);
    let range = |protocol, first, last| PortRange { protocol, first, last };
    assert_eq!(
        rule.ports,
        [range(6, 443, 443), range(6, 8080, 8080), range(6, 9000, 9100), range(17, 53, 53)]
    );
    assert_eq!((rule.expires, rule.keep), (None, true));
    let probe = &policy.rules[1];
    assert_eq!((&probe.ports[..], probe.keep), (&[range(1, 8, 8)][..], false));
    assert_eq!(probe.expires, Some(4_954_341_600));
    assert_eq!(policy.deny[0].why, "deny entry of policy training");
    assert_eq!(policy.deny[0].origin, Some(Origin { file, line: 33, column: 10 }));
    assert_eq!(policy.deny.len(), 1 + metadata::networks().len());
    assert!(policy.deny[1..].iter().all(|deny| deny.origin.is_none()));
    let names: Vec<_> = set.destinations().iter().map(|destinations| destinations.name.as_str()).collect();
    assert_eq!(names, ["internal", "probe"]);
    assert!(set.destinations()[0].rules.iter().all(|rule| !rule.keep), "keep is a policy's to say");
    assert_eq!(set.policy("nobody"), None);
}

/// A set with two policies, each with these lines in its spec.
fn two_policies(first: &str, second: &str) -> allowlist::AllowlistSet {
    let directory = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for (name, net) in [("a", "10.1.0.0/16"), ("b", "10.2.0.0/16"), ("meta", "169.254.0.0/16")] {
        text.push_str(&format!(
            "---\napiVersion: egress-warden.dev/v1\nkind: Destinations\nmetadata: {{name: {name}}}\nspec:\n  to:\n    \
             - {{cidrs: [{net}], why: test}}\n"
        ));
    }
    for (name, spec) in [("second", second), ("first", first)] {
        text.push_str(&format!(
            "---\napiVersion: egress-warden.dev/v1\nkind: EgressPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
             select: {{namespaces: [{name}]}}\n{spec}"
        ));
    }
    let path = directory.path().join("set.yaml");
    fs::write(&path, text).unwrap();
    allowlist::load(&[path]).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn merged(set: &allowlist::AllowlistSet) -> egress_warden::policy::Policy {
    merge(set.policies().into_iter().filter_map(|name| set.policy(name)).collect()).unwrap()
}

#[test]
fn policies_add_up() {
    let set = two_policies(
        "  mode: audit\n  allow: [a, b, meta]\n  deny: [10.9.0.0/16]\n  loopback: allow\n  metadata: true\n  existing: keep\n  \
         raw: [icmp, gre, 254]\n  quarantine: {violations: 5, within: 1s, keep: [a, b]}\n",
        "  mode: enforce\n  allow: [b]\n  deny: [10.8.0.0/16]\n  raw: [47, icmpv6, 1]\n  quarantine: {violations: 9, within: 2s, keep: [b]}\n",
    );
    let policy = merged(&set);
    assert_eq!(policy.name, "first+second");
    assert_eq!(policy.mode, Mode::Enforce);
    let rules: Vec<_> = policy.rules.iter().map(|rule| (rule.destinations.as_str(), rule.keep)).collect();
    assert_eq!(rules, [("a", false), ("b", true), ("meta", false)], "allow unites, keep intersects");
    let denied: Vec<_> = policy.deny.iter().map(|deny| deny.cidr.to_string()).collect();
    assert_eq!(denied, ["10.9.0.0/16", "10.8.0.0/16"], "one that opens metadata is enough");
    assert_eq!(policy.loopback, Loopback::ByNamespace, "the default is the stricter one");
    assert_eq!(policy.raw, BTreeSet::from([1, 47]), "what every policy opens");
    assert_eq!(policy.existing, Existing::Judge, "stricter than keep");
    assert_eq!(policy.quarantine.iter().map(|rule| rule.violations).collect::<Vec<_>>(), [5, 9]);
}

#[test]
fn a_policy_without_quarantine_has_no_say_in_what_is_kept() {
    let set = two_policies(
        "  mode: audit\n  allow: [a]\n  loopback: deny\n  raw: [icmp]\n  existing: keep\n",
        "  mode: audit\n  allow: [a, b, meta]\n  existing: cut\n  quarantine: {violations: 9, within: 2s, keep: [a]}\n",
    );
    let policy = merged(&set);
    assert_eq!(policy.mode, Mode::Audit);
    assert_eq!(policy.loopback, Loopback::Deny);
    assert_eq!(policy.existing, Existing::Cut, "the strictest");
    assert_eq!(policy.raw, BTreeSet::new(), "one that does not say `raw` opens none");
    assert!(policy.rules.iter().all(|rule| rule.keep == (rule.destinations == "a")));
    assert_eq!(policy.deny.len(), metadata::networks().len(), "the built-in refusals stand there once");
    assert_eq!(merge(Vec::new()), None);
}

#[test]
fn a_file_reached_twice_is_read_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("set.yaml");
    fs::copy(golden().join("good.yaml"), &file).unwrap();
    std::os::unix::fs::symlink(&file, directory.path().join("link.yaml")).unwrap();
    let set = allowlist::load(&[file.clone(), directory.path().to_owned(), file]).unwrap();
    assert_eq!(set.policies().len(), 2);
}

#[test]
fn what_is_no_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo.yaml");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let dangling = directory.path().join("dangling.yaml");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    let large = directory.path().join("large.yaml");
    fs::File::create(&large).unwrap().set_len((16 << 20) + 1).unwrap();
    let missing = directory.path().join("missing");
    for (path, expected) in [
        (&fifo, "it is not a regular file"),
        (&dangling, "No such file or directory"),
        (&large, "it is larger than 16 MiB"),
        (&missing, "No such file or directory"),
    ] {
        let outcome = run(std::slice::from_ref(path), Format::Text);
        assert!(!outcome.good);
        assert!(
            outcome.errors.starts_with(&format!("{}:1:1: error: cannot read ", path.display())),
            "{}",
            outcome.errors
        );
        assert!(outcome.errors.contains(expected), "{}", outcome.errors);
    }
    let outcome = run(&[directory.path().to_owned()], Format::Text);
    assert_eq!(
        outcome.errors.matches(": error: ").count(),
        3,
        "all of a directory at once: {}",
        outcome.errors
    );
}

#[test]
fn a_gzip_bomb_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::copy(golden().join("cidrs-from-duplicates/a.yaml"), directory.path().join("a.yaml")).unwrap();
    let text = fs::read_to_string(directory.path().join("a.yaml")).unwrap().replace("list.txt", "list.gz");
    fs::write(directory.path().join("a.yaml"), text).unwrap();
    let file = fs::File::create(directory.path().join("list.gz")).unwrap();
    let mut packer = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    let zeros = vec![b'\n'; 1 << 20];
    for _ in 0..17 {
        packer.write_all(&zeros).unwrap();
    }
    packer.finish().unwrap();
    let errors = run(&[directory.path().to_owned()], Format::Text).errors;
    assert!(errors.contains("a.yaml:6:18: error: "), "{errors}");
    assert!(errors.contains("unpacked, it is larger than 16 MiB"), "{errors}");
}

#[test]
fn a_policy_that_does_not_fit_is_an_error_in_its_place() {
    let args = CheckArgs { paths: vec![golden().join("good.yaml")], format: Format::Text };
    let outcome = check(&args, &|policy| match policy.name.as_str() {
        "batch" => Err("it does not fit".to_owned()),
        _ => Ok("12 words".to_owned()),
    });
    assert!(!outcome.good);
    assert_eq!(outcome.output, "");
    assert!(
        outcome.errors.contains("good.yaml:37:1: error: policy batch: it does not fit\n"),
        "{}",
        outcome.errors
    );
}

#[test]
fn many_errors_are_cut_off_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    fs::copy(golden().join("cidrs-from-duplicates/a.yaml"), directory.path().join("a.yaml")).unwrap();
    fs::write(directory.path().join("list.txt"), "nonsense\n".repeat(1500)).unwrap();
    let diagnostics = allowlist::load(&[directory.path().to_owned()]).unwrap_err();
    let messages: Vec<_> = diagnostics.iter().map(|diagnostic| diagnostic.message.as_str()).collect();
    assert_eq!(messages.len(), 1001, "1000, and how many more");
    assert!(messages.contains(&"500 more like these in this file are not shown"));
}

/// The figure that counts is the release build's, told by `--nocapture`; the limit here catches only what grows faster
/// than the list.
#[test]
fn a_hundred_thousand_prefixes_load_fast() {
    let directory = tempfile::tempdir().unwrap();
    fs::copy(golden().join("cidrs-from-duplicates/a.yaml"), directory.path().join("a.yaml")).unwrap();
    let mut list = String::new();
    for number in 0..100_000_u32 {
        let address =
            std::net::Ipv4Addr::from_bits(number.wrapping_mul(0x9e37_79b1) & 0xffff_ff00 | (number % 256));
        list.push_str(&format!("{address}/32\n"));
    }
    fs::write(directory.path().join("list.txt"), list).unwrap();
    let begin = Instant::now();
    let set = allowlist::load(&[directory.path().to_owned()]).unwrap();
    let took = begin.elapsed();
    println!("100,000 prefixes read and validated in {took:?}");
    let rules = &set.policy("training").unwrap().rules;
    assert!(rules[0].cidrs.len() > 99_000, "{}", rules[0].cidrs.len());
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn an_empty_set_is_an_error() {
    let outcome = run(&[], Format::Text);
    assert!(!outcome.good);
    assert!(outcome.errors.starts_with(".:1:1: error: no path was given"), "{}", outcome.errors);
}

/// How Kubernetes mounts a ConfigMap: links into a hidden directory that is swapped as a whole.
#[test]
fn a_config_map_is_a_directory_like_any_other() {
    let directory = tempfile::tempdir().unwrap();
    let hidden = directory.path().join("..2026_01_01");
    fs::create_dir(&hidden).unwrap();
    std::os::unix::fs::symlink("..2026_01_01", directory.path().join("..data")).unwrap();
    for name in ["a.yaml", "list.txt"] {
        fs::copy(golden().join("cidrs-from-duplicates").join(name), hidden.join(name)).unwrap();
        std::os::unix::fs::symlink(Path::new("..data").join(name), directory.path().join(name)).unwrap();
    }
    let set = allowlist::load(&[directory.path().to_owned()]).unwrap();
    assert_eq!(set.policies(), ["training"]);
    assert_eq!(set.destinations()[0].origin.file, directory.path().join("a.yaml"));
}

#[derive(clap::Parser)]
struct Command {
    #[command(flatten)]
    check: CheckArgs,
}

#[test]
fn the_command_line_asks_for_a_path() {
    use clap::Parser as _;
    assert!(Command::try_parse_from(["check"]).is_err());
    let command = Command::try_parse_from(["check", "a", "b", "--format", "sarif"]).unwrap();
    assert_eq!(command.check.paths, ["a", "b"].map(PathBuf::from));
    assert_eq!(command.check.format, Format::Sarif);
}

#[test]
fn what_the_agent_cannot_enforce_either_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("set.yaml");
    let text = "apiVersion: egress-warden.dev/v1\nkind: Destinations\nmetadata: {name: open}\nspec:\n  to:\n    \
                - {cidrs: [10.0.0.0/8], ports: [443], why: services}\n    \
                - {domains: [example.org], ports: [443], why: by name}\n---\n\
                apiVersion: egress-warden.dev/v1\nkind: EgressPolicy\nmetadata: {name: test}\nspec:\n  \
                select: {namespaces: [train]}\n  mode: enforce\n  allow: [open]\n  existing: keep\n  \
                require: [backstop]\n  dns: {types: [A]}\n  \
                quarantine: {violations: 5, within: 1m, action: freeze, scope: job, release: 1h}\n";
    fs::write(&file, text).unwrap();
    let policy = allowlist::load(&[file]).unwrap().policy("test").unwrap();
    let names = |beyond: Vec<&Beyond>| beyond.into_iter().map(|one| one.what.clone()).collect::<Vec<_>>();
    let of_exec = ["require", "quarantine.action: freeze", "quarantine.scope: job", "quarantine.release: 1h"];
    assert_eq!(names(policy.beyond_exec.iter().collect()), of_exec);
    assert_eq!(names(policy.beyond_agent().collect()), ["quarantine.scope: job"]);
    assert_eq!(policy.existing, Existing::Keep);
    let rule = &policy.quarantine[0];
    assert_eq!(
        (rule.action, rule.scope, rule.release),
        (Action::Freeze, Scope::Job, Some(3_600_000_000_000))
    );
}
