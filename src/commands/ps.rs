//! `ps`: one readdir, then for each container two small reads and a question about its lock.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jiff::Timestamp;
use storage::image::store::ImageStore;
use storage::prune;
use storage::state::container::Record;
use storage::state::request::{ExposedPorts, Mount, Protocol};
use storage::state::status::{self, Observed, Port, State};

use super::filter::ContainerFilters;
use super::{Context, Outcome, select};
use crate::cli::format::{Json, Listing, Value, is_json};
use crate::cli::printable::Printable;
use crate::cli::{output, units};
use crate::error::CommandError;
use crate::role::Persona;

const EXAMPLES: &str = r#"Examples:
  coracle ps                             # what runs
  coracle ps -a --filter status=exited
  coracle ps --format "table {{.Names}}\t{{.Status}}\t{{.Ports}}"
  coracle ps -aq | xargs coracle rm"#;

/// List containers
///
/// Prints out information about the containers.
#[derive(clap::Args, Debug, Default)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Show all the containers, default is only running containers
    #[arg(short, long)]
    all: bool,
    /// Filter output based on conditions given
    #[arg(short, long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Pretty-print containers to JSON or using a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Print the n last created containers (all states)
    #[arg(short = 'n', long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    last: i64,
    /// Show the latest created container (all states)
    #[arg(short, long)]
    latest: bool,
    /// Display the extended information
    #[arg(long, alias = "notruncate")]
    no_trunc: bool,
    /// Do not print headers
    #[arg(long)]
    noheading: bool,
    /// Display namespace information
    #[arg(long, visible_alias = "namespace")]
    ns: bool,
    /// Print the ID and name of the pod the containers are associated with
    #[arg(short, long)]
    pod: bool,
    /// Print the numeric IDs of the containers only
    #[arg(short, long)]
    quiet: bool,
    /// Display the total file sizes
    #[arg(short, long)]
    size: bool,
    /// Sort output by: command, created, id, image, names, runningfor, size, status
    #[arg(long, value_name = "KEY", default_value = "created")]
    sort: String,
    /// Sync container state with the runtime (it always is)
    #[arg(long, hide = true)]
    sync: bool,
    /// Show the list anew after every so many seconds
    #[arg(short, long, value_name = "SECONDS")]
    watch: Option<u64>,
    /// Show containers in storage that are not controlled by coracle (there are none)
    #[arg(long, hide = true)]
    external: bool,
}

const SORTS: &[&str] = &["command", "created", "id", "image", "names", "runningfor", "size", "status"];

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let Some(seconds) = args.watch else { return show(&args, context) };
    let pause = std::time::Duration::from_secs(seconds.max(1));
    loop {
        // The screen's beginning, and nothing below it.
        output::print("\x1b[H\x1b[2J")?;
        show(&args, context)?;
        std::thread::sleep(pause);
    }
}

