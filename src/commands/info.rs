//! `info`: the host, the stores and what coracle found to work with.

mod docker;
mod registries;
mod yaml;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use runtime::security::capabilities::CapabilitySet;
use runtime::userns::{IdMap, Mapping};
use storage::image::store::ImageStore;
use storage::state::status::{self, State};

use super::storage_driver::Possible;
use super::{Context, Outcome, select, version};
use crate::cli::format::{Json, Template, Value, enforce_range, is_json, normalize};
use crate::cli::output;
use crate::error::CommandError;
use crate::role::Persona;
use crate::supervisor::cgroup::manager_name;

const EXAMPLES: &str = r#"Examples:
  coracle info
  coracle info -f '{{.Host.CgroupsVersion}}'"#;

/// Display coracle system information
///
/// Displays information pertaining to the host, current storage stats, and build of coracle.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Show more: all there is is always shown
    #[arg(short = 'D', long, hide = true)]
    debug: bool,
    /// Change the output format to JSON or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let info = match context.persona {
        Persona::Podman => describe(context)?,
        Persona::Docker => docker::describe(context)?,
    };
    match args.format.as_deref() {
        None if context.persona == Persona::Docker => output::print(&docker::text(&info))?,
        None => output::print(&yaml::of(&info))?,
        Some(format) if is_json(format) => {
            let indent = if context.persona == Persona::Docker { None } else { Some(2) };
            output::print_line(info.to_json(Json { indent, escape_html: true, open_empty_maps: false }))?;
        }
        Some(format) => {
            let template = Template::parse("info", &enforce_range(&normalize(format)))?;
            let named = if context.persona == Persona::Docker { info } else { go_document(&info) };
            let (text, error) = template.execute(&Value::List(vec![named]), "system.infoReport");
            output::print(&text)?;
            return error.map_or(Ok(0), Err);
        }
    }
    Ok(0)
}

fn word(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// A field of `/proc/meminfo` in bytes.
fn memory(field: &str) -> i64 {
    let text = word("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<i64>().ok()).unwrap_or(0) * 1024
}

/// A field of `/etc/os-release` without its quotes.
fn os_release(field: &str) -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix('='));
    value.unwrap_or_default().trim_matches('"').to_owned()
}

fn cpus() -> i64 {
    std::thread::available_parallelism().map_or(1, |count| i64::try_from(count.get()).unwrap_or(1))
}

/// The first file of that name in `PATH`.
fn program(name: &str) -> Option<String> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .map(|path| path.display().to_string())
}

/// The controllers that containers can have.
fn cgroup_controllers() -> Vec<String> {
    runtime::cgroup::place::Place::find().controllers().into_iter().collect()
}

fn cgroup_version() -> &'static str {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() || Path::new("/sys/fs/cgroup/unified").exists() {
        "v2"
    } else {
        "v1"
    }
}

fn kernel() -> String {
    word("/proc/sys/kernel/osrelease")
}

fn hostname() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Containers: all, running, paused, stopped.
fn counts(context: &Context) -> Result<[i64; 4], CommandError> {
    let mut counts = [0; 4];
    for record in select::all(context)? {
        counts[0] += 1;
        let Ok(observed) = status::observe(&context.layout, &record) else { continue };
        match observed.state {
            State::Running { .. } | State::Starting { .. } | State::Restarting { .. } => counts[1] += 1,
            State::Paused { .. } => counts[2] += 1,
            State::Created | State::Stopped { .. } => counts[3] += 1,
        }
    }
    Ok(counts)
}

