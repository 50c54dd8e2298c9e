//! `top`: the processes of a container, read from the host's `/proc`.

mod ps;

use std::collections::HashMap;
use std::fs;

use storage::state::status::{self, Init, State};

use super::select::Selection;
use super::{Context, Outcome};
use crate::cli::printable::Printable;
use crate::cli::{output, table};
use crate::error::CommandError;
use crate::supervisor::rootfs::View;

use ps::Form;

const EXAMPLES: &str = r#"Examples:
  coracle top web
  coracle top web pid user args"#;

/// Display the running processes of a container
///
/// Format descriptors: args, comm, etime, group, groups, hgroup, hgroups, hpid, huid, huser, nice, pcpu, pgid, pid, ppid,
/// rgroup, rss, ruser, seccomp, state, stime, time, tty, uid, user, vsz, capbnd, capeff, capinh, capprm, capamb, label. Also
/// -ef and aux, as of ps(1).
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Container name or ID, then format descriptors
    #[arg(value_name = "CONTAINER [DESCRIPTOR]", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
    /// Act on the latest container
    #[arg(short, long)]
    latest: bool,
}

const DEFAULT: &str = "user,pid,ppid,pcpu,etime,tty,time,args";

/// Descriptor, its code in `ps -o` notation, heading.
#[rustfmt::skip]
const DESCRIPTORS: &[(&str, &str, &str)] = &[
    ("args", "%a", "COMMAND"), ("comm", "%c", "COMMAND"), ("etime", "%t", "ELAPSED"), ("group", "%g", "GROUP"),
    ("groups", "", "GROUPS"), ("hgroups", "", "HGROUPS"), ("huid", "", "HUID"),
    ("nice", "%n", "NI"), ("pcpu", "%C", "%CPU"), ("pgid", "%r", "PGID"), ("pid", "%p", "PID"), ("ppid", "%P", "PPID"),
    ("rgroup", "%G", "RGROUP"), ("ruser", "%U", "RUSER"), ("time", "%x", "TIME"), ("tty", "%y", "TTY"),
    ("user", "%u", "USER"), ("uid", "", "UID"), ("vsz", "%z", "VSZ"), ("rss", "", "RSS"), ("state", "", "STATE"),
    ("stime", "", "STIME"), ("seccomp", "", "SECCOMP"), ("hpid", "", "HPID"), ("huser", "", "HUSER"),
    ("hgroup", "", "HGROUP"), ("label", "", "LABEL"), ("capamb", "", "AMBIENT CAPS"), ("capbnd", "", "BOUNDING CAPS"),
    ("capeff", "", "EFFECTIVE CAPS"), ("capinh", "", "INHERITED CAPS"), ("capprm", "", "PERMITTED CAPS"),
];

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let (names, descriptors) = match args.latest {
        true => (&[][..], args.words.as_slice()),
        false => match args.words.split_first() {
            Some((first, rest)) => (std::slice::from_ref(first), rest),
            None => return Err(CommandError::user("you must provide the name or id of a running container")),
        },
    };
    let selection = Selection { names, latest: args.latest, ..Selection::default() };
    let (selected, mut errors) = selection.resolve(context)?;
    let Some(one) = selected.first() else {
        return Err(errors.pop().unwrap_or_else(|| CommandError::user("there are no containers")));
    };
    let observed = status::observe(&context.layout, &one.record)?;
    let (State::Running { init, .. } | State::Paused { init, .. }) = observed.state else {
        return Err(CommandError::user("top can only be used on running containers"));
    };
    if let Some(form) = Form::of(descriptors) {
        let (host, users) = (Host::read(), Names::of_container(init.pid, "etc/passwd"));
        let lines = processes(init);
        let lines = lines.iter().map(|process| form.line(process, &host, &users));
        output::print(&(form.heading().to_owned() + &lines.collect::<String>()))?;
        return Ok(0);
    }
    let columns = columns(descriptors)?;
    let mut text = columns.iter().map(|column| column.2).collect::<Vec<_>>().join("\t") + "\n";
    let host = Host::read();
    let users = Names::of_container(init.pid, "etc/passwd");
    let groups = Names::of_container(init.pid, "etc/group");
    for process in processes(init) {
        let cells = columns.iter().map(|column| process.cell(column.0, &host, &users, &groups));
        let cells: Vec<_> = cells.map(|cell| Printable::line(&cell).to_string()).collect();
        text.push_str(&cells.join("\t"));
        text.push('\n');
    }
    output::print(&table::align(&text, table::PODMAN))?;
    Ok(0)
}

