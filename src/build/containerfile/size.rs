//! Sizes and durations as Go reads them.

use std::time::Duration;

/// A number of bytes such as `64m`, `1.5GiB` or `512`; units are powers of 1024.
pub(super) fn bytes(text: &str) -> Option<u64> {
    crate::cli::parse::size::bytes(text).ok()
}

/// A duration such as `1m30s`, `1.5h` or `0`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut nanos = 0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let (number, following) = rest.split_at(digits);
        let letters = following.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(following.len());
        let (unit, following) = following.split_at(letters);
        let unit = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        nanos += number.parse::<f64>().ok()? * unit;
        rest = following;
    }
    // Go counts nanoseconds in 63 bits.
    (nanos < i64::MAX as f64).then(|| Duration::from_nanos(nanos.round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations() {
        let sizes = [
            ("512", Some(512)),
            ("64m", Some(64 << 20)),
            ("1.5GiB", Some(3 << 29)),
            ("1 kb", Some(1024)),
            ("", None),
            ("m", None),
            ("1x", None),
            ("1mm", None),
            ("1bb", None),
        ];
        for (text, wanted) in sizes {
            assert_eq!(bytes(text), wanted, "{text}");
        }
        let durations = [
            ("0", Some(0)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("100ms", Some(100)),
            ("", None),
            ("5", None),
            ("-1s", None),
            ("1x", None),
            ("s", None),
            ("99999999h", None),
        ];
        for (text, wanted) in durations {
            assert_eq!(duration(text), wanted.map(Duration::from_millis), "{text}");
        }
    }
}
