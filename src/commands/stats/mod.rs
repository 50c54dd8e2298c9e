//! `stats`: what containers use, once or again and again.

mod usage;

use std::collections::HashMap;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use runtime::monitor::event_loop::{Interest, Turn};
use storage::state::container::{self, Record};
use storage::state::status::{self, State};

use self::usage::{Processes, Usage};
use super::select::{self, Selection};
use super::{Context, Outcome};
use crate::cli::format::{Json, Listing, Value, is_json};
use crate::cli::{output, units};
use crate::error::CommandError;
use crate::role::Persona;

/// Display a live stream of container resource usage statistics
///
/// Display percentage of CPU, memory, network I/O, block I/O and PIDs for one or more containers. Without a cgroup of its
/// own, a container's numbers are the sums of those of its processes.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Container name or ID (can be repeated)
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Show all containers, not only those that run
    #[arg(short, long)]
    all: bool,
    /// Pretty-print container statistics to JSON or using a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Time in seconds between stats reports
    #[arg(short, long, value_name = "SECONDS", default_value = "5", allow_negative_numbers = true)]
    interval: i64,
    /// Act on the latest container
    #[arg(short, long)]
    latest: bool,
    /// Do not reset the screen between intervals
    #[arg(long)]
    no_reset: bool,
    /// Only pull the first result
    #[arg(long)]
    no_stream: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    /// The rows are those of `pod stats`.
    #[arg(skip)]
    of_pods: bool,
}

/// Shows the containers of pods, as `pod stats` does.
pub(crate) fn of_pods(
    containers: Vec<String>,
    format: Option<String>,
    (no_reset, no_stream): (bool, bool),
    context: &Context,
) -> Outcome {
    let (all, interval, latest, no_trunc) = (false, 5, false, false);
    run(Args { containers, all, format, interval, latest, no_reset, no_stream, no_trunc, of_pods: true }, context)
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let interval = u64::try_from(args.interval).ok().filter(|seconds| *seconds > 0);
    let interval = Duration::from_secs(
        interval.ok_or_else(|| CommandError::user("invalid interval, must be a positive number greater zero"))?,
    );
    if u8::from(args.all) + u8::from(args.latest) + u8::from(!args.containers.is_empty()) > 1 {
        return Err(CommandError::user("--all, --latest and containers cannot be used together"));
    }
    let named = chosen(&args, context)?;
    let docker = context.persona == Persona::Docker;
    let mut before: HashMap<String, Reading> = HashMap::new();
    if docker {
        // docker's percentages are those of a moment, podman's first ones since the start.
        before = read(&named, context, &before)?.into_iter().map(|one| (one.record.id.to_string(), one)).collect();
        wait(Duration::from_secs(1))?;
    }
    loop {
        let readings = read(&named, context, &before)?;
        if std::io::stdout().is_terminal() && !args.no_stream && !args.no_reset {
            output::print("\x1b[2J\x1b[1;1H")?;
        }
        print(&args, docker, &readings)?;
        before = readings.into_iter().map(|one| (one.record.id.to_string(), one)).collect();
        if args.no_stream || !wait(interval)? {
            return Ok(0);
        }
    }
}

/// The containers that were named; nothing if every report looks for those that run.
fn chosen(args: &Args, context: &Context) -> Result<Option<Vec<Record>>, CommandError> {
    if args.all {
        return Ok(Some(select::all(context)?));
    }
    if args.containers.is_empty() && !args.latest {
        return Ok(None);
    }
    let selection = Selection { names: &args.containers, latest: args.latest, ..Selection::default() };
    let (selected, errors) = selection.resolve(context)?;
    match errors.into_iter().next() {
        Some(error) => Err(error.while_doing("unable to get list of containers")),
        None => Ok(Some(selected.into_iter().map(|one| one.record).collect())),
    }
}

/// Waits for the next report; `false` if nobody reads it.
fn wait(interval: Duration) -> Result<bool, CommandError> {
    let stdout = std::io::stdout();
    let mut turn = Turn::new();
    turn.watch(stdout.as_fd(), Interest::Hangup, ());
    let ready = turn.wait(Instant::now().checked_add(interval));
    let ready = ready.map_err(|errno| CommandError::host(format_args!("poll(): {}", errno.desc().to_lowercase())))?;
    Ok(ready.is_empty())
}

