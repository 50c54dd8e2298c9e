//! `pod`: containers that share namespaces. See `storage::state::pod` for how these are kept alive.

mod act;
mod copy;
mod create;
mod join;
mod options;
mod pause;
mod show;
mod stats;

use std::path::PathBuf;

use clap::Subcommand;
use storage::state::container::Record;
use storage::state::layout::ContainerId;
use storage::state::pod::{self, Pod, PodError};
use storage::state::status::{self, Observed};

use super::{Context, Outcome, exists};
use crate::error::{CommandError, reason};

pub(crate) use act::{remove, start_pod, stop_pod};
pub(crate) use copy::leave;
pub(crate) use create::{NewPod, make};
pub(crate) use join::{join, take_place, wake};
pub(crate) use show::inspect;

/// What to do with pods.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Clone an existing pod
    Clone(Box<copy::Args>),
    /// Create a new empty pod
    Create(Box<create::Args>),
    /// Check if a pod exists in local storage
    Exists(exists::Args),
    /// Display a pod configuration
    Inspect(show::InspectArgs),
    /// Send the specified signal or SIGKILL to containers in pod
    Kill(act::KillArgs),
    /// Fetch logs for pod with one or more containers
    Logs(act::LogsArgs),
    /// Pause one or more pods
    Pause(pause::PauseArgs),
    /// Remove all stopped pods and their containers
    Prune(act::PruneArgs),
    /// List pods
    #[command(visible_aliases = ["ls", "list"])]
    Ps(show::PsArgs),
    /// Restart one or more pods
    Restart(act::RestartArgs),
    /// Remove one or more pods
    Rm(act::RmArgs),
    /// Start one or more pods
    Start(act::StartArgs),
    /// Display a live stream of resource usage statistics for the containers in one or more pods
    Stats(stats::Args),
    /// Stop one or more pods
    Stop(act::StopArgs),
    /// Display the running processes of containers in a pod
    Top(act::TopArgs),
    /// Unpause one or more pods
    Unpause(pause::UnpauseArgs),
}

/// Runs the command.
pub(crate) fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Clone(args) => copy::run(*args, context),
        Command::Create(args) => create::run(*args, context),
        Command::Exists(args) => exists::pod(args, context),
        Command::Inspect(args) => show::run_inspect(args, context),
        Command::Kill(args) => act::kill(args, context),
        Command::Logs(args) => act::logs(args, context),
        Command::Pause(args) => pause::pause(args, context),
        Command::Prune(args) => act::prune(args, context),
        Command::Ps(args) => show::ps(args, context),
        Command::Restart(args) => act::restart(args, context),
        Command::Rm(args) => act::rm(args, context),
        Command::Start(args) => act::start(args, context),
        Command::Stats(args) => stats::run(args, context),
        Command::Stop(args) => act::stop(args, context),
        Command::Top(args) => act::top(args, context),
        Command::Unpause(args) => pause::unpause(args, context),
    }
}

/// Pods named on a command line.
#[derive(clap::Args, Debug)]
pub(crate) struct Chosen {
    /// Name or ID (can be repeated)
    #[arg(value_name = "POD")]
    pods: Vec<String>,
    /// Act on all pods
    #[arg(short, long)]
    all: bool,
    /// Act on the latest pod
    #[arg(short, long)]
    latest: bool,
}

/// Pods by what was typed, and what is wrong with the others.
type Found = (Vec<(String, Pod)>, Vec<PodError>);

impl Chosen {
    /// The pods by what was typed, and what is wrong with the others. Ids may be in files, too.
    fn find(&self, context: &Context, files: &[PathBuf]) -> Result<Found, CommandError> {
        let mut names = self.pods.clone();
        for path in files {
            let text = std::fs::read_to_string(path)
                .map_err(|error| CommandError::user(format!("--pod-id-file {}: {}", path.display(), reason(&error))))?;
            names.push(text.trim().to_owned());
        }
        if names.is_empty() != (self.all || self.latest) {
            return Err(CommandError::user("you must provide at least one pod name or id, --all or --latest"));
        }
        let typed = |pod: Pod| (pod.name.clone(), pod);
        if self.all {
            return Ok((pod::list(&context.layout)?.into_iter().map(typed).collect(), Vec::new()));
        }
        if self.latest {
            return Ok((pod::list(&context.layout)?.pop().into_iter().map(typed).collect(), Vec::new()));
        }
        let (mut found, mut errors) = (Vec::new(), Vec::new());
        for name in &names {
            match pod::find(&context.layout, name) {
                Ok(pod) => found.push((name.clone(), pod)),
                Err(error) => errors.push(error),
            }
        }
        Ok((found, errors))
    }
}

/// The pod of a container, if it is in one that there is.
pub(crate) fn of(context: &Context, record: &Record) -> Result<Option<Pod>, CommandError> {
    let id = record.request.pod.as_deref().and_then(|id| ContainerId::parse(id).ok());
    Ok(id.map(|id| pod::load(&context.layout, &id)).transpose()?.flatten())
}

/// A pod's containers and what they do.
fn observed_members(context: &Context, pod: &Pod) -> Result<Vec<(Record, Observed)>, CommandError> {
    let records = pod::members(&context.layout, pod)?;
    let observe = |record: Record| Ok((record.clone(), status::observe(&context.layout, &record)?));
    records.into_iter().map(observe).collect()
}

/// What a pod does, in podman's words: it follows from what its containers do.
fn state_of(members: &[(Record, Observed)]) -> &'static str {
    // Those that come before the others have ended when these run.
    let members: Vec<_> = members.iter().filter(|(record, _)| record.request.init_container.is_none()).collect();
    let count =
        |words: &[&str]| members.iter().filter(|(_, observed)| words.contains(&observed.state.as_str())).count();
    let (running, all) = (count(&["running"]), members.len());
    match () {
        () if all == 0 => "Created",
        () if running == all => "Running",
        () if running > 0 => "Degraded",
        () if count(&["paused"]) == all => "Paused",
        () if count(&["exited", "stopped"]) == all => "Exited",
        () if count(&["exited", "stopped"]) > 0 => "Stopped",
        () => "Created",
    }
}