fn columns(words: &[String]) -> Result<Vec<&'static (&'static str, &'static str, &'static str)>, CommandError> {
    // `top C -eo pid,comm` runs ps(1) in podman; the list after -o means the same here.
    let mut wanted: Vec<&str> = Vec::new();
    for word in words {
        let list = match word.strip_prefix('-') {
            Some(flags) if flags.trim_start_matches(['e', 'A', 'f', 'l', 'a', 'x', 'u', 'o']).is_empty() => continue,
            Some(_) => return Err(CommandError::user(format_args!("unsupported ps(1) flag {word:?}"))),
            None => word,
        };
        wanted.extend(list.split(',').map(str::trim).filter(|one| !one.is_empty() && *one != "aux"));
    }
    if wanted.is_empty() {
        wanted = DEFAULT.split(',').collect();
    }
    wanted
        .into_iter()
        .map(|name| {
            let aliases = [
                ("cmd", "args"),
                ("command", "args"),
                ("%cpu", "pcpu"),
                ("ni", "nice"),
                ("stat", "state"),
                ("tt", "tty"),
                ("vsize", "vsz"),
            ];
            let name = aliases.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| *name);
            let known = DESCRIPTORS.iter().find(|(word, code, _)| *word == name || (!code.is_empty() && *code == name));
            known.ok_or_else(|| CommandError::user(format_args!("unknown descriptor {name:?}")))
        })
        .collect()
}

/// What all processes are measured by.
struct Host {
    ticks_per_second: f64,
    uptime_s: f64,
    memory_kib: f64,
}

impl Host {
    fn read() -> Self {
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
        let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let uptime_s = uptime.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory =
            memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().split(' ').next()?.parse().ok());
        Self { ticks_per_second: ticks as f64, uptime_s, memory_kib: memory.unwrap_or(0.0) }
    }
}

/// One process: the fields of `stat` from the third on, those of `status`, and its arguments.
struct Process {
    pid: i32,
    stat: Vec<String>,
    status: HashMap<String, String>,
    args: String,
}

