//! `volume`: create, ls, inspect, rm, prune, exists, export, import, mount, unmount, reload.

mod create;
mod ls;
mod mount;
mod prune;
mod rm;
mod transfer;

use clap::Subcommand;

use super::inspect::{self, Kind};
use super::{Context, Outcome, exists};

pub(crate) use create::make;
pub(crate) use ls::{VolumeFilters, all};
pub(crate) use prune::list as list_of_pruned;

/// What to do with volumes.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a new volume
    Create(create::Args),
    /// Check if volume exists
    Exists(exists::Args),
    /// Export volumes
    Export(transfer::ExportArgs),
    /// Import a tarball contents into a volume
    Import(transfer::ImportArgs),
    /// Display detailed information on one or more volumes
    Inspect(inspect::NounArgs),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    /// Mount volume
    Mount(mount::MountArgs),
    /// Remove all unused volumes
    Prune(prune::Args),
    /// Reload all volumes from volume plugins
    Reload(mount::ReloadArgs),
    /// Remove one or more volumes
    #[command(visible_alias = "remove")]
    Rm(rm::Args),
    /// Unmount volume
    #[command(visible_alias = "umount")]
    Unmount(mount::UnmountArgs),
}

/// Runs the command.
pub(crate) fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Create(args) => create::run(args, context),
        Command::Exists(args) => exists::volume(args, context),
        Command::Export(args) => transfer::export(args, context),
        Command::Import(args) => transfer::import(args, context),
        Command::Inspect(args) => inspect::run_noun(Kind::Volume, args, context),
        Command::Ls(args) => ls::run(args, context),
        Command::Mount(args) => mount::mount(args, context),
        Command::Prune(args) => prune::run(args, context),
        Command::Reload(args) => mount::reload(args, context),
        Command::Rm(args) => rm::run(args, context),
        Command::Unmount(args) => mount::unmount(args, context),
    }
}
