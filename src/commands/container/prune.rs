//! `container prune`.

use storage::state::container::Record;

use crate::cli::output;
use crate::cli::units;
use crate::commands::filter::ContainerFilters;
use crate::commands::{Context, Outcome, plan, select, space};
use crate::role::Persona;

const EXAMPLES: &str = r#"Examples:
  coracle container prune -f --filter until=24h"#;

/// Remove all non running containers
///
/// What is removed can be brought back with `coracle undo` for a day, or until the disk runs short.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES, mut_args = crate::cli::usage::valued_flag)]
pub(crate) struct Args {
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
    let filters = ContainerFilters::parse(context, &args.filters)?;
    let plan = plan::containers(context, &select::all(context)?, &filters)?;
    if !args.force {
        let mut warning = "WARNING! This will remove all non running containers.\n".to_owned();
        warning.push_str(&list(&plan));
        if !output::confirm(&warning)? {
            return Ok(0);
        }
    }
    let removal = if args.now { None } else { context.removal() };
    let (ids, freed) = plan::remove_containers(context, plan, removal);
    let list: String = ids.iter().flat_map(|id| [id.as_str(), "\n"]).collect();
    match context.persona {
        Persona::Podman => output::print(&list)?,
        Persona::Docker => {
            let heading = if ids.is_empty() { String::new() } else { format!("Deleted Containers:\n{list}\n") };
            output::print(&format!("{heading}Total reclaimed space: {}\n", units::human_size(freed, 4)))?;
        }
    }
    space::sweep(context);
    plan::tell_of_trash(context, ids.len(), removal);
    Ok(0)
}

/// What will go, a line each.
pub(crate) fn list(plan: &plan::Sized<Record>) -> String {
    let line = |(record, bytes): &(Record, u64)| {
        format!("\t- container {} ({}, {})\n", record.name, record.id.short(), units::human_size(*bytes, 4))
    };
    plan.iter().map(line).collect()
}