/// What one container has used, and what that is per second.
struct Reading {
    record: Record,
    at: Timestamp,
    usage: Usage,
    /// Since the last report, or since the start.
    cpu_percent: f64,
    /// Since the start.
    average_percent: f64,
}

fn read(
    named: &Option<Vec<Record>>,
    context: &Context,
    before: &HashMap<String, Reading>,
) -> Result<Vec<Reading>, CommandError> {
    let records = match named {
        Some(records) => records.clone(),
        None => select::all(context)?,
    };
    let processes = Processes::look();
    let mut readings = Vec::new();
    for record in records {
        if named.is_some() && container::load(&context.layout, &record.id)?.is_none() {
            return Err(CommandError::user(format_args!(
                "container {} does not exist in database: no such container",
                record.id
            )));
        }
        let at = Timestamp::now();
        let observed = status::observe(&context.layout, &record)?;
        let (usage, since) = match observed.state {
            State::Running { init, since } | State::Paused { init, since } => {
                (processes.usage(observed.cgroup.as_deref(), init.pid), since)
            }
            _ if named.is_none() => continue,
            _ => (Usage::default(), at),
        };
        let average_percent = percent(usage.cpu_ns, units::since(since, at));
        let cpu_percent = match before.get(record.id.as_str()) {
            // One that was started anew counts from nothing again.
            Some(last) if last.usage.cpu_ns <= usage.cpu_ns && last.at > since => {
                percent(usage.cpu_ns - last.usage.cpu_ns, units::since(last.at, at))
            }
            _ => average_percent,
        };
        readings.push(Reading { record, at, usage, cpu_percent, average_percent });
    }
    Ok(readings)
}

fn percent(cpu_ns: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { cpu_ns as f64 * 100.0 / time.as_nanos() as f64 }
}

