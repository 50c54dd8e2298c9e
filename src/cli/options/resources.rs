//! How much the container may use.

use clap::Args;
use storage::state::request::{Request, Resources};

use crate::cli::parse::{size, words};
use crate::cli::usage::{Checked, InvalidOption, maybe};

/// Options that a cgroup enforces.
#[derive(Args, Clone, Debug)]
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
}

impl ResourceOptions {
    pub(crate) fn apply(&self, request: &mut Request) -> Checked<()> {
        let bad = |flag, value: String, reason: &str| Err(InvalidOption { flag, value, reason: reason.to_owned() });
        if let Some(cpus) = self.cpus.as_ref().filter(|_| self.cpu_period.is_some() || self.cpu_quota.is_some()) {
            return bad("--cpus", cpus.clone(), "conflicts with --cpu-period and --cpu-quota");
        }
        if let Some(weight) = self.blkio_weight.filter(|weight| !(10..=1000).contains(weight)) {
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
            pids_limit: self.pids_limit.filter(|limit| *limit != 0),
            blkio_weight: self.blkio_weight,
        };
        Ok(())
    }
}

/// The one line for limits that nothing will enforce.
pub(crate) fn warning(resources: &Resources, supported: bool) -> Option<&'static str> {
    (!resources.is_empty() && !supported)
        .then_some("warning: resource limits are not enforced: no cgroup controller is delegated to this user")
}
