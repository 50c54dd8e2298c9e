//! The known name that is meant by one that is not known.

/// The candidate that is at most two changes away, and fewer than half of the name's letters.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (name.chars().count() / 2).min(2);
    let of = |candidate: &'a str| (distance(&name.to_ascii_lowercase(), &candidate.to_ascii_lowercase()), candidate);
    known
        .into_iter()
        .map(of)
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

/// How many letters must be inserted, removed, replaced or exchanged with the next one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn misspelt_name_finds_its_original() {
        let known = ["FROM", "COPY", "RUN", "ENTRYPOINT"];
        let cases = [
            ("FORM", Some("FROM")),
            ("cpoy", Some("COPY")),
            ("ENTRYPONT", Some("ENTRYPOINT")),
            ("R", None),
            ("HELLO", None),
        ];
        for (name, wanted) in cases {
            assert_eq!(nearest(name, known), wanted, "{name}");
        }
    }
}
