//! `generate`: files that other programs read.

mod systemd;

use clap::Subcommand;

use super::kube::generate as kube;
use super::{Context, Outcome};

/// What to generate.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Generate Kubernetes YAML from containers, pods or volumes
    Kube(kube::Args),
    /// Generate systemd units of a container or pod
    Systemd(Box<systemd::Args>),
}

/// Runs `generate`.
pub(crate) fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Kube(args) => kube::run(args, context),
        Command::Systemd(args) => systemd::run(*args, context),
    }
}
