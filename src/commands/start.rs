//! `coracle start`: run a container that exists.

use std::time::{Duration, Instant};

use runtime::monitor::attach::{Answer, Question};
use storage::state::container::{self, ContainerError, Record};
use storage::state::request::Request;
use storage::state::status::{self, State};

use super::run::{first_client, parse_detach_keys, stay};
use super::select::{self, Selection};
use super::{Context, Outcome, create, lifecycle, pause};
use crate::cli::options::service;
use crate::cli::output;
use crate::cli::usage::maybe;
use crate::error::{CommandError, FAILED};
use crate::supervisor::Birth;

/// How long somebody else's start is waited for.
const STARTING: Duration = Duration::from_secs(2);

/// How long between somebody's opening of a container's ports and their locking it.
const BEGINNING: Duration = Duration::from_millis(500);

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
    if let State::Starting { .. } = observed.state {
        return begin(context, &record);
    }
    if observed.state.is_alive() {
        return Ok(());
    }
    start_required(context, &record.request)?;
    let started = create::prepare(context, record.clone())
        .and_then(|prepared| prepared.launch(context, Birth::Existing, None)?.wait_started());
    match started {
        Ok(_) => Ok(()),
        // Somebody else was faster, or is about to be: whatever is in our way may be theirs. Ports are opened before the
        // container is locked.
        Err(error) => {
            let text = error.to_string();
            let may_be_locked_soon = text.contains("already allocated") && !text.contains("held by container");
            let begin = if may_be_locked_soon { BEGINNING } else { Duration::ZERO };
            if is_started_by_another(context, &record, begin)? { Ok(()) } else { Err(error) }
        }
    }
}

/// Whether a container runs that somebody else has been starting while we tried.
fn is_started_by_another(context: &Context, record: &Record, begin: Duration) -> Result<bool, CommandError> {
    let (since, deadline) = (Instant::now(), Instant::now() + STARTING);
    loop {
        let is_busy = matches!(container::lock(&context.layout, &record.id), Err(ContainerError::Busy(_)));
        let state = status::observe(&context.layout, record).map_err(CommandError::host)?.state;
        if matches!(state, State::Running { .. } | State::Paused { .. }) {
            return Ok(true);
        }
        if (!is_busy && since.elapsed() >= begin) || Instant::now() > deadline {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Lets a container begin that `init` has made ready.
fn begin(context: &Context, record: &Record) -> Result<(), CommandError> {
    match pause::ask(context, record, Question::Begin)? {
        Some(Answer::Done(_)) => return Ok(()),
        Some(Answer::Failed(_)) => drop(lifecycle::wait(context, record, lifecycle::Until::Stopped)?),
        Some(Answer::Refused) | None => {}
    }
    match status::observe(&context.layout, record).map_err(CommandError::host)?.state {
        State::Stopped { exit } if !exit.error.is_empty() => {
            Err(CommandError::host(exit.error).with_code(u8::try_from(exit.code).unwrap_or(FAILED)))
        }
        // Somebody else was faster.
        _ => Ok(()),
    }
}

fn start_attached(context: &Context, record: &Record, args: &Args) -> Outcome {
    let observed = status::observe(&context.layout, record).map_err(CommandError::host)?;
    if observed.state.is_alive() {
        let manners = (args.interactive, args.sig_proxy);
        // Before it begins, so that nothing of what it says is missed.
        return super::attach::attach(context, record, args.detach_keys.as_deref(), manners, || match observed.state {
            State::Starting { .. } => begin(context, record),
            _ => Ok(()),
        });
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
