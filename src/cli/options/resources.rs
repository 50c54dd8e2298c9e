//! How much the container may use.

use clap::Args;
use storage::state::request::{CgroupMode, Request, Resources};

use crate::cli::parse::{devices, size, words};
use crate::cli::usage::{Checked, InvalidOption, each, maybe};

/// Options that a cgroup enforces.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ResourceOptions {
    /// Memory limit
    #[arg(short, long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// Limit of memory and swap together, or -1 for no limit on swap
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// Memory that is reclaimed last
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory_reservation: Option<String>,
    /// Number of CPUs, such as 1.5
    #[arg(long, value_name = "NUMBER")]
    pub(crate) cpus: Option<String>,
    /// Relative weight of CPU time
    #[arg(short, long, value_name = "WEIGHT")]
    pub(crate) cpu_shares: Option<u64>,
    /// Length of the CPU accounting period in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub(crate) cpu_period: Option<u64>,
    /// CPU time per period in microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// CPUs to run on, such as 0-3,5
    #[arg(long, value_name = "CPUS")]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes to use, such as 0-1
    #[arg(long, value_name = "NODES")]
    pub(crate) cpuset_mems: Option<String>,
    /// Number of processes, or -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    /// Relative weight of block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    pub(crate) blkio_weight: Option<u16>,
    /// Relative weight of block I/O of a device, PATH:WEIGHT
    #[arg(long, value_name = "DEVICE")]
    pub(crate) blkio_weight_device: Vec<String>,
    /// Bytes per second read from a device, PATH:SIZE
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device_read_bps: Vec<String>,
    /// Bytes per second written to a device, PATH:SIZE
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device_write_bps: Vec<String>,
    /// Reads per second from a device, PATH:NUMBER
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device_read_iops: Vec<String>,
    /// Writes per second to a device, PATH:NUMBER
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device_write_iops: Vec<String>,
    /// Fail where a limit cannot be kept, instead of warning of it
    #[arg(long)]
    pub(crate) strict: bool,
}

/// Where the cgroup is that enforces them.
#[derive(Args, Clone, Debug)]
pub(crate) struct CgroupOptions {
    /// Whether the container has a cgroup of its own: enabled, disabled, no-conmon or split
    #[arg(long, value_name = "MODE")]
    pub(crate) cgroups: Option<String>,
    /// Slice of the user's service manager, or path of a cgroup, that the container's is made in
    #[arg(long, value_name = "PARENT")]
    pub(crate) cgroup_parent: Option<String>,
    /// Write a value to a file of the cgroup, such as memory.high=100000000
    #[arg(long, value_name = "FILE=VALUE", value_delimiter = ',')]
    pub(crate) cgroup_conf: Vec<String>,
}

impl CgroupOptions {
    pub(crate) fn apply(&self, request: &mut Request) -> Checked<()> {
        request.cgroup.mode = maybe("--cgroups", self.cgroups.as_ref(), devices::cgroup_mode)?.unwrap_or_default();
        let parent = self.cgroup_parent.as_ref().filter(|parent| !parent.is_empty());
        request.cgroup.parent = maybe("--cgroup-parent", parent, devices::cgroup_parent)?;
        request.resources.cgroup_conf =
            each("--cgroup-conf", &self.cgroup_conf, devices::cgroup_conf)?.into_iter().collect();
        if request.cgroup.mode == CgroupMode::Disabled && !request.resources.is_empty() {
            let reason = "resource limits need a cgroup".to_owned();
            return Err(InvalidOption { flag: "--cgroups", value: "disabled".to_owned(), reason });
        }
        Ok(())
    }
}

