//! Moments: as log records spell them, and as users ask for them with `--since` and `--until`.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::sys::monitor::local_offset_s;

/// A moment in nanoseconds since 1970, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Whole seconds.
    pub secs: i64,
    /// The rest, below a thousand million.
    pub nanos: u32,
}

/// A text that names no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid time: {0:?}: use a date, RFC 3339, unix seconds, or a duration such as 10m")]
pub struct BadMoment(pub String);

/// A day, 1 based, of the Gregorian calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Date {
    year: i64,
    month: i64,
    day: i64,
}

/// Howard Hinnant, *chrono-compatible low-level date algorithms*: `days_from_civil`.
fn days_from_date(date: Date) -> i64 {
    let year = if date.month <= 2 { date.year - 1 } else { date.year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = (date.month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + date.day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// As above: `civil_from_days`.
fn date_from_days(days: i64) -> Date {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Date { year, month, day: day_of_year - (153 * shifted_month + 2) / 5 + 1 }
}

/// Appends a number with leading zeros.
fn push_digits(out: &mut Vec<u8>, number: i64, width: u32) {
    for place in (0..width).rev() {
        out.push(b'0' + (number / 10i64.pow(place) % 10) as u8);
    }
}

impl Timestamp {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { secs: since.as_secs().cast_signed(), nanos: since.subsec_nanos() }
    }

    /// Appends `2026-01-02T03:04:05`, as a clock shows it that is `offset_s` ahead of UTC.
    fn write_seconds(self, offset_s: i32, out: &mut Vec<u8>) {
        let local = self.secs + i64::from(offset_s);
        let Date { year, month, day } = date_from_days(local.div_euclid(86_400));
        let second = local.rem_euclid(86_400);
        for (number, width, after) in [
            (year, 4, b'-'),
            (month, 2, b'-'),
            (day, 2, b'T'),
            (second / 3_600, 2, b':'),
            (second / 60 % 60, 2, b':'),
            (second % 60, 2, b'.'),
        ] {
            push_digits(out, number, width);
            out.push(after);
        }
        out.pop();
    }

    /// Appends `2026-01-02T03:04:05.000000000+01:00`.
    pub fn write_with_offset(self, offset_s: i32, out: &mut Vec<u8>) {
        self.write_seconds(offset_s, out);
        out.push(b'.');
        push_digits(out, i64::from(self.nanos), 9);
        out.push(if offset_s < 0 { b'-' } else { b'+' });
        let minutes = i64::from(offset_s.unsigned_abs() / 60);
        push_digits(out, minutes / 60, 2);
        out.push(b':');
        push_digits(out, minutes % 60, 2);
    }

    /// Appends `2026-01-02T03:04:05.12Z`: no zeros at the end of the fraction, as Go's `RFC3339Nano`.
    pub fn write_utc(self, out: &mut Vec<u8>) {
        self.write_seconds(0, out);
        if self.nanos > 0 {
            out.push(b'.');
            push_digits(out, i64::from(self.nanos), 9);
            while out.last() == Some(&b'0') {
                out.pop();
            }
        }
        out.push(b'Z');
    }

    /// Reads RFC 3339; the second part is the offset in seconds that was written.
    #[must_use]
    pub fn parse_rfc3339(text: &[u8]) -> Option<(Self, i32)> {
        let (moment, offset) = parse_date_time(std::str::from_utf8(text).ok()?)?;
        let offset = offset?;
        Some((moment.minus_s(i64::from(offset)), offset))
    }

    /// Reads what users give to `--since` and `--until`: RFC 3339, a date or a date with a time (local if without
    /// offset), unix seconds with a fraction, or how long before `now` it was (`10m`, `1h30m`).
    ///
    /// # Errors
    /// [`BadMoment`].
    pub fn parse_moment(text: &str, now: Self) -> Result<Self, BadMoment> {
        let bad = || BadMoment(text.to_owned());
        let text = text.trim();
        if let Some((moment, offset)) = parse_date_time(text) {
            return Ok(match offset {
                Some(offset) => moment.minus_s(i64::from(offset)),
                None => {
                    // The offset that holds at that moment, found from the one that holds nearby.
                    let near = i64::from(local_offset_s(moment.secs));
                    moment.minus_s(i64::from(local_offset_s(moment.secs - near)))
                }
            });
        }
        if let Some(moment) = parse_unix(text) {
            return Ok(moment);
        }
        let ago_ns = parse_duration_ns(text).ok_or_else(bad)?;
        let now_ns = i128::from(now.secs) * 1_000_000_000 + i128::from(now.nanos);
        let then_ns = now_ns - ago_ns;
        let secs = i64::try_from(then_ns.div_euclid(1_000_000_000)).map_err(|_| bad())?;
        Ok(Self { secs, nanos: then_ns.rem_euclid(1_000_000_000) as u32 })
    }

    fn minus_s(self, secs: i64) -> Self {
        Self { secs: self.secs - secs, ..self }
    }
}

/// Reads a date, `T` or a blank, a time with any number of its parts, and an offset; the moment is as if in UTC.
fn parse_date_time(text: &str) -> Option<(Timestamp, Option<i32>)> {
    let (year, rest) = number(text, 4)?;
    let (month, rest) = number(rest.strip_prefix('-')?, 2)?;
    let (day, mut rest) = number(rest.strip_prefix('-')?, 2)?;
    let date = Date { year, month, day };
    let days = days_from_date(date);
    if date_from_days(days) != date {
        return None;
    }
    let mut secs = days * 86_400;
    let mut nanos = 0;
    if let Some(time) = rest.strip_prefix(['T', 't', ' ']) {
        let (hour, after) = number(time, 2)?;
        let (mut minute, mut second) = (0, 0);
        rest = after;
        if let Some(after) = rest.strip_prefix(':') {
            (minute, rest) = number(after, 2)?;
            if let Some(after) = rest.strip_prefix(':') {
                (second, rest) = number(after, 2)?;
                if let Some(after) = rest.strip_prefix('.') {
                    (nanos, rest) = fraction(after)?;
                }
            }
        }
        if hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        secs += hour * 3_600 + minute * 60 + second;
    }
    Some((Timestamp { secs, nanos }, parse_offset(rest)?))
}

/// `Z`, `+01:00`, or nothing.
fn parse_offset(text: &str) -> Option<Option<i32>> {
    if text.is_empty() {
        return Some(None);
    }
    if text == "Z" || text == "z" {
        return Some(Some(0));
    }
    let (sign, rest) = match text.strip_prefix('+') {
        Some(rest) => (1, rest),
        None => (-1, text.strip_prefix('-')?),
    };
    let (hours, rest) = number(rest, 2)?;
    let (minutes, rest) = number(rest.strip_prefix(':')?, 2)?;
    let seconds = i32::try_from(hours * 3_600 + minutes * 60).ok()?;
    (rest.is_empty() && hours < 24 && minutes < 60).then_some(Some(sign * seconds))
}

/// Exactly `width` digits, and what comes after.
fn number(text: &str, width: usize) -> Option<(i64, &str)> {
    let (digits, rest) = text.split_at_checked(width)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
    Some((digits.parse().ok()?, rest))
}

/// Digits after a point as nanoseconds; those beyond nine are dropped.
fn fraction(text: &str) -> Option<(u32, &str)> {
    let len = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at_checked(len)?;
    let nine: String = digits.chars().chain("000000000".chars()).take(9).collect();
    (len > 0).then_some(())?;
    Some((nine.parse().ok()?, rest))
}

/// Unix seconds with or without a fraction.
fn parse_unix(text: &str) -> Option<Timestamp> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
    let (nanos, rest) = fraction(rest)?;
    let is_number = !whole.is_empty() && whole.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && rest.is_empty()).then_some(())?;
    Some(Timestamp { secs: whole.parse().ok()?, nanos })
}

