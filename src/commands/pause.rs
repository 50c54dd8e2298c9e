//! `pause` and `unpause`: every process of a container stands still, or goes on.

use std::fs::File;
use std::os::fd::AsFd;

use nix::errno::Errno;
use runtime::monitor::attach::{Answer, Client, ClientError, Question};
use storage::state::container::Record;
use storage::state::status::{self, State};

use super::select::{self, Chosen, Selection};
use super::{Context, Outcome};
use crate::cli::output;
use crate::error::CommandError;

/// Pause all the processes in one or more containers
///
/// Pauses one or more running containers. The container name or ID can be used.
#[derive(clap::Args, Debug)]
#[command(mut_arg("all", |all| all.help("Pause all running containers")), mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    #[command(flatten)]
    chosen: Chosen,
    /// Filter output based on conditions given
    #[arg(short, long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
}

/// Unpause the processes in one or more containers
///
/// Unpauses one or more previously paused containers. The container name or ID can be used.
#[derive(clap::Args, Debug)]
#[command(mut_arg("all", |all| all.help("Unpause all paused containers")), mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct UnpauseArgs {
    #[command(flatten)]
    chosen: Chosen,
    /// Filter output based on conditions given
    #[arg(short, long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
}

/// Runs `coracle pause`.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    each(context, &args.chosen, &args.filters, "pause", |state| matches!(state, State::Running { .. }), pause)
}

/// Runs `coracle unpause`.
pub(crate) fn run_unpause(args: UnpauseArgs, context: &Context) -> Outcome {
    each(context, &args.chosen, &args.filters, "unpause", |state| matches!(state, State::Paused { .. }), unpause)
}

/// Does it to what was chosen: what was chosen by `--all` or a filter only where it can be done.
fn each(
    context: &Context,
    chosen: &Chosen,
    filters: &[String],
    action: &str,
    fits: impl Fn(&State) -> bool,
    act: impl Fn(&Context, &Record) -> Result<(), CommandError>,
) -> Outcome {
    chosen.required(!filters.is_empty())?;
    let (selected, errors) = Selection { filters, ..chosen.selection() }.resolve(context)?;
    let is_broad = chosen.all || !filters.is_empty();
    select::each(&selected, errors, |one| {
        if is_broad && !fits(&status::observe(&context.layout, &one.record)?.state) {
            return Ok(());
        }
        act(context, &one.record)?;
        context.note(&one.record, action);
        output::print_line(&one.typed)
    })
}

/// Lets the processes of a container stand still.
pub(crate) fn pause(context: &Context, record: &Record) -> Result<(), CommandError> {
    let refused = || match status::observe(&context.layout, record).map(|observed| observed.state) {
        Ok(State::Paused { .. }) => {
            CommandError::user(format_args!("{:?} is already paused: container state improper", record.id.as_str()))
        }
        Ok(state) => CommandError::user(format_args!(
            "{:?} is not running, can't pause: container state improper",
            state.as_str()
        )),
        Err(error) => error.into(),
    };
    match ask(context, record, Question::Freeze)? {
        Some(Answer::Done(_)) => Ok(()),
        Some(Answer::Failed(errno)) if errno == Errno::EOPNOTSUPP as i32 => Err(CommandError::host(format_args!(
            "pause container {}: it has no cgroup of its own, and its pid namespace is not its own either",
            record.name
        ))),
        Some(Answer::Failed(errno)) => Err(failed("pause", record, errno)),
        Some(Answer::Refused) | None => Err(refused()),
    }
}

/// Lets them go on.
pub(crate) fn unpause(context: &Context, record: &Record) -> Result<(), CommandError> {
    match ask(context, record, Question::Thaw)? {
        Some(Answer::Done(_)) => Ok(()),
        Some(Answer::Failed(errno)) => Err(failed("unpause", record, errno)),
        Some(Answer::Refused) | None => Err(CommandError::user(format_args!(
            "{:?} is not paused, can't unpause: container state improper",
            record.id.as_str()
        ))),
    }
}

fn failed(what: &str, record: &Record, errno: i32) -> CommandError {
    let reason = Errno::from_raw(errno).desc().to_lowercase();
    CommandError::host(format_args!("{what} container {}: {reason}", record.name))
}

/// Has a container's supervisor do something; `None` if there is none.
pub(crate) fn ask(context: &Context, record: &Record, question: Question) -> Result<Option<Answer>, CommandError> {
    let Ok(directory) = File::open(context.layout.runtime_container(&record.id)) else { return Ok(None) };
    match Client::connect(directory.as_fd()).and_then(|client| client.ask(question)) {
        Ok(answer) => Ok(Some(answer)),
        Err(ClientError::NotRunning | ClientError::Closed) => Ok(None),
        Err(error) => Err(CommandError::host(format_args!("container {}: {error}", record.name))),
    }
}
