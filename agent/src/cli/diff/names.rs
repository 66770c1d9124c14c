//! Names that a policy allows, name by name, against what the other set allows by name.
//!
//! A name counts as known before only where one old entry covers all of it: the name, where its answers may point, how
//! long, and in quarantine. Ports may come from several. Where several old entries would only together cover a new one
//! in another respect, it is told as new: the careful mistake.

use ipnet::IpNet;

use super::policies::View;
use super::report::Section;
use super::words;
use crate::policy::{NameRule, PortRange, names};
use crate::ruleset::compare::added;

/// One name of an entry, with ports.
type Named<'a> = (&'a NameRule, &'a str, Vec<PortRange>);

/// Tells what is allowed by name on one side only. `quarantine`: does `keep` have a meaning on both?
pub(super) fn tell(section: &mut Section, old: &View<'_>, new: &View<'_>, quarantine: bool) {
    let (old, new) = (&old.policy.names, &new.policy.names);
    for named in beyond(new, old, quarantine) {
        let (rule, name, _) = named;
        let label = if only_kept(rule, name, old) { "newly kept" } else { "name allowed" };
        let text = format!("{}  by {}: {}", describe(&named, quarantine), place(rule), rule.why);
        section.tell(label, text, true);
    }
    for named in beyond(old, new, quarantine) {
        let (rule, name, _) = named;
        let label = if only_kept(rule, name, new) { "no longer kept" } else { "name refused" };
        let text = format!("{}  was {}", describe(&named, quarantine), place(rule));
        section.tell(label, text, false);
    }
}

/// Is what the other side lacks no more than that the name stays open in quarantine?
fn only_kept(rule: &NameRule, name: &str, others: &[NameRule]) -> bool {
    lacking(rule, name, others, false).is_empty()
}

fn place(rule: &NameRule) -> String {
    format!("{} ({})", rule.origin, rule.destinations)
}

fn describe((rule, name, ports): &Named<'_>, quarantine: bool) -> String {
    let mut text = format!("{name}  {}", words::ports(ports));
    if let Some(cidrs) = &rule.resolves_to {
        text.push_str(&format!(", resolving to {}", words::cidrs(cidrs)));
    }
    if let Some(expires) = rule.expires {
        text.push_str(&format!(", {}", words::deadline(expires)));
    }
    if quarantine && rule.keep {
        text.push_str(", kept in quarantine");
    }
    text
}

/// What of `rules` no entry of `others` covers, by name and place.
fn beyond<'a>(rules: &'a [NameRule], others: &[NameRule], quarantine: bool) -> Vec<Named<'a>> {
    let all = rules.iter().flat_map(|rule| rule.names.iter().map(move |name| (rule, name.as_str())));
    let mut found: Vec<Named<'_>> = all
        .map(|(rule, name)| (rule, name, lacking(rule, name, others, quarantine)))
        .filter(|(_, _, ports)| !ports.is_empty())
        .collect();
    found.sort_by(|(a, one, _), (b, other, _)| (one, &a.origin).cmp(&(other, &b.origin)));
    found
}

/// The ports that no other entry opens for this name of an entry.
fn lacking(rule: &NameRule, name: &str, others: &[NameRule], quarantine: bool) -> Vec<PortRange> {
    let covering = others.iter().filter(|other| covers(other, rule, name, quarantine));
    let known: Vec<PortRange> = covering.flat_map(|other| other.ports.iter().copied()).collect();
    without(&rule.ports, &known)
}

/// Does `wide` allow all that `narrow` does of this name, ports apart?
fn covers(wide: &NameRule, narrow: &NameRule, name: &str, quarantine: bool) -> bool {
    let until = |rule: &NameRule| rule.expires.unwrap_or(u64::MAX);
    wide.names.iter().any(|wide| covers_name(wide, name))
        && until(wide) >= until(narrow)
        && (wide.keep || !narrow.keep || !quarantine)
        && covers_answers(wide.resolves_to.as_deref(), narrow.resolves_to.as_deref())
}

/// Are all the names of one pattern among those of the other?
fn covers_name(wide: &str, narrow: &str) -> bool {
    let below = narrow.strip_prefix("*.").unwrap_or(narrow);
    wide == narrow || (wide.starts_with("*.") && names::covers(wide, below))
}

