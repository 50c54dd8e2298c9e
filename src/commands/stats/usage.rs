//! What containers have used, from the kernel's counters.
//!
//! | | with a cgroup of its own | without |
//! |---|---|---|
//! | processor | `cpu.stat` | user and system time of its processes and of the children they have waited for |
//! | memory | `memory.current`, `memory.max` | anonymous pages of its processes, and the most that one of them shares |
//! | blocks | `io.stat` | `/proc/PID/io`, what really went to a device |
//! | processes | `pids.current` | threads |
//! | network | the devices of its network namespace but `lo` | the same |
//!
//! A controller that the cgroup lacks is counted as without one. A container in the host's network namespace has no
//! devices of its own, and shows none.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The counters of one container at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Nanoseconds of processor time since its start.
    pub(super) cpu_ns: u64,
    pub(super) memory_bytes: u64,
    pub(super) memory_limit_bytes: u64,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
    pub(super) pids: u64,
}

/// One look at all processes that we may see.
pub(super) struct Processes {
    /// Pids by the inode of their pid namespace.
    by_namespace: HashMap<u64, Vec<i32>>,
    children: HashMap<i32, Vec<i32>>,
    own_namespace: u64,
    own_network: u64,
    ticks_per_second: u64,
    page_bytes: u64,
    memory_bytes: u64,
}

fn namespace(pid: impl std::fmt::Display, name: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/{name}")).ok().map(|metadata| metadata.ino())
}

fn numbers(text: &str) -> impl Iterator<Item = u64> + '_ {
    text.split_ascii_whitespace().map(|word| word.parse().unwrap_or(0))
}

/// The fields of `stat` from the third on.
fn stat(pid: i32) -> Option<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(numbers(text.get(text.rfind(')')? + 2..)?).collect())
}

impl Processes {
    /// Looks at all processes.
    pub(super) fn look() -> Self {
        let variable = |name| nix::unistd::sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok());
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total_kib = memory.lines().find_map(|line| numbers(line.strip_prefix("MemTotal:")?).next());
        let mut processes = Self {
            by_namespace: HashMap::new(),
            children: HashMap::new(),
            own_namespace: namespace("self", "pid").unwrap_or(0),
            own_network: namespace("self", "net").unwrap_or(0),
            ticks_per_second: variable(nix::unistd::SysconfVar::CLK_TCK).filter(|ticks| *ticks > 0).unwrap_or(100),
            page_bytes: variable(nix::unistd::SysconfVar::PAGE_SIZE).unwrap_or(4096),
            memory_bytes: total_kib.unwrap_or(0) * 1024,
        };
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
            if let Some(namespace) = namespace(pid, "pid") {
                processes.by_namespace.entry(namespace).or_default().push(pid);
            }
            if let Some(parent) = stat(pid).and_then(|stat| i32::try_from(*stat.get(1)?).ok()) {
                processes.children.entry(parent).or_default().push(pid);
            }
        }
        processes
    }

    /// The processes of a container: all of its pid namespace, or with a shared one its first and the descendants.
    fn of(&self, init: i32) -> Vec<i32> {
        match namespace(init, "pid") {
            Some(own) if own != self.own_namespace => self.by_namespace.get(&own).cloned().unwrap_or_default(),
            _ => {
                let mut found = vec![init];
                let mut seen = HashSet::from([init]);
                let mut at = 0;
                while let Some(parent) = found.get(at).copied() {
                    found.extend(self.children.get(&parent).into_iter().flatten().filter(|pid| seen.insert(**pid)));
                    at += 1;
                }
                found
            }
        }
    }

    /// What a container that runs has used.
    pub(super) fn usage(&self, cgroup: Option<&Path>, init: i32) -> Usage {
        let mut usage = self.sum(&self.of(init));
        if let Some(cgroup) = cgroup {
            usage.take_from_cgroup(cgroup);
        }
        if namespace(init, "net").is_some_and(|network| network != self.own_network) {
            let devices = fs::read_to_string(format!("/proc/{init}/net/dev")).unwrap_or_default();
            (usage.received_bytes, usage.sent_bytes) = network_bytes(&devices);
        }
        usage
    }

    fn sum(&self, pids: &[i32]) -> Usage {
        let mut usage = Usage { memory_limit_bytes: self.memory_bytes, ..Usage::default() };
        let (mut ticks, mut most_shared) = (0, 0);
        for pid in pids {
            let Some(stat) = stat(*pid) else { continue };
            // utime, stime, cutime, cstime; num_threads.
            ticks += stat.iter().skip(11).take(4).sum::<u64>();
            usage.pids += stat.get(17).copied().unwrap_or(0);
            let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
            let mut statm = numbers(&statm).skip(1);
            let (resident, shared) = (statm.next().unwrap_or(0), statm.next().unwrap_or(0));
            usage.memory_bytes += resident.saturating_sub(shared) * self.page_bytes;
            most_shared = most_shared.max(shared * self.page_bytes);
            let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
            for line in io.lines() {
                match line.split_once(": ") {
                    Some(("read_bytes", bytes)) => usage.read_bytes += bytes.parse::<u64>().unwrap_or(0),
                    Some(("write_bytes", bytes)) => usage.written_bytes += bytes.parse::<u64>().unwrap_or(0),
                    _ => {}
                }
            }
        }
        usage.memory_bytes += most_shared;
        usage.cpu_ns = ticks.saturating_mul(1_000_000_000 / self.ticks_per_second);
        usage
    }
}