/// The processes of the container's pid namespace in order of their pids in it; with the host's pids shared, the first
/// process and its descendants.
fn processes(init: Init) -> Vec<Process> {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace(init.pid);
    let shared = own == fs::read_link("/proc/self/ns/pid").ok();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut processes: Vec<Process> = match shared {
        false => pids.filter(|pid| namespace(*pid) == own && own.is_some()).filter_map(Process::read).collect(),
        true => {
            let all: Vec<Process> = pids.filter_map(Process::read).collect();
            let mut kept = vec![init.pid];
            let mut at = 0;
            while let Some(parent) = kept.get(at).copied() {
                kept.extend(
                    all.iter().filter(|process| process.number(1) == i64::from(parent)).map(|process| process.pid),
                );
                at += 1;
            }
            all.into_iter().filter(|process| kept.contains(&process.pid)).collect()
        }
    };
    processes.sort_by_key(Process::inner_pid);
    processes
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let stat = stat.get(stat.rfind(')')? + 2..)?.split_ascii_whitespace().map(str::to_owned).collect();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let status = status
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let args = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let args = String::from_utf8_lossy(&args).replace('\0', " ");
        Some(Self { pid, stat, status, args })
    }

    fn number(&self, field: usize) -> i64 {
        self.stat.get(field).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn status(&self, name: &str) -> &str {
        self.status.get(name).map(String::as_str).unwrap_or_default()
    }

    /// The pid in the innermost namespace.
    fn inner_pid(&self) -> i64 {
        self.status("NSpid").split_ascii_whitespace().last().and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn cell(&self, column: &str, host: &Host, users: &Names, groups: &Names) -> String {
        let seconds = |ticks: i64| ticks as f64 / host.ticks_per_second;
        let elapsed_s = (host.uptime_s - seconds(self.number(19))).max(0.0);
        let cpu_s = seconds(self.number(11) + self.number(12));
        let id = |field: &str, at: usize| {
            self.status(field).split_ascii_whitespace().nth(at).and_then(|text| text.parse::<u32>().ok()).unwrap_or(0)
        };
        match column {
            "user" => users.name(id("Uid", 1)),
            "ruser" => users.name(id("Uid", 0)),
            "uid" => users.inner(id("Uid", 1)).to_string(),
            "group" => groups.name(id("Gid", 1)),
            "rgroup" => groups.name(id("Gid", 0)),
            "groups" => self.groups(|id| groups.name(id)),
            "hgroups" => self.groups(|id| id.to_string()),
            "huser" | "huid" => id("Uid", 1).to_string(),
            "hgroup" => id("Gid", 1).to_string(),
            "pid" => self.inner_pid().to_string(),
            "hpid" => self.pid.to_string(),
            "ppid" => self.inner_parent().to_string(),
            "pgid" => self.status("NSpgid").split_ascii_whitespace().last().unwrap_or("0").to_owned(),
            "pcpu" => format!("{:.3}", if elapsed_s > 0.0 { cpu_s * 100.0 / elapsed_s } else { 0.0 }),
            "etime" => go_duration(elapsed_s),
            "time" => go_duration(cpu_s.floor()),
            "stime" => go_duration(elapsed_s.floor()),
            "tty" => match self.number(4) {
                0 => "?".to_owned(),
                device => format!("pts/{}", (device & 0xff) | ((device >> 12) & 0xf_ff00)),
            },
            "comm" => self.status("Name").to_owned(),
            "args" if self.args.is_empty() => format!("[{}]", self.status("Name")),
            "args" => self.args.clone(),
            "nice" => self.number(16).to_string(),
            "vsz" => (self.number(20) / 1024).to_string(),
            "rss" => self.status("VmRSS").split(' ').next().unwrap_or("0").to_owned(),
            "state" => self.stat.first().cloned().unwrap_or_default(),
            "seccomp" => match self.status("Seccomp") {
                "0" => "disabled",
                "1" => "strict",
                "2" => "filter",
                _ => "?",
            }
            .to_owned(),
            "capamb" => capabilities(self.status("CapAmb")),
            "capbnd" => capabilities(self.status("CapBnd")),
            "capeff" => capabilities(self.status("CapEff")),
            "capinh" => capabilities(self.status("CapInh")),
            "capprm" => capabilities(self.status("CapPrm")),
            _ => "?".to_owned(),
        }
    }

    /// Supplementary groups.
    fn groups(&self, name: impl Fn(u32) -> String) -> String {
        let ids = self.status("Groups").split_ascii_whitespace().filter_map(|id| id.parse().ok());
        ids.map(name).collect::<Vec<_>>().join(",")
    }

    /// Whether it leads a session, by its pid in the innermost namespace.
    fn leads_session(&self) -> bool {
        let last = |field| self.status(field).split_ascii_whitespace().last().map(str::to_owned);
        last("NSsid").is_some() && last("NSsid") == last("NSpid")
    }

    /// The parent's pid in the container; 0 if the parent is outside of it.
    fn inner_parent(&self) -> i64 {
        let parent = self.number(1);
        let same = |pid: i64| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let namespace = same(parent);
        if namespace.is_none() || namespace != same(i64::from(self.pid)) {
            return 0;
        }
        i32::try_from(parent).ok().and_then(Process::read).map_or(0, |parent| parent.inner_pid())
    }
}

/// A mask in hexadecimal as names: `none`, `full` or a list.
fn capabilities(mask: &str) -> String {
    let mask = u64::from_str_radix(mask, 16).unwrap_or(0);
    let last =
        fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok().and_then(|text| text.trim().parse::<u32>().ok());
    let full = (1u64 << (last.unwrap_or(40) + 1)) - 1;
    match mask {
        0 => "none".to_owned(),
        mask if mask == full => "full".to_owned(),
        mask => {
            let names = CAPABILITIES.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0);
            names.map(|(_, name)| *name).collect::<Vec<_>>().join(",")
        }
    }
}

