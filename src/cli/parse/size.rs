//! Sizes in bytes, as docker writes them: `64m`, `1.5 GiB`, `512kb`. All suffixes are powers of 1024.

use super::Parsed;

/// Bytes of a size.
pub(crate) fn bytes(value: &str) -> Parsed<u64> {
    let invalid = || format!("invalid size: {value:?}");
    let end = value.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(value.len());
    let (number, suffix) = value.split_at(end);
    let unit = unit(suffix.strip_prefix(' ').unwrap_or(suffix)).ok_or_else(invalid)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) || fraction.contains('.') {
        return Err(invalid());
    }
    let too_large = || format!("size {value:?} is too large");
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let whole = whole.checked_mul(unit).ok_or_else(too_large)?;
    let part = if fraction.is_empty() {
        0
    } else {
        // At most 15 digits: more than any unit can tell apart, fewer than would overflow.
        let digits = &fraction[..fraction.len().min(15)];
        let scale = 10u128.pow(u32::try_from(digits.len()).unwrap_or(15));
        let digits: u128 = digits.parse().map_err(|_| invalid())?;
        u64::try_from(digits * u128::from(unit) / scale).map_err(|_| too_large())?
    };
    whole.checked_add(part).ok_or_else(too_large)
}

/// Bytes of a size, or -1 for no limit.
pub(crate) fn bytes_or_unlimited(value: &str) -> Parsed<i64> {
    if value == "-1" {
        return Ok(-1);
    }
    i64::try_from(bytes(value)?).map_err(|_| format!("size {value:?} is too large"))
}

/// A number of CPUs such as `1.5`, in billionths.
pub(crate) fn nano_cpus(value: &str) -> Parsed<u64> {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let number = |digits: &str| -> Option<u64> {
        if digits.is_empty() {
            Some(0)
        } else if digits.bytes().all(|b| b.is_ascii_digit()) {
            digits.parse().ok()
        } else {
            None
        }
    };
    let digits = format!("{fraction:0<9}");
    let cpus = number(whole)
        .and_then(|whole| whole.checked_mul(1_000_000_000))
        .zip(number(&digits))
        .and_then(|(whole, part)| whole.checked_add(part))
        .filter(|_| fraction.len() <= 9 && !(whole.is_empty() && fraction.is_empty()));
    cpus.ok_or_else(|| "must be a number of CPUs, such as 1.5".to_owned())
}

fn unit(suffix: &str) -> Option<u64> {
    let lower = suffix.to_ascii_lowercase();
    let letters = lower.strip_suffix('b').unwrap_or(&lower);
    let prefix = match letters.strip_suffix('i') {
        Some("") | None => letters,
        Some(prefix) => prefix,
    };
    let power = match prefix {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    Some(1024u64.pow(power))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, expected) in [
            ("0", 0),
            ("100", 100),
            ("32b", 32),
            ("32B", 32),
            ("1k", 1024),
            ("1kb", 1024),
            ("1KiB", 1024),
            ("1 k", 1024),
            ("64m", 64 << 20),
            ("64MB", 64 << 20),
            ("1.5g", 3 << 29),
            ("0.5kib", 512),
            ("1.25 GiB", 5 << 28),
            ("2t", 2 << 40),
            ("1p", 1 << 50),
            ("10.333333333333333333333k", 10581),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "m", "-1", "1x", "1.", ".5g", "1.2.3", "1kk", "1ib", "0x10", "99999p", "1e3", "１"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn minus_one_is_no_limit_where_allowed() {
        assert_eq!(bytes_or_unlimited("-1"), Ok(-1));
        assert_eq!(bytes_or_unlimited("1m"), Ok(1 << 20));
        assert!(bytes_or_unlimited("-2").is_err());
        assert!(bytes_or_unlimited("16383p").is_err());
    }

    #[test]
    fn cpus_are_decimal_fractions() {
        for (text, expected) in
            [("1", 1_000_000_000), ("0.5", 500_000_000), (".25", 250_000_000), ("2.", 2_000_000_000)]
        {
            assert_eq!(nano_cpus(text), Ok(expected), "{text}");
        }
        for text in ["", ".", "x", "-1", "1.0000000001", "1.-5", "+1", "99999999999999"] {
            assert!(nano_cpus(text).is_err(), "{text}");
        }
    }
}
