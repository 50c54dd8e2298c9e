//! What is done to the containers of pods, all at once.

use std::path::PathBuf;

use runtime::process::signal::Signal;
use storage::prune;
use storage::state::container::Record;
use storage::state::pod::{self, Pod, PodError};
use storage::state::request::InitContainer;

use super::{Chosen, join, observed_members, state_of};
use crate::cli::output;
use crate::commands::{
    Context, Outcome, lifecycle, rm as container_rm, select, space, start as container_start, stop as container_stop,
};
use crate::error::CommandError;

/// Exit status of a pod that is not there, for `rm` alone.
const MISSING: u8 = 1;

/// Start one or more pods
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    chosen: Chosen,
    /// Also the pod whose id is in this file (can be repeated)
    #[arg(long = "pod-id-file", value_name = "FILE")]
    pod_id_files: Vec<PathBuf>,
}

/// Stop one or more pods
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    chosen: Chosen,
    /// Also the pod whose id is in this file (can be repeated)
    #[arg(long = "pod-id-file", value_name = "FILE")]
    pod_id_files: Vec<PathBuf>,
    /// Ignore errors when a specified pod is missing
    #[arg(short, long)]
    ignore: bool,
    /// Seconds to wait for pod stop before killing the containers [default: 10]
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS", allow_negative_numbers = true)]
    time: Option<i64>,
}

/// Restart one or more pods
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    chosen: Chosen,
}

/// Send the specified signal or SIGKILL to containers in pod
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct KillArgs {
    #[command(flatten)]
    chosen: Chosen,
    /// Signal to send to the containers in the pod
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
}

/// Remove one or more pods
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct RmArgs {
    #[command(flatten)]
    chosen: Chosen,
    /// Also the pod whose id is in this file (can be repeated)
    #[arg(long = "pod-id-file", value_name = "FILE")]
    pod_id_files: Vec<PathBuf>,
    /// Force removal of a running pod by first stopping all containers
    #[arg(short, long)]
    force: bool,
    /// Ignore errors when a specified pod is missing
    #[arg(short, long)]
    ignore: bool,
    /// Seconds to wait for pod stop before killing the containers [default: 10]
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    time: Option<i64>,
}

/// Remove all stopped pods and their containers
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct PruneArgs {
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

/// Fetch logs for pod with one or more containers
///
/// The containers one after the other; logs CONTAINER follows one.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct LogsArgs {
    /// Name or ID of the pod
    #[arg(value_name = "POD", required_unless_present = "latest")]
    pod: Option<String>,
    /// Output the containers with different colors in the log (without effect)
    #[arg(long, hide = true)]
    color: bool,
    /// Follow log output; one container after the other
    #[arg(short, long)]
    follow: bool,
    /// Act on the latest pod
    #[arg(short, long, conflicts_with = "pod")]
    latest: bool,
    /// Output the container name in the log
    #[arg(short, long)]
    names: bool,
    /// Show logs since TIMESTAMP
    #[arg(long, value_name = "TIMESTAMP")]
    since: Option<String>,
    /// Show logs until TIMESTAMP
    #[arg(long, value_name = "TIMESTAMP")]
    until: Option<String>,
    /// Only this container of the pod
    #[arg(short, long, value_name = "CONTAINER")]
    container: Option<String>,
    /// The last lines of each
    #[arg(long, value_name = "NUMBER")]
    tail: Option<i64>,
    /// Show timestamps
    #[arg(short, long)]
    timestamps: bool,
}

