//! Reading one node as what a key wants: text, number, one of some words, a length of time, a point in time.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::diagnostic::Report;
use super::source::Located;
use super::suggest::nearest;
use super::tree::{Node, Value};

/// What a plain scalar is to a YAML reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plain {
    Nothing,
    Boolean,
    /// `yes`, `off` and others that only YAML 1.1 takes for booleans.
    OldBoolean,
    Number,
    Text,
}

fn plain_kind(text: &str) -> Plain {
    match text.to_ascii_lowercase().as_str() {
        "" | "~" | "null" => Plain::Nothing,
        "true" | "false" => Plain::Boolean,
        "yes" | "no" | "on" | "off" | "y" | "n" => Plain::OldBoolean,
        ".inf" | "-.inf" | "+.inf" | ".nan" => Plain::Number,
        lower => {
            let digits = lower.strip_prefix(['-', '+']).unwrap_or(lower);
            let number = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
                && (digits.starts_with("0x")
                    && digits.len() > 2
                    && digits[2..].bytes().all(|b| b.is_ascii_hexdigit())
                    || digits.starts_with("0o")
                        && digits.len() > 2
                        && digits[2..].bytes().all(|b| b.is_ascii_digit())
                    || digits.replace('_', "").parse::<f64>().is_ok());
            if number { Plain::Number } else { Plain::Text }
        }
    }
}

/// What a node is, for "found …".
pub(crate) fn found(node: &Node) -> String {
    match &node.value {
        Value::Refused => "something that is not accepted".to_owned(),
        Value::Mapping(_) => "a mapping".to_owned(),
        Value::Sequence(_) => "a list".to_owned(),
        Value::Scalar { text, plain } => {
            let shown = shorten(text);
            match plain_kind(text) {
                _ if !plain => format!("the text \"{shown}\""),
                Plain::Nothing => "nothing".to_owned(),
                Plain::Boolean => format!("the boolean {shown}"),
                Plain::Number => format!("the number {shown}"),
                Plain::OldBoolean | Plain::Text => format!("\"{shown}\""),
            }
        }
    }
}

/// A text cut to what fits a message.
pub(crate) fn shorten(text: &str) -> String {
    let mut characters = text.chars();
    let mut short: String = characters.by_ref().take(80).collect();
    if characters.next().is_some() {
        short.push('…');
    }
    short
}

/// Reports that a node is of the wrong type.
pub(crate) fn wrong_type(node: &Node, key: &str, expected: &str, report: &mut Report) {
    if matches!(&node.value, Value::Refused) {
        return;
    }
    let finding = report.error(node.at, format!("`{key}`: expected {expected}, found {}", found(node)));
    // `fd00::` and `a: b` inside a list become mappings; quotes are what was forgotten.
    if expected.contains("text") && matches!(&node.value, Value::Mapping(_)) {
        finding.help("if this was meant as one text, quote it");
    }
}

/// Text as it stands, whatever YAML may take it for.
pub(crate) fn raw_text<'n>(
    node: &'n Node,
    key: &str,
    expected: &str,
    report: &mut Report,
) -> Option<&'n str> {
    match &node.value {
        Value::Scalar { text, plain } if !(*plain && plain_kind(text) == Plain::Nothing) => Some(text),
        _ => {
            wrong_type(node, key, expected, report);
            None
        }
    }
}

/// A text. Unquoted ones that YAML takes for a number or a boolean are refused: `no` is a country to one reader and
/// false to another.
pub(crate) fn text<'n>(node: &'n Node, key: &str, report: &mut Report) -> Option<Located<&'n str>> {
    let value = raw_text(node, key, "a text", report)?;
    if matches!(&node.value, Value::Scalar { plain: true, .. }) && plain_kind(value) != Plain::Text {
        let message = match plain_kind(value) {
            Plain::OldBoolean => {
                format!(
                    "`{key}`: expected a text, but some YAML readers take {} for a boolean",
                    shorten(value)
                )
            }
            _ => format!("`{key}`: expected a text, found {}", found(node)),
        };
        report.error(node.at, message).help(format!("quote it: \"{}\"", shorten(value)));
        return None;
    }
    Some(Located { value, at: node.at })
}

/// `true` or `false`.
pub(crate) fn boolean(node: &Node, key: &str, report: &mut Report) -> Option<bool> {
    match &node.value {
        Value::Scalar { text, plain: true } if text == "true" => Some(true),
        Value::Scalar { text, plain: true } if text == "false" => Some(false),
        Value::Refused => None,
        _ => {
            let message = format!("`{key}`: expected true or false, found {}", found(node));
            report.error(node.at, message).help("write true or false: lower case, without quotes");
            None
        }
    }
}

/// The digits of a decimal number that cannot be read in two ways.
pub(crate) fn decimal(text: &str) -> Result<u32, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("write decimal digits only: no sign, point, `_`, `0x` or `0o`".to_owned());
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(format!(
            "a leading zero means octal to some YAML readers; write {}",
            Some(text.trim_start_matches('0')).filter(|rest| !rest.is_empty()).unwrap_or("0")
        ));
    }
    text.parse().map_err(|_| "the number is too large".to_owned())
}

/// A number within these limits.
pub(crate) fn number(node: &Node, key: &str, (least, most): (u32, u32), report: &mut Report) -> Option<u32> {
    let expected = format!("a number from {least} to {most}");
    let Value::Scalar { text, plain: true } = &node.value else {
        wrong_type(node, key, &expected, report);
        return None;
    };
    match decimal(text) {
        Ok(number) if (least..=most).contains(&number) => Some(number),
        Ok(number) => {
            report.error(node.at, format!("`{key}`: expected {expected}, found {number}"));
            None
        }
        Err(help) => {
            report.error(node.at, format!("`{key}`: expected {expected}, found {}", found(node))).help(help);
            None
        }
    }
}

