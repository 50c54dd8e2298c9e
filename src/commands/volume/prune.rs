//! `volume prune`.

use storage::volume::Volume;

use super::ls::VolumeFilters;
use crate::cli::output;
use crate::commands::{Context, Outcome, plan, select, space};
use crate::role::Persona;

/// Remove all unused volumes
///
/// Volumes that are not currently owned by a container will be removed. For a day, or until the disk runs
/// short, `coracle undo` brings them back; then their data is gone.
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
    /// Give the space back at once, beyond `coracle undo`
    #[arg(long)]
    now: bool,
}

/// Runs the command.
pub(crate) fn run(args: Args, context: &Context) -> Outcome {
    let filters = VolumeFilters::parse(&args.filters)?;
    let only_anonymous = context.persona == Persona::Docker && !args.all;
    let plan = plan::volumes(context, &select::all(context)?, &filters, only_anonymous)?;
    if !args.force && plan.is_empty() && context.persona == Persona::Podman {
        let warning = "WARNING! This will remove all volumes not used by at least one container.";
        output::print(&format!("{warning} The following volumes will be removed:\nNo dangling volumes found\n"))?;
        return Ok(0);
    }
    if !args.force {
        let mut warning = "WARNING! This will remove all volumes not used by at least one container.".to_owned();
        if plan.is_empty() {
            warning.push('\n');
        } else {
            warning.push_str(" The following volumes will be removed:\n");
            warning.extend(plan.iter().flat_map(|(volume, _)| [volume.name.as_str(), "\n"]));
        }
        if !output::confirm(&warning)? {
            return Ok(0);
        }
    }
    let removal = if args.now { None } else { context.removal() };
    let (names, freed) = plan::remove_volumes(context, plan, removal)?;
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
    space::sweep(context);
    plan::tell_of_trash(context, names.len(), removal);
    Ok(0)
}

/// What will go, a line each.
pub(crate) fn list(plan: &plan::Sized<Volume>) -> String {
    let line = |(volume, bytes): &(Volume, u64)| {
        format!("\t- volume {} ({})\n", volume.name, crate::cli::units::human_size(*bytes, 4))
    };
    plan.iter().map(line).collect()
}
