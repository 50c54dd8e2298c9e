//! Limits that a process sets for itself: `process.rlimits`, `process.oomScoreAdj`.

use oci_spec::runtime::{PosixRlimitType, Process};

use super::steps::InitError;
use crate::sys::process as sys;

/// Sets them.
pub(super) fn set_limits(process: &Process) -> Result<(), InitError> {
    for limit in process.rlimits().iter().flatten() {
        let (resource, name) = resource_of(limit.typ());
        sys::set_limit(resource, limit.soft(), limit.hard()).map_err(|errno| InitError::Limit {
            name: name.to_owned(),
            soft: limit.soft(),
            hard: limit.hard(),
            errno,
        })?;
    }
    if let Some(adjustment) = process.oom_score_adj() {
        // Only root of the host may lower it; the kernel keeps the inherited value then.
        let _ = std::fs::write("/proc/self/oom_score_adj", adjustment.to_string());
    }
    Ok(())
}

fn resource_of(kind: PosixRlimitType) -> (u32, &'static str) {
    use PosixRlimitType as T;
    match kind {
        T::RlimitAs => (9, "as"),
        T::RlimitCore => (4, "core"),
        T::RlimitCpu => (0, "cpu"),
        T::RlimitData => (2, "data"),
        T::RlimitFsize => (1, "fsize"),
        T::RlimitLocks => (10, "locks"),
        T::RlimitMemlock => (8, "memlock"),
        T::RlimitMsgqueue => (12, "msgqueue"),
        T::RlimitNice => (13, "nice"),
        T::RlimitNofile => (7, "nofile"),
        T::RlimitNproc => (6, "nproc"),
        T::RlimitRss => (5, "rss"),
        T::RlimitRtprio => (14, "rtprio"),
        T::RlimitRttime => (15, "rttime"),
        T::RlimitSigpending => (11, "sigpending"),
        T::RlimitStack => (3, "stack"),
    }
}
