//! Diagnostics as text for people, as GitHub's workflow commands, as SARIF.

use std::fmt::Write as _;

use super::diagnostic::{Diagnostic, Severity};
use super::sarif::sarif;
use crate::text::{is_misleading, visible};

/// How diagnostics are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people: `file:line:column: error: …`, the line, what to do.
    #[default]
    Text,
    /// Annotations on a pull request, when printed in a GitHub workflow.
    Github,
    /// One SARIF 2.1.0 document, for code scanning.
    Sarif,
}

/// Characters of a line that are shown; of a longer one the part around the place.
const SHOWN: usize = 140;

/// Writes diagnostics. Text and GitHub write nothing for none; SARIF is a whole document even then.
#[must_use]
pub fn render(diagnostics: &[Diagnostic], format: Format) -> String {
    match format {
        Format::Text => diagnostics.iter().map(text).collect(),
        Format::Github => diagnostics.iter().map(github).collect(),
        Format::Sarif => sarif(diagnostics),
    }
}

fn text(diagnostic: &Diagnostic) -> String {
    let Diagnostic { severity, origin, message, .. } = diagnostic;
    let mut out = format!("{}: {}: {}\n", visible(&origin.to_string()), severity.name(), visible(message));
    if let Some(line) = &diagnostic.source_line {
        snippet(&mut out, line, diagnostic);
    }
    if let Some(help) = &diagnostic.help {
        let _ = writeln!(out, "  help: {}", visible(help));
    }
    out
}

fn snippet(out: &mut String, line: &str, diagnostic: &Diagnostic) {
    let before = diagnostic.origin.column.saturating_sub(1);
    let skipped = before.saturating_sub(SHOWN / 2);
    let mut rest = line.trim_end().chars().skip(skipped);
    // One place for each character keeps the caret below what it means.
    let shown: String = rest
        .by_ref()
        .take(SHOWN)
        .map(|character| if is_misleading(character) { ' ' } else { character })
        .collect();
    let (head, tail) = (if skipped > 0 { "…" } else { "" }, if rest.next().is_some() { "…" } else { "" });
    let indent = before - skipped + head.chars().count();
    let carets = diagnostic.length.clamp(1, (shown.chars().count() + skipped).saturating_sub(before).max(1));
    let number = diagnostic.origin.line.to_string();
    let _ = writeln!(out, "  {number} | {head}{shown}{tail}");
    let _ = writeln!(out, "  {} | {}{}", " ".repeat(number.len()), " ".repeat(indent), "^".repeat(carets));
}

fn github(diagnostic: &Diagnostic) -> String {
    let Diagnostic { severity, origin, .. } = diagnostic;
    let mut message = diagnostic.message.clone();
    if let Some(help) = &diagnostic.help {
        message.push_str("\nhelp: ");
        message.push_str(help);
    }
    format!(
        "::{} file={},line={},col={},endColumn={}::{}\n",
        severity.name(),
        github_property(&origin.file.to_string_lossy()),
        origin.line,
        origin.column,
        origin.column + diagnostic.length,
        github_data(&message)
    )
}

fn github_data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn github_property(text: &str) -> String {
    github_data(text).replace(':', "%3A").replace(',', "%2C")
}

/// Counts for a last line: `2 errors and 1 warning`.
#[must_use]
pub fn counts(diagnostics: &[Diagnostic]) -> String {
    let count = |severity: Severity| {
        let number = diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
        match number {
            0 => None,
            1 => Some(format!("1 {}", severity.name())),
            _ => Some(format!("{number} {}s", severity.name())),
        }
    };
    let parts: Vec<String> =
        [count(Severity::Error), count(Severity::Warning)].into_iter().flatten().collect();
    parts.join(" and ")
}