fn show(args: &Args, context: &Context) -> Outcome {
    if !SORTS.contains(&args.sort.as_str()) {
        return Err(CommandError::user(format_args!(
            "invalid argument {:?} for \"--sort\" flag: {:?} is not a valid value.  Choose from: {:?}",
            args.sort,
            args.sort,
            SORTS.join(", ")
        )));
    }
    if args.latest && args.last >= 0 {
        return Err(CommandError::user("last and latest are mutually exclusive"));
    }
    let entries = entries(args, context)?;
    let now = Timestamp::now();
    let view = View { now, no_trunc: args.no_trunc, with_size: args.size, persona: context.persona };
    let format = args.format.as_deref();
    if args.quiet {
        if format.is_some_and(|format| !is_json(format)) {
            return Err(CommandError::user("quiet and format are mutually exclusive"));
        }
        let ids: String = entries
            .iter()
            .map(|entry| if args.no_trunc { entry.record.id.as_str() } else { entry.record.id.short() })
            .flat_map(|id| [id, "\n"])
            .collect();
        output::print(&ids)?;
        return Ok(0);
    }
    if format.is_some_and(is_json) && context.persona == Persona::Podman && format != Some("{{json .}}") {
        let rows = entries.iter().map(|entry| view.json(entry)).collect();
        let style = Json { indent: Some(2), escape_html: true, open_empty_maps: true };
        output::print_line(Value::List(rows).to_json(style))?;
        return Ok(0);
    }
    let default = default_format(args, context.persona);
    let format = match format {
        None => default.as_str(),
        Some("table") => default.as_str(),
        Some("json") => "{{json .}}",
        Some(format) => format,
    };
    let headings: &[(&str, &str)] = match context.persona {
        Persona::Podman => &HEADINGS,
        Persona::Docker => &DOCKER_HEADINGS,
    };
    let rows: Vec<Value> = match args.ns {
        true => entries.iter().map(|entry| view.namespaces(entry)).collect(),
        false => entries.iter().map(|entry| view.row(entry)).collect(),
    };
    let listing = Listing {
        name: "ps",
        type_name: "containers.psReporter",
        format,
        headings,
        no_heading: args.noheading,
        docker: context.persona == Persona::Docker,
    };
    let (text, error) = listing.render(rows);
    output::print(&text)?;
    error.map_or(Ok(0), Err)
}

const HEADINGS: [(&str, &str); 16] = [
    ("ID", "CONTAINER ID"),
    ("Cgroup", "CGROUPNS"),
    ("CreatedHuman", "CREATED"),
    ("ExitCode", "EXIT CODE"),
    ("Exited", "EXITED"),
    ("RunningFor", "CREATED"),
    ("IPC", "IPC"),
    ("MNT", "MNT"),
    ("NET", "NET"),
    ("Networks", "NETWORKS"),
    ("PIDNS", "PIDNS"),
    ("Pod", "POD ID"),
    ("PodName", "PODNAME"),
    ("UTS", "UTS"),
    ("User", "USERNS"),
    ("Restarts", "RESTARTS"),
];

const DOCKER_HEADINGS: [(&str, &str); 4] =
    [("ID", "CONTAINER ID"), ("RunningFor", "CREATED"), ("CreatedAt", "CREATED AT"), ("LocalVolumes", "LOCAL VOLUMES")];

fn default_format(args: &Args, persona: Persona) -> String {
    if args.ns {
        return r"table {{.ID}}\t{{.Names}}\t{{.Pid}}\t{{.Cgroup}}\t{{.IPC}}\t{{.MNT}}\t{{.NET}}\t{{.PIDNS}}\t{{.User}}\t{{.UTS}}"
            .to_owned();
    }
    let created = if persona == Persona::Docker { "RunningFor" } else { "CreatedHuman" };
    let mut format = format!(
        r"table {{{{.ID}}}}\t{{{{.Image}}}}\t{{{{.Command}}}}\t{{{{.{created}}}}}\t{{{{.Status}}}}\t{{{{.Ports}}}}\t{{{{.Names}}}}"
    );
    if args.pod {
        format.push_str(r"\t{{.Pod}}\t{{.PodName}}");
    }
    if args.size {
        format.push_str(r"\t{{.Size}}");
    }
    format
}

/// A container and what it does.
struct Entry {
    record: Record,
    observed: Observed,
    /// Its size, if asked for.
    bytes: Option<Bytes>,
}

/// The size of a container in bytes.
#[derive(Clone, Copy)]
struct Bytes {
    /// Its writable layer.
    written: u64,
    /// That and its image.
    all: u64,
}