#[rustfmt::skip]
const CAPABILITIES: &[&str] = &[
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
];

/// Go's `time.Duration`: `1h2m3.5s`, `0s`.
fn go_duration(seconds: f64) -> String {
    let whole = seconds.floor() as u64;
    let (hours, minutes) = (whole / 3600, whole / 60 % 60);
    let rest = seconds - (whole - whole % 60) as f64;
    let rest = format!("{rest:.9}");
    let rest = rest.trim_end_matches('0').trim_end_matches('.');
    let mut text = String::new();
    if hours > 0 {
        text.push_str(&format!("{hours}h"));
    }
    if hours > 0 || minutes > 0 {
        text.push_str(&format!("{minutes}m"));
    }
    text.push_str(&format!("{}s", if rest.is_empty() { "0" } else { rest }));
    text
}

/// The ids of a container and their names in its own files.
struct Names {
    /// Inner first, outer first, count.
    map: Vec<(u32, u32, u32)>,
    names: HashMap<u32, String>,
}

impl Names {
    fn of_container(pid: i32, file: &str) -> Self {
        let map = if file.ends_with("passwd") { "uid_map" } else { "gid_map" };
        let map = fs::read_to_string(format!("/proc/{pid}/{map}")).unwrap_or_default();
        let map = map
            .lines()
            .filter_map(|line| {
                let mut numbers = line.split_ascii_whitespace().map(str::parse);
                Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
            })
            .collect();
        let text = View::Running(pid).read(file).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut names = HashMap::new();
        for line in text.lines() {
            let mut fields = line.split(':');
            if let (Some(name), Some(id)) = (fields.next(), fields.nth(1).and_then(|id| id.parse().ok())) {
                names.entry(id).or_insert_with(|| name.to_owned());
            }
        }
        Self { map, names }
    }

    fn inner(&self, outer: u32) -> u32 {
        let entry = self.map.iter().find(|(_, first, count)| outer.checked_sub(*first).is_some_and(|at| at < *count));
        entry.map_or(outer, |(inner, first, _)| inner + (outer - first))
    }

    fn name(&self, outer: u32) -> String {
        let inner = self.inner(outer);
        self.names.get(&inner).cloned().unwrap_or_else(|| inner.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_print_as_go_prints_them() {
        for (seconds, text) in [(0.0, "0s"), (39.5, "39.5s"), (60.0, "1m0s"), (3725.25, "1h2m5.25s")] {
            assert_eq!(go_duration(seconds), text);
        }
    }

    #[test]
    fn descriptors_are_podmans_and_those_of_ps() {
        let headings = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
            columns(&words).map(|columns| columns.iter().map(|column| column.2).collect::<Vec<_>>())
        };
        assert_eq!(headings(&["pid", "%C", "args"]).unwrap(), ["PID", "%CPU", "COMMAND"]);
        assert_eq!(headings(&["-eo", "pid,comm"]).unwrap(), ["PID", "COMMAND"]);
        assert_eq!(headings(&[]).unwrap().len(), 8);
        assert!(headings(&["nonsense"]).is_err());
    }

    #[test]
    fn own_process_is_read() {
        let process = Process::read(std::process::id() as i32).unwrap();
        let names = Names { map: Vec::new(), names: HashMap::new() };
        for (column, _, _) in DESCRIPTORS {
            assert!(!process.cell(column, &Host::read(), &names, &names).contains('\0'), "{column}");
        }
    }
}
