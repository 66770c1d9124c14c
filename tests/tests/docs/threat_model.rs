//! Every row of the threat model names the test that proves it, or says that there is none; and every way that the bypass
//! suite tries has a row.

use std::fs;
use std::path::Path;

use super::{prose, repository};

/// What the last column of a table is called.
const TEST: &str = "test";

/// One row.
struct Row<'a> {
    line: usize,
    cells: Vec<&'a str>,
    columns: usize,
}

fn page() -> String {
    fs::read_to_string(repository().join("docs/threat-model.md")).expect("the threat model")
}

/// The rows of every table whose last column names tests.
fn rows(text: &str) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    let mut columns = None;
    for (line, text) in prose(text) {
        let Some(inside) = text.strip_prefix('|').and_then(|text| text.trim_end().strip_suffix('|')) else {
            columns = None;
            continue;
        };
        let cells: Vec<&str> = inside.split('|').map(str::trim).collect();
        match columns {
            None => columns = Some((cells.len(), cells.last() == Some(&TEST))),
            Some(_) if cells.iter().all(|cell| cell.chars().all(|letter| letter == '-')) => {}
            Some((columns, true)) => rows.push(Row { line, cells, columns }),
            Some((_, false)) => {}
        }
    }
    rows
}

impl<'a> Row<'a> {
    /// The tests that its last cell names, as `file::function`.
    fn tests(&self) -> impl Iterator<Item = &'a str> {
        tests_named(self.cells.last().copied().unwrap_or_default())
    }

    /// What is wrong with it.
    fn wrong(&self) -> Option<String> {
        if self.cells.len() != self.columns {
            return Some(format!("{} cells in a table of {} columns", self.cells.len(), self.columns));
        }
        if let Some(missing) = self.tests().find(|name| !is_test(name)) {
            return Some(format!("{missing} is no test"));
        }
        let cell = self.cells.last().copied().unwrap_or_default();
        let left_open = self.cells.iter().any(|cell| {
            ["**open**", "**not closable", "**by design**"].iter().any(|word| cell.contains(word))
        });
        match cell {
            "none" => None,
            "–" if left_open => None,
            _ if self.tests().next().is_some() => None,
            _ => Some(format!("`{cell}` names no test as file::function and does not say `none`")),
        }
    }
}

fn tests_named(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2).filter(|name| name.contains(".rs::"))
}

/// Whether there is a test of this name, and not only a function.
fn is_test(name: &str) -> bool {
    let Some((file, function)) = name.split_once("::") else { return false };
    let text = fs::read_to_string(repository().join(file)).unwrap_or_default();
    tests_in(&text).any(|test| test == function)
}

/// The names of the tests in a source file.
fn tests_in(text: &str) -> impl Iterator<Item = &str> {
    let mut marked = false;
    text.lines().filter_map(move |line| {
        let line = line.trim_start();
        if line.starts_with('#') {
            marked |= line == "#[test]" || line.starts_with("#[tokio::test");
            return None;
        }
        let was_marked = std::mem::take(&mut marked);
        let (_, rest) = line.split_once("fn ").filter(|_| was_marked)?;
        Some(rest.split_once('(')?.0)
    })
}

/// The tests of the bypass suite, as the threat model names them.
fn ways_tried() -> Vec<String> {
    let suite = Path::new("tests/tests/bypass");
    let files = fs::read_dir(repository().join(suite)).expect("the bypass suite");
    let mut ways = Vec::new();
    for file in files {
        let name = file.expect("an entry").file_name();
        let path = suite.join(&name);
        let text = fs::read_to_string(repository().join(&path)).expect("a source file");
        ways.extend(tests_in(&text).map(|test| format!("{}::{test}", path.display())));
    }
    ways
}

#[test]
fn every_row_names_its_test_or_says_that_there_is_none() {
    let text = page();
    let rows = rows(&text);
    assert!(rows.len() > 50, "only {} rows were found", rows.len());
    let wrong: Vec<String> =
        rows.iter().filter_map(|row| Some(format!("line {}: {}", row.line, row.wrong()?))).collect();
    assert!(wrong.is_empty(), "docs/threat-model.md:\n{}", wrong.join("\n"));
}

#[test]
fn every_way_that_is_tried_has_a_row() {
    let text = page();
    let rows = rows(&text);
    let named: Vec<&str> =
        rows.iter().flat_map(|row| &row.cells).flat_map(|cell| tests_named(cell)).collect();
    let ways = ways_tried();
    assert!(ways.len() > 20, "only {} tests were found", ways.len());
    let unnamed: Vec<&String> = ways.iter().filter(|way| !named.contains(&way.as_str())).collect();
    assert!(unnamed.is_empty(), "docs/threat-model.md has no row for {unnamed:?}");
}

#[test]
fn a_row_without_a_proof_is_found() {
    let own = "tests/tests/docs/threat_model.rs";
    let wrong = |row: &str| {
        let text = format!("| way | closed by | test |\n| --- | --- | --- |\n{row}\n");
        let rows = rows(&text);
        assert_eq!(rows.len(), 1);
        rows[0].wrong()
    };
    assert_eq!(wrong(&format!("| a | b | `{own}::a_row_without_a_proof_is_found` |")), None);
    assert!(wrong(&format!("| a | b | `{own}::a_row_that_was_renamed` |")).is_some());
    assert!(wrong(&format!("| a | b | `{own}::rows` |")).is_some(), "a function is no test");
    assert!(wrong(&format!("| a | b | `{own}` |")).is_some(), "a file is no test");
    assert!(wrong("| a | b | as above |").is_some() && wrong("| a | b | – |").is_some());
    assert!(wrong("| a | b | c | none |").is_some(), "a cell too many");
    assert_eq!((wrong("| a | b | none |"), wrong("| a | **open** | – |")), (None, None));
}