fn entries(args: &Args, context: &Context) -> Result<Vec<Entry>, CommandError> {
    let filters = ContainerFilters::parse(context, &args.filters)?;
    let only_running = !args.all && !args.latest && args.last < 0 && !filters.asks_for_state();
    let mut entries = Vec::new();
    for record in select::all(context)? {
        let observed = match status::observe(&context.layout, &record) {
            Ok(observed) => observed,
            Err(error) => {
                CommandError::host(error).print();
                continue;
            }
        };
        // What was to vanish at its end and whose supervisor was killed vanishes now.
        if observed.state.exit().is_some() && record.request.remove {
            // Otherwise its supervisor is about to, or somebody else.
            if let Ok(true) = prune::finish(&context.layout, &record, &observed) {
                continue;
            }
        }
        let shown = match (&observed.state, context.persona) {
            (State::Running { .. } | State::Restarting { .. }, _) | (State::Paused { .. }, Persona::Docker) => true,
            _ => !only_running,
        };
        if shown && filters.accept_observed(&record, Some(&observed)) {
            entries.push(Entry { record, observed, bytes: None });
        }
    }
    // `container::list` gives the oldest first.
    if args.latest || args.last >= 0 {
        let count = if args.latest { 1 } else { usize::try_from(args.last).unwrap_or(usize::MAX) };
        entries.drain(..entries.len().saturating_sub(count));
    }
    if context.persona == Persona::Docker {
        entries.reverse();
    }
    if args.size || args.sort == "size" {
        let images = ImageStore::open(&context.layout).list()?;
        for entry in &mut entries {
            let written = tree_bytes(&context.layout.container(&entry.record.id).join("upper"));
            let id = entry.record.image.as_ref().map(|image| &image.id);
            let image = images.iter().find(|image| Some(&image.id) == id).map_or(0, |image| image.size);
            entry.bytes = Some(Bytes { written, all: written.saturating_add(image) });
        }
    }
    match args.sort.as_str() {
        "command" => entries.sort_by(|a, b| a.record.request.args.cmp(&b.record.request.args)),
        "id" => entries.sort_by(|a, b| a.record.id.cmp(&b.record.id)),
        "image" => entries.sort_by(|a, b| image_name(&a.record).cmp(image_name(&b.record))),
        "names" => entries.sort_by(|a, b| a.record.name.cmp(&b.record.name)),
        "runningfor" => entries.sort_by_key(|entry| entry.observed.started_at),
        "size" => entries.sort_by_key(|entry| entry.bytes.map(|bytes| bytes.written)),
        "status" => entries.sort_by_key(|entry| entry.observed.state.as_str()),
        _ => {}
    }
    Ok(entries)
}

/// Bytes of all regular files below a directory, as far as the user may look into it.
pub(crate) fn tree_bytes(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => tree_bytes(&entry.path()),
            Ok(metadata) if metadata.is_file() => metadata.size(),
            _ => 0,
        })
        .sum()
}

/// The full name of a container's image, or what was typed when it has none.
pub(crate) fn image_name(record: &Record) -> &str {
    record.image_name()
}

/// `Up 3 minutes (healthy)`, `Exited (0) 2 seconds ago`, `Created`.
pub(crate) fn status_text(observed: &Observed, now: Timestamp) -> String {
    let health = observed.health.as_ref().map(|health| format!(" ({})", health.status.as_str())).unwrap_or_default();
    match &observed.state {
        State::Created => "Created".to_owned(),
        State::Starting { .. } => "Initialized".to_owned(),
        State::Running { since, .. } => format!("Up {}{health}", units::human_duration(units::since(*since, now))),
        State::Paused { .. } => "Paused".to_owned(),
        // docker's words; podman shows nothing of it, since it starts at once.
        State::Restarting { exit } => {
            let ago = exit.finished_at.map(|finished| units::ago(finished, now)).unwrap_or_default();
            format!("Restarting ({}) {ago}", exit.code)
        }
        State::Stopped { exit } => match exit.finished_at {
            Some(finished) => format!("Exited ({}) {}", exit.code, units::ago(finished, now)),
            None => format!("Exited ({})", exit.code),
        },
    }
}

