//! What the documentation points at is there: files, headings, and the tests that it names as proof.
//!
//! A test is named as `path/to/file.rs::function`. One that is still to be written carries ` (pending)` behind it, and
//! loses it as soon as it is there.

#[path = "docs/threat_model.rs"]
mod threat_model;

use std::fs;
use std::path::{Path, PathBuf};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// README.md and everything in docs/.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = fs::read_dir(repository().join("docs")).expect("docs/");
    let mut paths: Vec<PathBuf> = docs.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.push(repository().join("README.md"));
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text =
                fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            (path, text)
        })
        .collect()
}

/// The lines outside code blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        (!fenced).then_some((index + 1, line))
    })
}

/// Every `](target)` of a line.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// Every code span of a line, with what stands behind it.
fn spans(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let parts: Vec<&str> = line.split('`').collect();
    (1..parts.len().saturating_sub(1)).step_by(2).map(move |index| (parts[index], parts[index + 1]))
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase().replace(' ', "-");
    kept.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, '-' | '_')).collect()
}

fn has_heading(text: &str, wanted: &str) -> bool {
    prose(text).any(|(_, line)| line.starts_with('#') && anchor(line.trim_start_matches('#')) == wanted)
}

fn broken_link(page: &Path, text: &str, target: &str) -> Option<String> {
    if target.contains("://") {
        return None;
    }
    let (file, heading) = target.split_once('#').map_or((target, None), |(file, it)| (file, Some(it)));
    let path = page.parent().expect("a directory").join(file);
    if !file.is_empty() && !path.exists() {
        return Some(format!("the link {target} leads nowhere"));
    }
    let heading = heading?;
    let other = if file.is_empty() { text.to_owned() } else { fs::read_to_string(&path).unwrap_or_default() };
    (!has_heading(&other, heading)).then(|| format!("the link {target} names no heading"))
}

fn broken_reference(span: &str, behind: &str) -> Option<String> {
    let missing = missing(span)?;
    match (behind.starts_with(" (pending)"), missing) {
        (false, true) => Some(format!("there is no {span}")),
        (true, false) => Some(format!("{span} is no longer pending")),
        _ => None,
    }
}

/// Whether a test or a file is not there; `None` where the span is neither.
fn missing(span: &str) -> Option<bool> {
    const ROOMS: [&str; 9] =
        ["agent/", "allowlists/", "common/", "deploy/", "docs/", "ebpf/", "tests/", "xtask/", ".ci/"];
    if !ROOMS.iter().any(|room| span.starts_with(room)) || span.contains([' ', '*', '<', '…']) {
        return None;
    }
    let Some((file, function)) = span.split_once("::") else {
        return Some(!repository().join(span).exists());
    };
    let text = fs::read_to_string(repository().join(file));
    Some(!text.is_ok_and(|text| text.contains(&format!("fn {function}("))))
}

#[test]
fn links_files_and_tests_that_the_documentation_names_exist() {
    let mut broken = Vec::new();
    for (page, text) in pages() {
        for (number, line) in prose(&text) {
            let links = links(line).filter_map(|target| broken_link(&page, &text, target));
            let references = spans(line).filter_map(|(span, behind)| broken_reference(span, behind));
            broken.extend(links.chain(references).map(|what| format!("{}:{number}: {what}", page.display())));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn what_does_not_exist_is_found() {
    let page = repository().join("README.md");
    assert!(broken_link(&page, "", "docs/nothing.md").is_some());
    assert!(broken_link(&page, "# Two words", "#two-words").is_none());
    assert!(broken_link(&page, "# Two words", "#three-words").is_some());
    assert!(broken_reference("tests/tests/docs.rs::no_such_test", "").is_some());
    assert!(broken_reference("tests/tests/docs.rs::no_such_test", " (pending)").is_none());
    assert!(broken_reference("tests/tests/docs.rs::what_does_not_exist_is_found", ".").is_none());
    assert!(broken_reference("tests/tests/docs.rs::what_does_not_exist_is_found", " (pending)").is_some());
    assert!(broken_reference("ebpf/src/nothing.rs", "").is_some());
}
