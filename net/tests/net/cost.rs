//! What a published port costs beside plain loopback. Only on demand: `NET_TESTS_COST=1 cargo test --release cost`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::forward::{Site, site, target};
use crate::{Case, Outcome, need, roles};

pub(crate) const CASES: &[Case] =
    &[("cost_of_published_tcp", cost_of_published_tcp), ("cost_of_a_connection", cost_of_a_connection)];

const GIB: u64 = 1 << 30;

fn is_wanted() -> Result<(), String> {
    std::env::var_os("NET_TESTS_COST").map(drop).ok_or_else(|| "NET_TESTS_COST=1".to_owned())
}

/// Processor time of a process so far.
fn cpu(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn own_pid() -> i32 {
    std::fs::read_link("/proc/self").unwrap().to_string_lossy().parse().unwrap()
}

/// Processor time of these processes, in milliseconds, and wall time while `work` runs.
fn measure(pids: &[i32], work: impl FnOnce()) -> (u128, Duration) {
    let before: Duration = pids.iter().map(|pid| cpu(*pid)).sum();
    let start = Instant::now();
    work();
    let wall = start.elapsed();
    let after: Duration = pids.iter().map(|pid| cpu(*pid)).sum();
    ((after - before).as_millis(), wall)
}

fn upload(address: &str) {
    let mut stream = TcpStream::connect(address).unwrap();
    let buffer = vec![0; 128 << 10];
    for _ in 0..GIB / (128 << 10) {
        stream.write_all(&buffer).unwrap();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

fn download(address: &str) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&GIB.to_ne_bytes()).unwrap();
    let mut buffer = vec![0; 128 << 10];
    let mut len = 0;
    while len < GIB {
        len += stream.read(&mut buffer).unwrap() as u64;
    }
}

/// The number a process has in the `/proc` mounted here.
fn procfs_pid(pidfd: std::os::fd::BorrowedFd<'_>) -> i32 {
    let text =
        std::fs::read_to_string(format!("/proc/self/fdinfo/{}", std::os::fd::AsRawFd::as_raw_fd(&pidfd))).unwrap();
    text.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap().trim().parse().unwrap()
}

fn pids(site: &Site) -> [i32; 3] {
    [own_pid(), site.container.netns().pid, procfs_pid(site.forwarder.pidfd())]
}

fn cost_of_published_tcp() -> Outcome {
    need!(is_wanted());
    let mut site = need!(site(&["8080-8081:80-81"], target()));
    site.container.tell("tcp-sink 0.0.0.0:80");
    site.container.tell("tcp-source 0.0.0.0:81");
    roles::obey("tcp-sink 192.0.2.1:90");
    roles::obey("tcp-source 192.0.2.1:91");
    let pids = pids(&site);
    type Work = fn(&str);
    let rows: [(&str, Work, &str); 4] = [
        ("up, loopback", upload, "192.0.2.1:90"),
        ("up, published", upload, "192.0.2.1:8080"),
        ("down, loopback", download, "192.0.2.1:91"),
        ("down, published", download, "192.0.2.1:8081"),
    ];
    for _ in 0..3 {
        for (name, work, address) in rows {
            let (cpu_ms, wall) = measure(&pids, || work(address));
            let (forwarder_ms, _) = (cpu(pids[2]).as_millis(), ());
            eprintln!("{name}: {cpu_ms} ms/GiB CPU, {wall:?} (forwarder so far {forwarder_ms} ms)");
        }
    }
    let status = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pids[2])).unwrap_or_default();
    eprintln!(
        "forwarder: {}",
        status
            .lines()
            .filter(|l| l.starts_with("Pss:") || l.starts_with("Private_Dirty"))
            .collect::<Vec<_>>()
            .join(" ")
    );
    Outcome::Passed
}

fn cost_of_a_connection() -> Outcome {
    const COUNT: u32 = 2000;
    need!(is_wanted());
    let mut site = need!(site(&["8080:80"], target()));
    site.container.tell("tcp-one 0.0.0.0:80");
    roles::obey("tcp-one 192.0.2.1:90");
    let pids = pids(&site);
    for _ in 0..3 {
        for (name, address) in [("loopback", "192.0.2.1:90"), ("published", "192.0.2.1:8080")] {
            let mut times = Vec::new();
            let (cpu_ms, _) = measure(&pids, || {
                for _ in 0..COUNT {
                    let start = Instant::now();
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.read_exact(&mut [0]).unwrap();
                    times.push(start.elapsed());
                }
            });
            times.sort();
            let median = times[times.len() / 2];
            eprintln!("{name}: median {median:?} to the first byte, {} µs CPU each", cpu_ms * 1000 / u128::from(COUNT));
        }
    }
    Outcome::Passed
}