/// The ports of a container: those listened on while it runs, else those asked for.
pub(crate) fn ports(record: &Record, observed: &Observed) -> Vec<Port> {
    let mut ports = observed.network.ports.clone();
    if ports.is_empty() {
        let published = &record.request.network.published;
        ports.extend(published.iter().filter_map(|port| {
            let host_port = port.host_port?;
            let (host_ip, container_port, range, protocol) =
                (port.host_ip, port.container_port, port.range, port.protocol);
            Some(Port { host_ip, host_port, container_port, range, protocol })
        }));
    }
    ports.sort_by_key(|port| (port.protocol, port.host_port));
    ports
}

/// `0.0.0.0:8080->80/tcp, 443/tcp`.
fn ports_text(ports: &[Port], exposed: &[ExposedPorts]) -> String {
    let span = |first: u16, range: u16| match range {
        0 | 1 => first.to_string(),
        range => format!("{first}-{}", first.saturating_add(range - 1)),
    };
    let mut words = Vec::new();
    for port in ports {
        let address = port.host_ip.map_or_else(
            || "0.0.0.0".to_owned(),
            |ip| {
                if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }
            },
        );
        words.push(format!(
            "{address}:{}->{}/{}",
            span(port.host_port, port.range),
            span(port.container_port, port.range),
            port.protocol.as_str()
        ));
    }
    let mut exposed: Vec<_> = exposed.iter().filter(|exposed| !is_published(exposed, ports)).collect();
    exposed.sort();
    words.extend(exposed.iter().map(|one| format!("{}/{}", span(one.port, one.range), one.protocol.as_str())));
    words.join(", ")
}

fn is_published(exposed: &ExposedPorts, ports: &[Port]) -> bool {
    ports.iter().any(|port| {
        port.protocol == exposed.protocol
            && (port.container_port..port.container_port.saturating_add(port.range.max(1))).contains(&exposed.port)
    })
}

fn mount_targets(record: &Record) -> Vec<String> {
    let mounts = record.request.mounts.iter().filter(|mount| !matches!(mount, Mount::Tmpfs(_) | Mount::Devpts(_)));
    mounts.map(|mount| mount.target().display().to_string()).collect()
}

/// Names of the networks: user networks and bridges, not the drivers without one.
pub(crate) fn network_names(observed: &Observed) -> Vec<String> {
    let mut names: Vec<String> = observed
        .network
        .interfaces
        .iter()
        .map(|interface| interface.network.clone())
        .filter(|name| !matches!(name.as_str(), "slirp4netns" | "pasta"))
        .collect();
    names.dedup();
    names
}

/// The id of a container's pod, empty if it is in none.
fn pod_id(record: &Record, whole: bool) -> &str {
    let id = record.request.pod.as_deref().unwrap_or_default();
    if whole { id } else { id.get(..12).unwrap_or(id) }
}

/// How rows are made.
struct View {
    now: Timestamp,
    no_trunc: bool,
    with_size: bool,
    persona: Persona,
}

