//! What a test machine said, against what it had to say.

use std::fmt::Write as _;

use super::cases;
use super::kernel::{Kernel, belongs};
use super::machine::Output;

/// Lines of the serial line that are shown when something is wrong.
const SHOWN: usize = 8;

/// The result on one kernel.
#[derive(Debug)]
pub(super) struct Report {
    kernel: &'static Kernel,
    release: String,
    passed: usize,
    expected: usize,
    seconds: f64,
    problems: Vec<String>,
}

/// How a case's line begins, and how it goes on.
pub(super) const CASE: &str = "case ";
/// A case that passed.
pub(super) const OK: &str = "ok";
/// A case that did not.
pub(super) const FAIL: &str = "FAIL";
/// Begins the line that tells the kernel's release.
pub(super) const RELEASE: &str = "kernel ";
/// The last line.
pub(super) const DONE: &str = "all cases have run";

impl Report {
    /// Nothing was run.
    pub(super) fn none(kernel: &'static Kernel, why: &str) -> Report {
        let expected = cases::expected(kernel.expectation).len();
        let problems = vec![why.to_owned()];
        Report { kernel, release: "-".to_owned(), passed: 0, expected, seconds: 0.0, problems }
    }

    /// Compares.
    pub(super) fn new(kernel: &'static Kernel, output: &Output) -> Report {
        let mut problems = Vec::new();
        let release = output.lines.iter().find_map(|line| line.strip_prefix(RELEASE)).unwrap_or("-");
        if !belongs(release, kernel.version) {
            problems.push(format!("Linux {} was to be booted, and it is {release}", kernel.version));
        }
        let expected = cases::expected(kernel.expectation);
        let (mut passed, mut missing) = (0, Vec::new());
        for name in &expected {
            match outcome(&output.lines, name) {
                Some((OK, _)) => passed += 1,
                Some((_, detail)) => problems.push(format!("{name}: {detail}")),
                None => missing.push(*name),
            }
        }
        if !missing.is_empty() {
            problems.push(format!("cases that did not run to their end: {}", missing.join(", ")));
        }
        if output.timed_out {
            problems.push(format!("not powered off after {:.0} s, so ended", output.elapsed.as_secs_f64()));
        }
        if !output.lines.iter().any(|line| line == DONE) {
            let last = output.lines[output.lines.len().saturating_sub(SHOWN)..].join("\n      ");
            problems.push(format!("the machine stopped early; its last words:\n      {last}"));
        }
        let (release, seconds) = (release.to_owned(), output.elapsed.as_secs_f64());
        Report { kernel, release, passed, expected: expected.len(), seconds, problems }
    }

    /// What was wrong, with the kernel in front.
    pub(super) fn problems(&self) -> Vec<String> {
        self.problems.iter().map(|problem| format!("{}: {problem}", self.kernel.version)).collect()
    }
}

/// The outcome of a case and its detail.
fn outcome<'a>(lines: &'a [String], name: &str) -> Option<(&'a str, &'a str)> {
    lines.iter().find_map(|line| {
        let rest = line.strip_prefix(CASE)?.strip_prefix(name)?.strip_prefix(' ')?;
        Some(rest.split_once(' ').unwrap_or((rest, "")))
    })
}

/// A table of all kernels.
pub(super) fn table(reports: &[Report]) -> String {
    let mut text =
        format!("{:<8}{:<26}{:<10}{:>7}{:>9}", "kernel", "release", "expected", "cases", "seconds");
    for report in reports {
        let Report { kernel, release, passed, expected, seconds, .. } = report;
        let verdict = if report.problems.is_empty() { "passed" } else { "FAILED" };
        // Writing into a string cannot fail.
        let _ = write!(
            text,
            "\n{:<8}{release:<26}{:<10}{passed:>4}/{expected:<2}{seconds:>9.1}  {verdict}",
            kernel.version,
            kernel.expectation.name(),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::kernel::KERNELS;
    use super::*;

    fn report(lines: impl IntoIterator<Item = String>, timed_out: bool) -> Report {
        let lines = lines.into_iter().collect();
        Report::new(&KERNELS[0], &Output { lines, elapsed: Duration::from_secs(3), timed_out })
    }

    fn all_ok() -> Vec<String> {
        let cases = cases::expected(KERNELS[0].expectation);
        let lines = cases.iter().map(|name| format!("{CASE}{name} {OK} fine"));
        ["kernel 5.10.0-46-amd64".to_owned()].into_iter().chain(lines).chain([DONE.to_owned()]).collect()
    }

    #[test]
    fn everything_that_was_expected_passed() {
        assert_eq!(report(all_ok(), false).problems(), Vec::<String>::new());
    }

    #[test]
    fn a_missing_case_a_failed_case_and_another_kernel_are_problems() {
        let mut missing = all_ok();
        missing.remove(1);
        assert!(report(missing, false).problems()[0].contains("did not run to their end"));
        let failed = all_ok().into_iter().map(|line| line.replace(" ok fine", " FAIL because"));
        assert!(report(failed, false).problems()[0].ends_with("because"));
        let other = all_ok().into_iter().map(|line| line.replace("5.10", "6.18"));
        assert_eq!(report(other, false).problems().len(), 1);
        assert_eq!(report(all_ok(), true).problems().len(), 1);
        assert!(report(["Kernel panic".to_owned()], false).problems().last().unwrap().contains("panic"));
    }
}