/// Go's durations: numbers with fractions, each with a unit, and a sign before all of them.
fn parse_duration_ns(text: &str) -> Option<i128> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let len = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, after) = rest.split_at_checked(len)?;
        let (billionths, after) = match after.strip_prefix('.') {
            Some(digits) => fraction(digits)?,
            None => (0, after),
        };
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(unit_len)?;
        let unit_ns: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let whole: i128 =
            if whole.is_empty() && billionths == 0 { return None } else { i128::from(parse_or_zero(whole)?) };
        total += whole * unit_ns + i128::from(billionths) * unit_ns / 1_000_000_000;
        rest = after;
    }
    Some(sign * total)
}

/// `.5h` has no digits before the point.
fn parse_or_zero(digits: &str) -> Option<i64> {
    if digits.is_empty() { Some(0) } else { digits.parse().ok() }
}

/// Writes local times without asking libc each time.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Offsets change on quarters of an hour only; 0 has not been asked for.
    quarter: i64,
    offset_s: i32,
}

impl Clock {
    pub(super) fn write_local(&mut self, moment: Timestamp, out: &mut Vec<u8>) {
        let quarter = moment.secs / 900;
        if quarter != self.quarter {
            self.quarter = quarter;
            self.offset_s = local_offset_s(moment.secs);
        }
        moment.write_with_offset(self.offset_s, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn moments_print_as_the_drivers_write_them() {
        let moment = Timestamp { secs: 1_767_323_045, nanos: 12_340_000 };
        assert_eq!(text(|out| moment.write_utc(out)), "2026-01-02T03:04:05.01234Z");
        assert_eq!(text(|out| moment.write_with_offset(0, out)), "2026-01-02T03:04:05.012340000+00:00");
        assert_eq!(text(|out| moment.write_with_offset(-34_200, out)), "2026-01-01T17:34:05.012340000-09:30");
        let whole = Timestamp { secs: 951_782_400, nanos: 0 };
        assert_eq!(text(|out| whole.write_utc(out)), "2000-02-29T00:00:00Z");
    }

    #[test]
    fn every_day_of_eight_centuries_survives_the_calendar() {
        let mut last = date_from_days(-150_000);
        for days in -149_999..150_000 {
            let date = date_from_days(days);
            assert_eq!(days_from_date(date), days);
            assert!(date.day == last.day + 1 || date.day == 1, "{date:?} after {last:?}");
            last = date;
        }
    }

    #[test]
    fn what_users_ask_for_is_understood() {
        let now = Timestamp { secs: 1_767_323_045, nanos: 500_000_000 };
        let at = |secs, nanos| Ok(Timestamp { secs, nanos });
        for (asked, moment) in [
            ("2026-01-02T03:04:05Z", at(1_767_323_045, 0)),
            ("2026-01-02T03:04:05.25Z", at(1_767_323_045, 250_000_000)),
            ("2026-01-02T04:04:05+01:00", at(1_767_323_045, 0)),
            ("2026-01-01T17:34:05.1-09:30", at(1_767_323_045, 100_000_000)),
            ("2026-01-02 03:04Z", at(1_767_323_040, 0)),
            ("2026-01-02Z", at(1_767_312_000, 0)),
            ("1767323045", at(1_767_323_045, 0)),
            ("1767323045.000000001", at(1_767_323_045, 1)),
            ("1767323045.5", at(1_767_323_045, 500_000_000)),
            ("0", at(0, 0)),
            ("10m", at(1_767_322_445, 500_000_000)),
            ("1h30m", at(1_767_317_645, 500_000_000)),
            ("1.5h", at(1_767_317_645, 500_000_000)),
            (".5s", at(1_767_323_045, 0)),
            ("500ms", at(1_767_323_045, 0)),
            ("-1s", at(1_767_323_046, 500_000_000)),
            ("1us", at(1_767_323_045, 499_999_000)),
        ] {
            assert_eq!(Timestamp::parse_moment(asked, now), moment, "{asked}");
        }
        for bad in [
            "",
            "x",
            "10",
            "1x",
            "h",
            "1h30",
            "2026-13-01",
            "2026-02-30",
            "2026-01-02T24:00Z",
            "12:00",
            "-",
            "1.h",
            "2026-01-02T03:04:05+0100",
        ] {
            let result = Timestamp::parse_moment(bad, now);
            // A bare number is unix seconds.
            assert_eq!(result.is_err(), bad != "10", "{bad} {result:?}");
        }
    }

    #[test]
    fn a_time_without_offset_is_local() {
        let now = Timestamp::now();
        let offset = i64::from(local_offset_s(1_767_323_045));
        let expected = Timestamp { secs: 1_767_323_045 - offset, nanos: 0 };
        assert_eq!(Timestamp::parse_moment("2026-01-02T03:04:05", now), Ok(expected));
    }

    #[test]
    fn what_the_clock_writes_is_read_back() {
        let now = Timestamp::now();
        let written = text(|out| Clock::default().write_local(now, out));
        assert_eq!(Timestamp::parse_rfc3339(written.as_bytes()).map(|(moment, _)| moment), Some(now));
    }
}
