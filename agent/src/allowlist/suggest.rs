//! "Did you mean": the known name nearest to a mistyped one.

/// The nearest of `known`, if it is near enough to be meant.
pub(crate) fn nearest<'k>(written: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // A third of the letters may be wrong; what is longer than any name of ours is not compared at all.
    let limit = (written.chars().count() / 3).clamp(1, 3);
    if written.len() > 128 {
        return None;
    }
    let lower = written.to_lowercase();
    known
        .into_iter()
        .filter(|name| name.len().abs_diff(written.len()) <= limit)
        .map(|name| (distance(&lower, &name.to_lowercase()), name))
        .filter(|&(distance, name)| distance <= limit && distance < name.chars().count())
        .min()
        .map(|(_, name)| name)
}

/// Letters to insert, remove, replace or swap with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let known = ["cidrs", "cidrsFrom", "domains", "except", "expires", "ports", "why"];
        for (written, expected) in [
            ("cidr", Some("cidrs")),
            ("CIDRs", Some("cidrs")),
            ("cidrs_from", Some("cidrsFrom")),
            ("prots", Some("ports")),
            ("expire", Some("expires")),
            ("hosts", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, known), expected, "{written}");
        }
    }
}