impl Usage {
    /// Takes what the cgroup counts; what it does not count stays as it is.
    fn take_from_cgroup(&mut self, cgroup: &Path) {
        let read = |name: &str| fs::read_to_string(cgroup.join(name)).ok();
        let number = |name: &str| read(name).and_then(|text| text.trim().parse::<u64>().ok());
        let cpu = read("cpu.stat").unwrap_or_default();
        if let Some(microseconds) = cpu.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse::<u64>().ok()) {
            self.cpu_ns = microseconds.saturating_mul(1000);
        }
        if let Some(bytes) = number("memory.current") {
            self.memory_bytes = bytes;
        }
        if let Some(bytes) = number("memory.max") {
            self.memory_limit_bytes = self.memory_limit_bytes.min(bytes);
        }
        if let Some(pids) = number("pids.current") {
            self.pids = pids;
        }
        if let Some(text) = read("io.stat") {
            (self.read_bytes, self.written_bytes) = block_bytes(&text);
        }
    }
}

/// Received and sent, of all devices but `lo`.
fn network_bytes(devices: &str) -> (u64, u64) {
    let mut sum = (0, 0);
    for (name, counters) in devices.lines().filter_map(|line| line.split_once(':')) {
        if name.trim() != "lo" {
            let counters: Vec<u64> = numbers(counters).collect();
            sum.0 += counters.first().copied().unwrap_or(0);
            sum.1 += counters.get(8).copied().unwrap_or(0);
        }
    }
    sum
}

/// Read and written, of all devices.
fn block_bytes(io_stat: &str) -> (u64, u64) {
    let mut sum = (0, 0);
    for (key, value) in io_stat.split_ascii_whitespace().filter_map(|word| word.split_once('=')) {
        match key {
            "rbytes" => sum.0 += value.parse().unwrap_or(0),
            "wbytes" => sum.1 += value.parse().unwrap_or(0),
            _ => {}
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_devices_are_summed() {
        let devices = "Inter-|   Receive |  Transmit\n face |bytes packets|bytes packets\n    lo: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n  \
                       eth0: 100 2 0 0 0 0 0 0 30 4 0 0 0 0 0 0\n  tap0:7 2 0 0 0 0 0 0 8 4 0 0 0 0 0 0\n";
        assert_eq!(network_bytes(devices), (107, 38));
        assert_eq!(block_bytes("8:0 rbytes=10 wbytes=20 rios=1 wios=1 dbytes=0\n8:16 rbytes=1 wbytes=2\n"), (11, 22));
    }

    #[test]
    fn a_cgroup_counts_instead_of_processes_as_far_as_it_can() {
        let cgroup = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(cgroup.path().join(name), text).unwrap();
        write("cpu.stat", "usage_usec 1500\nuser_usec 1000\n");
        write("memory.current", "4096\n");
        write("memory.max", "max\n");
        let mut usage = Usage { memory_limit_bytes: 1 << 30, pids: 3, cpu_ns: 9, ..Usage::default() };
        usage.take_from_cgroup(cgroup.path());
        let expected =
            Usage { cpu_ns: 1_500_000, memory_bytes: 4096, memory_limit_bytes: 1 << 30, pids: 3, ..Usage::default() };
        assert_eq!(usage, expected);
        write("memory.max", "8192\n");
        write("pids.current", "7\n");
        usage.take_from_cgroup(cgroup.path());
        assert_eq!((usage.memory_limit_bytes, usage.pids), (8192, 7));
    }

    #[test]
    fn this_process_uses_something() {
        let usage = Processes::look().sum(&[std::process::id() as i32]);
        assert!(usage.memory_bytes > 0 && usage.memory_bytes < usage.memory_limit_bytes && usage.pids > 0);
    }
}
