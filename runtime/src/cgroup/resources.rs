//! `linux.resources` of a bundle, as what is written to the files of a cgroup of version 2.

use std::collections::BTreeSet;
use std::path::Path;

use oci_spec::runtime::LinuxResources;

/// Why limits cannot be set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResourcesError {
    /// Cgroups of version 2 have no such thing.
    #[error("linux.resources.{0}: cgroups of version 2 have no such limit")]
    Unsupported(&'static str),
    /// A number that is none.
    #[error("linux.resources.{name}: {value}: {reason}")]
    Invalid {
        /// Which limit.
        name: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file could not be written.
    #[error("cgroup: write {value:?} to {file}: {}", crate::sys::reason(source))]
    Write {
        /// The file in the cgroup.
        file: String,
        /// What was to be written.
        value: String,
        /// Why: `ENOENT` if the controller is not delegated to the user.
        source: std::io::Error,
    },
}

/// A file of a cgroup and what is written to it.
pub type Setting = (String, String);

/// The settings that `resources` mean, in the order in which they are written. Device rules are left out: they need
/// privileges that no user namespace has, and a container there can open only what is bound into it.
///
/// # Errors
/// [`ResourcesError::Unsupported`], [`ResourcesError::Invalid`].
///
/// # Source
/// OCI runtime specification, `config-linux.md`; the conversion of shares is that of `crun`, `crun.1.md`.
pub fn settings(resources: &LinuxResources) -> Result<Vec<Setting>, ResourcesError> {
    let mut out: Vec<Setting> = Vec::new();
    let mut set = |file: &str, value: String| out.push((file.to_owned(), value));
    if let Some(memory) = resources.memory() {
        if memory.swappiness().is_some() {
            return Err(ResourcesError::Unsupported("memory.swappiness"));
        }
        if memory.disable_oom_killer() == Some(true) {
            return Err(ResourcesError::Unsupported("memory.disableOOMKiller"));
        }
        let limit = memory.limit().filter(|bytes| *bytes != 0);
        if let Some(bytes) = limit {
            set("memory.max", max_or(bytes));
        }
        if let Some(bytes) = memory.swap().filter(|bytes| *bytes != 0) {
            // The bundle counts memory and swap together, the kernel swap alone.
            let swap = match (bytes, limit) {
                (..0, _) => max_or(bytes),
                (bytes, Some(limit)) if limit >= 0 && bytes >= limit => (bytes - limit).to_string(),
                _ => {
                    let reason = "must not be below the limit of memory, which must be given";
                    return Err(ResourcesError::Invalid { name: "memory.swap", value: bytes.to_string(), reason });
                }
            };
            set("memory.swap.max", swap);
        }
        if let Some(bytes) = memory.reservation().filter(|bytes| *bytes != 0) {
            set("memory.low", max_or(bytes));
        }
    }
    if let Some(cpu) = resources.cpu() {
        if cpu.realtime_runtime().is_some_and(|time| time != 0) {
            return Err(ResourcesError::Unsupported("cpu.realtimeRuntime"));
        }
        if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
            set("cpu.weight", weight_of_shares(shares).to_string());
        }
        let quota = cpu.quota().filter(|quota| *quota != 0);
        let period = cpu.period().filter(|period| *period != 0);
        match (quota, period) {
            (None, None) => {}
            (quota, period) => {
                let quota = quota.map_or_else(|| "max".to_owned(), max_or);
                set("cpu.max", format!("{quota} {}", period.unwrap_or(100_000)));
            }
        }
        if let Some(burst) = cpu.burst() {
            set("cpu.max.burst", burst.to_string());
        }
        if let Some(idle) = cpu.idle() {
            set("cpu.idle", idle.to_string());
        }
        for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
            if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
                set(file, list.clone());
            }
        }
    }
    if let Some(limit) = resources.pids().map(|pids| pids.limit()).filter(|limit| *limit != 0) {
        set("pids.max", max_or(limit));
    }
    if let Some(io) = resources.block_io() {
        if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
            set("io.weight", format!("default {}", io_weight(weight)));
        }
        for device in io.weight_device().iter().flatten() {
            if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
                set("io.weight", format!("{}:{} {}", device.major(), device.minor(), io_weight(weight)));
            }
        }
        for (key, devices) in [
            ("rbps", io.throttle_read_bps_device()),
            ("wbps", io.throttle_write_bps_device()),
            ("riops", io.throttle_read_iops_device()),
            ("wiops", io.throttle_write_iops_device()),
        ] {
            for device in devices.iter().flatten() {
                let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
                set("io.max", format!("{}:{} {key}={rate}", device.major(), device.minor()));
            }
        }
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        set(&format!("hugetlb.{}.max", limit.page_size()), max_or(limit.limit()));
    }
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (file, value) in unified {
        if file.contains('/') || !file.contains('.') {
            let reason = "not the name of a file in a cgroup";
            return Err(ResourcesError::Invalid { name: "unified", value: file.clone(), reason });
        }
        set(file, value.clone());
    }
    Ok(out)
}

