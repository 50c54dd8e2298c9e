//! `coracle start`: run a container that exists.

use storage::state::container::Record;
use storage::state::request::Request;
use storage::state::status::{self, State};

use super::run::{first_client, parse_detach_keys, stay};
use super::select::{self, Selection};
use super::{Context, Outcome, create};
use crate::cli::options::service;
use crate::cli::output;
use crate::cli::usage::maybe;
use crate::error::CommandError;
use crate::supervisor::Birth;

const EXAMPLES: &str = r#"Examples:
  coracle start web
  coracle start -ai job                  # and stay attached"#;

/// Start one or more containers
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Container name or ID (can be repeated)
    #[arg(value_name = "CONTAINER", required_unless_present_any = ["all", "latest", "filters"])]
    containers: Vec<String>,
    /// Attach container's STDOUT and STDERR
    #[arg(short, long)]
    attach: bool,
    /// Make STDIN available to the contained process
    #[arg(short, long)]
    interactive: bool,
    /// Start all containers
    #[arg(long)]
    all: bool,
    /// Filter output based on conditions given
    #[arg(short, long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Act on the latest container
    #[arg(short, long)]
    latest: bool,
    /// Keys that detach from the container, or an empty value for none
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Pass signals on to the container
    #[arg(long, default_value_t = true)]
    sig_proxy: bool,
    /// Who tells systemd outside that it is ready this time, as of run: what generate systemd calls
    #[arg(long, value_name = "MODE", hide = true)]
    sdnotify: Option<String>,
}

/// Runs `coracle start`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if args.attach && args.containers.len() > 1 {
        return Err(CommandError::user("you cannot start and attach multiple containers at once"));
    }
    let selection = Selection {
        names: &args.containers,
        all: args.all,
        latest: args.latest,
        filters: &args.filters,
        ..Selection::default()
    };
    let (selected, errors) = selection.resolve(context)?;
    if let ([one], [], true) = (selected.as_slice(), errors.as_slice(), args.attach || args.interactive) {
        return start_attached(context, &one.record, &args);
    }
    let notify = maybe("--sdnotify", args.sdnotify.as_ref(), service::notify).map_err(CommandError::user)?;
    select::each(&selected, errors, |one| {
        let mut record = one.record.clone();
        record.request.service.notify = notify.unwrap_or(record.request.service.notify);
        start(context, record).map_err(|error| error.while_doing(format!("start container {}", one.record.name)))?;
        output::print_line(&one.typed)
    })
}

/// `--requires`: starts the containers that one is not to be without.
pub(crate) fn start_required(context: &Context, request: &Request) -> Result<(), CommandError> {
    for name in &request.requires {
        let required = storage::state::container::find(&context.layout, name).map_err(CommandError::user)?;
        start(context, required).map_err(|error| error.while_doing(format!("start required container {name}")))?;
    }
    Ok(())
}

/// Starts a container in the background, after those that it requires; one that runs is left alone.
pub(crate) fn start(context: &Context, record: Record) -> Result<(), CommandError> {
    let observed = status::observe(&context.layout, &record).map_err(CommandError::host)?;
    if let State::Paused { .. } = observed.state {
        return Err(CommandError::user(format_args!("container {} is paused: container state improper", record.name))
            .hinted(format!("coracle unpause {}", record.name)));
    }
    if observed.state.is_alive() {
        return Ok(());
    }
    start_required(context, &record.request)?;
    create::prepare(context, record)?.launch(context, Birth::Existing, None)?.wait_started()?;
    Ok(())
}

fn start_attached(context: &Context, record: &Record, args: &Args) -> Outcome {
    let observed = status::observe(&context.layout, record).map_err(CommandError::host)?;
    if observed.state.is_alive() {
        return super::attach::attach(context, record, args.detach_keys.as_deref(), args.interactive, args.sig_proxy);
    }
    let keys = parse_detach_keys(args.detach_keys.as_deref())?;
    start_required(context, &record.request)?;
    let prepared = create::prepare(context, record.clone())?;
    let mut client = first_client(context, record, keys)?;
    client.stdin &= args.interactive;
    super::run::block_proxied_signals();
    let (control, _) = prepared.launch(context, Birth::Existing, Some(client))?.wait_started()?;
    match control {
        Some(control) => stay(runtime::monitor::attach::Client::inherited(control), record, args.sig_proxy),
        None => Ok(0),
    }
}
