//! The figures, for people and for programs.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::Result;

/// One operation under one variant.
pub(crate) struct Row {
    operation: &'static str,
    prefixes: u32,
    variant: &'static str,
    minimum: u64,
    median: u64,
}

impl Row {
    pub(crate) fn new(
        operation: &'static str,
        prefixes: u32,
        variant: &'static str,
        mut figures: Vec<u64>,
    ) -> Row {
        figures.sort_unstable();
        let minimum = figures.first().copied().unwrap_or_default();
        let median = figures.get(figures.len() / 2).copied().unwrap_or_default();
        Row { operation, prefixes, variant, minimum, median }
    }
}

/// All of a run, and where it was.
pub(crate) struct Run {
    rounds: usize,
    kernel: String,
    processor: String,
    processors: usize,
    rows: Vec<Row>,
}

impl Run {
    pub(crate) fn new(rounds: usize, rows: Vec<Row>) -> Result<Run> {
        let kernel = Command::new("uname").arg("-r").output()?;
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let models: Vec<&str> = cpuinfo
            .lines()
            .filter_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name))
            .collect();
        Ok(Run {
            rounds,
            kernel: String::from_utf8_lossy(&kernel.stdout).trim().to_owned(),
            processor: models.first().copied().unwrap_or("unknown").to_owned(),
            processors: models.len(),
            rows,
        })
    }

    fn baseline(&self, row: &Row) -> Option<&Row> {
        self.rows.iter().find(|other| {
            other.operation == row.operation && other.prefixes == row.prefixes && other.variant == "nothing"
        })
    }

    /// Nanoseconds added, and the ratio, by minimum and by median.
    fn compared(&self, row: &Row) -> [(i64, f64); 2] {
        let Some(base) = self.baseline(row) else { return [(0, 1.0); 2] };
        let compare = |figure: u64, base: u64| {
            (figure.cast_signed() - base.cast_signed(), figure as f64 / base.max(1) as f64)
        };
        [compare(row.minimum, base.minimum), compare(row.median, base.median)]
    }

    /// Nanoseconds that one variant of an operation takes longer than another, by minimum and by median.
    pub(crate) fn between(&self, operation: &str, one: &str, other: &str) -> Option<[i64; 2]> {
        let find =
            |variant: &str| self.rows.iter().find(|row| row.operation == operation && row.variant == variant);
        let (one, other) = (find(one)?, find(other)?);
        let difference = |one: u64, other: u64| one.cast_signed() - other.cast_signed();
        Some([difference(one.minimum, other.minimum), difference(one.median, other.median)])
    }

    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "\nLinux {}, {} x {}, {} rounds; nanoseconds for one operation, and what is added to nothing\n",
            self.kernel, self.processors, self.processor, self.rounds
        );
        let mut before = ("", 0);
        for row in &self.rows {
            if before != (row.operation, row.prefixes) {
                before = (row.operation, row.prefixes);
                let _ = match row.prefixes {
                    0 => writeln!(text, "\n{}", row.operation),
                    prefixes => writeln!(text, "\n{}, {prefixes} prefixes", row.operation),
                };
                let _ = writeln!(
                    text,
                    "  {:<18}{:>10}{:>9}{:>8}{:>12}{:>9}{:>8}",
                    "", "minimum", "added", "ratio", "median", "added", "ratio"
                );
            }
            let [(least, least_ratio), (middle, middle_ratio)] = self.compared(row);
            let _ = writeln!(
                text,
                "  {:<18}{:>10}{least:>+9}{least_ratio:>8.3}{:>12}{middle:>+9}{middle_ratio:>8.3}",
                row.variant, row.minimum, row.median
            );
        }
        text
    }

    pub(crate) fn json(&self) -> String {
        let rows: Vec<String> = self
            .rows
            .iter()
            .map(|row| {
                let [(least, _), (middle, _)] = self.compared(row);
                format!(
                    "    {{\"operation\": \"{}\", \"prefixes\": {}, \"variant\": \"{}\", \"minimum_ns\": {}, \
                     \"minimum_added_ns\": {least}, \"median_ns\": {}, \"median_added_ns\": {middle}}}",
                    row.operation, row.prefixes, row.variant, row.minimum, row.median
                )
            })
            .collect();
        format!(
            "{{\n  \"kernel\": \"{}\",\n  \"processor\": \"{}\",\n  \"processors\": {},\n  \"rounds\": {},\n  \
             \"rows\": [\n{}\n  ]\n}}\n",
            self.kernel,
            self.processor,
            self.processors,
            self.rounds,
            rows.join(",\n")
        )
    }
}
