//! Subordinate id ranges: `/etc/subuid` and `/etc/subgid`.

use std::fs;

/// A range of host ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First host id.
    pub start: u32,
    /// How many.
    pub size: u32,
}

/// How a user may be written in `subuid(5)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    uid: String,
    name: Option<String>,
}

impl Owner {
    /// The user `uid`, with its name from `/etc/passwd` or, for users of a directory service, `$USER`.
    pub fn of(uid: u32) -> Owner {
        let uid = uid.to_string();
        let passwd = fs::read("/etc/passwd").unwrap_or_default();
        let name = String::from_utf8_lossy(&passwd)
            .lines()
            .find_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                (fields.nth(1)? == uid).then(|| name.to_owned())
            })
            .or_else(|| std::env::var("USER").ok().filter(|name| !name.is_empty()));
        Owner { uid, name }
    }

    /// The name, or the number where there is none.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.uid)
    }
}

/// The ranges that `file` gives to `owner`; `None` if there is no usable one.
pub fn ranges(file: &str, owner: &Owner) -> Option<Vec<Range>> {
    let ranges = parse(&String::from_utf8_lossy(&fs::read(file).ok()?), owner);
    (!ranges.is_empty()).then_some(ranges)
}

/// Malformed lines are skipped, as shadow's own reader does.
fn parse(text: &str, owner: &Owner) -> Vec<Range> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let who = fields.next()?;
            if who != owner.uid && Some(who) != owner.name.as_deref() {
                return None;
            }
            let start: u32 = fields.next()?.trim().parse().ok()?;
            let size: u32 = fields.next()?.trim().parse().ok()?;
            (size > 0 && start.checked_add(size - 1).is_some()).then_some(Range { start, size })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number_and_malformed_lines_are_skipped() {
        let owner = Owner { uid: "1000".into(), name: Some("eve".into()) };
        let text = "eve:100000:65536\nbob:1:2\n# x\n1000:300000:10\neve:x:1\neve:5\neve:4294967295:2\neve:7:0\n";
        let expected = [Range { start: 100_000, size: 65_536 }, Range { start: 300_000, size: 10 }];
        assert_eq!(parse(text, &owner), expected);
    }
}
