//! `builder` and `buildx`: building by docker's nouns, and what builds keep.

use std::time::Duration;

use clap::Subcommand;
use runtime::userns::Mapping;
use storage::build::BuildCache;
use storage::build::cache::Usage;

use super::{Context, Outcome, build, buildx, filter, space};
use crate::build::in_userns;
use crate::cli::{output, units};
use crate::error::CommandError;

/// What to do with builds.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an image using instructions from Containerfiles
    Build(Box<build::Args>),
    /// Remove what builds keep
    Prune(PruneArgs),
}

/// What to do with builds, by the name of docker's plugin.
#[derive(Debug, Subcommand)]
pub(crate) enum BuildxCommand {
    /// Build an image using instructions from Containerfiles
    #[command(visible_alias = "b")]
    Build(Box<build::Args>),
    /// Remove what builds keep
    Prune(PruneArgs),
    /// Build from a file of several targets
    #[command(visible_alias = "f")]
    Bake(Box<buildx::BakeArgs>),
    /// Create a builder; there is one already, and it serves all names
    Create(buildx::CreateArgs),
    /// Inspect the builder
    Inspect(buildx::InspectArgs),
    /// List builders, of which there is one
    Ls(buildx::LsArgs),
    /// Remove a builder; there is one, and it stays
    Rm(buildx::RmArgs),
    /// Set the current builder, of which there is one
    Use(buildx::UseArgs),
    /// Show the version
    Version,
    /// What docker asks its plugins
    #[command(name = "docker-cli-plugin-metadata", hide = true)]
    Metadata,
}

/// Remove what builds keep
///
/// Removes the results of steps that no image has, and the caches of RUN --mount=type=cache. They do not come back.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct PruneArgs {
    /// Remove the caches of steps, too
    #[arg(short, long)]
    all: bool,
    /// Provide filter values: until=24h
    #[arg(long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

/// Runs `builder`.
pub(crate) fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Build(args) => build::run(*args, context),
        Command::Prune(args) => prune(&args, context),
    }
}

/// Runs `buildx`.
pub(crate) fn run_buildx(command: BuildxCommand, context: &Context) -> Outcome {
    match command {
        BuildxCommand::Build(args) => build::run(*args, context),
        BuildxCommand::Prune(args) => prune(&args, context),
        BuildxCommand::Bake(args) => buildx::bake(&args, context),
        BuildxCommand::Create(args) => buildx::create(&args),
        BuildxCommand::Inspect(args) => buildx::inspect(&args),
        BuildxCommand::Ls(args) => buildx::ls(&args),
        BuildxCommand::Rm(args) => buildx::rm(&args),
        BuildxCommand::Use(args) => buildx::choose(&args),
        BuildxCommand::Metadata => buildx::metadata(),
        BuildxCommand::Version => {
            // Scripts look for a number of the plugin's; coracle's own stands behind it.
            output::print(&format!(
                "github.com/docker/buildx {} coracle-{}\n",
                buildx::OFFERED,
                env!("CARGO_PKG_VERSION")
            ))?;
            Ok(0)
        }
    }
}

fn prune(args: &PruneArgs, context: &Context) -> Outcome {
    let mut older = None;
    for text in &args.filters {
        match filter::pair(text) {
            Some(("until" | "unused-for", value)) => {
                let moment = filter::moment(value)?;
                let age = jiff::Timestamp::now().duration_since(moment);
                older = Some(Duration::try_from(age).unwrap_or_default());
            }
            _ => return Err(CommandError::user(format!("invalid filter {text:?}: expected until=DURATION"))),
        }
    }
    if !args.force {
        let what = if args.all { "all build cache" } else { "all dangling build cache" };
        if !output::confirm(&format!("WARNING! This will remove {what}.\n"))? {
            return Ok(0);
        }
    }
    let removed = remove(context, older, args.all)?;
    if removed.in_use {
        return Err(CommandError::user("builder prune: a build is running, and needs what it has built"));
    }
    output::print(&format!("Total:\t{}\n", units::human_size(removed.bytes, 4)))?;
    Ok(0)
}

/// Removes what builds keep and have not used for `older`.
pub(crate) fn remove(context: &Context, older: Option<Duration>, with_mounts: bool) -> Result<Usage, CommandError> {
    let cache = BuildCache::open(&context.layout);
    if !context.layout.build().is_dir() {
        return Ok(Usage::default());
    }
    let (count, bytes, in_use) = in_userns(&Mapping::of_user(), || {
        let removed = cache.prune(older, with_mounts).map_err(CommandError::host)?;
        Ok((removed.count, removed.bytes, removed.in_use))
    })?;
    space::empty_trash(&context.layout);
    Ok(Usage { count, bytes, in_use })
}

/// How much builds keep.
pub(crate) fn usage(context: &Context) -> Result<Usage, CommandError> {
    if !context.layout.build().is_dir() {
        return Ok(Usage::default());
    }
    let cache = BuildCache::open(&context.layout);
    let (count, bytes, in_use) = in_userns(&Mapping::of_user(), || {
        let usage = cache.usage();
        Ok((usage.count, usage.bytes, usage.in_use))
    })?;
    Ok(Usage { count, bytes, in_use })
}
