//! `wait`: the exit codes of containers, once they have them.

use std::time::Duration;

use storage::state::container::{self, Record};
use storage::state::status::{self, HealthStatus, Observed, State};

use super::lifecycle::{self, Until};
use super::select::{self, Selection};
use super::{Context, Outcome};
use crate::cli::output;
use crate::cli::parse::duration::go_duration;
use crate::error::CommandError;

const EXAMPLES: &str = r#"Examples:
  coracle wait job                       # prints its exit code"#;

/// Block on one or more containers
///
/// Block until one or more containers stop and then print their exit codes.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Container name or ID (can be repeated)
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Condition to wait on: exited, running, paused, healthy, removed, … (can be repeated)
    #[arg(long = "condition", value_name = "CONDITION", value_delimiter = ',')]
    conditions: Vec<String>,
    /// Ignore if a container does not exist
    #[arg(long)]
    ignore: bool,
    /// Time between two looks at a condition other than the end, such as 1s or 250 for milliseconds
    #[arg(short, long, value_name = "TIME", default_value = "250ms")]
    interval: String,
    /// Act on the latest container
    #[arg(short, long)]
    latest: bool,
}

/// What podman prints for a container that has not ended.
const NO_CODE: i32 = -1;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// It has ended; heard of at once, without looking.
    Ended,
    /// It is gone.
    Removed,
    /// Its state has this name.
    State(&'static str),
    /// Its health is this.
    Health(HealthStatus),
}

impl Condition {
    fn parse(text: &str) -> Result<Condition, CommandError> {
        const STATES: &[&str] = &["created", "initialized", "running", "paused", "restarting", "stopping", "unknown"];
        Ok(match text {
            // docker's words, then podman's.
            "not-running" | "next-exit" | "stopped" | "exited" => Condition::Ended,
            "removed" | "removing" => Condition::Removed,
            "configured" => Condition::State("created"),
            "healthy" => Condition::Health(HealthStatus::Healthy),
            "unhealthy" => Condition::Health(HealthStatus::Unhealthy),
            text => match STATES.iter().find(|state| **state == text) {
                Some(state) => Condition::State(state),
                None => {
                    return Err(CommandError::user(format_args!("unknown container state: {text}: invalid argument")));
                }
            },
        })
    }

    fn holds(self, observed: &Observed) -> bool {
        match self {
            Condition::Ended => observed.state.last_exit().is_some(),
            Condition::Removed => false,
            Condition::State(name) => observed.state.as_str() == name,
            Condition::Health(wanted) => {
                observed.state.is_alive() && observed.health.as_ref().is_some_and(|health| health.status == wanted)
            }
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if args.containers.is_empty() && !args.latest {
        return Err(CommandError::user("\"coracle wait\" requires a name, id, or the \"--latest\" flag"));
    }
    let conditions: Vec<Condition> =
        args.conditions.iter().map(|text| Condition::parse(text)).collect::<Result<_, _>>()?;
    let interval = interval(&args.interval)?;
    let selection =
        Selection { names: &args.containers, latest: args.latest, ignore: args.ignore, ..Selection::default() };
    let (selected, errors) = selection.resolve(context)?;
    // What is not there has no code.
    let missing = args.containers.len().saturating_sub(selected.len() + errors.len());
    for _ in 0..missing {
        output::print_line(NO_CODE)?;
    }
    select::each(&selected, errors, |one| {
        let code = match conditions.iter().all(|condition| *condition == Condition::Ended) {
            true => wait_for_end(context, &one.record)?,
            false => wait_for(context, &one.record, &conditions, interval)?,
        };
        output::print_line(code)
    })
}

fn wait_for_end(context: &Context, record: &Record) -> Result<i32, CommandError> {
    if let State::Created = status::observe(&context.layout, record)?.state {
        // podman gives the code of a container that never ran: none, which prints as 0.
        return Ok(0);
    }
    lifecycle::wait(context, record, Until::Exited)
}

/// Looks again and again until one of the conditions holds; returns the exit code, if there is one.
fn wait_for(
    context: &Context,
    record: &Record,
    conditions: &[Condition],
    interval: Duration,
) -> Result<i32, CommandError> {
    let mut last = NO_CODE;
    loop {
        let Some(record) = container::load(&context.layout, &record.id)? else {
            return match conditions.contains(&Condition::Removed) || conditions.contains(&Condition::Ended) {
                true => Ok(last),
                false => Err(CommandError::user(format_args!("container {} was removed", record.id))),
            };
        };
        let observed = status::observe(&context.layout, &record)?;
        last = observed.state.last_exit().map_or(last, |exit| exit.code);
        if conditions.iter().any(|condition| condition.holds(&observed)) {
            return Ok(observed.state.last_exit().map_or(NO_CODE, |exit| exit.code));
        }
        // One that has ended is not healthy any more, and never will be without somebody's doing.
        let only_health = conditions.iter().all(|condition| matches!(condition, Condition::Health(_)));
        if only_health && observed.state.exit().is_some() {
            return Err(CommandError::user(format_args!("container {} has exited: it has no health", record.name)));
        }
        std::thread::sleep(interval);
    }
}

/// A Go duration, or milliseconds.
fn interval(text: &str) -> Result<Duration, CommandError> {
    let parsed = match text.parse::<u64>() {
        Ok(milliseconds) => Some(Duration::from_millis(milliseconds)),
        Err(_) => go_duration(text),
    };
    let bad =
        || CommandError::user(format_args!("invalid argument {text:?} for \"--interval\" flag: invalid duration"));
    parsed.filter(|time| !time.is_zero()).ok_or_else(bad)
}
