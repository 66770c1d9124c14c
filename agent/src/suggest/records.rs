//! Files of records: one JSON object a line, as `exec --events` and the agent's audit log write them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use crate::allowlist::{Diagnostic, Severity};
use crate::policy::Origin;
use crate::records::Event;

/// Far above what a record takes; a file without line ends is none of records.
const MAX_LINE: u64 = 64 << 10;

/// More bad lines than this say that the file is none of records.
const MAX_FINDINGS: usize = 20;

const HELP: &str = "expected a record as `exec --events` or the agent's audit log writes it; if the line was cut short \
                    while it was written, remove it";

/// Reads a file and hands each record to `take`.
///
/// # Errors
/// The bad lines with their places, or that the file cannot be read.
pub(crate) fn read(path: &Path, take: &mut impl FnMut(Event)) -> Result<(), Vec<Diagnostic>> {
    let mut findings = Vec::new();
    let ended = File::open(path).map(BufReader::new).and_then(|file| lines(path, file, take, &mut findings));
    if let Err(error) = ended {
        let message = format!("cannot read {}: {error}", path.display());
        findings.push(finding(path, 1, 1, message, None));
    }
    if findings.is_empty() { Ok(()) } else { Err(findings) }
}

fn lines(
    path: &Path,
    mut file: impl BufRead,
    take: &mut impl FnMut(Event),
    findings: &mut Vec<Diagnostic>,
) -> io::Result<()> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if file.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut line)? == 0
            || findings.len() >= MAX_FINDINGS
        {
            break;
        }
        if line.len() as u64 > MAX_LINE {
            let message = format!("the line is longer than {} KiB", MAX_LINE >> 10);
            findings.push(finding(path, number, 1, message, None));
            break;
        }
        // Without its end, or a line that was cut short would end on the next.
        let line = line.trim_ascii_end();
        if line.is_empty() {
            continue;
        }
        match serde_json::from_slice(line) {
            Ok(event) => take(event),
            Err(error) => findings.push(bad_line(path, number, line, &error)),
        }
    }
    Ok(())
}

fn bad_line(path: &Path, number: usize, line: &[u8], error: &serde_json::Error) -> Diagnostic {
    // The parser counts bytes, within the one line that it saw, and says so behind its message.
    let before = &line[..error.column().saturating_sub(1).min(line.len())];
    let column = String::from_utf8_lossy(before).chars().count() + 1;
    let whole = error.to_string();
    let message = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(message, _)| message);
    let shown = String::from_utf8_lossy(line).into_owned();
    finding(path, number, column, format!("not a record: {message}"), Some(shown))
}

fn finding(path: &Path, line: usize, column: usize, message: String, shown: Option<String>) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        origin: Origin { file: path.to_owned(), line, column },
        length: 1,
        message,
        help: shown.is_some().then(|| HELP.to_owned()),
        source_line: shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"time":"2026-01-02T03:04:05Z","workload":"/a","protocol":"tcp","reason":"denied","mode":"audit"}"#;

    fn found(text: &[u8]) -> (usize, Vec<String>) {
        let (mut records, mut findings) = (0, Vec::new());
        lines(Path::new("e"), text, &mut |_| records += 1, &mut findings).expect("read");
        (records, findings.iter().map(|one| format!("{}: {}", one.origin, one.message)).collect())
    }

    #[test]
    fn keys_may_be_missing_and_added_and_lines_blank() {
        let later = GOOD.replace('{', r#"{"added":{"later":[1]},"#);
        assert_eq!(found(format!("{GOOD}\n\n{later}\r\n{GOOD}").as_bytes()), (3, vec![]));
        assert_eq!(found(b""), (0, vec![]));
    }

    #[test]
    fn every_bad_line_is_told_with_its_place() {
        let text = format!(
            "{GOOD}\n{{\"time\":\"2026\n[1]\n{GOOD}{GOOD}\n{}\n\u{fc}\n",
            GOOD.replace("\"tcp\"", "6")
        );
        let (records, findings) = found(text.as_bytes());
        assert_eq!(records, 1);
        let places: Vec<&str> =
            findings.iter().map(|one| one.split(": ").next().unwrap_or_default()).collect();
        let columns = GOOD.len() + 1;
        assert_eq!(
            places,
            ["e:2:13".to_owned(), "e:3:2".into(), format!("e:4:{columns}"), "e:5:59".into(), "e:6:1".into()],
            "{findings:#?}"
        );
        assert!(findings[3].contains("expected a string"), "{findings:#?}");
    }

    #[test]
    fn what_is_no_file_of_records_ends_soon() {
        assert_eq!(found("x\n".repeat(1000).as_bytes()).1.len(), MAX_FINDINGS);
        let endless = vec![b' '; 1 << 20];
        assert_eq!(found(&endless), (0, vec!["e:1:1: the line is longer than 64 KiB".to_owned()]));
    }
}
