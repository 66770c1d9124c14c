//! SARIF 2.1.0.

use std::path::Path;

use serde_json::{Value, json};

use super::diagnostic::Diagnostic;

const RULE: &str = "allowlist";

/// One SARIF document with one run.
pub(crate) fn sarif(diagnostics: &[Diagnostic]) -> String {
    let document = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "egress-warden",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": [{
                    "id": RULE,
                    "shortDescription": {"text": "An allowlist says what it means, and can be enforced"},
                }],
            }},
            "columnKind": "unicodeCodePoints",
            "results": diagnostics.iter().map(result).collect::<Vec<_>>(),
        }],
    });
    format!("{document:#}\n")
}

fn result(diagnostic: &Diagnostic) -> Value {
    let text = match &diagnostic.help {
        Some(help) => format!("{}\nhelp: {help}", diagnostic.message),
        None => diagnostic.message.clone(),
    };
    json!({
        "ruleId": RULE,
        "ruleIndex": 0,
        "level": diagnostic.severity.name(),
        "message": {"text": text},
        "locations": [{"physicalLocation": {
            "artifactLocation": {"uri": uri(&diagnostic.origin.file)},
            "region": {
                "startLine": diagnostic.origin.line,
                "startColumn": diagnostic.origin.column,
                "endColumn": diagnostic.origin.column + diagnostic.length,
            },
        }}],
    })
}

/// A path as a URI reference: relative stays relative, so that it is read from the root of the repository.
fn uri(path: &Path) -> String {
    let mut uri = String::from(if path.is_absolute() { "file://" } else { "" });
    for &byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                uri.push(char::from(byte));
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}
