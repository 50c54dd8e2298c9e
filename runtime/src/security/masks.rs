//! Paths of `/proc` and `/sys` that a container must not read, or must not write.
//!
//! Moby's lists, as data: [`MaskedPaths::default_for`] computes, the mount plan carries out. A path
//! that the kernel at hand does not have is skipped there.

use std::path::Path;

/// Unreadable in every container: `linux.maskedPaths`.
///
/// # Source
/// Moby, `daemon/pkg/oci/defaults.go`.
pub const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Read-only in every container: `linux.readonlyPaths`.
///
/// # Source
/// Moby, `daemon/pkg/oci/defaults.go`.
pub const READONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What a container sees of the kernel's own paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaskedPaths {
    /// Covered by an empty directory or `/dev/null`.
    pub masked: Vec<String>,
    /// Mounted read-only.
    pub readonly: Vec<String>,
}

impl MaskedPaths {
    /// The default, with the thermal throttling counters of this host's processors.
    pub fn default_for_host() -> Self {
        Self::default_for(Path::new("/sys/devices/system/cpu"))
    }

    /// The default for a host whose processors are listed in this directory of sysfs.
    ///
    /// `cpuN/thermal_throttle` counts events that tell a container what its neighbours do, as
    /// `/proc/interrupts` does. Finding them costs one read and one stat for each processor.
    pub fn default_for(cpus: &Path) -> Self {
        let mut masked: Vec<String> = MASKED.iter().map(ToString::to_string).collect();
        let possible = std::fs::read_to_string(cpus.join("possible")).unwrap_or_default();
        masked.extend(
            processors(&possible)
                .filter(|number| cpus.join(format!("cpu{number}/thermal_throttle")).exists())
                .map(|number| format!("/sys/devices/system/cpu/cpu{number}/thermal_throttle")),
        );
        masked.sort_unstable();
        Self { masked, readonly: READONLY.iter().map(ToString::to_string).collect() }
    }

    /// Nothing masked, nothing read-only: `--privileged` and `--security-opt systempaths=unconfined`.
    pub fn unconfined() -> Self {
        Self::default()
    }

    /// Applies the values of `--security-opt unmask=`: `ALL`, or paths and patterns joined by `:`.
    ///
    /// A pattern is podman's: `*` and `?` stop at `/`, `[a-z]` is a class. It opens masked and
    /// read-only paths alike.
    #[must_use]
    pub fn unmask<'a>(mut self, values: impl IntoIterator<Item = &'a str>) -> Self {
        for pattern in values.into_iter().flat_map(|value| value.split(':')).filter(|pattern| !pattern.is_empty()) {
            let all = pattern.eq_ignore_ascii_case("ALL");
            let keep = |path: &String| !all && !matches(pattern.as_bytes(), path.as_bytes());
            self.masked.retain(keep);
            self.readonly.retain(keep);
        }
        self
    }

    /// Applies the values of `--security-opt mask=`: paths joined by `:`. Comes after `unmask`.
    #[must_use]
    pub fn mask<'a>(mut self, values: impl IntoIterator<Item = &'a str>) -> Self {
        for path in values.into_iter().flat_map(|value| value.split(':')).filter(|path| !path.is_empty()) {
            if !self.masked.iter().any(|masked| masked == path) {
                self.masked.push(path.to_owned());
            }
        }
        self
    }
}

/// The numbers in a list like `0-3,8`; what does not parse is skipped.
fn processors(list: &str) -> impl Iterator<Item = u32> {
    // A machine has at most NR_CPUS = 8192 processors: a range beyond that is no list of the kernel's.
    const LIMIT: u32 = 8192;
    list.trim().split(',').flat_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<u32>(), last.parse::<u32>()) {
            (Ok(first), Ok(last)) => first..last.min(LIMIT).saturating_add(1),
            _ => 0..0,
        }
    })
}

