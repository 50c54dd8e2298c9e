//! Sizes and times for people, in docker's and podman's words.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A size in decimal units with that many significant digits: `4.34MB`.
pub(crate) fn human_size(bytes: u64, digits: i32) -> String {
    let mut size = bytes as f64;
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut unit = 0;
    // Rounding to the digits asked for must not print 1000kB.
    while unit + 1 < units.len() && round(size, digits) >= 1000.0 {
        size /= 1000.0;
        unit += 1;
    }
    format!("{}{}", significant(size, digits), units[unit])
}

/// A size in binary units with that many significant digits: `23.54GiB`.
pub(crate) fn binary_size(bytes: u64, digits: i32) -> String {
    let mut size = bytes as f64;
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    while unit + 1 < units.len() && size >= 1024.0 {
        size /= 1024.0;
        unit += 1;
    }
    format!("{}{}", significant(size, digits), units[unit])
}

/// Go's `time.Duration`: `1h2m3.5s`, `3.704ms`, `0s`.
pub(crate) fn go_duration(nanoseconds: u64) -> String {
    let fraction = |value: u64, unit: u64| {
        let digits = unit.ilog10() as usize;
        let text = format!("{}.{:0digits$}", value / unit, value % unit);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match nanoseconds {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(nanoseconds, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(nanoseconds, 1_000_000)),
        _ => {
            let minutes = nanoseconds / 60_000_000_000;
            let seconds = fraction(nanoseconds % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// As [`human_size`] with three digits, number and unit apart: `4.34 MB`.
pub(crate) fn human_size_spaced(bytes: u64) -> String {
    let text = human_size(bytes, 3);
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    format!("{} {}", &text[..at], &text[at..])
}

fn decimals(value: f64, digits: i32) -> usize {
    let before = if value < 1.0 { 1 } else { value.log10().floor() as i32 + 1 };
    usize::try_from(digits - before).unwrap_or(0)
}

fn round(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(i32::try_from(decimals(value, digits)).unwrap_or(0));
    (value * factor).round() / factor
}

/// The number with at most `digits` significant digits and without trailing zeros.
fn significant(value: f64, digits: i32) -> String {
    let text = format!("{value:.*}", decimals(value, digits));
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A span of time: `Less than a second`, `2 minutes`, `About an hour`, `3 weeks`.
pub(crate) fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    // Hours are rounded, everything else is cut.
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// A span of time as it would be typed: `24h`, `90m`, `45s`.
pub(crate) fn short_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds % 3600, seconds % 60) {
        (0, _) if seconds > 0 => format!("{}h", seconds / 3600),
        (_, 0) if seconds > 0 => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}

/// How long ago `then` was; a time in the future is now.
pub(crate) fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

/// `3 minutes ago`.
pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    format!("{} ago", human_duration(since(then, now)))
}

/// A time as Go prints it, in the local zone: `2026-11-21 05:17:30.966165866 +0000 UTC`. No time is the year 1.
pub(crate) fn go_time(time: Option<Timestamp>) -> String {
    match time {
        Some(time) => time.to_zoned(local_zone()).strftime("%Y-%m-%d %H:%M:%S%.f %z %Z").to_string(),
        None => "0001-01-01 00:00:00 +0000 UTC".to_owned(),
    }
}

/// A time as Go writes it into JSON, in the local zone.
pub(crate) fn rfc3339(time: Option<Timestamp>) -> String {
    match time {
        Some(time) => {
            let zoned = time.to_zoned(local_zone());
            let format = if zoned.offset().is_zero() { "%Y-%m-%dT%H:%M:%S%.fZ" } else { "%Y-%m-%dT%H:%M:%S%.f%:z" };
            zoned.strftime(format).to_string()
        }
        None => "0001-01-01T00:00:00Z".to_owned(),
    }
}

/// The words of `time.ANSIC`: `Sun Dec 21 16:42:01 2025`.
pub(crate) fn ansi_c(time: Timestamp) -> String {
    time.to_zoned(local_zone()).strftime("%a %b %e %H:%M:%S %Y").to_string()
}

/// The zone that times are shown in: `$TZ`, else the host's.
///
/// Not by `TimeZone::system`, unless `$TZ` asks for a name: to find the name of the host's zone it walks all of
/// `/usr/share/zoneinfo`, which takes longer than `ps` itself, and the name is not needed.
pub(crate) fn local_zone() -> TimeZone {
    if std::env::var_os("TZ").is_some_and(|name| !name.is_empty()) {
        return TimeZone::system();
    }
    let rules = std::fs::read("/etc/localtime").ok();
    rules.and_then(|rules| TimeZone::tzif("Local", &rules).ok()).unwrap_or(TimeZone::UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_go_units() {
        for (bytes, three, four) in [
            (0, "0B", "0B"),
            (999, "999B", "999B"),
            (1000, "1kB", "1kB"),
            (11_264, "11.3kB", "11.26kB"),
            (22_170, "22.2kB", "22.17kB"),
            (999_499, "999kB", "999.5kB"),
            (999_999, "1MB", "1MB"),
            (2_170_880, "2.17MB", "2.171MB"),
            (4_342_855, "4.34MB", "4.343MB"),
            (100_000_000, "100MB", "100MB"),
            (123_456_789_012, "123GB", "123.5GB"),
        ] {
            assert_eq!((human_size(bytes, 3).as_str(), human_size(bytes, 4).as_str()), (three, four), "{bytes}");
        }
        assert_eq!(human_size_spaced(4_342_855), "4.34 MB");
        assert_eq!(human_size_spaced(0), "0 B");
    }

    #[test]
    fn binary_sizes_and_durations_are_gos() {
        for (bytes, text) in [(0, "0B"), (1023, "1023B"), (1 << 10, "1KiB"), (25_276_510_208, "23.54GiB")] {
            assert_eq!(binary_size(bytes, 4), text);
        }
        for (nanoseconds, text) in [
            (0, "0s"),
            (12, "12ns"),
            (1_500, "1.5µs"),
            (3_704_000, "3.704ms"),
            (1_050_000_000, "1.05s"),
            (60_000_000_000, "1m0s"),
            (3_725_250_000_000, "1h2m5.25s"),
        ] {
            assert_eq!(go_duration(nanoseconds), text);
        }
    }

    #[test]
    fn durations_are_those_of_go_units() {
        let hour = 3600;
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (59 * 60 + 59, "59 minutes"),
            (hour, "About an hour"),
            (89 * 60, "About an hour"),
            (90 * 60, "2 hours"),
            (47 * hour, "47 hours"),
            (48 * hour, "2 days"),
            (13 * 24 * hour, "13 days"),
            (14 * 24 * hour, "2 weeks"),
            (60 * 24 * hour, "2 months"),
            (729 * 24 * hour, "24 months"),
            (730 * 24 * hour, "2 years"),
        ] {
            assert_eq!(human_duration(Duration::from_secs(seconds)), text, "{seconds}");
        }
        let (early, late) = (Timestamp::from_second(100).unwrap(), Timestamp::from_second(103).unwrap());
        assert_eq!(ago(early, late), "3 seconds ago");
        assert_eq!(ago(late, early), "Less than a second ago");
    }

    #[test]
    fn times_print_as_go_prints_them() {
        assert_eq!(go_time(None), "0001-01-01 00:00:00 +0000 UTC");
        assert_eq!(rfc3339(None), "0001-01-01T00:00:00Z");
        // The zone of the host is not ours to choose: only the parts it does not change are compared.
        let time = Timestamp::from_nanosecond(1_795_238_250_966_165_800).unwrap();
        assert!(go_time(Some(time)).contains(":30.9661658 "), "{}", go_time(Some(time)));
        assert!(rfc3339(Some(time)).contains(":30.9661658"));
        let whole = Timestamp::from_second(1_795_238_250).unwrap();
        assert!(go_time(Some(whole)).contains(":30 "), "{}", go_time(Some(whole)));
    }
}
