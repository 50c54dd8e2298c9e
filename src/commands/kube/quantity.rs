//! Numbers with units, as Kubernetes writes them.

use super::model::Quantity;

/// A thousandth of one, so that parts of a CPU are whole numbers.
const MILLI: i128 = 1000;

/// Units and what they stand for. Those of two letters are powers of 1024.
const UNITS: [(&str, i128); 12] = [
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
];

impl Quantity {
    /// In thousandths, rounded up; `None` if it is no quantity.
    pub(super) fn milli(&self) -> Option<i128> {
        let text = self.0.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+' | '-')).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor = match unit {
            "" => MILLI,
            "m" => 1,
            _ => match UNITS.iter().find(|(name, _)| *name == unit) {
                Some((_, factor)) => factor * MILLI,
                None => return self.scientific(number, unit),
            },
        };
        scaled(number, factor)
    }

    /// `1e3`, `1E-1`.
    fn scientific(&self, number: &str, unit: &str) -> Option<i128> {
        let exponent: i32 = unit.strip_prefix(['e', 'E'])?.parse().ok()?;
        let power = 10i128.checked_pow(exponent.unsigned_abs())?;
        match exponent < 0 {
            false => scaled(number, MILLI.checked_mul(power)?),
            true => Some(scaled(number, MILLI)? / power),
        }
    }

    /// As a whole number, rounded up.
    pub(super) fn whole(&self) -> Option<u64> {
        let milli = self.milli()?;
        u64::try_from(milli / MILLI + i128::from(milli % MILLI > 0)).ok()
    }
}

/// A decimal number times `factor`, rounded up.
fn scaled(number: &str, factor: i128) -> Option<i128> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && part.is_empty()) || part.len() > 18 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let is_negative = whole.starts_with('-');
    let whole: i128 = if whole.trim_start_matches(['+', '-']).is_empty() { 0 } else { whole.parse().ok()? };
    let unit = 10i128.pow(u32::try_from(part.len()).ok()?);
    let part: i128 = if part.is_empty() { 0 } else { part.parse().ok()? };
    let part = part.checked_mul(factor)?;
    let part = part / unit + i128::from(part % unit > 0);
    let whole = whole.checked_mul(factor)?;
    if is_negative { whole.checked_sub(part) } else { whole.checked_add(part) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_with_their_units() {
        let whole = |text: &str| Quantity(text.to_owned()).whole();
        for (text, expected) in [
            ("64Mi", 64 << 20),
            ("1k", 1000),
            ("1.5Gi", 3 << 29),
            ("128974848", 128_974_848),
            ("129e6", 129_000_000),
            ("128974848000m", 128_974_848),
            ("0.1", 1),
            (".5k", 500),
        ] {
            assert_eq!(whole(text), Some(expected), "{text}");
        }
        for text in ["", "x", "1Q", "1.2.3", "-1", "1e99", "1 Mi", "--1", "-"] {
            assert_eq!(whole(text).filter(|number| *number > 0), None, "{text}");
        }
        let milli = |text: &str| Quantity(text.to_owned()).milli();
        assert_eq!((milli("500m"), milli("0.5"), milli("2")), (Some(500), Some(500), Some(2000)));
    }
}
