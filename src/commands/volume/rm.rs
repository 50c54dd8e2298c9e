//! `volume rm`.

use storage::prune;
use storage::state::container;
use storage::volume::{self, VolumeError};

use crate::cli::output;
use crate::commands::{Context, Outcome, lifecycle, rm, select, space, stop};
use crate::error::CommandError;

/// Remove one or more volumes
///
/// By default only volumes that are not being used by any containers will be removed. To remove the volumes anyways, use
/// the --force flag. For a day `coracle undo` brings them back.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Name of the volume (can be repeated)
    #[arg(value_name = "VOLUME")]
    volumes: Vec<String>,
    /// Remove all volumes
    #[arg(short, long)]
    all: bool,
    /// Remove a volume by force, with the containers that use it
    #[arg(short, long)]
    force: bool,
    /// Seconds to wait for running containers to stop before killing the container [default: 10]
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    time: Option<i64>,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    if args.volumes.is_empty() != args.all {
        return Err(CommandError::user("choose either one or more volumes or all"));
    }
    let names = match args.all {
        true => super::ls::all(context)?.into_iter().map(|volume| volume.name).collect(),
        false => args.volumes.clone(),
    };
    let mut errors = Vec::new();
    for name in &names {
        match one(&args, context, name) {
            Ok(true) => output::print_line(name)?,
            Ok(false) => {}
            Err(error) => errors.push(error),
        }
    }
    space::sweep(context);
    select::finish(errors)
}

/// Whether there is something to report: docker prints also what was not there.
fn one(args: &Args, context: &Context, typed: &str) -> Result<bool, CommandError> {
    let volume = match volume::find(&context.layout, typed) {
        Ok(volume) => volume,
        Err(VolumeError::NotFound(_)) if args.force => {
            return Ok(context.persona == crate::role::Persona::Docker);
        }
        Err(error @ VolumeError::NotFound(_)) => return Err(CommandError::user(error).with_code(1)),
        Err(error) => return Err(error.into()),
    };
    if args.force {
        for id in prune::volume_users(&context.layout, &volume.name)? {
            if let Some(record) = container::load(&context.layout, &id)? {
                lifecycle::begin_stop(context, &record, stop::timeout(args.time, &record))?.finish(context)?;
                rm::remove(context, &record, false)?;
            }
        }
    }
    let users = |volume: &volume::Volume| {
        let users = prune::volume_users(&context.layout, &volume.name).unwrap_or_default();
        users.into_iter().map(String::from).collect()
    };
    match volume::remove_to(&context.layout, &volume.name, context.removal(), users) {
        Ok(_) => Ok(true),
        Err(error @ VolumeError::InUse { .. }) => Err(CommandError::user(error).with_code(2)),
        Err(error) => Err(error.into()),
    }
}
