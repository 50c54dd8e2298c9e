//! Id maps as data.

use std::fs;

use super::subid::Range;

/// One line of an id map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMapEntry {
    /// First id inside.
    pub container: u32,
    /// First id outside.
    pub host: u32,
    /// How many.
    pub size: u32,
}

/// A map of ids of a user namespace to those of its parent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMap(pub Vec<IdMapEntry>);

impl IdMap {
    /// Id 0 is `host`, and there is no other.
    pub fn single(host: u32) -> IdMap {
        IdMap(vec![IdMapEntry { container: 0, host, size: 1 }])
    }

    /// Id 0 is `host`; ids from 1 on are the ranges, one after another.
    pub fn with_ranges(host: u32, ranges: &[Range]) -> IdMap {
        let mut map = IdMap::single(host);
        let mut next: u32 = 1;
        for range in ranges {
            // Ids end at 2³² - 2: (uid_t)-1 is no id.
            let size = range.size.min((u32::MAX - 1).saturating_sub(next));
            if size == 0 {
                break;
            }
            map.0.push(IdMapEntry { container: next, host: range.start, size });
            next += size;
        }
        map
    }

    /// Every id of the current namespace, as itself; `file` is `/proc/self/uid_map` or `gid_map`.
    pub fn identity_of(file: &str) -> IdMap {
        let text = fs::read_to_string(file).unwrap_or_default();
        let entries = text.lines().filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse::<u32>);
            let (container, _, size) = (numbers.next()?.ok()?, numbers.next()?, numbers.next()?.ok()?);
            Some(IdMapEntry { container, host: container, size })
        });
        IdMap(entries.collect())
    }

    /// The map of a nested namespace in which `container_id` is id 0 of this one and the other ids keep their order:
    /// what `--userns keep-id` asks for. Entries are relative to this map's container ids.
    pub fn keep_id(&self, container_id: u32, size: Option<u32>) -> IdMap {
        let available = self.len();
        let total = size.map_or(available, |size| u64::from(size).min(available));
        let mut entries = Vec::new();
        let mut push = |container: u64, host: u64, end: u64| {
            if end > container {
                entries.push(IdMapEntry {
                    container: container as u32,
                    host: host as u32,
                    size: (end - container) as u32,
                });
            }
        };
        let id = u64::from(container_id);
        // Ids below are 1..=id, the user is 0, ids above follow.
        push(0, 1, id.min(total.saturating_sub(1)));
        push(id, 0, id + 1);
        push(id + 1, id + 1, total);
        IdMap(entries)
    }

    /// How many ids there are.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|entry| u64::from(entry.size)).sum()
    }

    /// One more than the highest id inside.
    pub fn end(&self) -> u64 {
        self.0.iter().map(|entry| u64::from(entry.container) + u64::from(entry.size)).max().unwrap_or(0)
    }

    /// Whether no id is mapped.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The id outside for an id inside.
    pub fn to_host(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|entry| {
            let offset = id.checked_sub(entry.container)?;
            (offset < entry.size).then(|| entry.host + offset)
        })
    }

    /// As `/proc/PID/uid_map` takes it.
    pub fn to_proc_text(&self) -> String {
        self.0.iter().map(|e| format!("{} {} {}\n", e.container, e.host, e.size)).collect()
    }

    /// As one line of arguments of `newuidmap(1)`.
    pub fn to_argument_text(&self) -> String {
        self.0.iter().map(|e| format!("{} {} {}", e.container, e.host, e.size)).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_each_other_after_the_users_own_id() {
        let map = IdMap::with_ranges(1000, &[Range { start: 5000, size: 10 }, Range { start: 9000, size: 5 }]);
        assert_eq!(map.to_argument_text(), "0 1000 1 1 5000 10 11 9000 5");
        assert_eq!(
            (map.to_host(0), map.to_host(10), map.to_host(11), map.to_host(16)),
            (Some(1000), Some(5009), Some(9000), None)
        );
    }

    #[test]
    fn keep_id_puts_the_user_at_its_own_number_and_moves_the_ids_below_up() {
        let map = IdMap::with_ranges(1000, &[Range { start: 100_000, size: 65_536 }]);
        assert_eq!(map.keep_id(1000, None).to_argument_text(), "0 1 1000 1000 0 1 1001 1001 64536");
        assert_eq!(map.keep_id(0, None).to_argument_text(), "0 0 1 1 1 65536");
    }
}