fn print(args: &Args, docker: bool, readings: &[Reading]) -> Result<(), CommandError> {
    let row = |one| if args.of_pods { pod_row(one) } else { row(one, args.no_trunc, docker) };
    let rows: Vec<Value> = readings.iter().map(row).collect();
    let default = match docker {
        _ if args.of_pods => {
            r"table {{.Pod}}\t{{.CID}}\t{{.Name}}\t{{.CPU}}\t{{.MemUsage}}\t{{.Mem}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDS}}"
        }
        false => {
            r"table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDS}}\t{{.UpTime}}\t{{.AVGCPU}}"
        }
        true => {
            r"table {{.Container}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}"
        }
    };
    let format = match args.format.as_deref() {
        Some(format) if is_json(format) && !docker => {
            // podman has another width for pods.
            let indent = Some(if args.of_pods { 5 } else { 1 });
            let style = Json { indent, escape_html: true, open_empty_maps: false };
            return output::print_line(Value::List(rows).to_json(style));
        }
        None | Some("" | "table") => default,
        Some("json") => "{{json .}}",
        Some(format) => format,
    };
    let (net, block) = if docker { ("NET I/O", "BLOCK I/O") } else { ("NET IO", "BLOCK IO") };
    let headings = [
        ("Container", "CONTAINER ID"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", if args.of_pods { "MEM USAGE/ LIMIT" } else { "MEM USAGE / LIMIT" }),
        ("CPU", "CPU %"),
        ("Mem", "MEM %"),
        ("MemUsageBytes", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", net),
        ("BlockIO", block),
        ("PIDS", "PIDS"),
        ("PIDs", "PIDS"),
        ("UpTime", "CPU TIME"),
        ("AVGCPU", "AVG CPU %"),
    ];
    let listing = Listing {
        name: "stats",
        type_name: "containers.containerStats",
        format,
        headings: &headings,
        no_heading: false,
        docker,
    };
    let (text, error) = listing.render(rows);
    output::print(&text)?;
    error.map_or(Ok(()), Err)
}

/// A row of `pod stats`.
fn pod_row(one: &Reading) -> Value {
    let Usage { memory_bytes, memory_limit_bytes, .. } = one.usage;
    let share = match memory_limit_bytes {
        0 => 0.0,
        limit => memory_bytes as f64 * 100.0 / limit as f64,
    };
    let pair = |a, b, size: fn(u64, i32) -> String| Value::from(format!("{} / {}", size(a, 4), size(b, 4)));
    let pod = one.record.request.pod.as_deref().and_then(|id| id.get(..12)).unwrap_or_default();
    let fields = || {
        vec![
            ("CPU", format!("{:.2}%", one.cpu_percent).into()),
            ("MemUsage", pair(memory_bytes, memory_limit_bytes, units::human_size)),
            ("MemUsageBytes", pair(memory_bytes, memory_limit_bytes, units::binary_size)),
            ("Mem", format!("{share:.2}%").into()),
            ("NetIO", pair(one.usage.received_bytes, one.usage.sent_bytes, units::human_size)),
            ("BlockIO", pair(one.usage.read_bytes, one.usage.written_bytes, units::human_size)),
            ("PIDS", one.usage.pids.to_string().into()),
            ("Pod", pod.into()),
            ("CID", one.record.id.short().into()),
            ("Name", one.record.name.as_str().into()),
        ]
    };
    Value::Row(fields(), Box::new(Value::Struct(fields())))
}

fn row(one: &Reading, no_trunc: bool, docker: bool) -> Value {
    let Usage { cpu_ns, memory_bytes, memory_limit_bytes, .. } = one.usage;
    let share = match memory_limit_bytes {
        0 => 0.0,
        limit => memory_bytes as f64 * 100.0 / limit as f64,
    };
    let id = if no_trunc { one.record.id.as_str() } else { one.record.id.short() };
    let pair =
        |a: u64, b: u64, size: fn(u64, i32) -> String, digits| format!("{} / {}", size(a, digits), size(b, digits));
    let human = |a, b| pair(a, b, units::human_size, if docker { 3 } else { 4 });
    let binary = pair(memory_bytes, memory_limit_bytes, units::binary_size, 4);
    let memory = if docker { binary.clone() } else { human(memory_bytes, memory_limit_bytes) };
    let network = human(one.usage.received_bytes, one.usage.sent_bytes);
    let block = human(one.usage.read_bytes, one.usage.written_bytes);
    let percent = |value: f64| format!("{value:.2}%");
    let cpu_time = units::go_duration(cpu_ns);
    let pids = one.usage.pids.to_string();
    let name = one.record.name.as_str();
    let text = |text: &str| Value::str(text);
    let json = match docker {
        true => vec![
            ("BlockIO", text(&block)),
            ("CPUPerc", percent(one.cpu_percent).into()),
            ("Container", text(id)),
            ("ID", text(id)),
            ("MemPerc", percent(share).into()),
            ("MemUsage", text(&memory)),
            ("Name", text(name)),
            ("NetIO", text(&network)),
            ("PIDs", text(&pids)),
        ],
        false => vec![
            ("id", text(one.record.id.short())),
            ("name", text(name)),
            ("cpu_time", text(&cpu_time)),
            ("cpu_percent", percent(one.cpu_percent).into()),
            ("avg_cpu", percent(one.average_percent).into()),
            ("mem_usage", text(&memory)),
            ("mem_percent", percent(share).into()),
            ("net_io", text(&network)),
            ("block_io", text(&block)),
            ("pids", text(&pids)),
        ],
    };
    let fields = vec![
        ("ID", text(id)),
        ("Container", text(id)),
        ("ContainerID", text(one.record.id.as_str())),
        ("Name", text(name)),
        ("CPUPerc", percent(one.cpu_percent).into()),
        ("CPU", Value::Float(one.cpu_percent)),
        ("AVGCPU", percent(one.average_percent).into()),
        ("AvgCPU", Value::Float(one.average_percent)),
        ("CPUNano", cpu_ns.into()),
        ("MemUsage", memory.into()),
        ("MemUsageBytes", binary.into()),
        ("MemLimit", memory_limit_bytes.into()),
        ("MemPerc", percent(share).into()),
        ("NetIO", network.into()),
        ("NetInput", one.usage.received_bytes.into()),
        ("NetOutput", one.usage.sent_bytes.into()),
        ("BlockIO", block.into()),
        ("BlockInput", one.usage.read_bytes.into()),
        ("BlockOutput", one.usage.written_bytes.into()),
        ("PIDs", text(&pids)),
        ("PIDS", pids.into()),
        ("UpTime", text(&cpu_time)),
        ("Up", cpu_time.into()),
    ];
    Value::Row(fields, Box::new(Value::Struct(json)))
}
