//! What a published port costs beside plain loopback. Only on demand: `NET_TESTS_COST=1 cargo test --release cost`.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use net::builtin::Builtin;
use net::driver::{Driver, Started};
use net::pasta::Pasta;
use net::slirp4netns::Slirp4netns;

use crate::fixture::{Container, enter_userns};
use crate::forward::{Site, site, target};
use crate::{Case, Outcome, need, roles};

pub(crate) const CASES: &[Case] = &[
    ("cost_of_published_tcp", cost_of_published_tcp),
    ("cost_of_a_connection", cost_of_a_connection),
    ("cost_of_ways_out", cost_of_ways_out),
];

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

/// A container behind a driver, or none: then both ends are of the host.
struct Way {
    name: &'static str,
    site: Option<(Container, Started)>,
    /// Where the host answers.
    host: String,
    setup: Duration,
    samples: BTreeMap<&'static str, Vec<u128>>,
}

impl Way {
    fn start(driver: Option<Box<dyn Driver>>) -> Option<Self> {
        let Some(driver) = driver else {
            return Some(Self {
                name: "loopback",
                site: None,
                host: "127.0.0.1".into(),
                setup: Duration::ZERO,
                samples: BTreeMap::new(),
            });
        };
        let mut container = Container::start();
        let start = Instant::now();
        let plan = driver.prepare().ok()?;
        container.prepare(&plan);
        let mut started = driver.start(plan, container.netns()).expect("it starts");
        started.wait_ready().expect("it serves");
        let setup = start.elapsed();
        // Where a driver has no address for the host, its gateway was asked to be one.
        let known = started.attachment().host;
        let host = known.or_else(|| started.discover().ok()?.gateway(false)).expect("it knows the host").to_string();
        let samples = BTreeMap::new();
        Some(Self { name: driver.name(), site: Some((container, started)), host, setup, samples })
    }

    /// The number it answers; what a driver cannot do is left out.
    fn tell(&mut self, command: &str) -> Option<u128> {
        let answer = match &mut self.site {
            Some((container, _)) => container.tell(command),
            None => roles::obey(command),
        };
        let number = answer.parse().ok();
        if number.is_none() {
            eprintln!("{}: {command}: {answer}", self.name);
        }
        number
    }

    fn pids(&self) -> Vec<i32> {
        let both =
            self.site.iter().flat_map(|(container, started)| [container.netns().pid, procfs_pid(started.pidfd())]);
        std::iter::once(own_pid()).chain(both).collect()
    }

    fn sample(&mut self, row: &'static str, value: u128) {
        self.samples.entry(row).or_default().push(value);
    }

    /// Moves bytes: milliseconds of processor time and of wall time for each GB.
    fn load(&mut self, rows: [&'static str; 2], command: &str, mebibytes: u128) {
        let command = command.replace("HOST", &self.host);
        let pids = self.pids();
        let mut wall = None;
        let (cpu, _) = measure(&pids, || wall = self.tell(&command));
        let Some(wall) = wall else { return };
        let for_a_gb = |ms: u128| ms * 1_000_000_000 / (mebibytes << 20);
        self.sample(rows[0], for_a_gb(cpu));
        self.sample(rows[1], for_a_gb(wall));
    }

    fn memory_kib(&self) -> Option<u128> {
        let (_, started) = self.site.as_ref()?;
        // Its share: a process that was forked has pages of its parent's.
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", procfs_pid(started.pidfd()))).ok()?;
        let share = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        share.trim().trim_end_matches(" kB").parse().ok()
    }
}

/// The ways out side by side, in turns: medians of three rounds.
fn cost_of_ways_out() -> Outcome {
    const MEBIBYTES: u128 = 256;
    need!(is_wanted());
    need!(enter_userns(false));
    let pasta = net::pasta::Options { args: vec!["--map-gw".to_owned()] };
    let drivers: [Option<Box<dyn Driver>>; 4] = [
        None,
        Some(Box::new(Pasta::new(pasta))),
        Some(Box::new(Slirp4netns::default())),
        Some(Box::new(Builtin::default())),
    ];
    let mut ways: Vec<Way> = drivers.into_iter().filter_map(Way::start).collect();
    let [sink, source, one, udp] = [0; 4]
        .map(|_| std::net::TcpListener::bind("0.0.0.0:0").expect("a port").local_addr().expect("it has one").port());
    for (service, port) in [("tcp-sink", sink), ("tcp-source", source), ("tcp-one", one), ("udp-echo", udp)] {
        roles::obey(&format!("{service} 0.0.0.0:{port}"));
    }
    for _ in 0..3 {
        for way in &mut ways {
            way.load(["up, CPU ms/GB", "up, wall ms/GB"], &format!("up HOST:{sink} {MEBIBYTES} 1"), MEBIBYTES);
            way.load(["down, CPU ms/GB", "down, wall ms/GB"], &format!("down HOST:{source} {MEBIBYTES} 1"), MEBIBYTES);
            way.load(["up x 8, CPU ms/GB", "up x 8, wall ms/GB"], &format!("up HOST:{sink} {MEBIBYTES} 8"), MEBIBYTES);
            way.load(
                ["down x 8, CPU ms/GB", "down x 8, wall ms/GB"],
                &format!("down HOST:{source} {MEBIBYTES} 8"),
                MEBIBYTES,
            );
            let host = way.host.clone();
            if let Some(median) = way.tell(&format!("connects {host}:{one} 500")) {
                way.sample("connect, us", median);
            }
            if let Some(lost) = way.tell(&format!("udp-flood {host}:{udp} 6400")) {
                way.sample("UDP lost of 1000", lost);
            }
        }
    }
    for way in &mut ways {
        let (memory, setup) = (way.memory_kib(), way.setup.as_micros());
        if let Some(memory) = memory {
            way.sample("memory of the helper, KiB", memory);
            way.sample("set-up, us", setup);
        }
    }
    let rows: std::collections::BTreeSet<&str> = ways.iter().flat_map(|way| way.samples.keys().copied()).collect();
    let names: Vec<&str> = ways.iter().map(|way| way.name).collect();
    eprintln!("| | {} |\n|---{}|", names.join(" | "), "|---".repeat(names.len()));
    for row in rows {
        let cells: Vec<String> = ways
            .iter_mut()
            .map(|way| match way.samples.get_mut(row) {
                Some(samples) => {
                    samples.sort_unstable();
                    samples[samples.len() / 2].to_string()
                }
                None => String::new(),
            })
            .collect();
        eprintln!("| {row} | {} |", cells.join(" | "));
    }
    Outcome::Passed
}
