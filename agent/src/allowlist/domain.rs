//! Domain names in the one form that is compared: ASCII, lower case, no trailing dot.

use std::net::IpAddr;

use super::diagnostic::Report;
use super::scalar::{shorten, text};
use super::tree::Node;

/// The longest name. Below what DNS allows, so that a name asked for under a search suffix still fits a record.
const MAX_NAME: usize = 240;

/// Names at the top that no registry sells, so that an organisation may own all below.
const PRIVATE_TOPS: [&str; 10] =
    ["corp", "example", "home", "internal", "intranet", "invalid", "lan", "local", "private", "test"];

type Bad = (String, Option<String>);

/// Reads a name; `wildcard` tells whether `*.` may stand in front.
fn parse(written: &str, wildcard: bool) -> Result<String, Bad> {
    let shown = shorten(written);
    if !written.is_ascii() {
        let help = "write its ASCII form, which begins with xn-- (punycode)".to_owned();
        return Err((format!("{shown} is not ASCII"), Some(help)));
    }
    let lower = written.to_ascii_lowercase();
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    if name.parse::<IpAddr>().is_ok() || name.contains(['/', ':']) {
        let message = format!("{shown} is not a domain name");
        let help = "addresses go under `cidrs`, ports under `ports`; a name has no scheme and no path";
        return Err((message, Some(help.to_owned())));
    }
    if name.len() > MAX_NAME {
        return Err((format!("{shown} is longer than {MAX_NAME} characters"), None));
    }
    let base = match name.strip_prefix("*.") {
        Some(base) if wildcard => base,
        Some(base) => {
            return Err((format!("{shown}: a wildcard has no meaning here"), Some(format!("write {base}"))));
        }
        None => name,
    };
    if let Some(label) = base.split('.').find(|label| !is_label(label)) {
        let (message, help) = if label.contains('*') {
            ("`*` stands only for whole labels in front", "write *.example.com, or the exact name")
        } else {
            ("each label has 1 to 63 of a-z, 0-9, - and _", "write it like registry.example.com")
        };
        return Err((format!("{shown} is not a domain name: {message}"), Some(help.to_owned())));
    }
    if base.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err((format!("{shown} is not a domain name: its last label is a number"), None));
    }
    if base.len() < name.len() && is_public_suffix(base) {
        let message = format!("{shown} admits everyone who registers a name under the public suffix {base}");
        return Err((message, Some(format!("name the organisation: *.something.{base}"))));
    }
    Ok(name.to_owned())
}

/// The form in which a name is compared; `None` where it is none that an allowlist can hold.
pub(crate) fn canonical(written: &str) -> Option<String> {
    parse(written, false).ok()
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'))
}

/// A name at the top that is not in the list counts as public too, unless it is known not to be: the list that is
/// compiled in does not know the next one.
fn is_public_suffix(base: &str) -> bool {
    !PRIVATE_TOPS.contains(&base) && psl::suffix_str(base) == Some(base)
}

/// A node as a domain name.
pub(crate) fn name(node: &Node, key: &str, wildcard: bool, report: &mut Report) -> Option<String> {
    let written = text(node, key, report)?;
    match parse(written.value, wildcard) {
        Ok(name) => Some(name),
        Err((message, help)) => {
            let finding = report.error(node.at, format!("`{key}`: {message}"));
            if let Some(help) = help {
                finding.help(help);
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_canonical_or_are_refused() {
        for (written, expected) in [
            ("Registry.Corp.Example.", Some("registry.corp.example")),
            ("*.storage.corp.example", Some("*.storage.corp.example")),
            ("*.internal", Some("*.internal")),
            ("registry", Some("registry")),
            ("_srv.example.com", Some("_srv.example.com")),
            ("*.com", None),
            ("*.co.uk", None),
            ("*.github.io", None),
            ("*.unheardof", None),
            ("*", None),
            ("a*.example.com", None),
            ("a.*.example.com", None),
            ("*.*.example.com", None),
            ("", None),
            (".", None),
            ("a..b", None),
            ("-", Some("-")),
            ("10.0.0.1", None),
            ("1.2.3.444", None),
            ("https://example.com", None),
            ("example.com:443", None),
            ("müller.example", None),
        ] {
            assert_eq!(parse(written, true).ok().as_deref(), expected, "{written}");
        }
        assert!(parse(&format!("{}.example", "a".repeat(64)), true).is_err());
        assert!(parse(&"a.".repeat(121), true).is_err());
        assert!(parse("*.example.com", false).is_err());
    }
}