/// Shell pattern match as Go's `filepath.Match` has it; a malformed pattern matches nothing.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            let reach = name.iter().position(|byte| *byte == b'/').unwrap_or(name.len());
            (0..=reach).any(|taken| matches(rest, &name[taken..]))
        }
        (Some((b'?', rest)), Some((byte, name))) => *byte != b'/' && matches(rest, name),
        (Some((b'[', rest)), Some((byte, name))) => {
            class(rest, *byte).is_some_and(|(member, rest)| member && *byte != b'/' && matches(rest, name))
        }
        (Some((b'\\', rest)), Some((byte, name))) => {
            rest.split_first().is_some_and(|(literal, rest)| literal == byte && matches(rest, name))
        }
        (Some((literal, rest)), Some((byte, name))) => literal == byte && matches(rest, name),
        _ => false,
    }
}

/// Whether `byte` is in the class whose text follows `[`, and what follows `]`.
fn class(text: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let end = text.iter().skip(1).position(|byte| *byte == b']')? + 1;
    let (members, rest) = (&text[..end], &text[end + 1..]);
    let (negated, mut members) = match members.split_first()? {
        (b'^', members) => (true, members),
        _ => (false, members),
    };
    let mut member = false;
    while let Some((low, tail)) = members.split_first() {
        let (high, tail) = match tail {
            [b'-', high, tail @ ..] => (high, tail),
            _ => (low, tail),
        };
        member |= (*low..=*high).contains(&byte);
        members = tail;
    }
    Some((member != negated, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_has_moby_lists_and_the_throttle_counters_that_exist() {
        let cpus = tempfile::tempdir().unwrap();
        std::fs::write(cpus.path().join("possible"), "0-2\n").unwrap();
        std::fs::create_dir_all(cpus.path().join("cpu1/thermal_throttle")).unwrap();
        let paths = MaskedPaths::default_for(cpus.path());
        for path in MASKED {
            assert!(paths.masked.iter().any(|masked| masked == path), "{path}");
        }
        assert_eq!(paths.masked.len(), MASKED.len() + 1);
        assert!(paths.masked.contains(&"/sys/devices/system/cpu/cpu1/thermal_throttle".to_owned()));
        assert_eq!(paths.readonly, READONLY);
    }

    #[test]
    fn a_host_without_sysfs_still_masks_the_rest() {
        assert_eq!(MaskedPaths::default_for(Path::new("/nonexistent")).masked, MASKED);
    }

    #[test]
    fn processor_lists_are_the_kernels() {
        let numbers = |list| processors(list).collect::<Vec<_>>();
        assert_eq!(numbers("0\n"), [0]);
        assert_eq!(numbers("0-3,8,10-11"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(numbers(""), [0_u32; 0]);
        assert_eq!(numbers("3-1,x,-"), [0_u32; 0]);
        assert_eq!(numbers("0-4294967295").len(), 8193);
    }

    #[test]
    fn unmask_opens_by_path_by_pattern_and_wholly() {
        let default = MaskedPaths::default_for(Path::new("/nonexistent"));
        assert_eq!(default.clone().unmask(["ALL"]), MaskedPaths::unconfined());
        assert_eq!(default.clone().unmask(["all"]), MaskedPaths::unconfined());

        let two = default.clone().unmask(["/proc/kcore:/proc/sys"]);
        assert_eq!(two.masked.len(), MASKED.len() - 1);
        assert_eq!(two.readonly.len(), READONLY.len() - 1);

        let no_proc = default.clone().unmask(["/proc/*"]);
        assert_eq!(no_proc.masked, ["/sys/devices/virtual/powercap", "/sys/firmware"]);
        assert!(no_proc.readonly.is_empty());

        assert_eq!(default.clone().unmask(["", "/proc", "[", "/proc/[z-a]*"]), default);
    }

    #[test]
    fn mask_adds_once() {
        let paths = MaskedPaths::unconfined().mask(["/a:/b", "/a"]);
        assert_eq!(paths.masked, ["/a", "/b"]);
        assert!(paths.readonly.is_empty());
    }

    #[test]
    fn patterns_match_as_in_go() {
        for (pattern, name, expected) in [
            ("/sys/fi*", "/sys/firmware", true),
            ("/sys/*", "/sys/devices/virtual/powercap", false),
            ("/proc/k?ore", "/proc/kcore", true),
            ("/proc/[a-k]core", "/proc/kcore", true),
            ("/proc/[^a-k]core", "/proc/kcore", false),
            ("/proc/\\kcore", "/proc/kcore", true),
            ("*", "", true),
            ("?", "/", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