impl View {
    fn row(&self, entry: &Entry) -> Value {
        let Entry { record, observed, .. } = entry;
        let request = &record.request;
        let id = if self.no_trunc { record.id.as_str() } else { record.id.short() };
        let command = self.command(record);
        let created_ago = units::ago(record.created, self.now);
        let exit = observed.state.exit();
        let ports = ports(record, observed);
        let image_id = record.image.as_ref().map(|image| image.id.hex()).unwrap_or_default();
        let image_id = if self.no_trunc { image_id } else { image_id.get(..12).unwrap_or_default() };
        let labels = match self.persona {
            Persona::Podman => Value::map_or_nil(&request.labels),
            // docker gives one string here, and `.Label "key"` for the value of one.
            Persona::Docker => {
                let pairs: Vec<_> = request.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                Value::Str(pairs.join(","))
            }
        };
        let joined = |words: Vec<String>| Value::Str(words.join(","));
        let mounts = mount_targets(record);
        let volumes = request.mounts.iter().filter(|mount| matches!(mount, Mount::Volume(_))).count();
        let fields = vec![
            ("ID", id.into()),
            ("Image", Printable::line(&self.image(record)).to_string().into()),
            ("Command", command.into()),
            ("CreatedHuman", created_ago.clone().into()),
            ("RunningFor", created_ago.into()),
            ("Created", Value::Time(Some(record.created))),
            ("CreatedAt", units::go_time(Some(self.created_at(record))).into()),
            ("Status", status_text(observed, self.now).into()),
            ("State", observed.state.as_str().into()),
            ("Ports", ports_text(&ports, &request.network.exposed).into()),
            ("Names", record.name.as_str().into()),
            ("Size", self.size_text(entry)),
            ("Labels", labels),
            (
                "Mounts",
                match self.persona {
                    Persona::Podman => Value::strings(mounts),
                    Persona::Docker => joined(mounts),
                },
            ),
            ("Networks", joined(network_names(observed))),
            ("LocalVolumes", Value::from(volumes as u64)),
            ("Platform", record.image.as_ref().map(|image| image.platform.as_str()).unwrap_or_default().into()),
            ("Pid", Value::Int(i64::from(pid(observed)))),
            ("ExitCode", Value::Int(i64::from(exit.map_or(0, |exit| exit.code)))),
            ("Exited", exit.is_some().into()),
            ("ExitedAt", Value::Int(unix(exit.and_then(|exit| exit.finished_at)))),
            ("StartedAt", Value::Int(unix(observed.started_at))),
            ("Restarts", Value::from(u64::from(observed.restarts))),
            ("ImageID", image_id.into()),
            ("AutoRemove", request.remove.into()),
            ("CIDFile", request.cidfile.as_ref().map(|path| path.display().to_string()).unwrap_or_default().into()),
            ("Pod", pod_id(record, self.no_trunc).into()),
            ("PodName", request.pod_name.as_str().into()),
            ("IsInfra", request.infra.into()),
            ("ExposedPorts", exposed_ports(&request.network.exposed, Value::Map(BTreeMap::new()))),
        ];
        let json = match self.persona {
            Persona::Podman => self.json_line(entry),
            Persona::Docker => docker_json(&fields),
        };
        Value::Row(fields, Box::new(json))
    }

    /// docker shows whole seconds.
    fn created_at(&self, record: &Record) -> Timestamp {
        match self.persona {
            Persona::Podman => record.created,
            Persona::Docker => Timestamp::from_second(record.created.as_second()).unwrap_or(record.created),
        }
    }

    fn image(&self, record: &Record) -> String {
        let name = image_name(record);
        match self.persona {
            Persona::Podman => name.to_owned(),
            Persona::Docker => storage::reference::Reference::parse(name).map_or_else(
                |_| name.to_owned(),
                |reference| {
                    let familiar = reference.familiar();
                    familiar.strip_suffix(":latest").map_or(familiar.clone(), str::to_owned)
                },
            ),
        }
    }

    fn command(&self, record: &Record) -> String {
        let command = record.request.args.join(" ");
        let cut = |text: &str, length: usize| match text.char_indices().nth(length) {
            Some((at, _)) if !self.no_trunc => Some(text[..at].to_owned()),
            _ => None,
        };
        let shown = match self.persona {
            Persona::Podman => cut(&command, 17).map_or(command.clone(), |cut| cut + "..."),
            Persona::Docker => {
                let text = cut(&command, 20).and_then(|_| cut(&command, 19)).map_or(command.clone(), |cut| cut + "…");
                format!("\"{text}\"")
            }
        };
        Printable::line(&shown).to_string()
    }

    fn size_text(&self, entry: &Entry) -> Value {
        match entry.bytes {
            Some(Bytes { written, all }) if self.with_size => {
                format!("{} (virtual {})", units::human_size(written, 3), units::human_size(all, 3)).into()
            }
            _ => "".into(),
        }
    }