impl ResourceOptions {
    pub(crate) fn apply(&self, request: &mut Request) -> Checked<()> {
        let bad = |flag, value: String, reason: &str| Err(InvalidOption { flag, value, reason: reason.to_owned() });
        if let Some(cpus) = &self.cpus {
            for (other, is_given) in [("--cpu-period", self.cpu_period), ("--cpu-quota", self.cpu_quota.map(|_| 1))] {
                if is_given.is_some() {
                    return bad("--cpus", cpus.clone(), &format!("{other} and --cpus cannot be set together"));
                }
            }
        }
        // What the kernel takes: 1 ms to 1 s, and no less of it than 1 ms.
        if let Some(period) = self.cpu_period.filter(|us| *us != 0 && !(1000..=1_000_000).contains(us)) {
            return bad("--cpu-period", period.to_string(), "must be between 1000 and 1000000");
        }
        if let Some(quota) = self.cpu_quota.filter(|us| *us > 0 && *us < 1000) {
            return bad("--cpu-quota", quota.to_string(), "must be at least 1000");
        }
        if let Some(weight) = self.blkio_weight.filter(|weight| *weight != 0 && !(10..=1000).contains(weight)) {
            return bad("--blkio-weight", weight.to_string(), "must be between 10 and 1000");
        }
        if let Some(shares) = self.cpu_shares.filter(|shares| *shares == 1 || *shares > 262_144) {
            return bad("-c, --cpu-shares", shares.to_string(), "must be between 2 and 262144");
        }
        if let Some(limit) = self.pids_limit.filter(|limit| *limit < -1) {
            return bad("--pids-limit", limit.to_string(), "must be a number, or -1 for no limit");
        }
        let memory_bytes = maybe("-m, --memory", self.memory.as_ref(), size::bytes)?.filter(|bytes| *bytes > 0);
        let memory_swap_bytes = maybe("--memory-swap", self.memory_swap.as_ref(), size::bytes_or_unlimited)?;
        if let (Some(swap), Some(given)) = (memory_swap_bytes.filter(|swap| *swap > 0), &self.memory_swap) {
            match memory_bytes {
                None => return bad("--memory-swap", given.clone(), "needs --memory"),
                Some(memory) if u64::try_from(swap).unwrap_or(0) < memory => {
                    return bad("--memory-swap", given.clone(), "must not be less than --memory");
                }
                Some(_) => {}
            }
        }
        request.resources = Resources {
            memory_bytes,
            memory_swap_bytes: memory_swap_bytes.filter(|bytes| *bytes != 0),
            memory_reservation_bytes: maybe("--memory-reservation", self.memory_reservation.as_ref(), size::bytes)?,
            nano_cpus: maybe("--cpus", self.cpus.as_ref(), size::nano_cpus)?.filter(|cpus| *cpus > 0),
            cpu_shares: self.cpu_shares.filter(|shares| *shares > 0),
            cpu_period_us: self.cpu_period.filter(|period| *period > 0),
            cpu_quota_us: self.cpu_quota.filter(|quota| *quota != 0),
            cpuset_cpus: maybe("--cpuset-cpus", self.cpuset_cpus.as_ref(), words::cpuset)?,
            cpuset_mems: maybe("--cpuset-mems", self.cpuset_mems.as_ref(), words::cpuset)?,
            // No limit, as for podman and docker; without the option there is a default.
            pids_limit: self.pids_limit.map(|limit| if limit == 0 { -1 } else { limit }),
            blkio_weight: self.blkio_weight.filter(|weight| *weight != 0),
            blkio_weight_devices: each("--blkio-weight-device", &self.blkio_weight_device, devices::weight)?,
            device_read_bps: each("--device-read-bps", &self.device_read_bps, devices::bytes_per_second)?,
            device_write_bps: each("--device-write-bps", &self.device_write_bps, devices::bytes_per_second)?,
            device_read_iops: each("--device-read-iops", &self.device_read_iops, devices::per_second)?,
            device_write_iops: each("--device-write-iops", &self.device_write_iops, devices::per_second)?,
            cgroup_conf: Default::default(),
        };
        let of = &request.resources;
        if let (Some(reserved), Some(memory)) = (of.memory_reservation_bytes, of.memory_bytes)
            && reserved > memory
        {
            let given = self.memory_reservation.clone().unwrap_or_default();
            return bad("--memory-reservation", given, "must not be more than --memory");
        }
        if of.nano_cpus.is_some_and(|nano| nano < 10_000_000) {
            return bad("--cpus", self.cpus.clone().unwrap_or_default(), "must be at least 0.01");
        }
        request.cgroup.strict = self.strict;
        Ok(())
    }
}
