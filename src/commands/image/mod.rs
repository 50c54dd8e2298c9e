//! `image`: the commands about images by their noun.

pub(crate) mod mount;
pub(crate) mod platforms;
pub(crate) mod prune;
mod scp;
mod tree;
mod trust;

use clap::Subcommand;

use super::inspect;
use super::{Context, Outcome, build, diff, exists, history, images, import, load, pull, push, rmi, save, search, tag};

/// What to do with images.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image using instructions from Containerfiles
    Build(Box<build::Args>),
    /// Inspect changes to the image's file systems
    Diff(diff::Args),
    /// Check if an image exists in local storage
    Exists(exists::Args),
    /// Show history of a specified image
    History(history::Args),
    /// Import a tarball to create a filesystem image
    Import(import::Args),
    /// Display the configuration of an image
    Inspect(inspect::ImageArgs),
    /// Load image(s) from a tar archive
    Load(load::Args),
    /// List images in local storage
    #[command(visible_alias = "list")]
    Ls(images::Args),
    /// Mount an image's root filesystem
    Mount(mount::Args),
    /// Remove unused images
    Prune(prune::Args),
    /// Pull an image from a registry, an archive or a layout
    Pull(pull::Args),
    /// Push an image to a registry, an archive or a layout
    Push(push::Args),
    /// Remove one or more images from local storage
    #[command(visible_alias = "remove")]
    Rm(rmi::Args),
    /// Save image(s) to an archive
    Save(save::Args),
    /// Securely copy an image from one host to another
    Scp(scp::Args),
    /// Search registry for image
    Search(search::Args),
    /// Add an additional name to a local image
    Tag(tag::Args),
    /// Print layer hierarchy of an image in a tree format
    Tree(tree::Args),
    /// Manage container image trust policy
    #[command(subcommand)]
    Trust(trust::Command),
    /// Unmount an image's root filesystem
    #[command(visible_alias = "umount")]
    Unmount(mount::UnmountArgs),
    /// Remove a name from a local image
    Untag(tag::UntagArgs),
}

/// Runs the command.
pub(crate) fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Build(args) => build::run(*args, context),
        Command::Diff(args) => diff::run_of(diff::Kind::Image, args, context),
        Command::Exists(args) => exists::image(args, context),
        Command::History(args) => history::run(args, context),
        Command::Import(args) => import::run(args, context),
        Command::Load(args) => load::run(args, context),
        Command::Save(args) => save::run(args, context),
        Command::Inspect(args) => inspect::run_image(args, context),
        Command::Ls(args) => images::run(args, context),
        Command::Mount(args) => mount::run(args, context),
        Command::Prune(args) => prune::run(args, context),
        Command::Pull(args) => pull::run(args, context),
        Command::Push(args) => push::run(args, context),
        Command::Rm(args) => rmi::run(args, context),
        Command::Scp(args) => scp::run(args, context),
        Command::Search(args) => search::run(args, context),
        Command::Tag(args) => tag::run(args, context),
        Command::Tree(args) => tree::run(args, context),
        Command::Trust(command) => trust::run(command, context),
        Command::Unmount(args) => mount::run_unmount(args, context),
        Command::Untag(args) => tag::run_untag(args, context),
    }
}