/// One of some words.
pub(crate) fn one_of<T: Copy>(node: &Node, key: &str, words: &[(&str, T)], report: &mut Report) -> Option<T> {
    let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
    let expected = match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    };
    if let Value::Scalar { text, .. } = &node.value {
        if let Some((_, value)) = words.iter().find(|(name, _)| name == text) {
            return Some(*value);
        }
        let finding = report.error(node.at, format!("`{key}`: expected {expected}, found {}", found(node)));
        if let Some(name) = nearest(text, names) {
            finding.help(format!("did you mean {name}?"));
        }
        return None;
    }
    wrong_type(node, key, &expected, report);
    None
}

/// The nodes of a list; an empty one is returned as such.
pub(crate) fn list<'n>(node: &'n Node, key: &str, report: &mut Report) -> Option<&'n [Node]> {
    match &node.value {
        Value::Sequence(items) => Some(items),
        Value::Scalar { text, plain } if !(*plain && plain_kind(text) == Plain::Nothing) => {
            let message = format!("`{key}`: expected a list, found {}", found(node));
            report.error(node.at, message).help(format!("write {key}: [{}]", shorten(text)));
            None
        }
        _ => {
            wrong_type(node, key, "a list", report);
            None
        }
    }
}

const UNITS: [(&str, u64); 4] =
    [("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000)];

/// A length of time in nanoseconds: `500ms`, `60s`, `5m`, `1h30m`.
pub(crate) fn duration(
    node: &Node,
    key: &str,
    (least, most): (&str, &str),
    report: &mut Report,
) -> Option<u64> {
    let expected = format!("a length of time from {least} to {most}, such as 90s, 5m or 1h30m");
    let text = raw_text(node, key, &expected, report)?;
    let Some(nanoseconds) = parse_duration(text) else {
        let finding = report.error(node.at, format!("`{key}`: expected {expected}, found {}", found(node)));
        if decimal(text).is_ok() {
            finding.help(format!("add the unit: {text}s, {text}m or {text}h"));
        } else {
            finding.help("the units are ms, s, m and h; largest first, whole numbers");
        }
        return None;
    };
    let limit = |text| parse_duration(text).expect("limits are written in this program");
    if !(limit(least)..=limit(most)).contains(&nanoseconds) {
        report.error(node.at, format!("`{key}`: expected {expected}, found {text}"));
        return None;
    }
    Some(nanoseconds)
}

fn parse_duration(text: &str) -> Option<u64> {
    let (mut rest, mut total, mut smaller_than) = (text, 0_u64, u64::MAX);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let count = u64::from(decimal(&rest[..digits]).ok()?);
        let unit_length = rest[digits..].find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len() - digits);
        let unit = &rest[digits..digits + unit_length];
        let &(_, size) = UNITS.iter().find(|(name, _)| *name == unit)?;
        if size >= smaller_than {
            return None;
        }
        smaller_than = size;
        total = total.checked_add(count.checked_mul(size)?)?;
        rest = &rest[digits + unit_length..];
    }
    (total > 0).then_some(total)
}

/// A point in time in Unix seconds, RFC 3339.
pub(crate) fn point_in_time(node: &Node, key: &str, report: &mut Report) -> Option<u64> {
    let expected = "an RFC 3339 time such as 2030-12-31T00:00:00Z";
    let text = raw_text(node, key, expected, report)?;
    let seconds = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| ())
        .and_then(|moment| u64::try_from(moment.unix_timestamp()).map_err(|_| ()));
    match seconds {
        Ok(seconds) if seconds > 0 => Some(seconds),
        _ => {
            let finding =
                report.error(node.at, format!("`{key}`: expected {expected}, found {}", found(node)));
            let whole = format!("{text}T00:00:00Z");
            if OffsetDateTime::parse(&whole, &Rfc3339).is_ok() {
                finding.help(format!("add the time of day and the zone: {whole}"));
            } else if OffsetDateTime::parse(&format!("{text}Z"), &Rfc3339).is_ok() {
                finding.help(format!("add the zone: {text}Z"));
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_add_up_and_odd_ones_are_refused() {
        for (text, expected) in [
            ("60s", Some(60_000_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("500ms", Some(500_000_000)),
            ("30m1h", None),
            ("1m1m", None),
            ("0s", None),
            ("60", None),
            ("", None),
            ("s", None),
            ("010s", None),
            ("1.5h", None),
            ("99999999999h", None),
            ("4294967295h", None),
            ("1ü", None),
        ] {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }

    #[test]
    fn what_yaml_takes_for_something_else_is_known() {
        for (text, kind) in [
            ("010", Plain::Number),
            ("1_000", Plain::Number),
            ("1.5", Plain::Number),
            ("1e3", Plain::Number),
            ("0x1bb", Plain::Number),
            ("-1", Plain::Number),
            ("~", Plain::Nothing),
            ("NO", Plain::OldBoolean),
            ("True", Plain::Boolean),
            ("53/udp", Plain::Text),
            ("10.0.0.0/8", Plain::Text),
            ("infinity", Plain::Text),
            ("0xyz", Plain::Text),
        ] {
            assert_eq!(plain_kind(text), kind, "{text}");
        }
    }
}
