//! What the cgroup of a [`Request`](super::Request) is to be, and what it is to hold the container to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What the container's cgroup shall hold it to. Absent values set nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory and swap together in bytes; -1 is no limit on swap.
    pub memory_swap_bytes: Option<i64>,
    /// Memory that is reclaimed last, in bytes.
    pub memory_reservation_bytes: Option<u64>,
    /// Billionths of a CPU.
    pub nano_cpus: Option<u64>,
    /// Relative weight, 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// Length of the accounting period in microseconds.
    pub cpu_period_us: Option<u64>,
    /// CPU time per period in microseconds.
    pub cpu_quota_us: Option<i64>,
    /// CPUs it may run on, `0-3,5`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes it may use, `0-1`.
    pub cpuset_mems: Option<String>,
    /// Number of processes; -1 is no limit.
    pub pids_limit: Option<i64>,
    /// Relative weight of block I/O, 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// The same for single devices.
    pub blkio_weight_devices: Vec<OfDevice>,
    /// Bytes read from devices per second.
    pub device_read_bps: Vec<OfDevice>,
    /// Bytes written to devices per second.
    pub device_write_bps: Vec<OfDevice>,
    /// Reads from devices per second.
    pub device_read_iops: Vec<OfDevice>,
    /// Writes to devices per second.
    pub device_write_iops: Vec<OfDevice>,
    /// What is written to other files of the cgroup, by their names.
    pub cgroup_conf: BTreeMap<String, String>,
}

/// A number for one device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OfDevice {
    /// Its path on the host.
    pub path: PathBuf,
    /// A weight, or a rate per second.
    pub value: u64,
}

/// Where the container's cgroup is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cgroup {
    /// Whether it has one, and what else is in there.
    pub mode: CgroupMode,
    /// The slice or the path it is made in.
    pub parent: Option<String>,
    /// A limit that cannot be kept is an error.
    pub strict: bool,
    /// Limits of its pod, if that has any.
    pub pod: Option<Box<OfPod>>,
}

/// Limits that hold for the containers of a pod together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OfPod {
    /// The pod's id.
    pub id: String,
    /// What they may use.
    pub resources: Resources,
}

/// `--cgroups`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CgroupMode {
    /// One of its own where one can be had.
    #[default]
    Enabled,
    /// None.
    Disabled,
    /// The supervisor stays where it was started, if it can.
    NoConmon,
    /// Below the cgroup of whoever starts it.
    Split,
}

impl CgroupMode {
    /// The word of the option.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::NoConmon => "no-conmon",
            Self::Split => "split",
        }
    }
}

impl Resources {
    /// Whether anything is limited at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Memory and swap together; -1 is no limit. Twice the memory where nothing was said of it.
    pub fn memory_and_swap(&self) -> Option<i64> {
        let twice = |bytes: u64| i64::try_from(bytes.saturating_mul(2)).unwrap_or(-1);
        self.memory_swap_bytes.or_else(|| self.memory_bytes.map(twice))
    }

    /// CPU time per period, and the period, in microseconds.
    pub fn quota_and_period(&self) -> (Option<i64>, Option<u64>) {
        const PERIOD_US: u64 = 100_000;
        match self.nano_cpus {
            Some(nano) => (i64::try_from(nano / (1_000_000_000 / PERIOD_US)).ok(), Some(PERIOD_US)),
            None => (self.cpu_quota_us, self.cpu_period_us),
        }
    }
}
