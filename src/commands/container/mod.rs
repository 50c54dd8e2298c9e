//! `container`: the commands about containers by their noun.

mod cleanup;
pub(crate) mod clone;
pub(crate) mod prune;
mod runlabel;

use clap::Subcommand;

use super::inspect::{self, Kind};
use super::{
    Context, Outcome, attach, commit, cp, create, diff, exec, exists, export, init, kill, logs, mount, pause, port, ps,
    rename, restart, rm, run as run_command, start, stats, stop, top, update, wait,
};

/// What to do with containers.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Attach to a running container
    Attach(attach::Args),
    /// Clean up network and mountpoints of one or more containers
    Cleanup(cleanup::Args),
    /// Clone an existing container
    Clone(Box<clone::Args>),
    /// Create new image based on the changed container
    Commit(commit::Args),
    /// Copy files/folders between a container and the local filesystem
    Cp(cp::Args),
    /// Create a container but do not start it
    Create(Box<create::Args>),
    /// Inspect changes to the container's file systems
    Diff(diff::Args),
    /// Run a process in a running container
    Exec(exec::Args),
    /// Check if a container exists in local storage
    Exists(exists::Args),
    /// Export container's filesystem contents as a tar archive
    Export(export::Args),
    /// Initialize one or more containers
    Init(init::Args),
    /// Display the configuration of one or more containers
    Inspect(inspect::NounArgs),
    /// Kill one or more running containers with a specific signal
    Kill(kill::Args),
    /// Fetch the logs of one or more containers
    Logs(logs::Args),
    /// List containers
    #[command(visible_aliases = ["ps", "list"])]
    Ls(ps::Args),
    /// Pause all the processes in one or more containers
    Pause(pause::Args),
    /// Mount a working container's root filesystem
    Mount(mount::Args),
    /// List port mappings or a specific mapping for the container
    Port(port::Args),
    /// Remove all non running containers
    Prune(prune::Args),
    /// Rename an existing container
    Rename(rename::Args),
    /// Restart one or more containers
    Restart(restart::Args),
    /// Remove one or more containers
    Rm(rm::Args),
    /// Run a command in a new container
    Run(Box<run_command::Args>),
    /// Execute the command described by an image label
    Runlabel(runlabel::Args),
    /// Start one or more containers
    Start(start::Args),
    /// Display a live stream of container resource usage statistics
    Stats(stats::Args),
    /// Stop one or more containers
    Stop(stop::Args),
    /// Display the running processes of a container
    Top(top::Args),
    /// Unmount working container's root filesystem
    #[command(visible_alias = "umount")]
    Unmount(mount::UnmountArgs),
    /// Unpause the processes in one or more containers
    Unpause(pause::UnpauseArgs),
    /// Update an existing container
    Update(Box<update::Args>),
    /// Block on one or more containers
    Wait(wait::Args),
}

/// Runs the command.
pub(crate) fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Attach(args) => attach::run(args, context),
        Command::Cleanup(args) => cleanup::run(args, context),
        Command::Clone(args) => clone::run(*args, context),
        Command::Commit(args) => commit::run(args, context),
        Command::Cp(args) => cp::run(args, context),
        Command::Create(args) => create::run(*args, context),
        Command::Diff(args) => diff::run_of(diff::Kind::Container, args, context),
        Command::Exec(args) => exec::run(args, context),
        Command::Exists(args) => exists::container(args, context),
        Command::Export(args) => export::run(args, context),
        Command::Init(args) => init::run(args, context),
        Command::Inspect(args) => inspect::run_noun(Kind::Container, args, context),
        Command::Kill(args) => kill::run(args, context),
        Command::Logs(args) => logs::run(args, context),
        Command::Ls(args) => ps::run(args, context),
        Command::Pause(args) => pause::run(args, context),
        Command::Mount(args) => mount::run(args, context),
        Command::Port(args) => port::run(args, context),
        Command::Prune(args) => prune::run(args, context),
        Command::Rename(args) => rename::run(args, context),
        Command::Restart(args) => restart::run(args, context),
        Command::Rm(args) => rm::run(args, context),
        Command::Run(args) => run_command::run(*args, context),
        Command::Runlabel(args) => runlabel::run(args, context),
        Command::Start(args) => start::run(args, context),
        Command::Stats(args) => stats::run(args, context),
        Command::Stop(args) => stop::run(args, context),
        Command::Top(args) => top::run(args, context),
        Command::Unpause(args) => pause::run_unpause(args, context),
        Command::Update(args) => update::run(*args, context),
        Command::Unmount(args) => mount::run_unmount(args, context),
        Command::Wait(args) => wait::run(args, context),
    }
}
