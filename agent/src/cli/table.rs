//! Tables for a terminal of 100 columns.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::text::visible;

/// Columns of the terminal.
const WIDTH: usize = 100;
/// Between two columns.
const GAP: usize = 2;
/// What is left of a text that is shortened.
const LEAST: usize = 8;

/// Lays out rows under a head. Where they are too wide, the `flexible` columns are shortened in the middle, the widest
/// first: names tell most at their ends.
pub(super) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]], flexible: &[usize]) -> String {
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| visible(cell))).collect();
    let natural = |column: usize| rows.iter().map(|row| letters(&row[column])).max().unwrap_or(0);
    let mut widths: [usize; N] = std::array::from_fn(|column| natural(column).max(letters(head[column])));
    while widths.iter().sum::<usize>() + GAP * (N - 1) > WIDTH {
        let widest = flexible.iter().copied().max_by_key(|column| widths[*column]);
        match widest {
            Some(column) if widths[column] > LEAST => widths[column] -= 1,
            _ => break,
        }
    }
    let head = head.map(str::to_owned);
    std::iter::once(&head).chain(&rows).map(|row| line(row, &widths)).collect()
}

fn line<const N: usize>(row: &[String; N], widths: &[usize; N]) -> String {
    let cells = row.iter().zip(widths).map(|(cell, width)| {
        let cell = shorten(cell, *width);
        let padding = width - letters(&cell);
        cell + &" ".repeat(padding)
    });
    let line = cells.collect::<Vec<_>>().join(&" ".repeat(GAP));
    line.trim_end().to_owned() + "\n"
}

/// With an ellipsis in the middle, where it is too long.
fn shorten(text: &str, width: usize) -> String {
    let count = letters(text);
    if count <= width {
        return text.to_owned();
    }
    let kept = width.saturating_sub(1);
    let end = kept.div_ceil(2);
    let head = text.chars().take(kept - end);
    head.chain(std::iter::once('…')).chain(text.chars().skip(count - end)).collect()
}

fn letters(text: &str) -> usize {
    text.chars().count()
}

/// How long ago that was, in the two largest units: `3d04h`, `2h05m`, `40s`.
pub(super) fn ago(time: &str) -> String {
    let Ok(then) = OffsetDateTime::parse(time, &Rfc3339) else { return time.to_owned() };
    let seconds = (OffsetDateTime::now_utc() - then).whole_seconds().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shortened_in_the_middle_until_the_table_fits() {
        let long = format!("/kubepods/{}/end", "x".repeat(200));
        let rows = [[long, "p".repeat(60), "1".into()], ["a\u{1b}b".into(), "q".into(), "2".into()]];
        let text = table(["WORKLOAD", "POLICY", "N"], &rows, &[0, 1]);
        let widths: Vec<usize> = text.lines().map(letters).collect();
        assert!(widths.iter().all(|width| *width <= WIDTH), "{text}");
        assert_eq!(widths[1], WIDTH);
        assert!(
            text.contains("/kubepods/xxxxx") && text.contains("…") && text.contains("/end  ppp"),
            "{text}"
        );
        assert!(text.contains("a\\u{1b}b"), "{text}");
    }

    #[test]
    fn a_text_is_shortened_to_its_width() {
        assert_eq!(shorten("abcdefghij", 10), "abcdefghij");
        assert_eq!(shorten("abcdefghij", 5), "ab…ij");
        assert_eq!(shorten("abcdefghij", 4), "a…ij");
    }

    #[test]
    fn times_are_told_as_ages() {
        let at = |seconds: i64| {
            let then = OffsetDateTime::now_utc() - time::Duration::seconds(seconds);
            ago(&then.format(&Rfc3339).unwrap())
        };
        assert_eq!(at(3 * 86400 + 4 * 3600 + 100), "3d04h");
        assert_eq!(at(2 * 3600 + 5 * 60 + 30), "2h05m");
        assert_eq!(at(-100), "0s");
        assert_eq!(ago("never"), "never");
    }
}
