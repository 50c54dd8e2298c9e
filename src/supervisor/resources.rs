//! What a container may use, as `linux.resources` of its bundle.
//!
//! **Runs in:** the CLI, on the host.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, LinuxThrottleDevice, LinuxThrottleDeviceBuilder,
    LinuxWeightDeviceBuilder,
};
use storage::state::request::{OfDevice, Resources};

use crate::error::{CommandError, Kind, reason};

/// The section; `None` without limits.
pub(crate) fn of(resources: &Resources) -> Result<Option<LinuxResources>, CommandError> {
    if resources.is_empty() {
        return Ok(None);
    }
    let mut out = LinuxResources::default();
    out.set_devices(None).set_memory(memory(resources)).set_cpu(cpu(resources)).set_block_io(block_io(resources)?);
    if let Some(limit) = resources.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        out.set_pids(Some(pids));
    }
    let unified = resources.cgroup_conf.clone();
    out.set_unified((!unified.is_empty()).then(|| unified.into_iter().collect()));
    Ok(Some(out))
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn memory(resources: &Resources) -> Option<LinuxMemory> {
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(resources.memory_bytes.map(signed))
        .set_swap(resources.memory_and_swap())
        .set_reservation(resources.memory_reservation_bytes.map(signed));
    (memory != LinuxMemory::default()).then_some(memory)
}

fn cpu(resources: &Resources) -> Option<LinuxCpu> {
    let (quota, period) = resources.quota_and_period();
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(resources.cpu_shares)
        .set_quota(quota)
        .set_period(period)
        .set_cpus(resources.cpuset_cpus.clone())
        .set_mems(resources.cpuset_mems.clone());
    (cpu != LinuxCpu::default()).then_some(cpu)
}

fn block_io(resources: &Resources) -> Result<Option<LinuxBlockIo>, CommandError> {
    let weights = resources.blkio_weight_devices.iter().map(|device| {
        let (major, minor) = number(&device.path, "weight")?;
        let weight = u16::try_from(device.value).unwrap_or(u16::MAX);
        let out = LinuxWeightDeviceBuilder::default().major(major).minor(minor).weight(weight).build();
        out.map_err(|error| CommandError::new(Kind::Internal, error))
    });
    let weights = weights.collect::<Result<Vec<_>, _>>()?;
    let mut io = LinuxBlockIo::default();
    io.set_weight(resources.blkio_weight)
        .set_weight_device((!weights.is_empty()).then_some(weights))
        .set_throttle_read_bps_device(throttle(&resources.device_read_bps)?)
        .set_throttle_write_bps_device(throttle(&resources.device_write_bps)?)
        .set_throttle_read_iops_device(throttle(&resources.device_read_iops)?)
        .set_throttle_write_iops_device(throttle(&resources.device_write_iops)?);
    Ok((io != LinuxBlockIo::default()).then_some(io))
}

fn throttle(devices: &[OfDevice]) -> Result<Option<Vec<LinuxThrottleDevice>>, CommandError> {
    let one = |device: &OfDevice| {
        let (major, minor) = number(&device.path, "throttle")?;
        let out = LinuxThrottleDeviceBuilder::default().major(major).minor(minor).rate(device.value).build();
        out.map_err(|error| CommandError::new(Kind::Internal, error))
    };
    let all = devices.iter().map(one).collect::<Result<Vec<_>, _>>()?;
    Ok((!all.is_empty()).then_some(all))
}

/// The number of a block device.
fn number(path: &Path, what: &str) -> Result<(i64, i64), CommandError> {
    let bad =
        |why: &str| CommandError::user(format_args!("could not parse {what} device at {}: {why}", path.display()));
    let metadata = std::fs::metadata(path).map_err(|error| bad(&reason(&error)))?;
    if !metadata.file_type().is_block_device() {
        return Err(bad("not a block device"));
    }
    let device = metadata.rdev();
    Ok((nix::sys::stat::major(device) as i64, nix::sys::stat::minor(device) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_becomes_what_the_bundle_has() {
        let resources = Resources {
            memory_bytes: Some(64 << 20),
            nano_cpus: Some(500_000_000),
            cpu_shares: Some(512),
            pids_limit: Some(50),
            cgroup_conf: [("memory.high".to_owned(), "1".to_owned())].into(),
            ..Resources::default()
        };
        let expected = serde_json::json!({
            "memory": {"limit": 64 << 20, "swap": 128 << 20},
            "cpu": {"shares": 512, "quota": 50000, "period": 100_000},
            "pids": {"limit": 50}, "unified": {"memory.high": "1"},
        });
        assert_eq!(serde_json::to_value(of(&resources).unwrap()).unwrap(), expected);
        assert_eq!(of(&Resources::default()).unwrap(), None);
    }

    #[test]
    fn a_limit_is_for_a_device_that_is_there() {
        let of_path = |path: &str| Resources {
            device_read_bps: vec![OfDevice { path: path.into(), value: 1 }],
            ..Resources::default()
        };
        let error = |path| of(&of_path(path)).unwrap_err().to_string();
        assert_eq!(error("/dev/no"), "could not parse throttle device at /dev/no: no such file or directory");
        assert_eq!(error("/dev/null"), "could not parse throttle device at /dev/null: not a block device");
    }
}
