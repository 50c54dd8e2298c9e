//! `ps`: one readdir, then for each container two small reads and a question about its lock.

mod rows;
mod words;

use jiff::Timestamp;
use storage::image::store::ImageStore;
use storage::prune;
use storage::state::container::{self, Listed, Record, Summary};
use storage::state::status::{self, Observed, Port, State, StatusError};

use rows::View;
pub(crate) use words::{image_name, ports, shared_ports, tree_bytes};

use super::filter::ContainerFilters;
use super::{Context, Outcome, select};
use crate::cli::format::{Json, Listing, Value, is_json, plain};
use crate::cli::{colour, output};
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
    if args.latest && args.last > 0 {
        return Err(CommandError::user("last and latest are mutually exclusive"));
    }
    let view = View {
        now: Timestamp::now(),
        no_trunc: args.no_trunc,
        with_size: args.size,
        with_namespaces: args.ns,
        persona: context.persona,
        is_coloured: colour::of_stdout(),
    };
    let is_plain = args.filters.is_empty() && args.format.is_none() && !args.ns && !args.size && args.sort != "size";
    match is_plain {
        true => show_plain(args, context, &view),
        false => show_whole(args, context, &view),
    }
}

/// The listing that is asked for most: what it shows is in the summaries.
fn show_plain(args: &Args, context: &Context, view: &View) -> Outcome {
    let (listed, errors) = container::listing(&context.layout)?;
    errors.into_iter().for_each(|error| CommandError::host(error).print());
    let listed = listed.into_iter().map(|Listed { summary, observed }| (summary, observed, ()));
    let mut entries = entries(args, context, &ContainerFilters::default(), listed, |_, _| true);
    sort(&mut entries, args, context.persona);
    if args.quiet {
        return print_ids(args, &entries);
    }
    let headings = if args.noheading { None } else { Some(View::headings(args.pod)) };
    let rows = entries.iter().map(|entry| view.cells(entry, args.pod));
    output::print(&plain(headings, rows, context.persona == Persona::Docker))?;
    Ok(0)
}

fn print_ids<W>(args: &Args, entries: &[Entry<W>]) -> Outcome {
    let ids: String = entries
        .iter()
        .map(|entry| if args.no_trunc { entry.summary.id.as_str() } else { entry.summary.id.short() })
        .flat_map(|id| [id, "\n"])
        .collect();
    output::print(&ids)?;
    Ok(0)
}

/// Every other listing: filtered, with sizes, or as a template or JSON has it.
fn show_whole(args: &Args, context: &Context, view: &View) -> Outcome {
    let filters = ContainerFilters::parse(context, &args.filters)?;
    let listed = select::all(context)?.into_iter().map(|record| {
        let observed = status::observe(&context.layout, &record);
        (Summary::of(&record), observed, Box::new(record))
    });
    let mut entries =
        entries(args, context, &filters, listed, |record, observed| filters.accept_observed(record, Some(observed)));
    if args.size || args.sort == "size" {
        measure(context, &mut entries)?;
    }
    sort(&mut entries, args, context.persona);
    let format = args.format.as_deref();
    // Of the two the format counts.
    if args.quiet && format.is_none() {
        return print_ids(args, &entries);
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
    ("RunningFor", "RUNNING FOR"),
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

/// A container and what it does. `W` is its whole record, or nothing in listings that do without.
struct Entry<W> {
    summary: Summary,
    observed: Observed,
    /// Its ports, or those of the container whose network it uses.
    ports: Vec<Port>,
    /// Its size, if asked for.
    bytes: Option<Bytes>,
    record: W,
}

/// The size of a container in bytes.
#[derive(Clone, Copy)]
struct Bytes {
    /// Its writable layer.
    written: u64,
    /// That and its image.
    all: u64,
}

/// The containers that are to be shown, the oldest first, for docker the newest.
fn entries<W>(
    args: &Args,
    context: &Context,
    filters: &ContainerFilters,
    listed: impl Iterator<Item = (Summary, Result<Observed, StatusError>, W)>,
    accepted: impl Fn(&W, &Observed) -> bool,
) -> Vec<Entry<W>> {
    let only_running = !args.all && !args.latest && args.last <= 0 && !filters.asks_for_state();
    let mut entries = Vec::with_capacity(listed.size_hint().0);
    let mut lenders = words::Lenders::default();
    for (summary, observed, record) in listed {
        let observed = match observed {
            Ok(observed) => observed,
            Err(error) => {
                CommandError::host(error).print();
                continue;
            }
        };
        // What was to vanish at its end and whose supervisor was killed vanishes now.
        if observed.state.exit().is_some() && summary.remove {
            // Otherwise its supervisor is about to, or somebody else.
            let whole = container::load(&context.layout, &summary.id).ok().flatten();
            let finish = |record: Record| prune::finish(&context.layout, &record, &observed);
            if let Some(Ok(true)) = whole.map(finish) {
                continue;
            }
        }
        let shown = match (&observed.state, context.persona) {
            (State::Running { .. } | State::Restarting { .. }, _) | (State::Paused { .. }, Persona::Docker) => true,
            _ => !only_running,
        };
        if shown && accepted(&record, &observed) {
            let ports = match &summary.network_of {
                Some(lender) => lenders.ports(&context.layout, lender),
                None => words::ports_of(&summary.published, &observed),
            };
            entries.push(Entry { summary, observed, ports, bytes: None, record });
        }
    }
    if args.latest || args.last > 0 {
        let count = if args.latest { 1 } else { usize::try_from(args.last).unwrap_or(usize::MAX) };
        entries.drain(..entries.len().saturating_sub(count));
    }
    if context.persona == Persona::Docker {
        entries.reverse();
    }
    entries
}

fn measure(context: &Context, entries: &mut [Entry<Box<Record>>]) -> Result<(), CommandError> {
    let images = ImageStore::open(&context.layout).list()?;
    for entry in entries {
        let written = tree_bytes(&context.layout.container(&entry.summary.id).join("upper"));
        let id = entry.record.image.as_ref().map(|image| &image.id);
        let image = images.iter().find(|image| Some(&image.id) == id).map_or(0, |image| image.size);
        entry.bytes = Some(Bytes { written, all: written.saturating_add(image) });
    }
    Ok(())
}

fn sort<W>(entries: &mut [Entry<W>], args: &Args, persona: Persona) {
    match args.sort.as_str() {
        "command" => entries.sort_by_cached_key(|entry| rows::words(&entry.summary, persona).to_vec()),
        "id" => entries.sort_by(|a, b| a.summary.id.cmp(&b.summary.id)),
        "image" => entries.sort_by(|a, b| a.summary.image.cmp(&b.summary.image)),
        "names" => entries.sort_by(|a, b| a.summary.name.cmp(&b.summary.name)),
        "runningfor" => entries.sort_by_key(|entry| entry.observed.started_at),
        "size" => entries.sort_by_key(|entry| entry.bytes.map(|bytes| bytes.written)),
        "status" => entries.sort_by_key(|entry| entry.observed.state.as_str()),
        _ => {}
    }
}