/// Without `resolvesTo` answers may point to global unicast addresses, which is neither more nor less than a list.
fn covers_answers(wide: Option<&[IpNet]>, narrow: Option<&[IpNet]>) -> bool {
    match (wide, narrow) {
        (None, None) => true,
        (Some(wide), Some(narrow)) => added(wide, narrow).is_empty(),
        _ => false,
    }
}

/// Ports without those of `known`.
fn without(ports: &[PortRange], known: &[PortRange]) -> Vec<PortRange> {
    known.iter().fold(ports.to_vec(), |left, hole| {
        left.into_iter().flat_map(|range| split(range, hole).into_iter().flatten()).collect()
    })
}

/// What a hole leaves of a range, below and above.
fn split(range: PortRange, hole: &PortRange) -> [Option<PortRange>; 2] {
    if range.protocol != hole.protocol || hole.last < range.first || range.last < hole.first {
        return [Some(range), None];
    }
    let below = hole.first.checked_sub(1).filter(|last| *last >= range.first);
    let above = hole.last.checked_add(1).filter(|first| *first <= range.last);
    [below.map(|last| PortRange { last, ..range }), above.map(|first| PortRange { first, ..range })]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Origin;

    fn name(name: &str, ports: &[(u16, u16)]) -> NameRule {
        NameRule {
            origin: Origin { file: "lists.yaml".into(), line: 3, column: 5 },
            destinations: "internal".to_owned(),
            why: "registry".to_owned(),
            names: vec![name.to_owned()],
            resolves_to: None,
            ports: ports.iter().map(|&(first, last)| PortRange { protocol: 6, first, last }).collect(),
            expires: None,
            keep: false,
        }
    }

    fn told(new: NameRule, old: &[NameRule]) -> String {
        beyond(&[new], old, true).iter().map(|named| describe(named, true)).collect()
    }

    #[test]
    fn a_wildcard_covers_names_below_and_not_its_own() {
        for (wide, narrow, covered) in [
            ("*.a.example", "x.a.example", true),
            ("*.a.example", "x.y.a.example", true),
            ("*.a.example", "*.y.a.example", true),
            ("*.a.example", "*.a.example", true),
            ("*.a.example", "a.example", false),
            ("*.a.example", "xa.example", false),
            ("*.a.example", "*.example", false),
            ("x.a.example", "*.a.example", false),
            ("a.example", "a.example", true),
        ] {
            assert_eq!(covers_name(wide, narrow), covered, "{wide} {narrow}");
        }
    }

    #[test]
    fn ports_of_several_entries_add_up() {
        let old = [name("a.example", &[(0, 79)]), name("*.example", &[(81, 90), (65535, 65535)])];
        assert_eq!(told(name("a.example", &[(0, 65535)]), &old), "a.example  80/tcp, 91-65534/tcp");
        assert_eq!(told(name("a.example", &[(85, 90)]), &old), "");
    }

    #[test]
    fn a_longer_time_other_answers_and_quarantine_are_more() {
        let old = [NameRule {
            expires: Some(1_798_675_200),
            resolves_to: Some(vec!["10.0.0.0/8".parse().unwrap()]),
            ..name("a.example", &[(443, 443)])
        }];
        assert_eq!(told(old[0].clone(), &old), "");
        assert_eq!(
            told(NameRule { keep: true, ..old[0].clone() }, &old),
            "a.example  443/tcp, resolving to 10.0.0.0/8, until 2026-12-31T00:00:00Z, kept in quarantine"
        );
        let narrower = Some(vec!["10.1.0.0/16".parse().unwrap()]);
        assert_eq!(told(NameRule { resolves_to: narrower, ..old[0].clone() }, &old), "");
        let anywhere = NameRule { resolves_to: None, ..old[0].clone() };
        assert_eq!(told(anywhere, &old), "a.example  443/tcp, until 2026-12-31T00:00:00Z");
        let longer = NameRule { expires: None, ..old[0].clone() };
        assert_eq!(told(longer, &old), "a.example  443/tcp, resolving to 10.0.0.0/8");
    }
}