fn map<const N: usize>(fields: [(&'static str, Value); N]) -> Value {
    Value::Struct(fields.into_iter().collect())
}

fn id_map(map: &IdMap) -> Value {
    let rows = map.0.iter().map(|entry| {
        Value::Struct(vec![
            ("container_id", Value::Int(i64::from(entry.container))),
            ("host_id", Value::Int(i64::from(entry.host))),
            ("size", Value::Int(i64::from(entry.size))),
        ])
    });
    Value::List(rows.collect())
}

fn helper(name: &str) -> Value {
    let path = program(name).unwrap_or_default();
    Value::Struct(vec![("executable", path.into()), ("package", "".into()), ("version", "".into())])
}

fn path(path: &Path) -> Value {
    Value::Str(path.display().to_string())
}

/// The storage driver of new containers, and why it is that one.
fn storage(context: &Context, mapping: &Mapping) -> Result<(&'static str, BTreeMap<String, Value>), CommandError> {
    let data_dir = context.layout.data_dir();
    // What keeps it from being made is said as the reason below.
    let _ = storage::state::layout::create_dir(data_dir);
    let possible = Possible::find_out(mapping, data_dir);
    let driver = possible.driver(context.storage_driver()?, mapping.single.is_some());
    let word =
        |possible: &Result<(), String>| possible.as_ref().map_or_else(|why| format!("no: {why}"), |()| "yes".into());
    let shifts = possible.fuse.is_ok() && mapping.single.is_none();
    let status = [
        ("Backing Filesystem", backing_file_system(data_dir)),
        ("Native Overlay", word(&possible.overlay)),
        ("FUSE", word(&possible.fuse)),
        ("Supports shifting", shifts.to_string()),
        // Of the overlay as we mount it.
        ("Native Overlay Diff", possible.overlay.is_ok().to_string()),
        ("Supports d_type", "true".to_owned()),
        ("Supports volatile", possible.overlay.is_ok().to_string()),
        ("Using metacopy", "false".to_owned()),
    ];
    Ok((driver, status.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()))
}

/// The kind of file system that a directory lies on, as the kernel names it.
fn backing_file_system(dir: &Path) -> String {
    let device = std::fs::metadata(dir).map(|metadata| std::os::unix::fs::MetadataExt::dev(&metadata)).unwrap_or(0);
    let device = format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let found = mounts.lines().find(|line| line.split(' ').nth(2) == Some(device.as_str()));
    let kind = found.and_then(|line| line.split_once(" - ")?.1.split(' ').next());
    kind.unwrap_or("unknown").to_owned()
}

/// Our own binary, which is runtime, network and all.
fn own_path() -> String {
    std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default()
}

fn own_version() -> String {
    format!("coracle {}", env!("CARGO_PKG_VERSION"))
}

/// How many more files the runtime directory has room for.
fn free_locks(runtime_dir: &Path) -> Value {
    // It is made with the first container: until then its parent knows.
    let room = runtime_dir.ancestors().find_map(|dir| nix::sys::statvfs::statvfs(dir).ok());
    Value::from(room.map_or(0, |room| room.files_available()))
}

/// What a container may do unless it is told otherwise.
fn default_capabilities() -> String {
    let mut names: Vec<String> = CapabilitySet::DEFAULT.iter().map(|one| one.to_string()).collect();
    names.sort();
    names.join(",")
}

/// Since the start of the machine, in per cent: the first line of `/proc/stat`.
fn cpu_utilization(stat: &str) -> Value {
    let numbers: Vec<f64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .skip(1)
        .map(|word| word.parse().unwrap_or(0.0))
        .collect();
    let (user, system, idle) = match numbers.as_slice() {
        [user, nice, system, idle, ..] => (user + nice, *system, *idle),
        _ => (0.0, 0.0, 0.0),
    };
    let total = (user + system + idle).max(1.0);
    let percent = |part: f64| Value::Float((part * 10_000.0 / total).round() / 100.0);
    map([("userPercent", percent(user)), ("systemPercent", percent(system)), ("idlePercent", percent(idle))])
}

/// As podman words it: `6h 49m 12.00s (Approximately 0.25 days)`.
fn uptime_text(seconds: u64) -> String {
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}.00s"),
        (0, minutes) => format!("{minutes}m {rest}.00s"),
        (hours, minutes) => {
            format!("{hours}h {minutes}m {rest}.00s (Approximately {:.2} days)", hours as f64 / 24.0)
        }
    }
}

