//! `kube`: Kubernetes' objects as files, and back.
//!
//! ```text
//! file, -, URL ─source→ text ─read→ objects ─plan→ pods, containers, files ─play→ the store; down takes them away
//! containers, pods, volumes ─generate→ objects ─emit→ text
//! ```
//! `read`, `plan`, `generate::{pod, container}` and `emit` are pure.

mod down;
mod emit;
pub(super) mod generate;
mod model;
mod plan;
mod play;
mod quantity;
mod read;
mod source;

use clap::Subcommand;

use super::{Context, Outcome};
use crate::error::CommandError;

/// What to do with files of Kubernetes' objects.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Deploy to a Kubernetes cluster (kubectl does)
    Apply(ApplyArgs),
    /// Remove pods based on Kubernetes YAML
    Down(down::Args),
    /// Generate Kubernetes YAML from containers, pods or volumes
    Generate(generate::Args),
    /// Play a pod or volume based on Kubernetes YAML
    Play(Box<play::Args>),
}

/// `play`, of which `kube` is all there ever was.
#[derive(Debug, Subcommand)]
pub(crate) enum PlayCommand {
    /// Play a pod or volume based on Kubernetes YAML
    Kube(Box<play::Args>),
}

/// Deploy to a Kubernetes cluster (kubectl does)
///
/// coracle speaks to no cluster: `kube generate` writes what kubectl applies.
#[derive(clap::Args, Debug)]
pub(crate) struct ApplyArgs {
    /// What would be deployed
    #[arg(value_name = "NAME", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Runs `kube`.
pub(crate) fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Apply(args) => apply(&args, context),
        Command::Down(args) => down::run(args, context),
        Command::Generate(args) => generate::run(args, context),

        Command::Play(args) => play::run(*args, context),
    }
}

/// Runs `play`.
pub(crate) fn run_play(PlayCommand::Kube(args): PlayCommand, context: &Context) -> Outcome {
    play::run(*args, context)
}

fn apply(args: &ApplyArgs, context: &Context) -> Outcome {
    let name = args.words.iter().find(|word| !word.starts_with('-')).map_or("NAME", String::as_str);
    let program = context.program;
    Err(CommandError::user("kube apply: not supported: coracle speaks to no cluster, kubectl does")
        .hinted(format!("{program} kube generate {name} | kubectl apply -f -")))
}