    /// As `ps --format json` has it.
    fn json(&self, entry: &Entry) -> Value {
        let Value::Struct(mut fields) = self.json_line(entry) else { return Value::Nil };
        for (name, value) in &mut fields {
            match *name {
                "CreatedAt" => *value = units::ago(entry.record.created, self.now).into(),
                "Status" => *value = status_text(&entry.observed, self.now).into(),
                _ => {}
            }
        }
        // Here the moment stands at the end, in seconds.
        fields.retain(|(name, _)| *name != "Created");
        fields.push(("Created", Value::Int(entry.record.created.as_second())));
        Value::Struct(fields)
    }

    /// As `{{json .}}` has it.
    fn json_line(&self, entry: &Entry) -> Value {
        let Entry { record, observed, .. } = entry;
        let request = &record.request;
        let exit = observed.state.exit();
        let ports = ports(record, observed);
        let health = observed.health.as_ref().map(|health| health.status.as_str()).unwrap_or_default();
        let image_id = record.image.as_ref().map(|image| image.id.hex()).unwrap_or_default();
        let port_rows: Vec<Value> = ports
            .iter()
            .map(|port| {
                Value::Struct(vec![
                    ("host_ip", port.host_ip.map(|ip| ip.to_string()).unwrap_or_default().into()),
                    ("container_port", Value::from(u64::from(port.container_port))),
                    ("host_port", Value::from(u64::from(port.host_port))),
                    ("range", Value::from(u64::from(port.range.max(1)))),
                    ("protocol", port.protocol.as_str().into()),
                ])
            })
            .collect();
        let size = match entry.bytes {
            Some(Bytes { written, all }) => Value::Struct(vec![("rootFsSize", all.into()), ("rwSize", written.into())]),
            None => Value::Nil,
        };
        Value::Struct(vec![
            ("AutoRemove", request.remove.into()),
            ("Command", Value::strings_or_nil(request.args.iter().map(String::as_str))),
            ("Created", Value::Time(Some(record.created))),
            ("CreatedAt", "".into()),
            ("CIDFile", request.cidfile.as_ref().map(|path| path.display().to_string()).unwrap_or_default().into()),
            ("Exited", exit.is_some().into()),
            ("ExitedAt", Value::Int(unix(exit.and_then(|exit| exit.finished_at)))),
            ("ExitCode", Value::Int(i64::from(exit.map_or(0, |exit| exit.code)))),
            ("ExposedPorts", exposed_ports(&request.network.exposed, Value::NilMap)),
            ("Id", record.id.as_str().into()),
            ("Image", image_name(record).into()),
            ("ImageID", image_id.into()),
            ("IsInfra", request.infra.into()),
            ("Labels", Value::map_or_nil(&request.labels)),
            ("Mounts", Value::strings(mount_targets(record))),
            ("Names", Value::strings([record.name.as_str()])),
            ("Namespaces", Value::Map(BTreeMap::new())),
            ("Networks", Value::strings(network_names(observed))),
            ("Pid", Value::Int(i64::from(pid(observed)))),
            ("Pod", pod_id(record, self.no_trunc).into()),
            ("PodName", request.pod_name.as_str().into()),
            ("Ports", if port_rows.is_empty() { Value::NilList } else { Value::List(port_rows) }),
            ("Restarts", Value::from(u64::from(observed.restarts))),
            ("Size", size),
            ("StartedAt", Value::Int(unix(observed.started_at))),
            ("State", observed.state.as_str().into()),
            ("Status", health.into()),
        ])
    }

    fn namespaces(&self, entry: &Entry) -> Value {
        let pid = pid(&entry.observed);
        let inode = |name: &str| {
            let link = std::fs::read_link(format!("/proc/{pid}/ns/{name}")).ok();
            let text = link.and_then(|link| link.to_str().map(str::to_owned)).unwrap_or_default();
            let inode = text.split(['[', ']']).nth(1).unwrap_or_default();
            Value::str(if pid == 0 { "" } else { inode })
        };
        let record = &entry.record;
        Value::Struct(vec![
            ("ID", (if self.no_trunc { record.id.as_str() } else { record.id.short() }).into()),
            ("Names", record.name.as_str().into()),
            ("Pid", Value::Int(i64::from(pid))),
            ("Cgroup", inode("cgroup")),
            ("IPC", inode("ipc")),
            ("MNT", inode("mnt")),
            ("NET", inode("net")),
            ("PIDNS", inode("pid")),
            ("User", inode("user")),
            ("UTS", inode("uts")),
        ])
    }
}