/// The controller that a setting needs; `None` if every cgroup has its file.
pub fn controller(setting: &Setting) -> Option<&str> {
    setting.0.split('.').next().filter(|name| *name != "cgroup")
}

/// Whether a setting asks for nothing but no limit.
pub fn is_unlimited(setting: &Setting) -> bool {
    setting.1 == "max" || setting.1.starts_with("max ")
}

/// Writes them, once the controllers are on.
///
/// # Errors
/// [`ResourcesError::Write`] of the first that failed.
///
/// # Source
/// `io.bfq.weight` is the file of the BFQ scheduler, for hosts without `io.weight`: Linux `Documentation/block/bfq-iosched.rst`.
pub fn write(cgroup: &Path, settings: &[Setting]) -> Result<(), ResourcesError> {
    settings.iter().try_for_each(|(file, value)| {
        let failed = |source| ResourcesError::Write { file: file.clone(), value: value.clone(), source };
        // Never made: a directory that is no cgroup must not get such files.
        let open = |name: &str| std::fs::File::options().write(true).open(cgroup.join(name));
        let opened = match open(file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => match file.as_str() {
                "io.weight" => open("io.bfq.weight"),
                // A kernel that does not account swap apart: there is none to limit.
                "memory.swap.max" if cgroup.join("memory.max").exists() => return Ok(()),
                _ => Err(error),
            },
            opened => opened,
        };
        opened.and_then(|mut opened| std::io::Write::write_all(&mut opened, value.as_bytes())).map_err(failed)
    })
}

/// Turns the controllers on in the parent where that is allowed, and writes the settings.
///
/// # Errors
/// [`ResourcesError::Write`] of the first that failed.
pub fn apply(cgroup: &Path, settings: &[Setting]) -> Result<(), ResourcesError> {
    let controllers: BTreeSet<&str> = settings.iter().filter_map(controller).collect();
    if let Some(parent) = cgroup.parent() {
        // Whether it is there shows when its files are written.
        let _ = super::hand_on(parent, &controllers, true);
    }
    write(cgroup, settings)
}

fn max_or(number: i64) -> String {
    if number < 0 { "max".to_owned() } else { number.to_string() }
}

/// 2 to 262144 onto 1 to 10000.
fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// 10 to 1000 onto 1 to 10000.
fn io_weight(weight: u16) -> u32 {
    1 + u32::from(weight).saturating_sub(10) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_limited_one_by_one() {
        let json = r#"{"blockIO": {"weight": 500, "weightDevice": [{"major": 8, "minor": 0, "weight": 1000}],
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1048576}, {"major": 8, "minor": 16, "rate": 0}],
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 100}]}}"#;
        let expected = [
            ("io.weight", "default 4950"),
            ("io.weight", "8:0 10000"),
            ("io.max", "8:0 rbps=1048576"),
            ("io.max", "8:16 rbps=max"),
            ("io.max", "8:0 wiops=100"),
        ];
        assert_eq!(of(json).unwrap(), expected.map(|(file, value)| (file.to_owned(), value.to_owned())));
    }

    #[test]
    fn shares_become_weights_as_the_reference_runtimes_have_it() {
        for (shares, weight) in [(0, 1), (2, 1), (512, 20), (1024, 39), (262_144, 10_000), (1 << 40, 10_000)] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
    }

    fn of(json: &str) -> Result<Vec<Setting>, ResourcesError> {
        settings(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn limits_become_files_of_version_2() {
        let json = r#"{"devices": [{"allow": false, "access": "rwm"}],
            "memory": {"limit": 1048576, "swap": 3145728, "reservation": 4096},
            "cpu": {"shares": 1024, "quota": 50000, "cpus": "0-1"}, "pids": {"limit": -1},
            "unified": {"memory.high": "1000"}}"#;
        let expected = [
            ("memory.max", "1048576"),
            ("memory.swap.max", "2097152"),
            ("memory.low", "4096"),
            ("cpu.weight", "39"),
            ("cpu.max", "50000 100000"),
            ("cpuset.cpus", "0-1"),
            ("pids.max", "max"),
            ("memory.high", "1000"),
        ];
        assert_eq!(of(json).unwrap(), expected.map(|(file, value)| (file.to_owned(), value.to_owned())));
        assert_eq!(of("{}").unwrap(), []);
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        for (json, error) in [
            (
                r#"{"memory": {"swappiness": 10}}"#,
                "linux.resources.memory.swappiness: cgroups of version 2 have no such limit",
            ),
            (
                r#"{"memory": {"swap": 10}}"#,
                "linux.resources.memory.swap: 10: must not be below the limit of memory, which must be given",
            ),
            (r#"{"unified": {"../x": "1"}}"#, "linux.resources.unified: ../x: not the name of a file in a cgroup"),
        ] {
            assert_eq!(of(json).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn a_file_that_is_missing_is_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let settings = [("pids.max".to_owned(), "1".to_owned())];
        let error = apply(directory.path(), &settings).unwrap_err();
        assert_eq!(error.to_string(), "cgroup: write \"1\" to pids.max: no such file or directory");
        assert!(!directory.path().join("pids.max").exists());
    }
}