/// Display the running processes of containers in a pod
#[derive(clap::Args, Debug)]
pub(crate) struct TopArgs {
    /// Act on the latest pod
    #[arg(short, long)]
    latest: bool,
    /// Name or ID of the pod, then what to show, as for top
    #[arg(value_name = "POD [DESCRIPTOR]", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

fn each(
    context: &Context,
    chosen: &Chosen,
    files: &[PathBuf],
    ignore: bool,
    mut work: impl FnMut(&str, &Pod) -> Result<(), CommandError>,
) -> Outcome {
    let (found, missing) = chosen.find(context, files)?;
    let kept = missing.into_iter().filter(|error| !(ignore && matches!(error, PodError::NotFound(_))));
    let mut errors: Vec<CommandError> = kept.map(CommandError::user).collect();
    for (typed, pod) in &found {
        errors.extend(work(typed, pod).err());
    }
    select::finish(errors)
}

/// Starts what holds a pod's namespaces, runs what comes before the others, and starts these.
pub(crate) fn start_pod(context: &Context, pod: &Pod) -> Result<(), CommandError> {
    if let Some(infra) = &pod.infra {
        join::wake_infra(context, infra, || {
            CommandError::user(format!("pod {}: its infra container is gone", pod.name))
        })?;
    }
    let members = pod::members(&context.layout, pod)?;
    let (init, others): (Vec<_>, Vec<_>) =
        members.into_iter().partition(|record| record.request.init_container.is_some());
    for record in &init {
        run_init(context, record)?;
    }
    for record in others {
        container_start::start(context, record.clone())
            .map_err(|error| error.while_doing(format!("start container {}", record.name)))?;
    }
    Ok(())
}

/// Runs a container that comes before the others to its end, which has to be a good one.
fn run_init(context: &Context, record: &Record) -> Result<(), CommandError> {
    container_start::start(context, record.clone())
        .map_err(|error| error.while_doing(format!("start init container {}", record.name)))?;
    match lifecycle::wait(context, record, lifecycle::Until::Exited)? {
        0 if record.request.init_container == Some(InitContainer::Once) => {
            container_rm::remove_to(context, record, false, None)
        }
        0 => Ok(()),
        code => Err(CommandError::user(format_args!("init container {} exited with code {code}", record.name))
            .hinted(format!("{} logs {}", context.program, record.name))),
    }
}

/// Stops the containers together, then whoever holds their namespaces.
pub(crate) fn stop_pod(context: &Context, pod: &Pod, time: Option<i64>) -> Result<(), CommandError> {
    let members = pod::members(&context.layout, pod)?;
    let (infra, others): (Vec<_>, Vec<_>) = members.into_iter().partition(|record| record.request.infra);
    let mut stopping = Vec::new();
    for record in &others {
        stopping.push(lifecycle::begin_stop(context, record, container_stop::timeout(time, record))?);
    }
    stopping.into_iter().try_for_each(|begun| begun.finish(context))?;
    for record in &infra {
        lifecycle::begin_stop(context, record, container_stop::timeout(time, record))?.finish(context)?;
    }
    Ok(())
}

/// Stops a pod and removes it with its containers.
pub(crate) fn remove(context: &Context, pod: &Pod, time: Option<i64>) -> Result<(), CommandError> {
    stop_pod(context, pod, time)?;
    // Who holds the namespaces goes last, and the pod with it.
    for record in pod::members(&context.layout, pod)?.iter().rev() {
        container_rm::remove(context, record, true)?;
    }
    pod::remove(&context.layout, &pod.id)?;
    Ok(())
}

/// Runs `pod start`.
pub(crate) fn start(args: StartArgs, context: &Context) -> Outcome {
    each(context, &args.chosen, &args.pod_id_files, false, |typed, pod| {
        start_pod(context, pod)?;
        output::print_line(typed)
    })
}

/// Runs `pod stop`.
pub(crate) fn stop(args: StopArgs, context: &Context) -> Outcome {
    each(context, &args.chosen, &args.pod_id_files, args.ignore, |typed, pod| {
        stop_pod(context, pod, args.time)?;
        output::print_line(typed)
    })
}

/// Runs `pod restart`.
pub(crate) fn restart(args: RestartArgs, context: &Context) -> Outcome {
    each(context, &args.chosen, &[], false, |_, pod| {
        stop_pod(context, pod, None)?;
        start_pod(context, pod)?;
        output::print_line(&pod.id)
    })
}

/// Runs `pod kill`.
pub(crate) fn kill(args: KillArgs, context: &Context) -> Outcome {
    let signal: Signal = args.signal.parse().map_err(CommandError::user)?;
    each(context, &args.chosen, &[], false, |_, pod| {
        for (_, observed) in observed_members(context, pod)?.iter().rev() {
            if let Some(init) = observed.state.init() {
                lifecycle::signal(init, signal)?;
            }
        }
        output::print_line(&pod.id)
    })
}

/// Runs `pod rm`.
pub(crate) fn rm(args: RmArgs, context: &Context) -> Outcome {
    let ignore = args.ignore || args.force;
    let outcome = each(context, &args.chosen, &args.pod_id_files, ignore, |_, pod| {
        if !args.force {
            let members = observed_members(context, pod)?;
            let running = members.iter().find(|(record, observed)| !record.request.infra && observed.state.is_alive());
            if let Some((record, observed)) = running {
                return Err(CommandError::user(format_args!(
                    "error removing container {} from pod {}: cannot remove container {0} as it is {} - running or \
                     paused containers cannot be removed without force: container state improper",
                    record.id,
                    pod.id,
                    observed.state.as_str()
                )));
            }
        }
        remove(context, pod, args.time)?;
        output::print_line(&pod.id)
    });
    prune::sweep_runtime(&context.layout)?;
    space::empty_trash(&context.layout);
    outcome.map_err(|error| if error.to_string().ends_with("no such pod") { error.with_code(MISSING) } else { error })
}

/// Runs `pod prune`.
pub(crate) fn prune(args: PruneArgs, context: &Context) -> Outcome {
    if !args.force && !output::confirm("WARNING! This will remove all stopped/exited pods..\n")? {
        return Ok(0);
    }
    for pod in pod::list(&context.layout)? {
        if matches!(state_of(&observed_members(context, &pod)?), "Exited" | "Created" | "Stopped") {
            remove(context, &pod, Some(0))?;
            output::print_line(&pod.id)?;
        }
    }
    space::empty_trash(&context.layout);
    Ok(0)
}

/// The pod of this name, else the latest.
fn chosen_one(context: &Context, name: Option<&str>) -> Result<Pod, CommandError> {
    match name {
        Some(name) => Ok(pod::find(&context.layout, name)?),
        None => pod::list(&context.layout)?.pop().ok_or_else(|| CommandError::user("there are no pods")),
    }
}

/// Runs `pod logs`.
pub(crate) fn logs(args: LogsArgs, context: &Context) -> Outcome {
    let pod = chosen_one(context, args.pod.as_deref())?;
    let members = pod::members(&context.layout, &pod)?;
    let wanted = |name: &str, id: &str| {
        args.container.as_ref().is_none_or(|text| text == name || (text.len() > 1 && id.starts_with(text.as_str())))
    };
    let chosen: Vec<_> = members
        .iter()
        .filter(|record| !record.request.infra && wanted(&record.name, record.id.as_str()))
        .map(|record| record.id.to_string())
        .collect();
    if chosen.is_empty() {
        return Err(CommandError::user(format_args!("pod {} has no such container with a log", pod.name)));
    }
    let mut words = vec!["logs".to_owned()];
    words.extend(args.tail.map(|lines| format!("--tail={lines}")));
    words.extend(args.since.map(|moment| format!("--since={moment}")));
    words.extend(args.until.map(|moment| format!("--until={moment}")));
    let switches = [("--timestamps", args.timestamps), ("--follow", args.follow), ("--names", args.names)];
    words.extend(switches.iter().filter(|(_, is_given)| *is_given).map(|(word, _)| (*word).to_owned()));
    words.extend(chosen);
    crate::commands::run_as(&words, context)
}

/// Runs `pod top`.
pub(crate) fn top(args: TopArgs, context: &Context) -> Outcome {
    let (pod, descriptors) = match (args.latest, args.words.split_first()) {
        (true, _) => (chosen_one(context, None)?, args.words.as_slice()),
        (false, Some((name, rest))) => (chosen_one(context, Some(name))?, rest),
        (false, None) => return Err(CommandError::user("you must provide the name or id of a running pod")),
    };
    let mut outcome = Ok(0);
    for (record, observed) in observed_members(context, &pod)? {
        if !record.request.infra && observed.state.is_alive() {
            let mut words = vec!["top".to_owned(), record.id.to_string()];
            words.extend(descriptors.iter().cloned());
            outcome = outcome.and(crate::commands::run_as(&words, context));
        }
    }
    outcome
}