fn pid(observed: &Observed) -> i32 {
    observed.state.init().map_or(0, |init| init.pid)
}

/// Seconds since 1970; no time is Go's year 1.
fn unix(time: Option<Timestamp>) -> i64 {
    time.map_or(-62_135_596_800, Timestamp::as_second)
}

fn exposed_ports(exposed: &[ExposedPorts], empty: Value) -> Value {
    let mut map: BTreeMap<String, Value> = BTreeMap::new();
    for one in exposed {
        for port in one.port..one.port.saturating_add(one.range.max(1)) {
            let protocols = map.entry(port.to_string()).or_insert_with(|| Value::List(Vec::new()));
            if let Value::List(list) = protocols {
                list.push(Protocol::as_str(one.protocol).into());
            }
        }
    }
    if map.is_empty() { empty } else { Value::Map(map) }
}

/// The fields docker prints, all of them strings.
fn docker_json(fields: &[(&'static str, Value)]) -> Value {
    const NAMES: [&str; 14] = [
        "Command",
        "CreatedAt",
        "ID",
        "Image",
        "Labels",
        "LocalVolumes",
        "Mounts",
        "Names",
        "Networks",
        "Ports",
        "RunningFor",
        "Size",
        "State",
        "Status",
    ];
    let field = |name: &'static str| {
        let value = fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value.to_text());
        (name, Value::Str(value.unwrap_or_default()))
    };
    Value::Struct(NAMES.into_iter().map(field).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::state::status::{Exit, Health, HealthStatus, Init};

    fn observed(state: State, health: Option<HealthStatus>) -> Observed {
        Observed {
            state,
            supervisor: None,
            started_at: None,
            network: status::Network::default(),
            health: health.map(|status| Health { status, ..Health::default() }),
            restarts: 0,
            stopped_by_user: false,
        }
    }

    #[test]
    fn status_words_are_podmans() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let init = Init { pid: 1, start_time: 1 };
        let stopped = |code, finished_at| State::Stopped { exit: Exit { code, finished_at, ..Exit::default() } };
        let running = State::Running { init, since: at(0) };
        for (state, health, text) in [
            (State::Created, None, "Created"),
            (State::Starting { init }, None, "Initialized"),
            (running.clone(), None, "Up 2 minutes"),
            (running, Some(HealthStatus::Starting), "Up 2 minutes (starting)"),
            (State::Paused { init, since: at(0) }, None, "Paused"),
            (stopped(3, Some(at(60))), None, "Exited (3) About a minute ago"),
            (stopped(255, None), None, "Exited (255)"),
        ] {
            assert_eq!(status_text(&observed(state, health), at(120)), text);
        }
    }

    #[test]
    fn ports_print_as_podman_prints_them() {
        let port = |host_ip: Option<&str>, host_port, container_port, range, protocol| Port {
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port,
            container_port,
            range,
            protocol,
        };
        let exposed = |port| ExposedPorts { port, range: 1, protocol: Protocol::Tcp };
        let ports = [
            port(None, 9000, 9000, 3, Protocol::Tcp),
            port(Some("127.0.0.1"), 44463, 90, 1, Protocol::Udp),
            port(Some("::1"), 80, 80, 1, Protocol::Tcp),
        ];
        assert_eq!(
            ports_text(&ports, &[exposed(443), exposed(9001)]),
            "0.0.0.0:9000-9002->9000-9002/tcp, 127.0.0.1:44463->90/udp, [::1]:80->80/tcp, 443/tcp"
        );
        assert_eq!(ports_text(&[], &[]), "");
    }
}
