//! `volume prune`.

use storage::prune;
use storage::volume::{self, Volume, VolumeError};

use super::ls::{self, VolumeFilters};
use crate::cli::output;
use crate::commands::{Context, Outcome, lifecycle, ps, select};
use crate::error::CommandError;
use crate::role::Persona;

/// Remove all unused volumes
///
/// Volumes that are not currently owned by a container will be removed. Note all data will be destroyed.
#[derive(clap::Args, Debug)]
#[command(mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
    /// Remove named volumes as well, not only anonymous ones (docker's; here they always are)
    #[arg(short, long)]
    all: bool,
    /// Provide filter values (e.g. 'label=<key>=<value>')
    #[arg(long = "filter", value_name = "FILTER")]
    filters: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let candidates = unused(&args.filters, args.all, context)?;
    if !args.force {
        let mut warning = "WARNING! This will remove all volumes not used by at least one container.".to_owned();
        if !candidates.is_empty() {
            warning.push_str(" The following volumes will be removed:\n");
            warning.extend(candidates.iter().flat_map(|volume| [volume.name.as_str(), "\n"]));
        } else {
            warning.push('\n');
        }
        if !output::confirm(&warning)? {
            return Ok(0);
        }
    }
    let (names, freed) = remove(candidates, context)?;
    let list: String = names.iter().flat_map(|name| [name.as_str(), "\n"]).collect();
    match context.persona {
        Persona::Podman => output::print(&list)?,
        Persona::Docker => {
            let heading = if names.is_empty() { "" } else { "Deleted Volumes:\n" };
            let space = crate::cli::units::human_size(freed, 4);
            let gap = if names.is_empty() { "" } else { "\n" };
            output::print(&format!("{heading}{list}{gap}Total reclaimed space: {space}\n"))?;
        }
    }
    lifecycle::empty_trash(&context.layout);
    Ok(0)
}

/// Removes every unused volume; returns their names and bytes.
pub(crate) fn prune(filters: &[String], context: &Context) -> Result<(Vec<String>, u64), CommandError> {
    remove(unused(filters, true, context)?, context)
}

fn unused(filters: &[String], all: bool, context: &Context) -> Result<Vec<Volume>, CommandError> {
    let filters = VolumeFilters::parse(filters)?;
    let records = select::all(context)?;
    let only_anonymous = context.persona == Persona::Docker && !all;
    let mut volumes = ls::all(context)?;
    volumes.retain(|volume| {
        filters.accept(volume, &records)
            && !records.iter().any(|record| prune::uses_volume(record, &volume.name))
            && (volume.anonymous || !only_anonymous)
    });
    Ok(volumes)
}

fn remove(volumes: Vec<Volume>, context: &Context) -> Result<(Vec<String>, u64), CommandError> {
    let (mut names, mut freed) = (Vec::new(), 0);
    for volume in volumes {
        let bytes = ps::tree_bytes(&volume.mountpoint(&context.layout));
        // Looked at once more under the lock: a container may have come meanwhile.
        let users = |volume: &Volume| {
            let users = prune::volume_users(&context.layout, &volume.name).unwrap_or_default();
            users.into_iter().map(String::from).collect()
        };
        match volume::remove(&context.layout, &volume.name, users) {
            Ok(_) => {
                names.push(volume.name);
                freed += bytes;
            }
            Err(VolumeError::InUse { .. } | VolumeError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok((names, freed))
}
