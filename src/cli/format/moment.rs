//! The methods of Go's `time.Time` that templates use: `{{.State.StartedAt.Unix}}`, `{{.Created.Format "2006-01-02"}}`.
//!
//! # Source
//! <https://pkg.go.dev/time#pkg-constants>

use jiff::{Timestamp, tz::TimeZone};

use super::Value;
use crate::cli::units;

/// What a layout shows, and what that is to `strftime`; of those that fit at a place the first is meant.
const PARTS: [(&str, &str); 23] = [
    ("January", "%B"),
    ("Jan", "%b"),
    ("Monday", "%A"),
    ("Mon", "%a"),
    ("MST", "%Z"),
    ("2006", "%Y"),
    ("-07:00", "%:z"),
    ("-0700", "%z"),
    ("01", "%m"),
    ("02", "%d"),
    ("03", "%I"),
    ("04", "%M"),
    ("05", "%S"),
    ("06", "%y"),
    ("15", "%H"),
    ("_2", "%e"),
    ("PM", "%p"),
    ("pm", "%P"),
    ("1", "%-m"),
    ("2", "%-d"),
    ("3", "%-I"),
    ("4", "%-M"),
    ("5", "%-S"),
];

/// A method without arguments. No time is the first second of year 1.
pub(super) fn method(time: Option<Timestamp>, name: &str) -> Option<Value> {
    const YEAR_1: i64 = -62_135_596_800;
    Some(match name {
        "Unix" => Value::Int(time.map_or(YEAR_1, Timestamp::as_second)),
        "UnixMilli" => Value::Int(time.map_or(YEAR_1 * 1000, Timestamp::as_millisecond)),
        "UnixNano" => Value::Int(time.map_or(0, |time| i64::try_from(time.as_nanosecond()).unwrap_or(0))),
        "IsZero" => time.is_none().into(),
        "String" => units::go_time(time).into(),
        "Local" | "UTC" => Value::Time(time),
        "Year" => Value::Int(format(time, "2006").parse().ok()?),
        "Day" => Value::Int(format(time, "2").parse().ok()?),
        "Month" => format(time, "January").into(),
        "Weekday" => format(time, "Monday").into(),
        _ => return None,
    })
}

/// `Format`: the time as the layout shows 2006-01-02 15:04:05.
pub(super) fn format(time: Option<Timestamp>, layout: &str) -> String {
    let zoned = match time {
        Some(time) => time.to_zoned(units::local_zone()),
        None => match jiff::civil::date(1, 1, 1).to_zoned(TimeZone::UTC) {
            Ok(zoned) => zoned,
            Err(_) => return String::new(),
        },
    };
    let (mut text, mut rest) = (String::new(), layout);
    while let Some(first) = rest.chars().next() {
        // A fraction of a second: as many digits as there are zeros, or up to as many as there are nines.
        let digits = rest.strip_prefix(['.', ',']).unwrap_or("");
        let digit = digits.chars().next().filter(|digit| matches!(digit, '0' | '9'));
        let count = digits.chars().take_while(|c| Some(*c) == digit).count();
        if let Some(digit) = digit
            && !digits[count..].starts_with(|c: char| c.is_ascii_digit())
        {
            let all = format!("{:09}", zoned.subsec_nanosecond());
            let shown = all.get(..count.min(9)).unwrap_or_default();
            let shown = if digit == '9' { shown.trim_end_matches('0') } else { shown };
            if !shown.is_empty() {
                text.push(first);
                text += shown;
            }
            rest = &digits[count..];
            continue;
        }
        if let Some(after) = rest.strip_prefix("Z07:00").or_else(|| rest.strip_prefix("Z0700")) {
            let colon = rest.starts_with("Z07:00");
            text += &match (zoned.offset().is_zero(), colon) {
                (true, _) => "Z".to_owned(),
                (false, true) => zoned.strftime("%:z").to_string(),
                (false, false) => zoned.strftime("%z").to_string(),
            };
            rest = after;
            continue;
        }
        match PARTS.iter().find(|(shown, _)| rest.starts_with(shown)) {
            Some((shown, directive)) => {
                text += &zoned.strftime(directive).to_string();
                rest = &rest[shown.len()..];
            }
            None => {
                text.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_those_of_go() {
        let time: Timestamp = "2026-11-05T04:03:02.120Z".parse().unwrap();
        let zone = units::local_zone().to_offset(time);
        let hour = (4 + i64::from(zone.seconds()) / 3600).rem_euclid(24);
        for (layout, expected) in [
            ("2006", "2026".to_owned()),
            ("06/1", "26/11".to_owned()),
            ("Jan _2", format!("Nov {}", time.to_zoned(units::local_zone()).strftime("%e"))),
            ("15h", format!("{hour:02}h")),
            (":04:05.000", ":03:02.120".to_owned()),
            (":04:05.999999", ":03:02.12".to_owned()),
            ("in words", "in words".to_owned()),
        ] {
            assert_eq!(format(Some(time), layout), expected, "{layout}");
        }
        assert_eq!(format(None, "2006-01-02T15:04:05Z07:00"), "0001-01-01T00:00:00Z");
    }

    #[test]
    fn a_time_has_the_methods_that_need_no_argument() {
        let time: Timestamp = "2026-11-05T04:03:02.5Z".parse().unwrap();
        assert_eq!(method(Some(time), "Unix"), Some(Value::Int(1_793_851_382)));
        assert_eq!(method(Some(time), "UnixNano"), Some(Value::Int(1_793_851_382_500_000_000)));
        assert_eq!(method(None, "IsZero"), Some(Value::Bool(true)));
        assert_eq!(method(None, "Nosuch"), None);
    }
}
