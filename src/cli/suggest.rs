//! What may have been meant: commands, options and names that are nearly what was typed.

/// The one of `known` that is nearest to `typed`, if it is near enough to be a slip of the finger.
pub(crate) fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = typed.chars().count();
    if length < 2 {
        return None;
    }
    let near = (length / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|word| (distance(typed, word), word))
        .filter(|(distance, word)| *distance > 0 && *distance <= near && *distance < word.chars().count())
        .min()
        .map(|(_, word)| word)
}

/// How many letters must be inserted, left out, replaced or swapped with their neighbour.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut rows = [(0..=other.len()).collect::<Vec<_>>(), Vec::new(), Vec::new()];
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let replaced = rows[0][j] + usize::from(a != b);
            let mut least = replaced.min(rows[0][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && one[i - 1] == *b && other[j - 1] == *a {
                least = least.min(rows[1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.rotate_right(1);
        rows[0] = row;
    }
    rows[0].last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found() {
        let known = ["images", "image", "inspect", "ps", "port", "rm", "rmi", "run"];
        for (typed, meant) in [
            ("imgaes", Some("images")),
            ("iamges", Some("images")),
            ("inspct", Some("inspect")),
            ("prot", Some("port")),
            ("rnu", Some("run")),
            ("frobnicate", None),
            ("x", None),
            ("run", None),
        ] {
            assert_eq!(nearest(typed, known), meant, "{typed}");
        }
    }
}