fn describe(context: &Context) -> Result<Value, CommandError> {
    let layout = &context.layout;
    let mapping = Mapping::of_user();
    let [all, running, paused, stopped] = counts(context)?;
    let images = ImageStore::open(layout).list().map_or(0, |images| images.len());
    let uptime = word("/proc/uptime").split('.').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let file_system = nix::sys::statvfs::statvfs(layout.data_dir()).ok();
    let bytes = |blocks: u64| file_system.as_ref().map_or(0, |fs| blocks.saturating_mul(fs.fragment_size()));
    let allocated = file_system.as_ref().map_or(0, |fs| bytes(fs.blocks()));
    let free = file_system.as_ref().map_or(0, |fs| bytes(fs.blocks_free()));
    let client = version::describe(context.program()).get("Client").cloned().unwrap_or(Value::Nil);
    let (driver, driver_status) = storage(context, &mapping)?;
    let network = ["pasta", "slirp4netns"].into_iter().find(|name| program(name).is_some()).unwrap_or("builtin");
    Ok(map([
        (
            "host",
            map([
                ("arch", version::arch().into()),
                ("cgroupManager", manager_name().into()),
                ("cgroupVersion", cgroup_version().into()),
                ("cgroupControllers", Value::strings(cgroup_controllers())),
                // What stands in its place is our own.
                (
                    "conmon",
                    map([("package", "".into()), ("path", own_path().into()), ("version", own_version().into())]),
                ),
                ("cpus", Value::Int(cpus())),
                ("cpuUtilization", cpu_utilization(&word("/proc/stat"))),
                (
                    "distribution",
                    map([
                        ("distribution", os_release("ID").into()),
                        ("version", os_release("VERSION_ID").into()),
                        ("codename", os_release("VERSION_CODENAME").into()),
                    ]),
                ),
                ("databaseBackend", "files".into()),
                ("eventLogger", "file".into()),
                // Each is a file of the runtime directory.
                ("freeLocks", free_locks(layout.runtime_dir())),
                ("hostname", hostname().into()),
                ("idMappings", map([("gidmap", id_map(&mapping.gids)), ("uidmap", id_map(&mapping.uids))])),
                ("kernel", kernel().into()),
                ("logDriver", "k8s-file".into()),
                ("linkmode", if cfg!(target_env = "musl") { "static" } else { "dynamic" }.into()),
                ("memFree", Value::Int(memory("MemFree"))),
                ("memTotal", Value::Int(memory("MemTotal"))),
                ("networkBackend", "coracle".into()),
                (
                    "networkBackendInfo",
                    map([
                        ("backend", "coracle".into()),
                        ("version", env!("CARGO_PKG_VERSION").into()),
                        ("package", "".into()),
                        ("path", own_path().into()),
                        (
                            "dns",
                            map([
                                ("version", own_version().into()),
                                ("package", "".into()),
                                ("path", own_path().into()),
                            ]),
                        ),
                    ]),
                ),
                (
                    "ociRuntime",
                    map([
                        ("name", "coracle".into()),
                        ("package", "".into()),
                        ("path", own_path().into()),
                        ("version", env!("CARGO_PKG_VERSION").into()),
                    ]),
                ),
                ("os", "linux".into()),
                ("pasta", helper("pasta")),
                ("remoteSocket", map([("exists", false.into()), ("path", "".into())])),
                ("rootlessNetworkCmd", network.into()),
                (
                    "security",
                    map([
                        ("ids", if mapping.single.is_some() { "single" } else { "mapped" }.into()),
                        ("apparmorEnabled", (word("/sys/module/apparmor/parameters/enabled") == "Y").into()),
                        ("capabilities", default_capabilities().into()),
                        ("rootless", (!nix::unistd::geteuid().is_root()).into()),
                        ("seccompEnabled", true.into()),
                        ("seccompProfilePath", "".into()),
                        ("selinuxEnabled", Path::new("/sys/fs/selinux/enforce").exists().into()),
                    ]),
                ),
                ("serviceIsRemote", false.into()),
                ("slirp4netns", helper("slirp4netns")),
                ("swapFree", Value::Int(memory("SwapFree"))),
                ("swapTotal", Value::Int(memory("SwapTotal"))),
                ("uptime", uptime_text(uptime).into()),
                ("variant", "".into()),
            ]),
        ),
        (
            "plugins",
            map([
                ("volume", Value::strings(["local"])),
                ("network", Value::strings(["bridge", "none", "host", "builtin", "slirp4netns", "pasta"])),
                ("log", Value::strings(["k8s-file", "json-file", "journald", "none", "passthrough"])),
                ("authorization", Value::NilList),
            ]),
        ),
        ("registries", registries::describe()?),
        (
            "store",
            map([
                (
                    "containerStore",
                    map([
                        ("number", Value::Int(all)),
                        ("paused", Value::Int(paused)),
                        ("running", Value::Int(running)),
                        ("stopped", Value::Int(stopped)),
                    ]),
                ),
                ("graphDriverName", driver.into()),
                ("graphOptions", Value::Map(BTreeMap::new())),
                ("graphRoot", path(layout.data_dir())),
                ("graphRootAllocated", allocated.into()),
                ("graphRootUsed", allocated.saturating_sub(free).into()),
                ("graphStatus", Value::Map(driver_status)),
                ("configFile", "".into()),
                ("imageCopyTmpDir", std::env::var("TMPDIR").unwrap_or_else(|_| "/var/tmp".to_owned()).into()),
                ("imageStore", map([("number", Value::from(images as u64))])),
                ("runRoot", path(layout.runtime_dir())),
                ("transientStore", false.into()),
                ("volumePath", path(&layout.volumes())),
            ]),
        ),
        ("version", client),
    ]))
}

/// The document as templates see it: other fields than these do not exist.
fn go_document(info: &Value) -> Value {
    go_named(info)
}

/// The names that templates have for keys: `.Host.CgroupsVersion` for `cgroupVersion`. Every other key only begins with a
/// capital letter there.
const GO_NAMES: [(&str, &str); 11] = [
    ("cgroupVersion", "CgroupsVersion"),
    ("idMappings", "IDMappings"),
    ("uidmap", "UIDMap"),
    ("gidmap", "GIDMap"),
    ("cpus", "CPUs"),
    ("os", "OS"),
    ("ociRuntime", "OCIRuntime"),
    ("selinuxEnabled", "SELinuxEnabled"),
    ("apparmorEnabled", "AppArmorEnabled"),
    ("seccompEnabled", "SECCOMPEnabled"),
    ("seccompProfilePath", "SECCOMPProfilePath"),
];

/// The document with the names of templates; as JSON it is what it was.
fn go_named(value: &Value) -> Value {
    let name = |key: &str| match GO_NAMES.iter().find(|(of, _)| *of == key) {
        Some((_, name)) => (*name).to_owned(),
        None => key.chars().take(1).flat_map(char::to_uppercase).chain(key.chars().skip(1)).collect(),
    };
    match value {
        Value::Struct(fields) => {
            // Once per process: templates want names that live as long as it does.
            let named = |(key, value): &(&'static str, Value)| (&*name(key).leak(), go_named(value));
            Value::Row(fields.iter().map(named).collect(), Box::new(value.clone()))
        }
        Value::List(list) => Value::List(list.iter().map(go_named).collect()),
        value => value.clone(),
    }
}
