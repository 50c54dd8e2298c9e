//! Spans of time as Go reads them: `1h30m`, `1.5s`, `500ms`, `0`. None of ours is negative.

use std::time::Duration;

/// The span that a text says; nothing if it says none, or one beyond Go's 292 years.
///
/// # Source
/// Go's `time.ParseDuration`: a number needs a unit, unless it is 0.
pub(crate) fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanoseconds: u128 = 0;
    while !rest.is_empty() {
        let (number, following) = split(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, following) = split(following, |c| !c.is_ascii_digit() && c != '.');
        nanoseconds += times(number, unit_ns(unit)?)?;
        rest = following;
    }
    // Go counts nanoseconds in 63 bits.
    i64::try_from(nanoseconds).ok().map(|nanoseconds| Duration::from_nanos(nanoseconds.unsigned_abs()))
}

/// The beginning of a text whose characters are of a kind, and the rest.
fn split(text: &str, is_of_kind: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !is_of_kind(c)).unwrap_or(text.len()))
}

fn unit_ns(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// A decimal number of units, in nanoseconds; what is finer is cut off.
fn times(number: &str, unit_ns: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()?.into() };
    // More digits than any unit can tell apart.
    let digits = fraction.get(..fraction.len().min(15))?;
    let part: u128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    let scale = 10u128.pow(u32::try_from(digits.len()).ok()?);
    Some(whole * unit_ns + part * unit_ns / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_gos() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("+0", 0),
            ("10s", 10_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5m", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("1.s", 1_000_000_000),
            (".5s", 500_000_000),
            ("1m.5s", 60_500_000_000),
            ("500ms", 500_000_000),
            ("0.1s", 100_000_000),
            ("1.0000000000000000000000000001ns", 1),
            ("3µs7us", 10_000),
            ("2562047h", 9_223_369_200_000_000_000),
        ] {
            assert_eq!(go_duration(text), Some(Duration::from_nanos(nanoseconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for text in
            ["", "+", "5", "00", ".", "s", ".s", "1x", "h1", "-1s", "1..5s", "1 s", "99999999h", "2562048h", "1é"]
        {
            assert_eq!(go_duration(text), None, "{text}");
        }
        assert_eq!(go_duration(&format!("{}h", "9".repeat(40))), None);
    }
}
